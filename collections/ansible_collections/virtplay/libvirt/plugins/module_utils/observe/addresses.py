# Copyright: Virtplay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Finds the IP addresses of guests, from the first source that has them.

The order: the leases of libvirt's networks, then the guest agent (queried only for running guests
without a lease, because it may never respond), then the host's neighbour table.

A guest chooses its MAC addresses and what its agent reports. So a source is believed only for the
interfaces that it can know: an agent for those of its own domain, leases and neighbours for those
on the device of the host (bridge, tap) where they were observed.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ..host.connection import libvirt
from ..host.files import NETWORK_DEVICES

NEIGHBOURS = Path("/proc/net/arp")
_COMPLETE = 0x2  # ATF_COM: the address is resolved
# A guest may report any number of addresses.
MOST_ADDRESSES = 64

Address = dict[str, str]
# (device of the host, MAC address in lower case)
Place = tuple[str, str]


def read_leases(networks: Iterable[Any]) -> dict[Place, list[Address]]:
    """Return the leases of libvirt's DHCP servers by bridge and MAC address."""
    found: dict[Place, list[Address]] = {}
    for network in networks:
        try:
            leases, bridge = network.DHCPLeases(), network.bridgeName()
        except libvirt.libvirtError:  # not active, without DHCP, or deleted since it was listed
            continue
        for lease in sorted(leases, key=lambda lease: lease["expirytime"], reverse=True):
            if lease.get("mac") and lease.get("ipaddr"):
                _add(found, (bridge, lease["mac"].lower()), lease["ipaddr"], "lease")
    return found


def parse_neighbours(table: str) -> dict[Place, list[Address]]:
    """Return the complete entries of a /proc/net/arp table by device and MAC address.

    libvirt's own ARP source is not used: 9.0 fails on current kernels ("wrong nlmsg len").
    """
    found: dict[Place, list[Address]] = {}
    for line in table.splitlines()[1:]:
        fields = line.split()
        if len(fields) >= 6 and int(fields[2], 16) & _COMPLETE:
            _add(found, (fields[5], fields[3].lower()), fields[0], "arp")
    return found


def read_neighbours() -> dict[Place, list[Address]]:
    """Return the host's IPv4 neighbours by device and MAC address; {} if it has no such table.

    Those on a VLAN or macvlan of a bridge are listed under the bridge too, those on a bridge under
    its ports.
    """
    try:
        found = parse_neighbours(NEIGHBOURS.read_text())
    except OSError:
        return {}
    lower = {
        device: [link.name[len("lower_") :] for link in (NETWORK_DEVICES / device).glob("lower_*")]
        for device in {device for device, _mac in found}
    }
    for (device, mac), addresses in list(found.items()):
        for below in lower[device]:
            found.setdefault((below, mac), addresses)
    return found


def read_agent_addresses(domain: Any) -> dict[str, list[Address]]:
    """Return a guest's addresses by MAC address, as its agent reports them; raises libvirtError."""
    interfaces = domain.interfaceAddresses(libvirt.VIR_DOMAIN_INTERFACE_ADDRESSES_SRC_AGENT)
    found: dict[Place, list[Address]] = {}
    for interface in interfaces.values():
        for address in interface.get("addrs") or ():
            if interface.get("hwaddr"):
                _add(found, ("", interface["hwaddr"].lower()), address["addr"], "agent")
    return {mac: addresses for (_device, mac), addresses in found.items()}


def host_device(nic: Mapping[str, Any], bridges: Mapping[str, str]) -> str | None:
    """Return the device of the host on which an interface's packets are observed, if it is known.

    nic is one of parse_domain; bridges maps networks to their bridges.
    """
    if nic["type"] == "network":
        return bridges.get(nic["source"])
    known = {"bridge": "source", "direct": "source", "ethernet": "target"}
    return nic[known[nic["type"]]] if nic["type"] in known else None


def choose_addresses(
    nics: Iterable[Mapping[str, Any]],
    bridges: Mapping[str, str],
    *,
    leases: Mapping[Place, list[Address]],
    agent: Mapping[str, list[Address]],
    neighbours: Mapping[Place, list[Address]],
) -> list[Address]:
    """Return the addresses of a domain's interfaces: for each those of the first source.

    nics are those of parse_domain, agent is what the domain's own agent reports.
    """
    chosen: list[Address] = []
    for nic in nics:
        if not nic["mac"]:
            continue
        mac = nic["mac"].lower()
        place = (host_device(nic, bridges) or "", mac)
        chosen += leases.get(place) or agent.get(mac) or neighbours.get(place) or []
    return chosen


def _add(found: dict[Place, list[Address]], place: Place, ip: str, source: str) -> None:
    """Add an address unless it is unusable (loopback, link-local, unspecified, invalid)."""
    try:
        address = ipaddress.ip_address(ip)
    except ValueError:
        return
    if address.is_loopback or address.is_link_local or address.is_unspecified:
        return
    # Python accepts any text as the zone of an IPv6 address.
    if address.is_multicast or "%" in ip:
        return
    entry = {"mac": place[1], "ip": str(address), "source": source}
    entries = found.setdefault(place, [])
    if entry not in entries and len(entries) < MOST_ADDRESSES:
        entries.append(entry)
