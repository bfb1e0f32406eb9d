# Copyright: Virtplay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Collection layer: makes, changes and removes a domain with its volumes and reservations."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from ..failure import Failure
from ..host.connection import error_text, has_error_code, libvirt, lookup_domain
from ..host.reservations import (
    add_reservation,
    check_reservation,
    find_network,
    list_reservations,
    remove_reservation,
)
from ..host.storage import (
    DEFAULT_POOL,
    TEMPLATES_DIRECTORY,
    Template,
    create_disk,
    create_seed,
    disk_name,
    find_pool,
    find_template,
    find_volume,
    grow_volume,
    is_ours,
    list_volumes,
    pool_path,
    refresh_pools,
    seed_name,
    volume_of,
    wanted_size,
)
from ..lock.fence import Fence
from ..values import DISK_TARGET, MAC, NEW_NAME
from .console_xml import keep_passwords, lock_graphics
from .plan import GIB, Applies, Change, Current, UpdatePlan, merge_metadata
from .power import MONITOR_SECONDS, call_within
from .seed import build_files, build_iso
from .xml import (
    NAMESPACE,
    Disk,
    DomainSpec,
    Interface,
    build_disk,
    build_domain,
    build_interface,
    build_metadata,
    edit_domain,
    edit_interface,
    parse_domain,
)

HOST_FACTS = Path("/etc/virtplay/host.json")
BRIDGES = Path("/sys/class/net")
# How long to watch a guest take its new memory size before leaving it to itself.
BALLOON_SECONDS = 2.0
# Interfaces whose derived MAC addresses are looked for when a domain is already gone.
_MOST_INTERFACES = 8


@dataclass(frozen=True)
class NewDisk:
    """A disk to be made: where, of which size in bytes, and out of what."""

    target: str
    pool: str
    name: str
    path: str
    size: int
    template: Template | None
    clone: str


@dataclass
class Creation:
    """A domain to be made, checked against the host, with everything that belongs to it."""

    spec: DomainSpec
    xml: str
    disks: list[NewDisk]
    seed_files: dict[str, bytes] = field(default_factory=dict)
    # (network, MAC address, IP address)
    reservations: list[tuple[str, str, str]] = field(default_factory=list)
    autostart: bool = False


# --- creation ---------------------------------------------------------------------------------


def prepare_creation(
    conn: Any,
    uuid: str,
    desired: Mapping[str, Any],
    *,
    templates: Path = TEMPLATES_DIRECTORY,
    dry_run: bool = False,
) -> Creation:
    """Check what was asked for against the host and lay it out; changes nothing.

    In a dry run a template may be missing: the play's earlier tasks would have brought it.
    Raises Failure (VALIDATION_ERROR, TEMPLATE_NOT_FOUND).
    """
    name = desired["name"]
    if not NEW_NAME.allows(name):
        raise Failure(f"cannot create {name!r}: the name {NEW_NAME.sentence}", "VALIDATION_ERROR")
    taken = lookup_domain(conn, name=name)
    if taken is not None:
        raise Failure(
            f"cannot create {name}: domain {taken.UUIDString()} has that name", "VALIDATION_ERROR"
        )
    disks = [
        _prepare_disk(conn, uuid, disk, templates, dry_run=dry_run)
        for disk in desired.get("disks") or []
    ]
    wanted_nics = desired.get("interfaces")
    if wanted_nics is None:
        wanted_nics = [{"type": "network", "source": "default"}]
    nics = [prepare_interface(conn, uuid, n, nic) for n, nic in enumerate(wanted_nics)]
    spec = _spec(uuid, desired, disks, nics, virt_type=_virt_type(conn, desired))
    creation = Creation(spec, "", disks, autostart=bool(desired.get("autostart")))
    if desired.get("seed") is not None:
        creation.seed_files = _seed_files(spec, desired["seed"], wanted_nics)
        path = os.path.join(pool_path(find_pool(conn, DEFAULT_POOL)), seed_name(uuid))
        # Not SATA: kernels made for clouds (Debian's among them) have no driver for it.
        seed = Disk("sda", path, format="raw", bus="scsi", device="cdrom")
        creation.spec = replace(spec, disks=(*spec.disks, seed))
    for nic, wanted in zip(nics, wanted_nics):
        if nic.type == "network" and wanted.get("ip"):
            address = wanted["ip"].partition("/")[0]
            check_reservation(find_network(conn, nic.source), address, nic.mac)
            creation.reservations.append((nic.source, nic.mac, address))
    creation.xml = build_domain(creation.spec)
    return creation


