# Copyright: Virtplay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Reads from the kernel the facts about a domain's QEMU process.

QEMU itself is never queried, so this also works if it does not respond.
"""

from __future__ import annotations

import datetime
import os
from pathlib import Path

from .files import PROC, boot_time, read_stat

RUN_DIRECTORY = Path("/run/libvirt/qemu")


def started_at(name: str) -> str | None:
    """Return when the QEMU of an active system domain started, RFC 3339; None without one.

    The text never changes while the process lives: boot time and start ticks are both fixed.
    """
    seconds = started_seconds(name)
    return None if seconds is None else rfc3339(seconds)


def started_seconds(name: str) -> float | None:
    """Return the time of started_at in seconds since the epoch; None without a QEMU."""
    fields = _read_stat(name)
    if fields is None:
        return None
    return boot_time() + int(fields[19]) / os.sysconf("SC_CLK_TCK")


def process_identity(name: str) -> str | None:
    """Return what tells the QEMU of an active system domain from every other one; None without one.

    It is its start time as the kernel counts it: setting the clock does not change it.
    """
    fields = _read_stat(name)
    if fields is None:
        return None
    return f"{(PROC / 'sys/kernel/random/boot_id').read_text().strip()} {fields[19]}"


def seems_stopped(name: str) -> bool:
    """Whether the main thread of a domain's QEMU is stopped, traced, dead or waits for a disk.

    This is only a hint: a thread that waits for a disk may continue, and one that sleeps may hang.
    """
    fields = _read_stat(name)
    return fields is not None and fields[0] in {"T", "t", "D", "Z", "X"}


def resident_bytes(name: str) -> int | None:
    """Return how much of the host's memory a domain's QEMU uses, in bytes; None if unknown."""
    fields = _read_stat(name)
    return int(fields[21]) * os.sysconf("SC_PAGE_SIZE") if fields is not None else None


def _read_stat(name: str) -> list[str] | None:
    """Return what read_stat returns for a domain's QEMU; None without one."""
    try:
        pid = int((RUN_DIRECTORY / f"{name}.pid").read_text())
    except (OSError, ValueError):
        return None
    return read_stat(pid)


def rfc3339(seconds: float) -> str:
    """Return seconds since the epoch as UTC with milliseconds: 2026-11-22T13:40:01.250Z."""
    moment = datetime.datetime.fromtimestamp(seconds, tz=datetime.timezone.utc)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
