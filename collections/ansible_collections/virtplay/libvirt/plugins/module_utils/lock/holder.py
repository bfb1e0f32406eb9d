# Copyright: Virtplay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Collection layer: who holds a domain's lock, as its holder writes it and a later one reads it."""

from __future__ import annotations

import json
import os
import pwd
import time
from pathlib import Path
from typing import Any

PROC = Path("/proc")
# More ancestors than sudo, shells and SSH ever put between a login and a module.
_GENERATIONS = 20
_TEXT_LIMIT = 200
DAY = 24 * 3600
UNKNOWN = "another process"


def sign(job: str | None, task: str) -> str:
    """Return the note of this process as a holder: who it is, what it does, and since when."""
    pid = os.getpid()
    note = {
        "job": job,
        "by": None if job else this_run(),
        "task": task,
        "pid": pid,
        "began": _began(pid),
        "since": time.time(),
    }
    return json.dumps(note)


def read(text: str) -> str:
    """Return in words who holds a lock that is held now, from what stands in its file.

    The note of a process that has ended says nothing: it died, and the one that has the lock now
    has not written its own yet, or is a child that it left behind.
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


def this_run() -> str:
    """Return who runs this process by hand: the user, and the address the login came from."""
    user = os.environ.get("SUDO_USER") or os.environ.get("USER") or os.environ.get("LOGNAME")
    if not user:
        try:
            user = pwd.getpwuid(os.getuid()).pw_name
        except KeyError:
            user = str(os.getuid())
    address = _login_address()
    return f"a run by {user}" + (f" from {address}" if address else "")


def _login_address() -> str | None:
    """Return where the SSH login of this process or an ancestor came from; sudo hides it."""
    pid = os.getpid()
    for _generation in range(_GENERATIONS):
        try:
            environment = (PROC / str(pid) / "environ").read_bytes()
            status = (PROC / str(pid) / "stat").read_text()
        except OSError:
            return None
        for entry in environment.split(b"\0"):
            if entry.startswith(b"SSH_CONNECTION=") and (words := entry.split(b"=", 1)[1].split()):
                return words[0].decode(errors="replace")
        pid = int(status.rpartition(")")[2].split()[1])
        if pid <= 1:
            return None
    return None


def _began(pid: int) -> str | None:
    """Return when a process was started, in the kernel's ticks; None when there is none."""
    try:
        # The command's name is in parentheses and may hold blanks and parentheses.
        return (PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return None


def _moment(since: float) -> str:
    form = "%H:%M:%S UTC" if abs(time.time() - since) < DAY else "%Y-%m-%d %H:%M:%S UTC"
    return time.strftime(form, time.gmtime(since))


def _plain(text: Any) -> str:
    return "".join(c if c.isprintable() else "?" for c in str(text)[:_TEXT_LIMIT])
