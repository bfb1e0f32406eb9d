# Copyright: Virtplay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Locks a file for one process at a time, and shows waiting processes who holds the lock."""

from __future__ import annotations

import fcntl
import json
import os
import pwd
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..failure import Failure
from ..host.files import PROC, read_stat

# More ancestors than sudo, shells and SSH ever put between a login and a module.
_GENERATIONS = 20
_TEXT_LIMIT = 200
_POLL_SECONDS = 0.05
DAY = 24 * 3600
UNKNOWN = "another process"


@dataclass
class Wait:
    """A wait for a lock: its length in seconds, and who held the lock; None if it was free."""

    seconds: float = 0.0
    holder: str | None = None


@contextmanager
def hold_lock(
    path: Path, task: str, *, timeout: float, job: str | None = None, signed: bool = True
) -> Iterator[Wait]:
    """Hold the lock of the file at path, waiting up to timeout seconds for another process.

    task is what this process does with the lock ("stop vm-001"), for a job or a run by hand. A lock
    that is not signed does not show who holds it.
    Raises Failure (OPERATION_IN_PROGRESS) if the time is over.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    # The file is never unlinked: a waiting process would then lock a file that no other can open.
    try:
        wait = _acquire(descriptor, task, timeout)
        try:
            if signed:
                _write(descriptor, _sign(job, task))
            yield wait
        finally:
            if signed:
                _write(descriptor, "")
    finally:
        os.close(descriptor)


def find_holder(path: Path) -> str | None:
    """Return in words who holds the lock of the file at path; None if nobody does."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return _read(os.pread(descriptor, 4096, 0).decode(errors="replace"))
    finally:
        os.close(descriptor)
    return None


def _acquire(descriptor: int, task: str, timeout: float) -> Wait:
    started = time.monotonic()
    wait = Wait()
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            found = _read(os.pread(descriptor, 4096, 0).decode(errors="replace"))
            # A holder that has not written its note yet does not hide the one before.
            if wait.holder is None or found != UNKNOWN:
                wait.holder = found
            wait.seconds = time.monotonic() - started
            if wait.seconds >= timeout:
                raise Failure(
                    f"cannot {task}: {found} holds the lock; waited {round(timeout, 1):g} s",
                    "OPERATION_IN_PROGRESS",
                ) from None
            time.sleep(_POLL_SECONDS)
        else:
            return wait


def _write(descriptor: int, note: str) -> None:
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, note.encode(), 0)


def _sign(job: str | None, task: str) -> str:
    """Return the note that names this process as the holder, its task and the time."""
    pid = os.getpid()
    note = {
        "job": job,
        "by": None if job else _this_run(),
        "task": task,
        "pid": pid,
        "began": _began(pid),
        "since": time.time(),
    }
    return json.dumps(note)


def _read(text: str) -> str:
    """Return in words who holds a held lock, from the text in its file.

    The note of a process that has ended is outdated: the new holder has not written its own yet,
    or is a child of the dead process.
    """
    try:
        note = json.loads(text)
        pid, since = int(note["pid"]), float(note["since"])
        if note["began"] is None or _began(pid) != note["began"]:
            return UNKNOWN
        who = _plain(note["job"] or note["by"])
        return f"{who} ({_plain(note['task'])}, process {pid}, since {_moment(since)})"
    except (ValueError, KeyError, TypeError, OverflowError):
        return UNKNOWN


def _this_run() -> str:
    """Return who runs this process by hand: the user, and the address of the login."""
    user = os.environ.get("SUDO_USER") or os.environ.get("USER") or os.environ.get("LOGNAME")
    if not user:
        try:
            user = pwd.getpwuid(os.getuid()).pw_name
        except KeyError:
            user = str(os.getuid())
    address = _login_address()
    return f"a run by {user}" + (f" from {address}" if address else "")


def _login_address() -> str | None:
    """Return the client address of the SSH login; sudo hides it, so ancestors are searched."""
    # In a fork of a fork server, the program that waits for it is the one that SSH has started.
    pid = getattr(sys, "virtplay_client", os.getpid())
    for _generation in range(_GENERATIONS):
        try:
            environment = (PROC / str(pid) / "environ").read_bytes()
        except OSError:
            return None
        for entry in environment.split(b"\0"):
            if entry.startswith(b"SSH_CONNECTION=") and (words := entry.split(b"=", 1)[1].split()):
                return words[0].decode(errors="replace")
        fields = read_stat(pid)
        pid = int(fields[1]) if fields else 0
        if pid <= 1:
            return None
    return None


def _began(pid: int) -> str | None:
    """Return when a process was started, in the kernel's ticks; None without such a process."""
    fields = read_stat(pid)
    return fields[19] if fields else None


def _moment(since: float) -> str:
    form = "%H:%M:%S UTC" if abs(time.time() - since) < DAY else "%Y-%m-%d %H:%M:%S UTC"
    return time.strftime(form, time.gmtime(since))


def _plain(text: Any) -> str:
    return "".join(c if c.isprintable() else "?" for c in str(text)[:_TEXT_LIMIT])
