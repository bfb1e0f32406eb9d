# Copyright: Virtplay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Remembers from run to run which storage holds a process that cannot be killed.

A call on some dead storage (a device, a FUSE file system) does not even end by SIGKILL. Each run
that tried it again would leave one more process behind, until the storage responds.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path

from .files import read_stat

NOTE = Path("/run/virtplay/dead-storage.json")


def dead_places() -> dict[str, str]:
    """Return the places where a process of an earlier run still hangs, and which it is."""
    try:
        noted = json.loads(NOTE.read_bytes())
        return {str(place): str(holder) for place, holder in noted.items() if _exists(str(holder))}
    except (OSError, ValueError, AttributeError):
        return {}


def note_dead(places: Iterable[str], known: dict[str, str]) -> None:
    """Note that this process hangs in places; known are those of earlier runs."""
    new = dict.fromkeys(places, _name_of(os.getpid()))
    if new.keys() <= known.keys():
        return
    NOTE.parent.mkdir(mode=0o755, exist_ok=True)
    draft = NOTE.with_suffix(f".{os.getpid()}")
    draft.write_text(json.dumps({**new, **known}))
    draft.replace(NOTE)


def _exists(holder: str) -> bool:
    # A killed process whose thread hangs stays as a zombie.
    return holder == _name_of(int(holder.partition(" ")[0]))


def _name_of(pid: int) -> str:
    """Return a process's number with its start, which makes it unique; "" without one."""
    fields = read_stat(pid)
    return f"{pid} {fields[19]}" if fields is not None else ""