def run_creation(conn: Any, creation: Creation, fence: Fence) -> Any:
    """Make the volumes, the reservations and the domain; returns the virDomain, not started.

    What a crashed run of the same creation has left is made anew; a disk that was there before
    (kept at a deletion, or its domain undefined by hand) is used as it is. On failure the caller
    calls undo_creation, on success finish_creation.
    """
    uuid = creation.spec.uuid
    half_made = fence.recall().get("creating") or []
    missing = []
    for disk in creation.disks:
        old = find_volume(find_pool(conn, disk.pool), disk.name)
        if old is not None and disk.path in half_made:
            old.delete(0)
            old = None
        if old is None:
            missing.append(disk)
    # Written down first: only what stands here may ever be deleted as half made.
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
    # Only now, so that no check, diff or log can show it; nobody needs to know it ever.
    dom = conn.defineXML(lock_graphics(creation.xml, secrets.token_hex(4)))
    if creation.autostart:
        dom.setAutostart(1)
    return dom


def describe_creation(creation: Creation) -> list[Change]:
    """Return what a creation makes beside the domain's XML, for its diff; sizes in GiB.

    The size of a disk that is as large as its template, which may not be there yet, is left open.
    """
    changes = [
        Change(f"disks.{disk.target}.size", None, disk.size / GIB or "template", Applies.OFFLINE)
        for disk in creation.disks
    ]
    for _network, mac, address in creation.reservations:
        changes.append(Change(f"interfaces.{mac}.ip", None, address, Applies.OFFLINE))
    if creation.autostart:
        changes.append(Change("autostart", False, True, Applies.OFFLINE))
    return changes


def finish_creation(fence: Fence) -> None:
    """Note that a domain is whole: from now on its disks hold data and are never made anew."""
    remembered = fence.recall()
    if remembered.get("creating") or remembered.get("kept"):
        fence.remember(creating=[], kept=[])


def undo_creation(conn: Any, creation: Creation, fence: Fence) -> list[str]:
    """Remove what a failed creation has made; returns what could not be removed and why.

    Touches only the volumes that this creation has noted as its own and a domain whose metadata
    carries its job and that does not run.
    """
    uuid, job = creation.spec.uuid, creation.spec.metadata.get("job")
    try:
        dom = lookup_domain(conn, uuid=uuid)
        if dom is not None:
            metadata = parse_domain(dom.XMLDesc(0))["metadata"] or {}
            if dom.isActive() or metadata.get("job") != job:
                return [f"domain {dom.name()} is not the one that this run has made"]
            undefine(dom)
        for network, mac, address in creation.reservations:
            remove_reservation(conn, mac, (network, address))
        refresh_pools(conn)
        for path in fence.recall().get("creating") or []:
            volume = volume_of(conn, path)
            if volume is not None and is_ours(uuid, path):
                volume.delete(0)
        fence.remember(creating=[])
    except (libvirt.libvirtError, Failure, OSError) as error:
        return [error_text(error)]
    return []


def derive_uuid(host: str, name: str) -> str:
    """Return the UUID of a domain nobody gave one: the same for a host and name, each time."""
    digest = hashlib.sha256(f"{NAMESPACE}/{host}/{name}".encode()).hexdigest()
    variant = "89ab"[int(digest[16], 16) % 4]
    return f"{digest[:8]}-{digest[8:12]}-8{digest[13:16]}-{variant}{digest[17:20]}-{digest[20:32]}"


def derive_mac(uuid: str, number: int) -> str:
    """Return the MAC address of a domain's interface: the same each time, locally administered."""
    digest = hashlib.sha256(f"{NAMESPACE}/{uuid}/{number}".encode()).hexdigest()
    return ":".join(["52", *(digest[i : i + 2] for i in range(0, 10, 2))])


