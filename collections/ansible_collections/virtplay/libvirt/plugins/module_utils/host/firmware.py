# Copyright: Virtplay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Finds UEFI firmware whose variables can be in snapshots, as role libvirt_host has prepared it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

# Earlier ones ignore the format of the variables (9.0) or cannot include them in a snapshot.
_VERSION = 11_003_000
_CODE = Path("/usr/share/OVMF/OVMF_CODE_4M.fd")
_VARIABLES = Path("/var/lib/virtplay/firmware/OVMF_VARS_4M.qcow2")


class Uefi(NamedTuple):
    """Firmware to name in a definition: its code (raw), and a template of its variables (qcow2)."""

    code: str
    variables: str


def find_uefi(conn: Any) -> Uefi | None:
    """Return the prepared firmware; None if this host has none, or its libvirt is too old."""
    if conn.getLibVersion() < _VERSION or not (_CODE.exists() and _VARIABLES.exists()):
        return None
    return Uefi(str(_CODE), str(_VARIABLES))
