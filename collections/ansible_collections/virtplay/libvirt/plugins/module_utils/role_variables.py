# Copyright: Virtplay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Collection layer: what argument_specs cannot say of a role's variables; pure, no I/O."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any


def unknown_variables(
    role: str, specs: Mapping[str, Mapping[str, Any]], names: Iterable[str]
) -> list[str]:
    """Return a message for each of the names that has the role's prefix and is no variable of it.

    Those of the role's other entry points may be there, too: in an inventory they are for all of
    them. So may its result.
    """
    known = {name for spec in specs.values() for name in spec.get("options", {})}
    prefix = f"{role.rpartition('.')[2]}_"
    messages = []
    for name in sorted(names):
        if name.startswith(prefix) and name not in known and name != f"{prefix}result":
            near = difflib.get_close_matches(name, known, n=1)
            hint = f", did you mean {near[0]}?" if near else ""
            messages.append(f"cannot use {name}: role {role} has no such variable{hint}")
    return messages


def missing_vm(
    role: str, options: Mapping[str, Mapping[str, Any]], values: Mapping[str, Any]
) -> list[str]:
    """Return a message when a role that is about one VM is told neither its name nor its UUID."""
    prefix = f"{role.rpartition('.')[2]}_"
    name = next((prefix + key for key in ("domain", "name") if prefix + key in options), "")
    uuid = f"{prefix}uuid"
    if not name or uuid not in options or options[name].get("required"):
        return []
    if values.get(name) or values.get(uuid):
        return []
    return [f"cannot tell which VM is meant: set {name} or {uuid}"]


def refuse_several_hosts(play: str, hosts: Sequence[str]) -> list[str]:
    """Return a message when a play named like "Start a VM", which is for one host, has several."""
    if len(hosts) <= 1:
        return []
    named = ", ".join(hosts[:5]) + (", …" if len(hosts) > 5 else "")
    action = play[:1].lower() + play[1:]
    return [f"cannot {action} on {len(hosts)} hosts: name one with --limit ({named})"]