def prepare_interface(conn: Any, uuid: str, number: int, wanted: Mapping[str, Any]) -> Interface:
    """Turn a wanted interface into a whole one, checking that the host has what it hangs on."""
    kind = wanted.get("type") or "network"
    source = wanted.get("source") or ("default" if kind == "network" else None)
    if source is None:
        raise Failure(
            f"cannot make interface {number}: name the bridge it is on", "VALIDATION_ERROR"
        )
    _check_source(conn, kind, source)
    mac = wanted.get("mac") or derive_mac(uuid, number)
    if not MAC.allows(mac):
        raise Failure(f"cannot use MAC address {mac!r}: it {MAC.sentence}", "VALIDATION_ERROR")
    return Interface(mac.lower(), kind, source, wanted.get("model") or "virtio")


def _check_source(conn: Any, kind: str, source: str) -> None:
    if kind == "network":
        find_network(conn, source)
    elif "/" in source or source in {".", ".."} or not (BRIDGES / source / "bridge").is_dir():
        raise Failure(
            f"cannot use bridge {source!r}: the host has none of that name", "VALIDATION_ERROR"
        )


def _prepare_disk(
    conn: Any, uuid: str, disk: Mapping[str, Any], templates: Path, *, dry_run: bool = False
) -> NewDisk:
    target = disk["target"]
    if not DISK_TARGET.allows(target):
        raise Failure(f"cannot make disk {target!r}: it {DISK_TARGET.sentence}", "VALIDATION_ERROR")
    template = None
    if disk.get("template"):
        try:
            template = find_template(disk["template"], templates)
        except Failure:
            if not dry_run:
                raise
            template = Template(disk["template"], "", "qcow2", 0, None)
    pool = disk.get("pool") or DEFAULT_POOL
    name = disk_name(uuid, target)
    return NewDisk(
        target=target,
        pool=pool,
        name=name,
        path=os.path.join(pool_path(find_pool(conn, pool)), name),
        size=wanted_size(dict(disk), template),
        template=template,
        clone=disk.get("clone") or "linked",
    )


def make_disk(conn: Any, disk: NewDisk) -> Any:
    """Make the volume of a new disk; fails when one of its name is there."""
    pool = find_pool(conn, disk.pool)
    return create_disk(
        conn, pool, disk.name, size=disk.size, template=disk.template, clone=disk.clone
    )


def _spec(
    uuid: str,
    desired: Mapping[str, Any],
    disks: list[NewDisk],
    nics: list[Interface],
    virt_type: str,
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
    return DomainSpec(
        uuid=uuid,
        name=name,
        title=desired.get("title"),
        description=desired.get("description"),
        vcpus=vcpus,
        vcpus_max=vcpus_max,
        memory=memory,
        memory_max=memory_max,
        virt_type=virt_type,
        firmware=desired.get("firmware") or "bios",
        disks=tuple(Disk(disk.target, disk.path) for disk in disks),
        interfaces=tuple(nics),
        metadata=merge_metadata(metadata, desired.get("metadata") or {}),
    )


def _virt_type(conn: Any, desired: Mapping[str, Any]) -> str:
    wanted = desired.get("virt_type")
    if wanted in {"kvm", "qemu"}:
        return str(wanted)
    try:
        found = json.loads(HOST_FACTS.read_text())["virt_type"]
    except (OSError, ValueError, KeyError, TypeError):
        # Nobody has tried yet whether KVM runs a guest here: take libvirt's word.
        return "kvm" if "<domain type='kvm'" in conn.getCapabilities() else "qemu"
    return "kvm" if found == "kvm" else "qemu"


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
                    "it needs a prefix length, as in 198.51.100.7/24",
                    "VALIDATION_ERROR",
                )
            entry["cidr"] = wanted["ip"]
            entry["gateway"] = wanted.get("gateway")
            entry["nameservers"] = wanted.get("nameservers")
        nics.append(entry)
    return build_files(
        seed, instance_id=spec.uuid, title=spec.title, name=spec.name, interfaces=nics
    )


