"""The client's terminal, as a fork uses it.

A run has the descriptors of its client's terminal, but is in a session of its own, which has no
terminal: the kernel gives a terminal to one session. So signals of the keyboard go to the client,
which forwards them, and what Ansible asks of its controlling terminal is answered here.
"""

from __future__ import annotations

import getpass
import os
from pathlib import Path
from typing import Any

DEVICE = "/dev/tty"


def borrow(descriptor: int, client: int) -> None:
    """Use the terminal at a descriptor, which controls the process `client`, in this process."""
    getpass.os = _System(descriptor)  # type: ignore[attr-defined]
    real = os.tcgetpgrp

    def tcgetpgrp(terminal: int) -> int:
        """Return this process's group while its client is in the terminal's foreground."""
        try:
            return real(terminal)
        except OSError:
            if not os.isatty(terminal):
                raise
        group, _, _, foreground = _stat(client)
        return os.getpgrp() if group == foreground else foreground

    os.tcgetpgrp = tcgetpgrp


def _stat(pid: int) -> list[int]:
    """Return a process's group, session, terminal, and its terminal's foreground group."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return [int(field) for field in fields[2:6]]


class _System:
    """`os` for getpass, which opens the controlling terminal by name."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)

    def open(self, path: str, flags: int, mode: int = 0o777) -> int:
        if path == DEVICE:
            return os.dup(self._descriptor)
        return os.open(path, flags, mode)
