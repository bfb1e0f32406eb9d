# Copyright: Virtplay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Reads and sets what libvirt stores of a domain outside its XML."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

FLAGS = ("autostart",)


def read_flags(dom: Any, *, persistent: bool) -> dict[str, Any]:
    """Return the flags of a domain; all are false for a transient one."""
    return {"autostart": bool(dom.autostart()) if persistent else False}


def set_flags(dom: Any, flags: Mapping[str, Any]) -> None:
    """Set the given flags of a domain; the others stay as they are."""
    if "autostart" in flags:
        dom.setAutostart(int(flags["autostart"]))