def _derived_macs(uuid: str) -> list[str]:
    return [derive_mac(uuid, number) for number in range(_MOST_INTERFACES)]


# --- change -----------------------------------------------------------------------------------


@dataclass
class Update:
    """A planned update, checked against the host: what is to be attached and defined."""

    plan: UpdatePlan
    disks: list[NewDisk]
    nics: list[tuple[Interface, Applies]]
    xml: str


def prepare_update(
    conn: Any, current: Current, plan: UpdatePlan, templates: Path = TEMPLATES_DIRECTORY
) -> Update:
    """Check a plan against the host and write the definition it leads to; changes nothing."""
    uuid = current.config["uuid"]
    disks = [_prepare_disk(conn, uuid, disk, templates) for disk in plan.add_disks]
    nics: list[tuple[Interface, Applies]] = []
    taken = {nic["mac"] for nic in current.config["interfaces"]}
    for item in plan.interfaces:
        if item.mac is None:
            # Not simply the next number: an earlier card may have been taken out since.
            number = next(n for n in itertools.count() if derive_mac(uuid, n) not in taken)
            nic = prepare_interface(conn, uuid, number, item.wanted)
            nics.append((nic, item.applies))
            taken.add(nic.mac)
        elif "source" in item.edits:
            _check_source(conn, item.edits["type"], item.edits["source"])
    for (nic, _item), item in zip(nics, (i for i in plan.interfaces if i.mac is None)):
        if nic.type == "network" and item.wanted.get("ip"):
            address = item.wanted["ip"].partition("/")[0]
            plan.reservations[nic.mac] = (nic.source, address)
            plan.changes.append(Change(f"interfaces.{nic.mac}.ip", None, address, item.applies))
    for mac, place in plan.reservations.items():
        if place is not None:
            check_reservation(find_network(conn, place[0]), place[1], mac)
    edits = dict(plan.edits)
    if disks:
        edits["add_disks"] = [Disk(disk.target, disk.path) for disk in disks]
    if nics:
        edits["add_interfaces"] = [nic for nic, _item in nics]
    xml = edit_domain(current.config_xml, edits) if edits else current.config_xml
    return Update(plan, disks, nics, xml)


def run_update(
    conn: Any, dom: Any, current: Current, update: Update, bookkeeping: Mapping[str, Any]
) -> list[str]:
    """Bring a domain to the planned definition, live where the plan says so.

    The definition comes first: what it refuses has then changed nothing. A live step that QEMU or
    the guest refuses is left to the next boot, its change is marked so, and the reason returned.
    """
    plan = update.plan
    metadata = plan.edits.get("metadata") or current.config["metadata"]
    if metadata is not None and any(value is not None for value in bookkeeping.values()):
        metadata = merge_metadata(metadata, bookkeeping)
    xml = update.xml
    if metadata is not None and metadata != current.config["metadata"]:
        xml = edit_domain(xml, {"metadata": metadata})
    made: list[Any] = []
    try:
        for disk in update.disks:
            made.append(make_disk(conn, disk))
        if xml != current.config_xml:
            conn.defineXML(keep_passwords(xml, _secret_xml(dom, current)))
    except (libvirt.libvirtError, Failure):
        for volume in made:
            volume.delete(0)
        raise
    if plan.autostart is not None:
        dom.setAutostart(int(plan.autostart))
    for mac, place in plan.reservations.items():
        old = current.reservations.get(mac)
        if old is not None:
            remove_reservation(conn, mac, old)
        if place is not None:
            add_reservation(conn, place[0], mac=mac, address=place[1], host=current.label)
    if not current.active:
        for target, size in plan.grow_disks.items():
            grow_volume(conn, _path_of(current, target), size)
        return []
    return _update_live(dom, current, update, metadata)


def _secret_xml(dom: Any, current: Current) -> str:
    """The definition for the next boot with the passwords in it: never to be shown."""
    flags = libvirt.VIR_DOMAIN_XML_SECURE
    if current.persistent:
        flags |= libvirt.VIR_DOMAIN_XML_INACTIVE
    return str(dom.XMLDesc(flags))


