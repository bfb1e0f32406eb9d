"""Finds and ends the descendants of this process, and those that a killed job process has left.

The only importer of psutil, which sends no signal to a process that has reused another's id.

A process group is not enough: ansible-core's forks call setsid since 2.19
(https://github.com/ansible/ansible/pull/82770), and ansible-runner, when it cancels or times out,
kills the group of ansible-playbook alone (https://github.com/ansible/ansible-runner/issues/973).
"""

import contextlib
import ctypes
import fcntl
import os
import select
import signal
import time
from collections.abc import Sequence
from pathlib import Path

import psutil

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
TERM_SECONDS = 2.0
KILL_SECONDS = 5.0
"""How long to wait for processes that have got SIGKILL.

One that waits for a device or file system that does not respond ends only when that does. It is
left behind, since it runs nothing of its program any more.
"""
ROUND_SECONDS = 0.05
MARK = "VIRTPLAY_RUN"
"""Environment variable that names the job's directory to a job process and its descendants."""


def become_subreaper() -> None:
    """Become the parent of orphaned descendants."""
    _prctl(PR_SET_CHILD_SUBREAPER, 1)


def follow_parent(parent: int) -> bool:
    """Receive SIGTERM when the parent dies; return False if it has died before this call."""
    _prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    # The kernel signals only deaths from now on.
    return os.getppid() == parent


def signal_end_of_input() -> None:
    """Receive SIGTERM at the end of standard input, a pipe to which nobody writes."""

    def look(*_: object) -> None:
        if select.select([0], [], [], 0)[0]:
            os.kill(os.getpid(), signal.SIGTERM)

    # Opened anew: the owner of the signal belongs to the open file, which all jobs were given.
    own = os.open("/proc/self/fd/0", os.O_RDONLY | os.O_NONBLOCK)
    os.dup2(own, 0)
    os.close(own)
    signal.signal(signal.SIGIO, look)
    fcntl.fcntl(0, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(0, fcntl.F_SETFL, fcntl.fcntl(0, fcntl.F_GETFL) | os.O_ASYNC)
    look()  # it may have ended before


def _prctl(option: int, value: int) -> None:
    if ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0):
        number = ctypes.get_errno()
        raise OSError(number, f"cannot set process option {option}: {os.strerror(number)}")


def keep_descriptors() -> None:
    """Keep the descriptors that are open now, except the standard ones, from child processes.

    Sanic makes its listening socket inheritable, and a supervisor may have left descriptors of its
    own. asyncio closes them in a child, uvloop 0.23 passes them on (`close_fds` is a TODO in its
    loop.pyx). A play that outlives the service for a moment would hold the port against the next
    start. What Python opens later is not inheritable (PEP 446).
    """
    for entry in Path("/proc/self/fd").iterdir():
        if int(entry.name) > 2:
            with contextlib.suppress(OSError):  # the descriptor of this listing
                os.set_inheritable(int(entry.name), False)


def end_strays(directory: Path) -> None:
    """Kill every process whose MARK is `directory` or in it: what killed jobs have left."""
    deadline = time.monotonic() + KILL_SECONDS
    while strays := [
        process
        for process in psutil.process_iter(["environ"])
        if f"{(process.info['environ'] or {}).get(MARK)}/".startswith(f"{directory}/")
        and _may_end(process)
    ]:
        _send(strays, signal.SIGKILL)
        if time.monotonic() > deadline:
            return


def end_descendants() -> None:
    """End all descendants of this process with SIGTERM, and those that remain with SIGKILL."""
    deadline = time.monotonic() + TERM_SECONDS
    number = signal.SIGTERM
    while found := _descendants():
        _send(found, number)
        if time.monotonic() <= deadline:
            continue
        if number == signal.SIGKILL:
            return
        number = signal.SIGKILL
        deadline = time.monotonic() + KILL_SECONDS


def _descendants() -> list[psutil.Process]:
    # Not Process.children: psutil 7.2 compares wall-clock times in it, and misses a child when the
    # clock steps back: https://github.com/giampaolo/psutil/issues/2542
    children: dict[int, list[psutil.Process]] = {}
    for process in psutil.process_iter(["ppid"]):
        children.setdefault(process.info["ppid"], []).append(process)
    found = [child for child in children.pop(os.getpid(), []) if _may_end(child)]
    for process in found:
        found += [child for child in children.pop(process.pid, []) if _may_end(child)]
    return found


def _may_end(process: psutil.Process) -> bool:
    """Whether this user may end a process, and no other job uses it.

    Processes under sudo belong to root. They end with their task, and the lock on the host makes
    the next job wait for them. ControlPersist connections of ssh ("[mux]") are shared by jobs.
    """
    words: list[str] = []
    try:
        uids = process.uids()
        with contextlib.suppress(psutil.AccessDenied, psutil.ZombieProcess):
            words = process.cmdline()
    except psutil.Error:
        return False
    return os.geteuid() in (0, uids.effective) and not any("[mux]" in word for word in words)


def _send(processes: Sequence[psutil.Process], number: int) -> None:
    """Send a signal, wait for ROUND_SECONDS, and reap the children that have ended."""
    for process in processes:
        with contextlib.suppress(psutil.Error):
            process.send_signal(number)
    psutil.wait_procs(processes, timeout=ROUND_SECONDS)
