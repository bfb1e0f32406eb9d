# Copyright: Virtplay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Converts the VMs of hypervisors to hosts of an Ansible inventory; pure, no I/O.

All texts come from hosts and guests: they are checked here, or stay values that are not evaluated.
"""

from __future__ import annotations

import ipaddress
import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

# Characters that end a name in a --limit or a pattern, are wildcards there, or break a line.
_NOT_IN_NAMES = re.compile(r"[\s,:&!~*?{}\[\]()/\\'\"\x00-\x1f\x7f]+")
_NOT_IN_GROUPS = re.compile(r"[^A-Za-z0-9_]+")
# Keys of host_info's domains that become variables of the same name.
_FACTS = (
    "uuid",
    "title",
    "description",
    "stuck",
    "autostart",
    "started_at",
    "vcpus",
    "memory",
    "firmware",
    "disks",
    "interfaces",
    "addresses",
)
# Keys of the metadata that this collection writes into a domain.
_METADATA = ("id", "template", "os", "labels")


@dataclass(frozen=True)
class AddressChoice:
    """The rules that select the address for Ansible's connection to a VM."""

    family: str = "any"  # any (IPv4 first), ipv4 or ipv6
    sources: Collection[str] = ("lease", "agent", "arp")
    networks: Collection[ipaddress.IPv4Network | ipaddress.IPv6Network] = ()

    def choose(self, addresses: Iterable[Mapping[str, Any]]) -> str | None:
        """Return the best of host_info's addresses ({ip, source, mac}); None if none is allowed."""
        found = []
        for entry in addresses:
            try:
                address = ipaddress.ip_address(str(entry.get("ip")))
            except ValueError:
                continue  # an agent may report anything
            if (
                "%" not in str(address)  # Python accepts any text as the zone of an IPv6 address
                and entry.get("source") in self.sources
                and self.family in ("any", f"ipv{address.version}")
                and not _is_useless(address)
                and (not self.networks or any(address in network for network in self.networks))
            ):
                found.append(address)
        # The first address of equal version wins, in host_info's order of interfaces.
        return str(min(found, key=lambda address: address.version)) if found else None


@dataclass(frozen=True)
class Vm:
    """A VM as a host of an inventory: its name there, its variables and its groups."""

    name: str
    variables: dict[str, Any]
    groups: tuple[str, ...]


def list_vms(
    domains: Mapping[str, Iterable[Mapping[str, Any]]],
    taken: Collection[str],
    choice: AddressChoice,
    *,
    use_titles: bool = False,
) -> tuple[list[Vm], list[str]]:
    """Return the VMs of {hypervisor: host_info's domains}, and a message for each renamed VM.

    VMs that share a name, or whose name is in taken (other hosts and groups), are listed as
    name@hypervisor, or if that is taken too, as name@hypervisor-UUID.
    """
    found = [
        (host, domain, _host_name(domain, use_titles=use_titles))
        for host in sorted(domains)
        for domain in domains[host]
    ]
    groups = {group for host, domain, _name in found for group in _groups(host, domain)}
    reserved = {*taken, *groups}
    names = Counter(name for _host, _domain, name in found)
    longer = Counter(f"{name}@{host}" for host, _domain, name in found)
    vms, renamed = [], []
    for host, domain, plain in found:
        name = plain
        if names[name] > 1 or name in reserved:
            name = f"{plain}@{host}"
            if longer[name] > 1 or name in reserved or name in names:
                name = f"{name}-{domain['uuid']}"
            renamed.append(f"{plain} on {host} is listed as {name}: the name is taken")
        vms.append(Vm(name, _variables(host, domain, choice), _groups(host, domain)))
    return vms, renamed


def _is_useless(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    return (
        address.is_loopback
        or address.is_link_local
        or address.is_multicast
        or address.is_unspecified
    )


def _host_name(domain: Mapping[str, Any], *, use_titles: bool) -> str:
    texts = (domain.get("title") if use_titles else None, domain.get("name"), domain["uuid"])
    # ssh and other programs would read a name with a leading hyphen as an option.
    cleaned = (_NOT_IN_NAMES.sub("_", str(text or "")).strip("_-@.") for text in texts)
    return next(text for text in cleaned if text)


def _variables(host: str, domain: Mapping[str, Any], choice: AddressChoice) -> dict[str, Any]:
    metadata = domain.get("metadata") or {}
    variables = {f"libvirt_{fact}": domain[fact] for fact in _FACTS if fact in domain}
    variables |= {f"libvirt_{key}": metadata[key] for key in _METADATA if key in metadata}
    variables |= {
        "libvirt_name": domain.get("name"),
        "libvirt_host": host,
        "libvirt_status": domain.get("state", "unknown"),
        "libvirt_labels": metadata.get("labels") or {},
    }
    address = choice.choose(domain.get("addresses") or ())
    if address is not None:
        variables["ansible_host"] = address
    return variables


def _groups(host: str, domain: Mapping[str, Any]) -> tuple[str, ...]:
    metadata = domain.get("metadata") or {}
    names = [f"host_{host}", f"status_{domain.get('state', 'unknown')}"]
    if metadata.get("template"):
        names.append(f"template_{metadata['template']}")
    names += [f"label_{key}_{value}" for key, value in (metadata.get("labels") or {}).items()]
    return tuple(_NOT_IN_GROUPS.sub("_", name).rstrip("_") for name in names)
