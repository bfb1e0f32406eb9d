# Copyright: Virtplay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Describes planned changes as the diff that Ansible prints; pure, no I/O.

Many changes are not in the domain XML (disk sizes, address reservations, the power state), and XML
does not show when a change takes effect. So a list of changes comes first, then the XML.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

from .plan import Applies, Change

WHEN = {
    Applies.LIVE: "live",
    Applies.NEXT_BOOT: "at next boot",
    # The domain is stopped, so nothing has to wait for a boot.
    Applies.OFFLINE: "at once",
}
# Values that cannot be mistaken for our own words in a diff; all others are quoted.
_PLAIN = re.compile(r"[\w./:@+-]+", re.ASCII)


def build_diff(
    label: str, changes: Sequence[Change], before_xml: str, after_xml: str
) -> list[dict[str, str]]:
    """Return changes as Ansible's diff: first a list, one change a line, then the domain XML.

    Both XML documents have the same indentation; "" means that there is no domain. Without a
    difference between them the XML part is left out. Without changes the diff is empty.
    """
    if not changes:
        return []
    words = ([_before(change) for change in changes], [_after(change) for change in changes])
    parts = [_part(f"{label}, changes", *("".join(lines) for lines in words))]
    if before_xml != after_xml:
        parts.append(_part(f"{label}, domain XML", _legible(before_xml), _legible(after_xml)))
    return parts


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
