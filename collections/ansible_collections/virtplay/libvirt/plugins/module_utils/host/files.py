# Copyright: Virtplay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Reads the host's files that several parts of the modules need: /proc, /sys, /etc/virtplay."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

PROC = Path("/proc")
NETWORK_DEVICES = Path("/sys/class/net")
HOST_FILE = Path("/etc/virtplay/host.json")


def read_stat(pid: int) -> list[str] | None:
    """Return /proc/PID/stat from the state on (proc(5), field 3); None without such a process."""
    try:
        text = (PROC / str(pid) / "stat").read_text(errors="replace")
    except OSError:
        return None
    # The command's name is in parentheses and may contain spaces and parentheses.
    fields = text.rpartition(")")[2].split()
    return fields if len(fields) > 21 else None


def boot_time() -> int:
    """Return when the host booted, in seconds since the epoch."""
    for line in (PROC / "stat").read_text().splitlines():
        key, _space, value = line.partition(" ")
        if key == "btime":
            return int(value)
    raise OSError("cannot find btime in /proc/stat")


def list_bridges() -> set[str]:
    """Return the names of the host's bridges, including those that libvirt created."""
    return {device.name for device in NETWORK_DEVICES.iterdir() if (device / "bridge").is_dir()}


def noted_virt_type() -> tuple[str, str] | None:
    """Return how guests run (kvm or qemu) and why, as the host's preparation found by a trial.

    None if the host has not been prepared.
    """
    noted = read_noted()
    return (str(noted["virt_type"]), str(noted.get("reason", ""))) if "virt_type" in noted else None


def read_noted() -> dict[str, Any]:
    """Return what the host's preparation has noted, {} if nothing."""
    try:
        noted = json.loads(HOST_FILE.read_bytes())
    except (OSError, ValueError):
        return {}
    return noted if isinstance(noted, dict) else {}
