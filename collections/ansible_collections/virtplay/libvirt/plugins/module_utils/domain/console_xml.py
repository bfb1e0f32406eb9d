# Copyright: Virtplay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Reads and edits the console devices in domain XML; pure, no libvirt and no I/O.

QEMU requires a password only if the domain was started with one, so a new domain gets a random,
already expired password. libvirt includes passwords only in XML requested as secure: the XML that
is planned, compared and printed has none, and passwords are added just before a define.
"""

from __future__ import annotations

import copy
from typing import Any

from ..console_open import Refusal, port_of, utc_text
from ..console_open import check_serial as check_serial_of
from ..console_open import find_vnc as find_vnc_of
from ..failure import Failure
from .xml import parse_xml, render_xml

# Always in the past; libvirt reads it as UTC.
LONG_AGO = "1970-01-01T00:00:01"


def lock_graphics(xml: str, password: str) -> str:
    """Return a definition whose VNC requires a password, which is this one, already expired."""
    root = parse_xml(xml)
    for graphics in root.iterfind("devices/graphics[@type='vnc']"):
        if not graphics.get("passwd"):
            graphics.set("passwd", password)
            graphics.set("passwdValidTo", LONG_AGO)
    return render_xml(root)


def keep_passwords(xml: str, secret_xml: str) -> str:
    """Return a definition with the passwords of secret_xml, the current definition with secrets.

    xml was built from the same definition without secrets: defining it unchanged would disable
    password authentication from the next boot on.
    """
    root, secret = parse_xml(xml), parse_xml(secret_xml)
    pairs = zip(root.iterfind("devices/graphics"), secret.iterfind("devices/graphics"))
    for graphics, old in pairs:
        if old.get("passwd") is None or graphics.get("type") != old.get("type"):
            continue
        for name in ("passwd", "passwdValidTo"):
            if old.get(name) is not None:
                graphics.set(name, old.get(name))
    return render_xml(root)


def find_vnc(live_xml: str, label: str) -> Any:
    """Return the VNC element of a running domain that listens on its host's loopback.

    Raises Failure (CONSOLE_NOT_AVAILABLE).
    """
    try:
        return find_vnc_of(parse_xml(live_xml))
    except Refusal as refusal:
        raise _not_available(label, str(refusal)) from refusal


def vnc_address(graphics: Any) -> tuple[str, int]:
    """Return the address and port of a VNC element that find_vnc has found."""
    return "127.0.0.1", port_of(graphics)


def has_password(graphics: Any) -> bool:
    """Whether a VNC element that was read with secrets requires a password."""
    return bool(graphics.get("passwd"))


def set_password(graphics: Any, password: str, valid_to: str) -> str:
    """Return the XML of a VNC element with a password; valid_to is as utc_text returns it."""
    element = copy.deepcopy(graphics)
    element.set("passwd", password)
    element.set("passwdValidTo", valid_to)
    return render_xml(element)


def temporary_screens(secret_live_xml: str) -> list[Any]:
    """Return the VNC elements with a temporary password, which may have expired.

    secret_live_xml is the definition of a running domain, read with secrets.
    """
    every = parse_xml(secret_live_xml).iterfind("devices/graphics[@type='vnc']")
    return [
        graphics
        for graphics in every
        if graphics.get("passwd") and graphics.get("passwdValidTo") not in (None, LONG_AGO)
    ]


def is_valid(graphics: Any, now: float) -> bool:
    """Whether the temporary password of a VNC element is still valid at now (UNIX time)."""
    return str(graphics.get("passwdValidTo")) > utc_text(now)


def check_serial(live_xml: str, label: str) -> None:
    """Raise Failure (CONSOLE_NOT_AVAILABLE) unless libvirt can open the serial console."""
    try:
        check_serial_of(parse_xml(live_xml))
    except Refusal as refusal:
        raise _not_available(label, str(refusal)) from refusal


def _not_available(label: str, reason: str) -> Failure:
    return Failure(f"cannot open a console of {label}: {reason}", "CONSOLE_NOT_AVAILABLE")
