# Copyright: Virtplay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Finds the IP addresses of guests, from the first source that has them.

The order: the leases of libvirt's networks, then the guest agent (queried only for running guests
without a lease, because it may never respond), then the host's neighbour table.

A guest chooses its MAC addresses and what its agent reports. So a source is believed only for the
interfaces that it can know: an agent for those of its own domain, leases and neighbours for those
on the device of the host (bridge, tap) where they were observed.

Leases and neighbours outlive the guest that had them. So in the first minutes after a boot, only
those are believed that the guest has had since then: nobody can connect to the others yet.
"""

from __future__ import annotations

import ipaddress
import json
import os
import subprocess
import time
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from ..host.connection import etree, libvirt
from ..host.files import NETWORK_DEVICES

NEIGHBOURS = ("ip", "-json", "-statistics", "-4", "neighbour", "show")
_PATH = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"
# A guest may report any number of addresses.
MOST_ADDRESSES = 64
# How long an address must be newer than the boot of its guest; from then on any is believed, as
# some guests never renew one of theirs.
BOOT_SECONDS = 120.0
# The time of the host's boot, from which starts are counted, and those of leases are whole seconds.
_PRECISION = 1.0
# dnsmasq's own, which libvirt leaves to it if a network defines none.
_LEASE_SECONDS = 3600
_UNITS = {"seconds": 1, "minutes": 60, "hours": 3600}

Address = dict[str, str]
# (device of the host, MAC address in lower case)
Place = tuple[str, str]


class Sighting(NamedTuple):
    """An address, and when the guest was last known to have it; None if that is not known."""

    address: Address
    at: float | None


def read_leases(networks: Iterable[Any]) -> dict[Place, list[Sighting]]:
    """Return the leases of libvirt's DHCP servers by bridge and MAC address."""
    found: dict[Place, list[Sighting]] = {}
    for network in networks:
        try:
            leases, bridge = network.DHCPLeases(), network.bridgeName()
            duration = _lease_seconds(network.XMLDesc(0)) if leases else 0
        except libvirt.libvirtError:  # not active, without DHCP, or deleted since it was listed
            continue
        for lease in sorted(leases, key=lambda lease: lease["expirytime"], reverse=True):
            if lease.get("mac") and lease.get("ipaddr"):
                # One that never expires has no time.
                at = lease["expirytime"] - duration if duration and lease["expirytime"] else None
                _add(found, (bridge, lease["mac"].lower()), lease["ipaddr"], "lease", at)
    return found


def _lease_seconds(xml: str) -> int:
    """Return the shortest time for which a network gives a lease; 0 if one is for ever."""
    dhcp = etree.fromstring(xml).findall("ip/dhcp")
    defined = [lease for each in dhcp for lease in each.iterfind("*/lease")]
    seconds = [int(one.get("expiry")) * _UNITS[one.get("unit", "minutes")] for one in defined]
    if any(one.find("lease") is None for each in dhcp for one in each.iterfind("range")):
        seconds.append(_LEASE_SECONDS)
    return min(seconds, default=_LEASE_SECONDS)


def parse_neighbours(table: str, now: float) -> dict[Place, list[Sighting]]:
    """Return the resolved entries that `ip neighbour` has printed, by device and MAC address.

    libvirt's own ARP source is not used: 9.0 fails on current kernels ("wrong nlmsg len").
    """
    found: dict[Place, list[Sighting]] = {}
    for entry in json.loads(table):
        if "lladdr" in entry:
            place = (entry["dev"], entry["lladdr"].lower())
            _add(found, place, entry["dst"], "arp", now - entry["confirmed"])
    return found


def read_neighbours() -> dict[Place, list[Sighting]]:
    """Return the host's IPv4 neighbours by device and MAC address; {} if they cannot be read.

    Those on a VLAN or macvlan of a bridge are listed under the bridge too, those on a bridge under
    its ports.
    """
    try:
        table = subprocess.run(
            NEIGHBOURS,
            check=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**os.environ, "PATH": _PATH},
            timeout=5,
        ).stdout
        found = parse_neighbours(table, time.time())
    except (OSError, subprocess.SubprocessError, ValueError, KeyError):
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
    found: dict[Place, list[Sighting]] = {}
    for interface in interfaces.values():
        for address in interface.get("addrs") or ():
            if interface.get("hwaddr"):
                _add(found, ("", interface["hwaddr"].lower()), address["addr"], "agent", None)
    return {mac: addresses_since(seen, None) for (_device, mac), seen in found.items()}


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
    leases: Mapping[Place, list[Sighting]],
    agent: Mapping[str, list[Address]],
    neighbours: Mapping[Place, list[Sighting]],
    booted: float | None,
) -> list[Address]:
    """Return the addresses of a domain's interfaces: for each those of the first source.

    nics are those of parse_domain, agent is what the domain's own agent reports, booted is the
    value of booted_lately.
    """
    chosen: list[Address] = []
    for nic in nics:
        if not nic["mac"]:
            continue
        mac = nic["mac"].lower()
        place = (host_device(nic, bridges) or "", mac)
        chosen += (
            addresses_since(leases.get(place, ()), booted)
            or agent.get(mac)
            or addresses_since(neighbours.get(place, ()), booted)
        )
    return chosen


def addresses_since(seen: Iterable[Sighting], booted: float | None) -> list[Address]:
    """Return the addresses that a guest has had since its boot; all of them without one."""
    return [
        one.address
        for one in seen
        if booted is None or one.at is None or one.at >= booted - _PRECISION
    ]


def booted_lately(started: float | None) -> float | None:
    """Return started if a guest that booted then may not have its addresses yet, otherwise None.

    started is when the domain's QEMU started, in seconds since the epoch. A guest whose memory was
    restored instead has kept its addresses: it has not booted.
    """
    return started if started is not None and time.time() < started + BOOT_SECONDS else None


def _add(
    found: dict[Place, list[Sighting]], place: Place, ip: str, source: str, at: float | None
) -> None:
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
    if len(entries) < MOST_ADDRESSES and all(entry != one.address for one in entries):
        entries.append(Sighting(entry, at))
