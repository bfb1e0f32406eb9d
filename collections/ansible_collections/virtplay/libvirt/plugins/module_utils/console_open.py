# Copyright: Virtplay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Opens a domain's console for one client (a program of its own, and the rules for it).

`python3 -c <this text> URI UUID TYPE`: the service sends it over the SSH connection that will carry
the console, as the module `console` takes seconds to start. So it needs only python3-libvirt on the
host, and imports nothing of the collection. Standard input has the password and its time as JSON,
because every user of the host can read arguments. It prints the console as JSON, as the module
returns it, or `code` and `msg` of a refusal. Anything else, such as an error of libvirt, ends it
with another exit status than 0: then the service runs the module, which explains it.
"""

from __future__ import annotations

import json
import signal
import sys
import time
from typing import Any

# Not ::1: consoles connect to 127.0.0.1, where another VM may have the same port.
LOOPBACK = ("127.0.0.1", "localhost")
# What virDomainOpenConsole can open.
_STREAMS = ("pty", "unix")
# After so many seconds the program is ended by a signal: QEMU or libvirt does not respond.
PATIENCE = 5


class Refusal(Exception):
    """Why a domain has no console that can be opened; code is an error code of the API."""

    def __init__(self, message: str, code: str = "CONSOLE_NOT_AVAILABLE") -> None:
        super().__init__(message)
        self.code = code


def find_vnc(root: Any) -> Any:
    """Return the VNC element of a running domain that listens on its host's loopback.

    root is the domain's live definition, of ElementTree or lxml. Raises Refusal.
    """
    every = list(root.iterfind("devices/graphics"))
    found = [graphics for graphics in every if graphics.get("type") == "vnc"]
    if not found:
        others = ", ".join(sorted({str(graphics.get("type")) for graphics in every}))
        has = f"only {others}" if others else "no screen"
        raise Refusal(f"it has {has}, and consoles require VNC")
    reasons = []
    for graphics in found:
        host = _listens_on(graphics)
        if host in LOOPBACK and port_of(graphics):
            return graphics
        if host in LOOPBACK:
            reasons.append("its VNC has no TCP port")
        else:
            reasons.append(f"its VNC listens on {host or 'no address'}, not on 127.0.0.1")
    raise Refusal("; ".join(reasons))


def check_serial(root: Any) -> None:
    """Raise Refusal unless libvirt can open the serial console of a definition."""
    # libvirt opens the first device in this order.
    devices = [*root.iterfind("devices/console"), *root.iterfind("devices/serial")]
    if not devices:
        raise Refusal("it has no serial console")
    kind = devices[0].get("type")
    if kind not in _STREAMS:
        raise Refusal(f"its serial console is of type {kind}, not pty")


def port_of(graphics: Any) -> int:
    """Return the TCP port of a VNC element; 0 if it has none."""
    text = graphics.get("port") or ""
    return int(text) if text.isdigit() else 0


def utc_text(moment: float) -> str:
    """Return a UNIX time in the format of libvirt's passwdValidTo: UTC without a zone."""
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(moment))


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


def open_console(libvirt: Any, uri: str, uuid: str, kind: str, given: dict[str, Any]) -> Any:
    """Open a console and return what the module `console` returns of it; raises Refusal."""
    from xml.etree import ElementTree  # noqa: PLC0415 - modules have lxml, and take the rules only

    try:
        dom = libvirt.open(uri).lookupByUUIDString(uuid)
    except libvirt.libvirtError as error:
        if error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN:
            raise Refusal("it is not defined on its host", "VM_NOT_FOUND") from error
        raise
    if not dom.isActive():
        raise Refusal("it is stopped", "VM_ALREADY_STOPPED")
    root = ElementTree.fromstring(dom.XMLDesc(libvirt.VIR_DOMAIN_XML_SECURE))
    console = {"type": kind, "host": None, "port": None, "password_set": False}
    if kind == "serial":
        check_serial(root)
        return console
    graphics = find_vnc(root)
    had_password = bool(graphics.get("passwd"))
    graphics.set("passwd", given["password"])
    # libvirt reads the time as UTC, and QEMU compares it with the clock of this host.
    graphics.set("passwdValidTo", utc_text(time.time() + given["seconds"]))
    try:
        dom.updateDeviceFlags(
            ElementTree.tostring(graphics, encoding="unicode"), libvirt.VIR_DOMAIN_AFFECT_LIVE
        )
        console["password_set"] = True
    except libvirt.libvirtError as error:
        if error.get_error_code() == libvirt.VIR_ERR_OPERATION_INVALID:
            raise Refusal("it has stopped", "VM_ALREADY_STOPPED") from error
        # A QEMU that was started without password authentication accepts none, and requires none.
        other = (libvirt.VIR_ERR_OPERATION_TIMEOUT, libvirt.VIR_ERR_NO_DOMAIN)
        if had_password or error.get_error_code() in other:
            raise
    return {**console, "host": "127.0.0.1", "port": port_of(graphics)}


def main(arguments: list[str]) -> None:
    """Open the console that the arguments URI, UUID and TYPE name."""
    # A call of libvirt that hangs runs no handler, but this signal ends the process.
    signal.alarm(PATIENCE)
    import libvirt  # noqa: PLC0415 - the rules need none, and the module imports them

    libvirt.registerErrorHandler(lambda *_: None, None)
    uri, uuid, kind = arguments
    try:
        result = open_console(libvirt, uri, uuid, kind, json.load(sys.stdin))
    except Refusal as refusal:
        result = {"code": refusal.code, "msg": str(refusal)}
    json.dump(result, sys.stdout)


if __name__ == "__main__":
    main(sys.argv[1:])
