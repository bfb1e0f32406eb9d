# Copyright: Virtplay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Reads the definitions of domains, also of one whose QEMU does not respond."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .connection import etree, libvirt
from .qemu_process import RUN_DIRECTORY

CONFIG_DIRECTORY = Path("/etc/libvirt/qemu")


def read_definition(dom: Any, *, active: bool, inactive: bool = False) -> str:
    """Return the definition of a virDomain, or, of an `active` one, that of its next start.

    Without passwords. While a command to the QEMU of a domain is under way, libvirt 11.3 waits for
    its end, and for ever if the QEMU is stuck; 9.0 does not. What libvirt stores is read then.
    """
    if active and _is_busy(dom) and (stored := _stored(dom, inactive=inactive)):
        return stored
    return str(dom.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE if inactive else 0))


def _is_busy(dom: Any) -> bool:
    try:
        return bool(dom.controlInfo()[0] != libvirt.VIR_DOMAIN_CONTROL_OK)
    except libvirt.libvirtError:
        return False  # stopped or deleted meanwhile


def _stored(dom: Any, *, inactive: bool) -> str | None:
    """Return the definition in libvirt's own file; None if there is none, or another domain's."""
    name = dom.name()
    directory = CONFIG_DIRECTORY if inactive else RUN_DIRECTORY
    try:
        root = etree.parse(str(directory / f"{name}.xml")).getroot()
    except (OSError, etree.XMLSyntaxError):
        return None
    definition = root if root.tag == "domain" else root.find("domain")
    if definition is None or definition.findtext("uuid") != dom.UUIDString():
        return None
    for graphics in definition.iterfind("devices/graphics"):
        graphics.attrib.pop("passwd", None)
    return str(etree.tostring(definition, encoding="unicode", with_tail=False))
