# Copyright: Virtplay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Finds the IP addresses of guests, from the first source that has them.

The order: the leases of libvirt's networks, then the guest agent (queried only for running guests
without a lease, because it may never respond), then the host's neighbour table.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ..host.connection import libvirt

NEIGHBOURS = Path("/proc/net/arp")
_COMPLETE = 0x2  # ATF_COM: the address is resolved

Address = dict[str, str]


def read_leases(networks: Iterable[Any]) -> dict[str, list[Address]]:
    """Return the leases of libvirt's DHCP servers by MAC address, in lower case."""
    found: dict[str, list[Address]] = {}
    for network in networks:
        try:
            leases = network.DHCPLeases()
        except libvirt.libvirtError:  # not active, or without DHCP
            continue
        for lease in sorted(leases, key=lambda lease: lease["expirytime"], reverse=True):
            if lease.get("mac") and lease.get("ipaddr"):
                _add(found, lease["mac"], lease["ipaddr"], "lease")
    return found


def parse_neighbours(table: str) -> dict[str, list[Address]]:
    """Return the complete entries of a /proc/net/arp table by MAC address, in lower case.

    libvirt's own ARP source is not used: 9.0 fails on current kernels ("wrong nlmsg len").
    """
    found: dict[str, list[Address]] = {}
    for line in table.splitlines()[1:]:
        fields = line.split()
        if len(fields) >= 6 and int(fields[2], 16) & _COMPLETE:
            _add(found, fields[3], fields[0], "arp")
    return found


def read_neighbours() -> dict[str, list[Address]]:
    """Return the host's IPv4 neighbours by MAC address; {} if the table cannot be read."""
    try:
        return parse_neighbours(NEIGHBOURS.read_text())
    except OSError:
        return {}


def read_agent_addresses(domain: Any) -> dict[str, list[Address]]:
    """Return a guest's addresses by MAC address, as its agent reports them; raises libvirtError."""
    interfaces = domain.interfaceAddresses(libvirt.VIR_DOMAIN_INTERFACE_ADDRESSES_SRC_AGENT)
    found: dict[str, list[Address]] = {}
    for interface in interfaces.values():
        for address in interface.get("addrs") or ():
            if interface.get("hwaddr"):
                _add(found, interface["hwaddr"], address["addr"], "agent")
    return found


def choose_addresses(
    macs: Iterable[str], sources: Iterable[dict[str, list[Address]]]
) -> list[Address]:
    """Return the addresses of a domain's interfaces: for each MAC those of the first source."""
    sources = list(sources)
    chosen: list[Address] = []
    for mac in macs:
        found = (source[mac.lower()] for source in sources if mac.lower() in source)
        chosen += next(found, [])
    return chosen


def _add(found: dict[str, list[Address]], mac: str, ip: str, source: str) -> None:
    """Add an address unless it is unusable (loopback, link-local, unspecified, invalid)."""
    try:
        address = ipaddress.ip_address(ip)
    except ValueError:
        return
    if address.is_loopback or address.is_link_local or address.is_unspecified:
        return
    entry = {"mac": mac.lower(), "ip": str(address), "source": source}
    entries = found.setdefault(mac.lower(), [])
    if entry not in entries:
        entries.append(entry)