def _update_live(
    dom: Any, current: Current, update: Update, metadata: Mapping[str, Any] | None
) -> list[str]:
    plan, label = update.plan, current.label
    live = libvirt.VIR_DOMAIN_AFFECT_LIVE
    refused: list[str] = []
    _set_texts_live(dom, plan, metadata, current)

    def attempt(fields: tuple[str, ...], call: Any) -> None:
        try:
            call_within(MONITOR_SECONDS, call, f"cannot change {label}")
        except libvirt.libvirtError as error:
            refused.append(
                f"{', '.join(fields)} of {label} changes at the next boot: {error_text(error)}"
            )
            _postpone(plan.changes, fields)

    if plan.live_vcpus is not None:
        attempt(("vcpus",), lambda: dom.setVcpusFlags(plan.live_vcpus, live))
    if plan.live_memory is not None:
        attempt(("memory",), lambda: dom.setMemoryFlags(plan.live_memory * 1024, live))
        if not _await_balloon(dom, plan.live_memory * 1024):
            refused.append(f"the guest of {label} has not taken its new memory size yet")
    for disk in update.disks:
        xml = build_disk(Disk(disk.target, disk.path))
        attempt((f"disks.{disk.target}.size",), lambda xml=xml: dom.attachDeviceFlags(xml, live))
    for number, (nic, _item) in enumerate(update.nics, len(current.config["interfaces"])):
        xml = build_interface(nic)
        attempt((f"interfaces.{number}",), lambda xml=xml: dom.attachDeviceFlags(xml, live))
    for item in plan.interfaces:
        if item.mac is not None and item.applies == Applies.LIVE:
            xml = edit_interface(current.live_xml, item.mac, item.edits)
            attempt(
                (f"interfaces.{item.mac}.source",),
                lambda xml=xml: dom.updateDeviceFlags(xml, live),
            )
    for target, size in plan.grow_disks.items():
        # Not left to the next boot: nothing but this call makes the image larger.
        call_within(
            MONITOR_SECONDS,
            partial(dom.blockResize, target, size, libvirt.VIR_DOMAIN_BLOCK_RESIZE_BYTES),
            f"cannot resize disk {target} of {label}",
        )
    return refused


def _await_balloon(dom: Any, kib: int) -> bool:
    """Wait shortly until the balloon has the size asked for; the guest moves it by and by."""
    deadline = time.monotonic() + BALLOON_SECONDS
    while dom.info()[2] != kib:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def _set_texts_live(
    dom: Any, plan: UpdatePlan, metadata: Mapping[str, Any] | None, current: Current
) -> None:
    for key, kind in (
        ("title", libvirt.VIR_DOMAIN_METADATA_TITLE),
        ("description", libvirt.VIR_DOMAIN_METADATA_DESCRIPTION),
    ):
        if key in plan.edits:
            text = plan.edits[key] or None
            dom.setMetadata(kind, text, None, None, libvirt.VIR_DOMAIN_AFFECT_LIVE)
    if metadata is not None and metadata != current.live["metadata"]:
        write_metadata(dom, metadata, libvirt.VIR_DOMAIN_AFFECT_LIVE)


def write_metadata(dom: Any, metadata: Mapping[str, Any], flags: int) -> None:
    """Replace our element in a domain's metadata; flags are libvirt's AFFECT flags."""
    kind = libvirt.VIR_DOMAIN_METADATA_ELEMENT
    dom.setMetadata(kind, build_metadata(metadata), "virtplay", NAMESPACE, flags)


def note_job(dom: Any, current: Current, bookkeeping: Mapping[str, Any]) -> None:
    """Write job and generation of a power action into the metadata of a domain of ours."""
    old = current.config["metadata"]
    if old is None or not current.persistent:
        return
    new = merge_metadata(old, bookkeeping)
    if new == old:
        return
    write_metadata(dom, new, libvirt.VIR_DOMAIN_AFFECT_CONFIG)
    if dom.isActive():
        write_metadata(dom, new, libvirt.VIR_DOMAIN_AFFECT_LIVE)


def _postpone(changes: list[Change], fields: tuple[str, ...]) -> None:
    for position, change in enumerate(changes):
        if change.field in fields:
            changes[position] = replace(change, applies=Applies.NEXT_BOOT)


