# Copyright: Virtplay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Remembers from run to run what does not respond, so that only one observation waits for it.

Storage is noted by the path of an image or a pool, a guest agent by the UUID of its domain. A later
observation asks it again when it has reported. Not while the process that asked last exists: a call
on some dead storage (a device, a FUSE file system) does not even end by SIGKILL, and each further
call would leave one more process behind.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from .files import read_stat

NOTE = Path("/run/virtplay/silent.json")


class Silence:
    """What does not respond; `in` says whether a name is known for it."""

    def __init__(self) -> None:
        """Read what earlier observations have noted."""
        self._noted = _read()
        self._added: set[str] = set()
        self._removed: set[str] = set()

    def __contains__(self, name: object) -> bool:
        return name in self._noted and name not in self._removed

    def is_empty(self) -> bool:
        """Whether everything has responded, as far as it is known."""
        return not self._noted and not self._added

    def names(self) -> set[str]:
        """Return the known names."""
        return self._noted.keys() - self._removed

    def unasked(self) -> set[str]:
        """Return the known names for which no process waits any more."""
        return {name for name, process in self._noted.items() if not _exists(process)}

    def add(self, names: Iterable[str]) -> None:
        """Add names that this process has asked, and that have not responded so far."""
        self._added.update(names)

    def remove(self, names: Iterable[str]) -> None:
        """Remove names that have responded, or that are gone."""
        self._removed.update(names)

    def write(self) -> None:
        """Note what was added and removed.

        Without a lock: what two observations write at once is found again by the next one, and so
        is what could not be written.
        """
        before = _read()
        me = _name_of(os.getpid())
        noted = {**before, **dict.fromkeys(self._added, me)}
        noted = {name: noted[name] for name in noted.keys() - self._removed}
        if noted == before:
            return
        draft = NOTE.with_suffix(f".{os.getpid()}")
        try:
            NOTE.parent.mkdir(mode=0o755, exist_ok=True)
            draft.write_text(json.dumps(noted))
            draft.replace(NOTE)
        except OSError:
            with suppress(OSError):
                draft.unlink()


def _read() -> dict[str, str]:
    """Return name → the process that asked last."""
    try:
        noted = json.loads(NOTE.read_bytes())
        return {str(name): str(process) for name, process in noted.items()}
    except (OSError, ValueError, AttributeError):
        return {}


def _exists(process: str) -> bool:
    number = process.partition(" ")[0]
    if not number.isdecimal() or process != _name_of(int(number)):
        return False
    fields = read_stat(int(number))
    # As a zombie it has ended, unless one of its threads hangs (num_threads in proc(5)).
    return fields is not None and (fields[0] != "Z" or int(fields[17]) > 1)


def _name_of(pid: int) -> str:
    """Return a process's number with its start, which makes it unique; "" without one."""
    fields = read_stat(pid)
    return f"{pid} {fields[19]}" if fields is not None else ""
