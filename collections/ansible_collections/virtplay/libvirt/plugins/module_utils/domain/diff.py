# Copyright: Virtplay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Describes planned changes as the diff that Ansible prints; pure, no I/O.

Many changes are not in the domain XML (disk sizes, address reservations, the power state), and XML
does not show when a change takes effect. So a list of changes comes first, then, for those who want
all of it, the XML.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from ..values import shorten_list
from .plan import Applies, Change

WHEN = {
    Applies.LIVE: "live",
    Applies.NEXT_BOOT: "at next boot",
    # The domain is stopped, so nothing has to wait for a boot.
    Applies.OFFLINE: "at once",
}
# What the parts of a diff show, after the name of the domain.
_CHANGES, _XML = "changes", "domain XML"
# Values that cannot be mistaken for our own words in a diff; all others are quoted.
_PLAIN = re.compile(r"[\w./:@+-]+", re.ASCII)


def build_diff(
    label: str,
    changes: Sequence[Change],
    before_xml: str = "",
    after_xml: str = "",
    contents: Mapping[str, Any] | None = None,
) -> list[dict[str, str]]:
    """Return changes as Ansible's diff: first a list, one change a line, then the domain XML.

    contents are the fields of a new domain, which follow the changes. Both XML documents have the
    same indentation; "" means that there is no domain. Without a difference between them the XML
    part is left out. Without changes the diff is empty.
    """
    if not changes:
        return []
    after = [_after(change) for change in changes]
    after += [f"{_escape(field)}: {_value(value)}\n" for field, value in (contents or {}).items()]
    before = [_before(change) for change in changes]
    parts = [_part(f"{label}: {_CHANGES}", "".join(before), "".join(after))]
    if before_xml != after_xml:
        parts.append(_part(f"{label}: {_XML}", _legible(before_xml), _legible(after_xml)))
    return parts


def fold_diffs(parts: Sequence[Mapping[str, str]]) -> list[dict[str, str]]:
    """Return the parts of several diffs, with one part for all domains that change in the same way.

    Its header names them, or the first ones and their number.
    """
    labels: dict[tuple[str, str, str], list[str]] = {}
    for part in parts:
        label, _colon, kind = part["after_header"].rpartition(": ")
        labels.setdefault((kind, part["before"], part["after"]), []).append(label)
    return [
        _part(f"{shorten_list(names)}: {kind}", before, after)
        for (kind, before, after), names in labels.items()
    ]


def _part(header: str, before: str, after: str) -> dict[str, str]:
    return {"before": before, "after": after, "before_header": header, "after_header": header}


def _before(change: Change) -> str:
    return f"{_escape(change.field)}: {_value(change.before)}\n"


def _after(change: Change) -> str:
    when = WHEN[change.applies]
    if change.destroys:
        # A destroyed domain loses what its guest has not written to its disks yet.
        when = "DESTROYED" if change.after is None else f"{when}, DESTROYS unsaved data"
    return f"{_escape(change.field)}: {_value(change.after)}  ({when})\n"


def _value(value: Any) -> str:
    """Return a value on one line, so that no text of a user looks like our own words."""
    if value is None:
        return "none"
    if isinstance(value, float):
        return f"{value:.10g}"
    if isinstance(value, str) and value != "none" and _PLAIN.fullmatch(value):
        return value
    return _escape(json.dumps(value, ensure_ascii=False, sort_keys=True))


def _escape(text: str) -> str:
    return "".join(c if c.isprintable() else json.dumps(c)[1:-1] for c in text)


def _legible(xml: str) -> str:
    """Return XML with terminal control characters and line breaks as character references."""
    return "".join(c if c.isprintable() or c in "\n\t" else f"&#{ord(c)};" for c in xml)