def _path_of(current: Current, target: str) -> str:
    return next(str(d["path"]) for d in current.config["disks"] if d["target"] == target)


# --- removal ----------------------------------------------------------------------------------


def plan_removal(
    current: Current, *, keep_disks: bool, force: bool
) -> tuple[list[Change], list[str]]:
    """Return the changes that deleting a domain means, and the disks that stay on the host.

    Raises Failure (VM_HAS_SNAPSHOTS) when snapshots would go with it and force is not set.
    """
    if current.snapshots and not force:
        raise Failure(
            f"cannot delete {current.label}: it has {current.snapshots} snapshots",
            "VM_HAS_SNAPSHOTS",
        )
    changes = [Change("state", str(current.state), "absent", Applies.LIVE)]
    stays = []
    uuid = current.config["uuid"]
    for disk in current.config["disks"]:
        path = disk["path"]
        if not path:
            continue
        # A disk that we did not make may be somebody else's, too: it is never ours to delete.
        if keep_disks or not is_ours(uuid, path):
            stays.append(path)
        else:
            changes.append(
                Change(f"disks.{disk['target']}", path, None, Applies.LIVE, destroys=True)
            )
    if current.snapshots:
        changes.append(Change("snapshots", current.snapshots, None, Applies.LIVE, destroys=True))
    for mac, place in current.reservations.items():
        changes.append(Change(f"interfaces.{mac}.ip", place[1], None, Applies.LIVE))
    return changes, stays


def run_removal(conn: Any, dom: Any, current: Current, stays: list[str], fence: Fence) -> None:
    """Remove a stopped domain, its volumes and reservations, the definition last.

    A run that crashes half way is finished by the next one, which still finds the domain.
    """
    uuid = current.config["uuid"]
    ours = [path for path in stays if is_ours(uuid, path)]
    if ours:
        fence.remember(kept=ours)
    for mac, place in current.reservations.items():
        remove_reservation(conn, mac, place)
    for disk in current.config["disks"]:
        path = disk["path"]
        if path and path not in stays and is_ours(uuid, path):
            volume = volume_of(conn, path)
            if volume is None and os.path.lexists(path):
                refresh_pools(conn)
                volume = volume_of(conn, path)
            if volume is not None:
                volume.delete(0)
    sweep_volumes(conn, uuid, ours)
    undefine(dom)


def find_leftovers(conn: Any, uuid: str, fence: Fence) -> list[Change]:
    """Return what is left on the host of a domain that is gone, or was never defined."""
    kept = fence.recall().get("kept") or []
    changes = [
        Change("volume", volume.path(), None, Applies.OFFLINE, destroys=True)
        for volume in list_volumes(conn, uuid)
        if volume.path() not in kept
    ]
    for mac, place in list_reservations(conn, _derived_macs(uuid)).items():
        changes.append(Change(f"interfaces.{mac}.ip", place[1], None, Applies.OFFLINE))
    return changes


def sweep_volumes(conn: Any, uuid: str, kept: list[str]) -> None:
    """Delete the volumes named after a domain, and reservations of its derived MAC addresses."""
    for volume in list_volumes(conn, uuid):
        if volume.path() not in kept:
            volume.delete(0)
    for mac, place in list_reservations(conn, _derived_macs(uuid)).items():
        remove_reservation(conn, mac, place)


def undefine(dom: Any) -> None:
    """Remove a domain's definition with all that libvirt keeps beside it."""
    flags = (
        libvirt.VIR_DOMAIN_UNDEFINE_MANAGED_SAVE
        | libvirt.VIR_DOMAIN_UNDEFINE_SNAPSHOTS_METADATA
        | libvirt.VIR_DOMAIN_UNDEFINE_CHECKPOINTS_METADATA
        | libvirt.VIR_DOMAIN_UNDEFINE_NVRAM
    )
    try:
        dom.undefineFlags(flags)
    except libvirt.libvirtError as error:
        # A transient domain is gone once it has stopped.
        if not has_error_code(error, "VIR_ERR_NO_DOMAIN"):
            raise
