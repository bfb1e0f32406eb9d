# Copyright: Virtplay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Changes an existing domain, live where possible, with its disks and reservations."""

from __future__ import annotations

import itertools
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from ..failure import Failure
from ..host.connection import error_text, libvirt
from ..host.reservations import (
    add_reservation,
    check_reservation,
    find_network,
    remove_reservation,
    rename_reservation,
)
from ..host.storage import TEMPLATES_DIRECTORY, require_volume
from .console_xml import keep_passwords
from .devices import NewDisk, check_source, derive_mac, make_disk, prepare_disk, prepare_interface
from .flags import set_flags
from .metadata import write_metadata
from .plan import Applies, Change, Current, UpdatePlan, merge_metadata, not_renamed
from .power import MONITOR_SECONDS, call_within
from .xml import (
    Disk,
    Interface,
    build_disk,
    build_interface,
    edit_domain,
    edit_interface,
)

# How long to wait until the guest has its new memory size; then only a warning is given.
BALLOON_SECONDS = 2.0
_TEXTS = ("title", "description")


@dataclass
class Update:
    """A planned update, checked against the host: devices to attach and XML to define."""

    plan: UpdatePlan
    disks: list[NewDisk]
    nics: list[tuple[Interface, Applies]]
    xml: str

    @property
    def xml_after(self) -> str:
        """The definition with the domain's new name, which libvirt refuses in `xml`."""
        return edit_domain(self.xml, {"name": self.plan.name}) if self.plan.name else self.xml


def prepare(
    conn: Any, current: Current, plan: UpdatePlan, templates: Path = TEMPLATES_DIRECTORY
) -> Update:
    """Check a plan against the host and build the resulting definition; changes nothing."""
    uuid = current.config["uuid"]
    disks = [prepare_disk(conn, uuid, disk, templates) for disk in plan.add_disks]
    nics: list[tuple[Interface, Applies]] = []
    taken = {nic["mac"] for nic in current.config["interfaces"]}
    for item in plan.interfaces:
        if item.mac is None:
            # Not simply the next number: an earlier interface may have been detached since.
            number = next(n for n in itertools.count() if derive_mac(uuid, n) not in taken)
            nic = prepare_interface(conn, uuid, number, item.wanted)
            nics.append((nic, item.applies))
            taken.add(nic.mac)
        elif "source" in item.edits:
            check_source(conn, item.edits["type"], item.edits["source"])
    for (nic, _item), item in zip(nics, (i for i in plan.interfaces if i.mac is None)):
        if nic.type == "network" and item.wanted.get("ip"):
            address = item.wanted["ip"].partition("/")[0]
            plan.reservations[nic.mac] = (nic.source, address)
            plan.changes.append(Change(f"interfaces.{nic.mac}.ip", None, address, item.applies))
    for mac, place in plan.reservations.items():
        if place is not None:
            check_reservation(find_network(conn, place[0]), place[1], mac)
    for target in () if current.active else plan.grow_disks:
        require_volume(conn, _disk_of(current, target))
    edits = dict(plan.edits)
    if disks:
        edits["add_disks"] = [Disk(disk.target, disk.path) for disk in disks]
    if nics:
        edits["add_interfaces"] = [nic for nic, _item in nics]
    xml = edit_domain(current.config_xml, edits) if edits else current.config_xml
    return Update(plan, disks, nics, xml)


