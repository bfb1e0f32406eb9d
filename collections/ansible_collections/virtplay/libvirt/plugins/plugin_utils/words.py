# Copyright: Virtplay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Names what somebody meant who wrote a word of a neighbouring vocabulary; pure, no I/O."""

from __future__ import annotations

import re
from collections.abc import Iterator

from ..module_utils.domain.arguments import ARGUMENTS
from ..module_utils.values import suggest

_UNSUPPORTED = re.compile(
    r"(Unsupported parameters for \((\S+)\) module: )(.+?)"
    r"(\. Supported parameters include: (.+)\.)",
    re.S,
)
_DOMAIN_MODULES = ("virtplay.libvirt.domain", "virtplay.libvirt.domains")


def explain_parameters(message: str) -> str:
    """Return a module's message with a suggestion for each parameter that it does not support.

    Any other message is returned as it is.
    """
    found = _UNSUPPORTED.match(message)
    if not found:
        return message
    start, module, unknown, end, known = found.groups()
    # Ansible adds the aliases of a parameter in parentheses.
    supported = re.findall(r"\w+", re.sub(r"\([^)]*\)", "", known))
    nested = dict(_nested()) if module in _DOMAIN_MODULES else {}
    hints = (_with_hint(name, supported, nested) for name in unknown.split(", "))
    return f"{start}{', '.join(hints)}{end}"


def _nested() -> Iterator[tuple[str, str]]:
    """Return each word of a nested option of a domain, and where it belongs."""
    for name in ("metadata", "seed"):
        for key, option in ARGUMENTS[name]["options"].items():
            for word in (key, *option.get("aliases", ())):
                yield word, f"{name}.{key}"


def _with_hint(name: str, supported: list[str], nested: dict[str, str]) -> str:
    word = name.rpartition(".")[2]
    if word in nested and nested[word].partition(".")[0] in supported:
        return f"{name} (did you mean {nested[word]}?)"
    hint = suggest(word, supported).strip(", ")
    return f"{name} ({hint})" if hint else name
