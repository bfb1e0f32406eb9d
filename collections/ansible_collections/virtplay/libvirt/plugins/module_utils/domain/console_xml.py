# Copyright: Virtplay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Reads and edits the console devices in domain XML; pure, no libvirt and no I/O.

QEMU requires a password only if the domain was started with one, so a new domain gets a random,
already expired password. libvirt includes passwords only in XML requested as secure: the XML that
is planned, compared and printed has none, and passwords are added just before a define.
"""

from __future__ import annotations

import copy
import time
from typing import Any

from ..failure import Failure
from .xml import parse_xml, render_xml

# Always in the past; libvirt reads it as UTC.
LONG_AGO = "1970-01-01T00:00:01"
# Not ::1: consoles connect to 127.0.0.1, where another VM may have the same port.
LOOPBACK = ("127.0.0.1", "localhost")
# What virDomainOpenConsole can open.
_STREAMS = ("pty", "unix")


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
    every = list(parse_xml(live_xml).iterfind("devices/graphics"))
    found = [graphics for graphics in every if graphics.get("type") == "vnc"]
    if not found:
        others = ", ".join(sorted({str(graphics.get("type")) for graphics in every}))
        has = f"only {others}" if others else "no screen"
        raise _not_available(label, f"it has {has}, and consoles require VNC")
    reasons = []
    for graphics in found:
        host = _listens_on(graphics)
        if host in LOOPBACK and _port(graphics):
            return graphics
        if host in LOOPBACK:
            reasons.append("its VNC has no TCP port")
        else:
            reasons.append(f"its VNC listens on {host or 'no address'}, not on 127.0.0.1")
    raise _not_available(label, "; ".join(reasons))


def vnc_address(graphics: Any) -> tuple[str, int]:
    """Return the address and port of a VNC element that find_vnc has found."""
    return "127.0.0.1", _port(graphics)


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


def utc_text(moment: float) -> str:
    """Return a UNIX time in the format of libvirt's passwdValidTo: UTC without a zone."""
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(moment))


def check_serial(live_xml: str, label: str) -> None:
    """Raise Failure (CONSOLE_NOT_AVAILABLE) unless libvirt can open the serial console."""
    root = parse_xml(live_xml)
    # libvirt opens the first device in this order.
    devices = [*root.iterfind("devices/console"), *root.iterfind("devices/serial")]
    if not devices:
        raise _not_available(label, "it has no serial console")
    kind = devices[0].get("type")
    if kind not in _STREAMS:
        raise _not_available(label, f"its serial console is of type {kind}, not pty")


def _listens_on(graphics: Any) -> str | None:
    """Return the address that a VNC element listens on; None for a socket or no address."""
    if graphics.get("socket"):
        return None
    listen = graphics.find("listen")
    if listen is not None and listen.get("type") not in {"address", "network"}:
        return None
    address = graphics.get("listen")
    if address is None and listen is not None:
        address = listen.get("address")
    return str(address) if address else None


def _port(graphics: Any) -> int:
    text = graphics.get("port") or ""
    return int(text) if text.isdigit() else 0


def _not_available(label: str, reason: str) -> Failure:
    return Failure(f"cannot open a console of {label}: {reason}", "CONSOLE_NOT_AVAILABLE")
