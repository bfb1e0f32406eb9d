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
CANDIDATES = [
    *(f"192.168.{number}.0/24" for number in range(122, 142)),
    *(f"10.{number}.122.0/24" for number in range(122, 127)),
    "172.30.122.0/24",
]
"""The ranges that a network with the cidr "auto" may get; the first is libvirt's own default."""
LEAST_PREFIX = 8


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


def network_choice(host: Mapping[str, Any], network: Mapping[str, Any]) -> dict[str, Any]:
    """Return what to do about a network on a host so that it hides nothing that the host needs.

    host is what the role's program networks.py prints: addresses [{device, address}], routes
    [{device, destination}], needed [{what, address}] and networks [{name, xml, active, used}].

    Return network (with a definite cidr), active, define and replace (what to do before it is
    started), message and fault (texts, or ""). With the cidr "auto" an existing network stays as
    it is, unless it overlaps and was never active; a new one gets the first free range.
    """
    name, wished = network["name"], network["cidr"]
    known = next((entry for entry in host["networks"] if entry["name"] == name), None)
    ranges = _Ranges(host, name)
    current = _cidr_of(known["xml"]) if known else None
    active = known is not None and known["active"]
    choice: dict[str, Any] = {"network": dict(network), "active": active}
    choice |= {"define": known is None, "replace": False, "message": "", "fault": ""}
    if wished != "auto":
        choice["replace"] = known is not None and network_differs(known["xml"], network)
        choice["define"] |= choice["replace"]
        cidr = _parse_cidr(name, wished)
    elif current and known and (known["used"] or not ranges.find_overlap(current)):
        cidr = current
        choice["network"]["cidr"] = str(cidr)
    elif known and not current:
        return choice  # a network without addresses of its own, such as a bridge of the host
    else:
        taken, cidr = ranges.choose(name, current)
        choice["network"]["cidr"] = str(cidr)
        choice |= {"replace": known is not None, "define": True}
        if choice["network"].get("bridge") in ranges.bridges:
            del choice["network"]["bridge"]  # libvirt chooses a free one
        if taken:
            choice["message"] = f"network {name} is {cidr}, because {taken}"
        return choice
    if active and not choice["replace"]:
        # A name server or the SSH client in its range may be one of its guests.
        if hidden := ranges.find_address(cidr):
            choice["message"] = (
                f"network {name} hides what this host needs: {cidr} contains {hidden}"
            )
    elif need := ranges.find_need(cidr):
        verb = "start" if known and not choice["replace"] else "create"
        choice["fault"] = (
            f"cannot {verb} network {name}: its range {cidr} contains {need}; set another cidr in"
            " libvirt_host_networks"
        )
    elif choice["define"] and (overlap := ranges.find_overlap(cidr)):
        choice["message"] = f"network {name} hides a part of another network: {overlap}"
    return choice


class _Ranges:
    """The ranges of addresses that are in use on a host, except those of one libvirt network."""

    def __init__(self, host: Mapping[str, Any], own: str) -> None:
        self._networks = [entry for entry in host["networks"] if entry["name"] != own]
        self.bridges = {_bridge_of(entry["xml"]) for entry in self._networks}
        # The addresses and routes of libvirt's bridges are those of its networks.
        virtual = {_bridge_of(entry["xml"]) for entry in host["networks"] if entry["active"]}
        self._addresses = [
            (entry["device"], ipaddress.ip_interface(entry["address"]))
            for entry in host["addresses"]
            if entry["device"] not in virtual
        ]
        self.bridges |= {device for device, _address in self._addresses}
        self._routes = [
            (entry["device"], ipaddress.ip_network(entry["destination"], strict=False))
            for entry in host["routes"]
            if entry["device"] not in virtual
        ]
        self._needed = [
            (entry["what"], ipaddress.ip_address(entry["address"].partition("%")[0]))
            for entry in host["needed"]
            if entry.get("device") not in virtual
        ]

    def find_address(self, cidr: Addresses) -> str:
        """Return the host's own address in the range, or ""."""
        for device, address in self._addresses:
            if address.ip in cidr:
                return f"address {address} of {device}"
        return ""

    def find_need(self, cidr: Addresses) -> str:
        """Return what of the host lies in the range, so that it would be unreachable; or ""."""
        if address := self.find_address(cidr):
            return address
        for what, needed in self._needed:
            if needed in cidr:
                return f"{needed}, {what}"
        for device, route in self._routes:
            if _overlap(route, cidr) and route.prefixlen >= cidr.prefixlen:
                return f"the route to {route} through {device}"
        for entry in self._networks:
            other = _cidr_of(entry["xml"])
            if entry["active"] and other and _overlap(other, cidr):
                return f"addresses of network {entry['name']}, {other}"
        return ""

    def find_overlap(self, cidr: Addresses) -> str:
        """Return how the range overlaps with anything on the host, also with a wider range."""
        if need := self.find_need(cidr):
            return f"{cidr} contains {need}"
        for device, address in self._addresses:
            if _overlap(address.network, cidr):
                return f"{cidr} is in {address.network} of {device}"
        for device, route in self._routes:
            # Wider ones are default routes: a VPN that takes all traffic has two with /1.
            if route.prefixlen >= LEAST_PREFIX and _overlap(route, cidr):
                return f"{cidr} is in {route}, which is routed through {device}"
        for entry in self._networks:
            other = _cidr_of(entry["xml"])
            if other and _overlap(other, cidr):
                return f"{cidr} overlaps with network {entry['name']}, {other}"
        return ""

    def choose(self, name: str, current: Addresses | None) -> tuple[str, Addresses]:
        """Return why the usual range is not possible (or ""), and the first free one."""
        reason = ""
        for candidate in ([current] if current else []) + [
            ipaddress.ip_network(text) for text in CANDIDATES
        ]:
            overlap = self.find_overlap(candidate)
            if not overlap:
                return reason, candidate
            reason = reason or overlap
        raise AnsibleFilterError(
            f"cannot choose addresses for network {name}: {reason}, and so on; set its cidr in"
            " libvirt_host_networks"
        )


def _overlap(first: Addresses, second: Addresses) -> bool:
    return first.version == second.version and first.overlaps(second)


def _bridge_of(xml: str) -> str | None:
    bridge = ElementTree.fromstring(xml).find("bridge")
    return None if bridge is None else bridge.get("name")


def _cidr_of(xml: str) -> Addresses | None:
    """Return the first range of addresses in a network's XML; None if it has none."""
    ip = ElementTree.fromstring(xml).find("ip")
    if ip is None:
        return None
    mask = ip.get("prefix") or ip.get("netmask") or "32"
    return ipaddress.ip_interface(f"{ip.get('address')}/{mask}").network


def _parse_cidr(name: str, cidr: str) -> Addresses:
    try:
        return ipaddress.ip_network(cidr)
    except ValueError as error:
        raise AnsibleFilterError(f"cannot define network {name}: cidr {error}") from error


def _network_wish(network: Mapping[str, Any]) -> dict[str, Any]:
    _check(NETWORK, "network", {"name": "", "cidr": "", **network})
    name = network["name"]
    cidr = _parse_cidr(name, network["cidr"])
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
