# Copyright: Virtplay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Reads and sets what libvirt keeps of a domain beside its XML."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

FLAGS = ("autostart",)


def read_flags(dom: Any, *, persistent: bool) -> dict[str, Any]:
    """Return the flags of a domain; a transient one has none that is set."""
    return {"autostart": bool(dom.autostart()) if persistent else False}


def set_flags(dom: Any, flags: Mapping[str, Any]) -> None:
    """Set those flags of a domain that are given."""
    if "autostart" in flags:
        dom.setAutostart(int(flags["autostart"]))
