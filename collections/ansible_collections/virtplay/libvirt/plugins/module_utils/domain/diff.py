# Copyright: Virtplay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Describes planned changes as the diff that Ansible prints; pure, no I/O.

Much of what changes stands in no domain XML (the size of a disk, an address reservation, the
power) and no XML says when it takes effect, so the words come first and the XML after them.
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
    # Nothing runs, so there is nothing to wait for.
    Applies.OFFLINE: "at once",
}
# What cannot be taken for the words of a diff: everything else is quoted.
_PLAIN = re.compile(r"[\w./:@+-]+", re.ASCII)


def build_diff(
    label: str, changes: Sequence[Change], before_xml: str, after_xml: str
) -> list[dict[str, str]]:
    """Return changes as Ansible's diff: first in words, one a line, then in domain XML.

    The XML documents are indented in one way, "" for a domain that is not there; without a
    difference between them that part is left out. No change at all gives no diff.
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
        # A guest that is switched off loses what it has not written to its disks yet.
        when = "DESTROYED" if change.after is None else f"{when}, DESTROYS unsaved data"
    return f"{_escape(change.field)}: {_value(change.after)}  ({when})\n"


def _value(value: Any) -> str:
    """Write a value on one line, so that no text of a user reads as a line or word of ours."""
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
    """Write what a terminal would obey, and what breaks lines, as XML's character references."""
    return "".join(c if c.isprintable() or c in "\n\t" else f"&#{ord(c)};" for c in xml)
