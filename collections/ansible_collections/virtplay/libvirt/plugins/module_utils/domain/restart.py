# Copyright: Virtplay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Makes the restart of a job repeatable: notes which QEMU it ends, and ends no other.

A run that dies may have done nothing, ended QEMU, or started the next one. Its successor has the
same job, and compares the noted QEMU with the present one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..host.qemu_process import process_identity
from ..lock.fence import Fence
from .arguments import Wanted
from .plan import Applies, Change, Current, Step, plan_power


def begun_restart(fence: Fence) -> dict[str, Any] | None:
    """Return what a run of the fence's job has noted of its restart; None without a note."""
    note = fence.recall().get("restart") or {}
    return note if fence.job is not None and note.get("job") == fence.job else None


def plan_rest(current: Current, note: dict[str, Any], *, force: bool) -> list[Step]:
    """Return the steps that are left of a begun restart; raises Failure like plan_power."""
    same = current.active and process_identity(current.label) == note["qemu"]
    # Of a domain that somebody has saved meanwhile, the guest would go on.
    again = current.saved or (same and not note["reset"])
    return plan_power(current, Wanted.RESTARTED if again else Wanted.RUNNING, force=force)


def noted_changes(note: dict[str, Any]) -> list[Change]:
    """Return the changes that the run which has begun a restart would have reported."""
    return [Change(**{**each, "applies": Applies(each["applies"])}) for each in note["changes"]]


def note_restart(fence: Fence, current: Current, changes: Sequence[Change]) -> None:
    """Note durably that the fence's job restarts a domain; call this before anything is done.

    The note stays after the restart, as the service may die before it has the result. Without a
    job nobody repeats the run.
    """
    if fence.job is not None:
        note = {
            "job": fence.job,
            "qemu": process_identity(current.label),
            "reset": False,
            "changes": [change.as_dict() for change in changes],
        }
        fence.remember(restart=note)


def note_reset(fence: Fence) -> None:
    """Note that the domain was reset, which leaves its QEMU."""
    if note := begun_restart(fence):
        fence.remember(restart={**note, "reset": True})
