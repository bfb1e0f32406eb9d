# Copyright: Virtplay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Creates a domain with its volumes and reservations, and undoes a creation that failed."""

from __future__ import annotations

import itertools
import os
import secrets
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from ..failure import Failure
from ..host.connection import error_text, libvirt, lookup_domain
from ..host.failures import failure_of
from ..host.files import noted_virt_type
from ..host.firmware import Uefi, find_uefi
from ..host.reservations import add_reservation, check_reservation, find_network, remove_reservation
from ..host.storage import (
    DEFAULT_POOL,
    TEMPLATES_DIRECTORY,
    create_seed,
    find_pool,
    find_template,
    find_volume,
    find_volume_at,
    is_ours,
    pool_path,
    seed_name,
)
from ..lock.fence import Fence
from ..units import GIB
from ..values import NEW_NAME
from .arguments import DEFINITION
from .console_xml import lock_graphics
from .devices import FIRST_TARGET, NewDisk, make_disk, prepare_disk, prepare_interface
from .flags import FLAGS, set_flags
from .plan import merge_metadata
from .remove import undefine
from .seed import HOSTNAME_LENGTH, build_files, build_iso
from .users import FileUsers, find_users
from .xml import Disk, DomainSpec, Interface, build_domain, parse_domain

# The fields of a domain that are shown as they are declared.
_PLAIN = tuple(key for key in DEFINITION if key not in ("disks", "interfaces", "metadata"))


@dataclass
class Creation:
    """A domain to create, checked against the host, with its volumes and reservations."""

    spec: DomainSpec
    xml: str
    disks: list[NewDisk]
    seed_files: dict[str, bytes] = field(default_factory=dict)
    # (network, MAC address, IP address)
    reservations: list[tuple[str, str, str]] = field(default_factory=list)
    flags: dict[str, Any] = field(default_factory=dict)


def prepare(
    conn: Any,
    uuid: str,
    desired: Mapping[str, Any],
    *,
    templates: Path = TEMPLATES_DIRECTORY,
    dry_run: bool = False,
) -> Creation:
    """Check the arguments against the host and return what to create; changes nothing.

    In a dry run a template may be missing: the play's earlier tasks would have downloaded it.
    Raises Failure (VALIDATION_ERROR, TEMPLATE_NOT_FOUND).
    """
    name = desired["name"]
    if not NEW_NAME.allows(name):
        raise Failure(f"cannot create {name!r}: the name {NEW_NAME.sentence}", "VALIDATION_ERROR")
    taken = lookup_domain(conn, name=name)
    if taken is not None and desired.get("job"):
        # The service has derived the name of a job's domain, and somebody took it after the host
        # was last observed. The id stays in the metadata.
        metadata = merge_metadata({"id": name}, desired.get("metadata") or {})
        desired = {**desired, "name": free_name(conn, name), "metadata": metadata}
        name, taken = desired["name"], None
    if taken is not None:
        raise Failure(
            f"cannot create {name}: domain {taken.UUIDString()} has that name", "VALIDATION_ERROR"
        )
    disks = [
        prepare_disk(
            conn,
            uuid,
            {**disk, "target": disk.get("target") or FIRST_TARGET},
            templates,
            dry_run=dry_run,
        )
        for disk in desired.get("disks") or []
    ]
    _refuse_used(conn, uuid, name, disks)
    wanted_nics = desired.get("interfaces")
    if wanted_nics is None:
        wanted_nics = [{"type": "network", "source": "default"}]
    nics = [prepare_interface(conn, uuid, n, nic) for n, nic in enumerate(wanted_nics)]
    uefi = find_uefi(conn) if desired.get("firmware") == "efi" else None
    spec = _spec(uuid, desired, disks, nics, virt_type=_virt_type(conn, desired), uefi=uefi)
    creation = Creation(spec, "", disks, flags={key: bool(desired.get(key)) for key in FLAGS})
    if desired.get("seed") is not None:
        creation.seed_files = _seed_files(spec, desired["seed"], wanted_nics)
        path = os.path.join(pool_path(find_pool(conn, DEFAULT_POOL)), seed_name(uuid))
        # Not SATA: cloud kernels (Debian's, for example) have no driver for it.
        seed = Disk("sda", path, format="raw", bus="scsi", device="cdrom")
        creation.spec = replace(spec, disks=(*spec.disks, seed))
    for nic, wanted in zip(nics, wanted_nics):
        if nic.type == "network" and wanted.get("ip"):
            address = wanted["ip"].partition("/")[0]
            check_reservation(find_network(conn, nic.source), address, nic.mac)
            if any(address == other for _network, _mac, other in creation.reservations):
                raise Failure(
                    f"cannot create {name}: two of its interfaces have the address {address}",
                    "VALIDATION_ERROR",
                )
            creation.reservations.append((nic.source, nic.mac, address))
    creation.xml = build_domain(creation.spec)
    return creation


