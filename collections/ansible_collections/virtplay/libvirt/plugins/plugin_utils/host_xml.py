# Copyright: Virtplay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Builds libvirt's XML of networks and pools from a role's variables; pure, no I/O.

It runs on the controller, so it uses the standard library instead of lxml.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from typing import Any
from xml.etree import ElementTree

from ansible.errors import AnsibleFilterError

from ..module_utils.values import Table
from .role_rules import NETWORK, POOL

Addresses = ipaddress.IPv4Network | ipaddress.IPv6Network


def pool_xml(pool: Mapping[str, Any]) -> str:
    """Return the XML of a directory pool from {name, path}."""
    _check(POOL, "pool", {"name": "", "path": "", **pool})
    root = ElementTree.Element("pool", type="dir")
    ElementTree.SubElement(root, "name").text = str(pool["name"])
    path = str(pool["path"])
    ElementTree.SubElement(ElementTree.SubElement(root, "target"), "path").text = path
    return ElementTree.tostring(root, encoding="unicode")


def network_xml(network: Mapping[str, Any]) -> str:
    """Return the XML of a network from {name, cidr, bridge, forward, dhcp, dhcp_start, dhcp_end}.

    forward is nat (default), route or isolated. The host gets the first address of cidr. DHCP
    assigns the others, unless dhcp is false or a range is set.
    """
    wish = _network_wish(network)
    root = ElementTree.Element("network")
    ElementTree.SubElement(root, "name").text = str(wish["name"])
    if wish["forward"] != "isolated":
        ElementTree.SubElement(root, "forward", mode=str(wish["forward"]))
    if wish["bridge"]:
        ElementTree.SubElement(root, "bridge", name=str(wish["bridge"]), stp="on", delay="0")
    family = {"family": "ipv6"} if ":" in str(wish["address"]) else {}
    ip = ElementTree.SubElement(
        root, "ip", {"address": str(wish["address"]), "prefix": str(wish["prefix"]), **family}
    )
    if wish["range"]:
        start, end = wish["range"]
        ElementTree.SubElement(ElementTree.SubElement(ip, "dhcp"), "range", start=start, end=end)
    return ElementTree.tostring(root, encoding="unicode")


def network_differs(current: str, network: Mapping[str, Any]) -> bool:
    """Return whether a network's current XML differs from the variables.

    Compare only what network_xml sets, because libvirt and other programs add values (MAC, UUID,
    DHCP hosts).
    """
    wish = _network_wish(network)
    root = ElementTree.fromstring(current)
    ip = root.find("ip")
    if ip is None:
        return True
    mask = ip.get("prefix") or ip.get("netmask") or "32"
    interface = ipaddress.ip_interface(f"{ip.get('address')}/{mask}")
    found = ip.find("dhcp/range")
    forward = root.find("forward")
    bridge = root.find("bridge")
    # An empty <forward/> means NAT to libvirt.
    mode = "isolated" if forward is None else forward.get("mode", "nat")
    return (
        (str(interface.ip), interface.network.prefixlen) != (wish["address"], wish["prefix"])
        or (None if found is None else (found.get("start"), found.get("end"))) != wish["range"]
        or mode != wish["forward"]
        or bool(wish["bridge"] and (bridge is None or bridge.get("name") != wish["bridge"]))
    )


def _network_wish(network: Mapping[str, Any]) -> dict[str, Any]:
    _check(NETWORK, "network", {"name": "", "cidr": "", **network})
    name = network["name"]
    cidr: Addresses = ipaddress.ip_network(network["cidr"])
    forward = str(network.get("forward", "nat"))
    if forward not in ("nat", "route", "isolated"):
        raise AnsibleFilterError(
            f"cannot define network {name}: forward is {forward!r}, not nat, route or isolated"
        )
    bridge = network.get("bridge")
    span = None
    if network.get("dhcp", True):
        last = cidr[-2] if cidr.version == 4 else cidr[min(cidr.num_addresses - 1, 0xFFFF)]
        span = (str(network.get("dhcp_start", cidr[2])), str(network.get("dhcp_end", last)))
    return {
        "name": name,
        "forward": forward,
        "bridge": bridge,
        "address": str(cidr[1]),
        "prefix": cidr.prefixlen,
        "range": span,
    }


def _check(table: Table, what: str, item: Mapping[str, Any]) -> None:
    faults = table.find_faults(item)
    if faults:
        raise AnsibleFilterError(f"cannot define {what} {item['name']}: {'; '.join(faults)}")
