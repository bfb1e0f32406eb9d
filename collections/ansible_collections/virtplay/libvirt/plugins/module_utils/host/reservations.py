# Copyright: Virtplay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Manages fixed addresses of guests as DHCP reservations in libvirt's networks."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from typing import Any

from ..failure import Failure
from .connection import error_text, etree, has_error_code, libvirt

# Without libvirt's network driver; the second, of a libvirtd in parts, if virtnetworkd is absent.
_NO_DRIVER = ("VIR_ERR_NO_SUPPORT", "VIR_ERR_SYSTEM_ERROR")


def find_network(conn: Any, name: str) -> Any:
    """Return a virNetwork; raises Failure (VALIDATION_ERROR) if the host has none of that name."""
    try:
        return conn.networkLookupByName(name)
    except libvirt.libvirtError as error:
        if has_error_code(error, "VIR_ERR_NO_NETWORK"):
            reason = "the host has no network of that name"
        elif has_error_code(error, *_NO_DRIVER):
            reason = "libvirt on the host has no network driver"
        else:
            raise
        raise Failure(f"cannot use network {name!r}: {reason}", "VALIDATION_ERROR") from error


def list_reservations(conn: Any, macs: Iterable[str]) -> dict[str, tuple[str, str]]:
    """Return the reservations of macs: MAC address (lower case) → (network, address)."""
    wanted = {mac.lower() for mac in macs}
    found: dict[str, tuple[str, str]] = {}
    if not wanted:
        return found
    for name, root in _definitions(conn).items():
        for host in root.iterfind("ip/dhcp/host"):
            mac = (host.get("mac") or "").lower()
            if mac in wanted and host.get("ip"):
                found[mac] = (name, host.get("ip"))
    return found


def _definitions(conn: Any) -> dict[str, Any]:
    """Return the definitions of all networks; {} without libvirt's network driver."""
    try:
        networks = conn.listAllNetworks(0)
    except libvirt.libvirtError as error:
        if has_error_code(error, *_NO_DRIVER):
            return {}
        raise
    found = {}
    for network in networks:
        try:
            found[network.name()] = etree.fromstring(network.XMLDesc(0))
        except libvirt.libvirtError as error:
            if not has_error_code(error, "VIR_ERR_NO_NETWORK"):  # deleted since it was listed
                raise
    return found


def check_reservation(network: Any, address: str, mac: str) -> None:
    """Raise Failure (VALIDATION_ERROR) if a network cannot reserve address for mac."""
    name = network.name()
    root = etree.fromstring(network.XMLDesc(0))
    try:
        wanted = ipaddress.ip_address(address)
    except ValueError:
        raise Failure(
            f"cannot reserve {address!r} in network {name}: it is not an IP address",
            "VALIDATION_ERROR",
        ) from None
    if wanted.version != 4:
        raise Failure(
            f"cannot reserve {address} in network {name}: libvirt reserves IPv6 addresses for "
            "DUIDs only, which guests choose",
            "VALIDATION_ERROR",
        )
    subnets = [_subnet(ip) for ip in root.iterfind("ip") if ip.find("dhcp") is not None]
    own = {ip.get("address") for ip in root.iterfind("ip")}
    if not any(wanted in subnet for subnet in subnets) or str(wanted) in own:
        inside = ", ".join(map(str, subnets)) or "no subnet with DHCP"
        raise Failure(
            f"cannot reserve {address} in network {name}: it assigns addresses of {inside}",
            "VALIDATION_ERROR",
        )
    for host in root.iterfind("ip/dhcp/host"):
        if host.get("ip") == str(wanted) and (host.get("mac") or "").lower() != mac.lower():
            raise Failure(
                f"cannot reserve {address} in network {name}: "
                f"it is reserved for {host.get('name') or host.get('mac')}",
                "VALIDATION_ERROR",
            )


def add_reservation(conn: Any, name: str, *, mac: str, address: str, host: str) -> None:
    """Reserve an address for a MAC in network name, unless that is done already.

    host is the name that the network's DNS gives the address, unless an entry has it already:
    libvirt refuses a name twice, also for two interfaces of one domain.
    """
    network = find_network(conn, name)
    check_reservation(network, address, mac)
    old = list_reservations(conn, [mac]).get(mac.lower())
    if old == (name, address):
        return
    if old is not None:
        remove_reservation(conn, mac, old)
    entry = etree.Element("host", mac=mac, ip=address)
    entries = etree.fromstring(network.XMLDesc(0)).iterfind("ip/dhcp/host")
    if host not in {other.get("name") for other in entries}:
        entry.set("name", host)
    _update(network, libvirt.VIR_NETWORK_UPDATE_COMMAND_ADD_LAST, entry)


def rename_reservation(
    conn: Any, place: tuple[str, str], mac: str, before: str, after: str
) -> None:
    """Give a reservation (network, address) of a MAC another name in the network's DNS.

    It stays as it is if it does not have the name `before`, or if an entry has the name `after`.
    """
    name, address = place
    network = find_network(conn, name)
    hosts = [*etree.fromstring(network.XMLDesc(0)).iterfind("ip/dhcp/host")]
    names = {host.get("name"): (host.get("mac") or "").lower() for host in hosts}
    if names.get(before) == mac.lower() and after not in names:
        entry = etree.Element("host", mac=mac, ip=address, name=after)
        _update(network, libvirt.VIR_NETWORK_UPDATE_COMMAND_MODIFY, entry)


def remove_reservation(conn: Any, mac: str, place: tuple[str, str]) -> None:
    """Delete a reservation (network, address), if it exists."""
    name, address = place
    try:
        network = conn.networkLookupByName(name)
        entry = etree.Element("host", mac=mac, ip=address)
        _update(network, libvirt.VIR_NETWORK_UPDATE_COMMAND_DELETE, entry)
    except libvirt.libvirtError as error:
        gone = "couldn't locate" in error_text(error)
        if not gone and not has_error_code(error, "VIR_ERR_NO_NETWORK"):
            raise


def _update(network: Any, command: int, entry: Any) -> None:
    flags = 0
    if network.isActive():
        flags |= libvirt.VIR_NETWORK_UPDATE_AFFECT_LIVE
    if network.isPersistent():
        flags |= libvirt.VIR_NETWORK_UPDATE_AFFECT_CONFIG
    xml = etree.tostring(entry, encoding="unicode")
    network.update(command, libvirt.VIR_NETWORK_SECTION_IP_DHCP_HOST, -1, xml, flags)


def _subnet(ip: Any) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    mask = ip.get("netmask") or ip.get("prefix") or ("64" if ip.get("family") == "ipv6" else "24")
    return ipaddress.ip_network(f"{ip.get('address')}/{mask}", strict=False)