def missing_templates(
    disks: Iterable[Mapping[str, Any]],
    wanted: Mapping[str, str],
    directory: Path = TEMPLATES_DIRECTORY,
) -> dict[str, str]:
    """Return the templates of disks that the host lacks, or has of another hash than wanted.

    Each with the reason why it cannot be used.
    """
    found = {}
    for name in {disk["template"]: None for disk in disks if disk.get("template")}:
        try:
            template = find_template(name, directory)
        except Failure as failure:
            found[name] = failure.message
        else:
            if template.spec_hash != wanted.get(name, template.spec_hash):
                found[name] = f"cannot use template {name!r}: the host has another version of it"
    return found


def free_name(conn: Any, name: str) -> str:
    """Return a name with the first number behind it that no domain has."""
    names = (_numbered(name, number) for number in itertools.count(2))
    return next(free for free in names if lookup_domain(conn, name=free) is None)


def is_numbered(name: str, other: str) -> bool:
    """Whether a name is another one with a number behind it, as `free_name` gives it."""
    number = name.rpartition("-")[2]
    return number.isdecimal() and int(number) > 1 and name == _numbered(other, int(number))


def _numbered(name: str, number: int) -> str:
    # By the rule of the service, which knows the domain by this name from then on.
    ending = f"-{number}"
    return name[: HOSTNAME_LENGTH - len(ending)].rstrip("-") + ending


def _refuse_used(conn: Any, uuid: str, name: str, disks: list[NewDisk]) -> None:
    """Raise Failure if a disk that would be used again is one that another domain stands on."""
    there = [disk.path for disk in disks if os.path.lexists(disk.path)]
    users = find_users(conn, uuid) if there else FileUsers()
    for path in there:
        if reason := users.reason_to_keep(path):
            raise Failure(
                f"cannot create {name}: its disk {path} has stayed on the host, and {reason}",
                "VALIDATION_ERROR",
            )


def _spec(
    uuid: str,
    desired: Mapping[str, Any],
    disks: list[NewDisk],
    nics: list[Interface],
    *,
    virt_type: str,
    uefi: Uefi | None,
) -> DomainSpec:
    name, vcpus, memory = desired["name"], desired["vcpus"], desired["memory"]
    vcpus_max = desired.get("vcpus_max") or max(8, 2 * vcpus)
    memory_max = desired.get("memory_max") or memory
    if vcpus_max < vcpus or memory_max < memory:
        raise Failure(
            f"cannot create {name}: vcpus_max and memory_max must not be below vcpus and memory",
            "VALIDATION_ERROR",
        )
    template = next((disk.template for disk in disks if disk.template), None)
    metadata = {"id": name, "job": desired.get("job"), "generation": desired.get("generation")}
    if template is not None:
        metadata.update(template=template.name, os=template.os)
    given = {f.name: desired[f.name] for f in fields(DomainSpec) if desired.get(f.name) is not None}
    derived: dict[str, Any] = {
        "uuid": uuid,
        "vcpus_max": vcpus_max,
        "memory_max": memory_max,
        "virt_type": virt_type,
        "uefi": uefi,
        "disks": tuple(Disk(disk.target, disk.path) for disk in disks),
        "interfaces": tuple(nics),
        "metadata": merge_metadata(metadata, desired.get("metadata") or {}),
    }
    return DomainSpec(**{**given, **derived})


def _virt_type(conn: Any, desired: Mapping[str, Any]) -> str:
    wanted = desired.get("virt_type")
    if wanted in {"kvm", "qemu"}:
        return str(wanted)
    noted = noted_virt_type()
    if noted is None:
        # The host has not been prepared, so KVM was never tried: use what libvirt reports.
        return "kvm" if "<domain type='kvm'" in conn.getCapabilities() else "qemu"
    return "kvm" if noted[0] == "kvm" else "qemu"


def _seed_files(
    spec: DomainSpec, seed: Mapping[str, Any], wanted_nics: list[Mapping[str, Any]]
) -> dict[str, bytes]:
    nics = []
    for nic, wanted in zip(spec.interfaces, wanted_nics):
        entry: dict[str, Any] = {"mac": nic.mac}
        if nic.type == "bridge" and wanted.get("ip"):
            if "/" not in wanted["ip"]:
                raise Failure(
                    f"cannot give {spec.name} the address {wanted['ip']} on a bridge: "
                    "a prefix length is required, as in 198.51.100.7/24",
                    "VALIDATION_ERROR",
                )
            entry["cidr"] = wanted["ip"]
            entry["gateway"] = wanted.get("gateway")
            entry["nameservers"] = wanted.get("nameservers")
        nics.append(entry)
    return build_files(
        seed, instance_id=spec.uuid, title=spec.title, name=spec.name, interfaces=nics
    )