def run(
    conn: Any, dom: Any, current: Current, update: Update, bookkeeping: Mapping[str, Any]
) -> list[str]:
    """Bring a domain to the planned definition, live where planned; returns warnings.

    The definition comes first: if libvirt rejects it, nothing has changed. A live step that QEMU or
    the guest rejects waits for the next boot: its change says so, and a warning gives the reason.
    """
    plan = update.plan
    metadata = plan.edits.get("metadata") or current.config["metadata"]
    if metadata is not None and any(value is not None for value in bookkeeping.values()):
        metadata = merge_metadata(metadata, bookkeeping)
    xml = update.xml
    if metadata is not None and metadata != current.config["metadata"]:
        xml = edit_domain(xml, {"metadata": metadata})
    created: list[Any] = []
    try:
        for disk in update.disks:
            created.append(make_disk(conn, disk))
        if xml != current.config_xml:
            conn.defineXML(keep_passwords(xml, _secret_xml(dom, current)))
    except (libvirt.libvirtError, Failure):
        for volume in created:
            volume.delete(0)
        raise
    set_flags(dom, plan.flags)
    for mac, place in plan.reservations.items():
        old = current.reservations.get(mac)
        if old is not None:
            remove_reservation(conn, mac, old)
        if place is not None:
            add_reservation(conn, place[0], mac=mac, address=place[1], host=current.label)
    if not current.active:
        for target, size in plan.grow_disks.items():
            # libvirt resizes by the pool's record of the image, which may be older than the file.
            require_volume(conn, _disk_of(current, target)).resize(size, 0)
        if plan.name is not None:
            return _rename(conn, dom, current, plan)
        return _define_saved(dom, current, update, metadata) if current.saved else []
    return _run_live(dom, current, update, metadata)


def _rename(conn: Any, dom: Any, current: Current, plan: UpdatePlan) -> list[str]:
    """Rename a stopped domain; if libvirt refuses, it keeps its name, and a warning says why.

    Its reservations come first: if a run ends in between, the next one completes it.
    """
    name = str(plan.name)
    places = {**current.reservations, **plan.reservations}
    reserved = [(place, mac) for mac, place in places.items() if place is not None]
    for place, mac in reserved:
        rename_reservation(conn, place, mac, current.label, name)
    try:
        dom.rename(name, 0)
    except libvirt.libvirtError as error:
        for place, mac in reserved:
            rename_reservation(conn, place, mac, name, current.label)
        plan.changes[:] = [change for change in plan.changes if change.field != "name"]
        plan.name = None
        return [not_renamed(current, name, error_text(error))]
    return []


def _define_saved(
    dom: Any, current: Current, update: Update, metadata: Mapping[str, Any] | None
) -> list[str]:
    """Write texts and metadata into the managed save image, whose definition the start takes."""
    texts = {key: update.plan.edits[key] for key in _TEXTS if key in update.plan.edits}
    if metadata is not None and metadata != current.live["metadata"]:
        texts["metadata"] = metadata
    if not texts:
        return []
    try:
        xml = dom.managedSaveGetXMLDesc(libvirt.VIR_DOMAIN_SAVE_IMAGE_XML_SECURE)
        dom.managedSaveDefineXML(edit_domain(xml, texts), 0)
    except libvirt.libvirtError as error:
        return [f"texts of {current.label} change at the next boot: {error_text(error)}"]
    return []


def _secret_xml(dom: Any, current: Current) -> str:
    """Return the definition for the next boot with its passwords; never show it."""
    flags = libvirt.VIR_DOMAIN_XML_SECURE
    if current.persistent:
        flags |= libvirt.VIR_DOMAIN_XML_INACTIVE
    return str(dom.XMLDesc(flags))


def _run_live(
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
            refused.append(f"the guest of {label} has not reached its new memory size yet")
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
        # An error is raised, not postponed to the next boot: only this call grows the image.
        call_within(
            MONITOR_SECONDS,
            partial(dom.blockResize, target, size, libvirt.VIR_DOMAIN_BLOCK_RESIZE_BYTES),
            f"cannot resize disk {target} of {label}",
        )
    return refused


def _await_balloon(dom: Any, kib: int) -> bool:
    """Wait up to BALLOON_SECONDS for the balloon to have kib KiB; returns whether it has."""
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


def _postpone(changes: list[Change], fields: tuple[str, ...]) -> None:
    for position, change in enumerate(changes):
        if change.field in fields:
            changes[position] = replace(change, applies=Applies.NEXT_BOOT)


def _disk_of(current: Current, target: str) -> dict[str, Any]:
    return next(dict(d) for d in current.config["disks"] if d["target"] == target)
