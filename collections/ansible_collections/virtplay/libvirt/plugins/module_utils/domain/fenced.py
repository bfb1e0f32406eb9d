# Copyright: Virtplay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Runs a change of a domain under its lock, after thawing file systems a crashed run froze."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..failure import Failure
from ..host.connection import domain_state, lookup_domain
from ..host.qemu_process import started_at
from ..lock.fence import Fence
from ..states import DomainState
from .filesystems import thaw

Act = Callable[[], dict[str, Any]]


def run_fenced(
    fence: Fence,
    conn: Any,
    act: Act,
    *,
    check_mode: bool,
    lock_timeout: float,
    force: bool = False,
    warn: Callable[[str], None],
) -> dict[str, Any]:
    """Return act's result and the wait for the lock; check mode takes no lock.

    With force, a task that waits for the guest to shut down lets go of the lock.

    A guest whose file systems an earlier run left frozen is thawed first: otherwise no action
    works on it, not even a stop.
    """
    if check_mode:
        fence.check(None)
        return act()
    with fence.hold(lock_timeout, force=force):
        thaw_left_frozen(fence, conn, warn)
        return {**act(), **fence.waited()}


def thaw_left_frozen(fence: Fence, conn: Any, warn: Callable[[str], None]) -> None:
    """Thaw the guest if the fence records that a crashed run left it frozen."""
    frozen_since = fence.recall().get("frozen_since")
    dom = lookup_domain(conn, uuid=fence.uuid) if frozen_since is not None else None
    if dom is None:
        return
    state, name = domain_state(dom), dom.name()
    same_guest = frozen_since == started_at(name)
    if same_guest and state == DomainState.PAUSED:
        return  # a paused guest cannot thaw: a later action thaws it
    # Recorded first: a guest that cannot be thawed causes one warning, and blocks no later action.
    fence.remember(frozen_since=None)
    if same_guest and state == DomainState.RUNNING:
        try:
            thaw(dom, name, "an unfinished run")
        except Failure as failure:
            warn(failure.message)