def describe(creation: Creation, desired: Mapping[str, Any]) -> dict[str, Any]:
    """Return the declared fields of a new domain and the defaults of others; sizes are in GiB.

    desired holds the module's arguments. Of a seed only the names of its options are shown.
    """
    spec, metadata = creation.spec, desired.get("metadata") or {}
    fields: dict[str, Any] = {key: desired[key] for key in _PLAIN if desired.get(key) is not None}
    fields["virt_type"] = spec.virt_type
    for disk, wanted in zip(creation.disks, desired.get("disks") or []):
        start = f"disks.{disk.target}"
        # Its template may not be on the host yet.
        fields[f"{start}.size"] = disk.size / GIB or "that of the template"
        for key in ("template", "clone", "pool"):
            default = DEFINITION["disks"]["options"][key].get("default")
            if wanted.get(key) not in (None, default):
                fields[f"{start}.{key}"] = wanted[key]
    wanted_nics = desired.get("interfaces") or [{}] * len(spec.interfaces)
    for number, (nic, wanted) in enumerate(zip(spec.interfaces, wanted_nics)):
        start = f"interfaces[{number}]"
        fields[f"{start}.{nic.type}"] = nic.source
        for key in ("model", "mac", "ip", "gateway", "nameservers"):
            if wanted.get(key):
                fields[f"{start}.{key}"] = wanted[key]
    fields |= {f"metadata.{key}": metadata[key] for key in ("os", "labels") if metadata.get(key)}
    if seed := [key for key, value in (desired.get("seed") or {}).items() if value]:
        fields["seed"] = seed
    return fields


def run(conn: Any, creation: Creation, fence: Fence, start: Callable[[Any], None]) -> Any:
    """Create the volumes, the reservations and the domain, start it and return the virDomain.

    Volumes that a crashed run of the same creation left are replaced. A disk that existed before
    (kept at a deletion, or its domain was undefined by hand) is used unchanged. A creation that
    fails is undone; its Failure lists what could not be undone.
    """
    try:
        dom = _define(conn, creation, fence)
        start(dom)
    except BaseException as error:
        stays = _undo(conn, creation, fence)
        failure = failure_of(error, f"cannot create {creation.spec.name}")
        if failure is None:
            raise
        if stays:
            failure.message += f"; not undone: {'; '.join(stays)}"
        raise failure from error
    fence.note_complete([disk.path for disk in creation.disks])
    return dom


def _define(conn: Any, creation: Creation, fence: Fence) -> Any:
    uuid = creation.spec.uuid
    incomplete = fence.recall().get("creating") or []
    missing = []
    for disk in creation.disks:
        old = find_volume(find_pool(conn, disk.pool), disk.name)
        if old is not None and disk.path in incomplete:
            old.delete(0)
            old = None
        if old is None:
            missing.append(disk)
    # Recorded first: only volumes recorded here may later be deleted as incomplete.
    seed_paths = [disk.path for disk in creation.spec.disks if disk.device == "cdrom"]
    fence.remember(creating=[*(disk.path for disk in missing), *seed_paths])
    for disk in missing:
        make_disk(conn, disk)
    if creation.seed_files:
        pool = find_pool(conn, DEFAULT_POOL)
        old = find_volume(pool, seed_name(uuid))
        if old is not None:
            old.delete(0)
        create_seed(conn, pool, seed_name(uuid), build_iso(creation.seed_files))
    for network, mac, address in creation.reservations:
        add_reservation(conn, network, mac=mac, address=address, host=creation.spec.name)
    # The password is set only now, so that no check, diff or log can show it; it is never used.
    dom = conn.defineXML(lock_graphics(creation.xml, secrets.token_hex(4)))
    # Every flag of a new domain is off already.
    set_flags(dom, {key: value for key, value in creation.flags.items() if value})
    return dom


def _undo(conn: Any, creation: Creation, fence: Fence) -> list[str]:
    """Delete what a failed creation has created; returns what could not be deleted and why.

    Deletes only the volumes that this creation has recorded as its own, and the domain only if it
    is stopped and its metadata has this creation's job.
    """
    uuid, job = creation.spec.uuid, creation.spec.metadata.get("job")
    try:
        dom = lookup_domain(conn, uuid=uuid)
        if dom is not None:
            metadata = parse_domain(dom.XMLDesc(0))["metadata"] or {}
            if dom.isActive() or metadata.get("job") != job:
                return [f"domain {dom.name()} was not created by this run"]
            undefine(dom)
        for network, mac, address in creation.reservations:
            remove_reservation(conn, mac, (network, address))
    except (libvirt.libvirtError, Failure, OSError) as error:
        return [error_text(error)]
    stays: dict[str, str] = {}
    for path in fence.recall().get("creating") or []:
        try:
            # Only a volume of this creation, in its own pool: another pool may be broken.
            volume = find_volume_at(conn, path) if is_ours(uuid, path) else None
            if volume is not None:
                volume.delete(0)
        except (libvirt.libvirtError, OSError) as error:
            stays[path] = f"cannot delete {path}: {error_text(error)}"
    fence.remember(creating=list(stays))
    return list(stays.values())
