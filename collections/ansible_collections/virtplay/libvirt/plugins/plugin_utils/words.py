# Copyright: Virtplay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Names what somebody meant who wrote a word of a neighbouring vocabulary; pure, no I/O."""

from __future__ import annotations

import re

from ..module_utils.values import suggest

_UNSUPPORTED = re.compile(
    r"(Unsupported parameters for \(\S+\) module: )(.+?)(\. Supported parameters include: (.+)\.)",
    re.S,
)


def explain_parameters(message: str) -> str:
    """Return a module's message with a suggestion for each parameter that it does not support.

    Any other message is returned as it is.
    """
    found = _UNSUPPORTED.match(message)
    if not found:
        return message
    start, unknown, end, known = found.groups()
    supported = re.findall(r"\w+", known)
    return start + ", ".join(_with_hint(name, supported) for name in unknown.split(", ")) + end


def _with_hint(name: str, supported: list[str]) -> str:
    hint = suggest(name.rpartition(".")[2], supported).strip(", ")
    return f"{name} ({hint})" if hint else name
