"""Lab: suspends the holder of a VM's lock, so that tests find the lock held on any machine."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager

from lab.lab import Host

LOCKS = "/run/virtplay"
PATIENCE = 180.0
_NOTES = f"for lock in {LOCKS}/*.lock; do cat $lock; echo; done"
_FORCE = f"cat {LOCKS}/*.force"
_OPEN = f"ls -l /proc/[0-9]*/fd 2>/dev/null | grep -c {LOCKS}/"


@contextmanager
def halted(host: Host, holder: str) -> Iterator[None]:
    """Wait for the process whose note in a lock names `holder`; suspend it during the block."""
    deadline = time.monotonic() + PATIENCE
    while True:
        notes = host.run("sh", "-c", _NOTES).stdout.splitlines()
        pid = next((json.loads(note)["pid"] for note in notes if holder in note), None)
        if pid is not None:
            break
        assert time.monotonic() < deadline, f"{holder} holds no lock"
        time.sleep(0.1)
    host.run("kill", "-STOP", str(pid))
    try:
        yield
    finally:
        host.run("kill", "-CONT", str(pid))


def wait_for_force(host: Host, asker: str) -> None:
    """Wait until a process whose request names `asker` asks with force for a lock."""
    deadline = time.monotonic() + PATIENCE
    while asker not in host.run("sh", "-c", _FORCE, check=False).stdout:
        assert time.monotonic() < deadline, f"{asker} asks with force for no lock"
        time.sleep(0.1)


def wait_for_waiting(host: Host) -> None:
    """Wait until a second process has a lock's file open."""
    deadline = time.monotonic() + PATIENCE
    while int(host.run("sh", "-c", _OPEN, check=False).stdout or 0) < 2:
        assert time.monotonic() < deadline, "no process waits for a lock"
        time.sleep(0.1)
