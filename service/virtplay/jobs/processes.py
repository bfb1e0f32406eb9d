"""Finds and ends processes: those below this one, and those that a killed job process has left."""

import contextlib
import ctypes
import os
import signal
import time
from pathlib import Path

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
TERM_SECONDS = 2.0
MARK = "VIRTPLAY_RUN"
"""Environment variable of a job process and all below it: its directory."""


def become_subreaper() -> None:
    """Get every orphaned descendant as a child, and a SIGTERM when the service dies."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) or libc.prctl(
        PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0
    ):
        raise OSError(ctypes.get_errno(), "cannot become a subreaper")


def end_strays(directory: Path) -> None:
    """End what a killed job process has left: all below it has `directory` in its environment."""
    mark = f"{MARK}={directory}".encode()
    while strays := [pid for pid in _processes() if mark in _environment(pid)]:
        for pid in strays:
            _send(pid, signal.SIGKILL)
        time.sleep(0.05)


def _children() -> dict[int, list[int]]:
    tree: dict[int, list[int]] = {}
    for pid in _processes():
        with contextlib.suppress(OSError):
            parent = int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1])
            tree.setdefault(parent, []).append(pid)
    return tree


def _is_ssh_master(pid: int) -> bool:
    """Whether it is a ControlPersist connection, which other jobs may be using."""
    with contextlib.suppress(OSError):
        return b"[mux]" in Path(f"/proc/{pid}/cmdline").read_bytes()
    return False


def _send(pid: int, number: int) -> None:
    """Send a signal to a process, if it still is there and ours.

    What sudo has started is root's: it ends with its task, and the fence on the host makes the
    next job wait for it.
    """
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, number)


def _is_ours(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return os.geteuid() in (0, Path(f"/proc/{pid}").stat().st_uid)
    return False


def _descendants() -> list[int]:
    tree = _children()
    found: list[int] = []
    waiting = list(tree.get(os.getpid(), []))
    while waiting:
        pid = waiting.pop()
        if _is_ours(pid) and not _is_ssh_master(pid):
            found.append(pid)
            waiting += tree.get(pid, [])
    return found


def end_descendants() -> None:
    """End all processes below this one: SIGTERM, then SIGKILL to what remains."""
    deadline = time.monotonic() + TERM_SECONDS
    number = signal.SIGTERM
    while pids := _descendants():
        for pid in pids:
            _send(pid, number)
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        time.sleep(0.05)
        if time.monotonic() > deadline:
            number = signal.SIGKILL


def _processes() -> list[int]:
    return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]


def _environment(pid: int) -> list[bytes]:
    """A process's environment; empty for a zombie, somebody else's, and an ssh connection."""
    with contextlib.suppress(OSError):
        if not _is_ssh_master(pid):
            return Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    return []
