"""Lab: identifies processes by id and start time, and kills all descendants of a process."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

_PR_SET_CHILD_SUBREAPER = 36


@dataclass(frozen=True)
class Process:
    """A process, distinguishable from a later one with the same id.

    `started` is in clock ticks since the boot with the id `boot`.
    """

    pid: int
    started: int
    boot: str

    @classmethod
    def of(cls, pid: int) -> Process | None:
        """Return the process that now has this id, or None if there is none (or a zombie)."""
        started = _start_time(pid)
        return None if started is None else cls(pid, started, _boot_id())

    def alive(self) -> bool:
        """Return whether this very process is still running."""
        return Process.of(self.pid) == self

    def send(self, number: signal.Signals) -> bool:
        """Send the signal if this very process is still running; return whether it was."""
        if not self.alive():
            return False
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)
        return True

    def wait(self, seconds: float) -> bool:
        """Wait until the process has ended; return False if it is running after `seconds`."""
        deadline = time.monotonic() + seconds
        while self.alive():
            if time.monotonic() > deadline:
                return False
            time.sleep(0.02)
        return True


def _boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def _start_time(pid: int) -> int | None:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    state, *rest = stat.rpartition(")")[
        2
    ].split()  # the name before may contain blanks and brackets
    return None if state in "ZX" else int(rest[18])


def children(pid: int) -> list[int]:
    """Return the ids of the direct children of a process, zombies included."""
    found: list[int] = []
    try:
        tasks = list(Path(f"/proc/{pid}/task").iterdir())
    except (FileNotFoundError, ProcessLookupError):
        return []  # it has ended meanwhile
    for task in tasks:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            found += map(int, (task / "children").read_text().split())
    return found


def adopt_orphans() -> None:
    """Make this process the parent of every descendant whose own parent ends.

    Ansible's forks call setsid (https://github.com/ansible/ansible/pull/82770) and ssh's masters
    daemonise, so neither a process group nor a session contains them all; only the descent does.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "cannot become the subreaper of the lab's processes")


def reap_orphans() -> None:
    """Reap every child that has ended. Only safe if no other code waits for its own children."""
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def end_descendants(seconds: float = 20) -> None:
    """Kill all descendants of this process, which must be a subreaper, and wait for their end.

    A descendant may fork while it is being killed; its child then becomes a child of this process,
    and the next round kills it. Raises TimeoutError if some are left after `seconds`.
    """
    deadline = time.monotonic() + seconds
    while found := _descendants(os.getpid()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"cannot end processes {found}")
        for pid in found:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        reap_orphans()
        time.sleep(0.01)


def _descendants(pid: int) -> list[int]:
    found: list[int] = []
    for child in children(pid):
        found += [child, *_descendants(child)]
    return found
