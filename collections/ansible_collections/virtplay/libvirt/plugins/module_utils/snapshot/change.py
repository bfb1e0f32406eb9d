# Copyright: Virtplay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Lists, creates, restores and deletes the snapshots of a domain."""

from __future__ import annotations

import os
import secrets
import subprocess
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

from ..domain.console_xml import LONG_AGO, is_valid, set_password, temporary_screens
from ..domain.plan import Current
from ..domain.power import MONITOR_SECONDS, call_within
from ..domain.update import write_metadata
from ..domain.xml import parse_xml
from ..failure import Failure
from ..host.connection import error_text, has_error_code, libvirt
from ..host.qemu_process import resident_bytes
from ..units import MIB
from .plan import Sight, split_disks
from .qcow2 import Qcow2Image, read_image
from .xml import build_orphan, parse_snapshot, snapshot_targets

# Memory is written and read at this speed at least, in bytes a second.
_SLOWEST = 20 * MIB
# What the image's own tables need.
_MARGIN = 4 * MIB
_TEXTS = ("title", "description", "metadata")


# --- look -------------------------------------------------------------------------------------


def list_snapshots(dom: Any) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """Return the entries of a domain's snapshots, parents first, and their XML by name.

    Asks libvirtd alone, never QEMU. The sizes of memory are left open; see fill_sizes.
    """
    xmls = {}
    for snapshot in dom.listAllSnapshots(0):
        try:
            xmls[snapshot.getName()] = snapshot.getXMLDesc(0)
        except libvirt.libvirtError as error:
            if not has_error_code(error, "VIR_ERR_NO_DOMAIN_SNAPSHOT"):
                raise  # deleted since it was listed
    current = _current_name(dom) if xmls else None
    entries = [parse_snapshot(xml) for xml in xmls.values()]
    for entry in entries:
        entry["current"] = entry["name"] == current
    parents = {entry["name"]: entry["parent"] for entry in entries}
    # libvirt's clock of snapshots counts whole seconds.
    entries.sort(key=lambda e: (e["created_at"] or "", _depth(e["name"], parents), e["name"]))
    return entries, xmls


def _current_name(dom: Any) -> str | None:
    try:
        return str(dom.snapshotCurrent(0).getName())
    except libvirt.libvirtError as error:
        if not has_error_code(error, "VIR_ERR_NO_DOMAIN_SNAPSHOT"):
            raise
        return None


def _depth(name: str | None, parents: Mapping[str, str | None]) -> int:
    depth = 0
    while name is not None and depth <= len(parents):
        name = parents.get(name)
        depth += 1
    return depth


def fill_sizes(entries: Iterable[dict[str, Any]], images: Iterable[Qcow2Image | None]) -> None:
    """Set size_bytes of snapshots with memory: what is kept of it in all the domain's images."""
    known = [image for image in images if image is not None]
    for entry in entries:
        held = [snapshot for image in known if (snapshot := image.find(entry["name"]))]
        if entry["has_memory"] and entry["kind"] == "internal" and held:
            entry["size_bytes"] = sum(snapshot.state_bytes for snapshot in held)


def read_images(disks: Iterable[Mapping[str, Any]]) -> dict[str, Qcow2Image | None]:
    """Return the images behind disks (target and path) by target, None for no readable qcow2."""
    return {disk["target"]: read_image(disk["path"]) for disk in disks if disk["path"]}


def look(conn: Any, dom: Any, current: Current, files: Iterable[str] = ()) -> Sight:
    """Return all that plans are made of; files are those whose absence is to be told."""
    entries, xmls = list_snapshots(dom)
    definition = current.live_xml if current.active else current.config_xml
    kept = set(split_disks(definition)[0])
    disks = current.live["disks"] if current.active else current.config["disks"]
    images = read_images(disk for disk in disks if disk["target"] in kept)
    fill_sizes(entries, images.values())
    missing = [path for path in files if not os.path.lexists(path)]
    return Sight(current, conn.getLibVersion(), entries, xmls, images, missing)


# --- before it is begun -----------------------------------------------------------------------


def require_answer(dom: Any, sight: Sight, what: str) -> None:
    """Raise Failure (GUEST_NOT_RESPONDING) when the domain's QEMU does not answer."""
    target = next(iter(sight.images), None)
    if not sight.current.active or target is None:
        return
    call_within(MONITOR_SECONDS, lambda: dom.blockInfo(target), f"cannot {what}")


def require_room_for_memory(sight: Sight, what: str) -> None:
    """Raise Failure (INSUFFICIENT_RESOURCES) when a guest's memory finds no room."""
    memory = 0
    if sight.current.active:
        memory = sight.current.live["memory"] * MIB
        # Pages that the guest never wrote to take no room.
        memory = min(memory, resident_bytes(sight.label) or memory)
    paths = {disk["target"]: disk["path"] for disk in sight.current.live["disks"]}
    for number, target in enumerate(sight.images):
        # QEMU keeps the memory in the first disk that can have snapshots.
        needed = _MARGIN + (memory if number == 0 else 0)
        usage = os.statvfs(os.path.dirname(paths[target]))
        available = usage.f_bavail * usage.f_frsize
        if available < needed:
            raise Failure(
                f"cannot {what}: {needed} bytes are needed beside {paths[target]}, "
                f"{available} are available",
                "INSUFFICIENT_RESOURCES",
            )


# --- make -------------------------------------------------------------------------------------


def create_snapshot(dom: Any, xml: str, sight: Sight, what: str) -> None:
    """Make a snapshot; a crash of ours while libvirt makes it leaves it to libvirt."""
    try:
        _call_slowly(sight, lambda: dom.snapshotCreateXML(xml, 0), f"cannot {what}")
    except libvirt.libvirtError as error:
        if has_error_code(error, "VIR_ERR_OPERATION_UNSUPPORTED", "VIR_ERR_CONFIG_UNSUPPORTED"):
            raise Failure(f"cannot {what}: {error_text(error)}", "SNAPSHOT_NOT_POSSIBLE") from error
        # QEMU 7.2 says "Input/output error" of a full file system, and goes on.
        if "VM state" in error_text(error):
            require_room_for_memory(sight, what)
        raise


@contextmanager
def consoles_aside(dom: Any, sight: Sight) -> Iterator[None]:
    """Take the passwords of open consoles out of the live definition, which a snapshot keeps.

    They are put back when they are still good. Who is connected stays so; who connects meanwhile is
    refused. A password that cannot be taken out is no reason to have no snapshot: it is good for a
    minute, and only root reads it.
    """
    taken: list[tuple[Any, str]] = []
    if sight.current.active:
        with suppress(libvirt.libvirtError):
            for graphics in temporary_screens(dom.XMLDesc(libvirt.VIR_DOMAIN_XML_SECURE)):
                nobodys = secrets.token_hex(4)
                _update(dom, set_password(graphics, nobodys, LONG_AGO), sight)
                taken.append((graphics, nobodys))
    try:
        yield
    finally:
        # What was to be done meanwhile has its own outcome; the console can be opened again.
        with suppress(libvirt.libvirtError, Failure):
            _give_back(dom, sight, taken)


def _give_back(dom: Any, sight: Sight, taken: Iterable[tuple[Any, str]]) -> None:
    mine = {nobodys: graphics for graphics, nobodys in taken}
    if not mine:
        return
    # One that was opened anew meanwhile has a newer password.
    for now in parse_xml(dom.XMLDesc(libvirt.VIR_DOMAIN_XML_SECURE)).iterfind("devices/graphics"):
        before = mine.get(now.get("passwd"))
        if before is not None and is_valid(before, time.time()):
            xml = set_password(now, before.get("passwd"), before.get("passwdValidTo"))
            _update(dom, xml, sight)


def _update(dom: Any, xml: str, sight: Sight) -> None:
    failure = f"cannot set the password of the console of {sight.label}"
    live = libvirt.VIR_DOMAIN_AFFECT_LIVE
    call_within(MONITOR_SECONDS, lambda: dom.updateDeviceFlags(xml, live), failure)


# --- go back ----------------------------------------------------------------------------------


def revert(dom: Any, name: str, sight: Sight, *, force: bool) -> None:
    """Bring a domain back to a snapshot, with libvirt's own force only where it asks for it."""
    snapshot = dom.snapshotLookupByName(name, 0)
    what = f"cannot restore {sight.label} to snapshot {name}"
    try:
        _call_slowly(sight, lambda: dom.revertToSnapshot(snapshot, 0), what)
    except libvirt.libvirtError as error:
        if not has_error_code(error, "VIR_ERR_SNAPSHOT_REVERT_RISKY") or not force:
            raise
        risky = libvirt.VIR_DOMAIN_SNAPSHOT_REVERT_FORCE
        _call_slowly(sight, lambda: dom.revertToSnapshot(snapshot, risky), what)


def texts_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return what people and jobs have said of a domain, which a restore must not turn back."""
    return {key: config[key] for key in _TEXTS}


def put_back(dom: Any, current: Current, texts: Mapping[str, Any]) -> None:
    """Write texts (title, description, metadata) to a domain, for now and for its next boot."""
    kinds = {
        "title": libvirt.VIR_DOMAIN_METADATA_TITLE,
        "description": libvirt.VIR_DOMAIN_METADATA_DESCRIPTION,
    }
    sides = [(libvirt.VIR_DOMAIN_AFFECT_CONFIG, current.config)]
    if current.active:
        sides.append((libvirt.VIR_DOMAIN_AFFECT_LIVE, current.live))
    for flags, present in sides:
        for key, kind in kinds.items():
            if (texts[key] or None) != (present[key] or None):
                dom.setMetadata(kind, texts[key] or None, None, None, flags)
        if texts["metadata"] is not None and texts["metadata"] != present["metadata"]:
            write_metadata(dom, texts["metadata"], flags)


# --- delete -----------------------------------------------------------------------------------


def delete_snapshot(dom: Any, name: str, sight: Sight) -> None:
    """Delete a snapshot and keep its children; one of which parts are gone already as well."""
    what = f"cannot delete snapshot {name} of {sight.label}"
    snapshot = dom.snapshotLookupByName(name, 0)
    _call_slowly(sight, lambda: snapshot.delete(0), what)
    # libvirt reports success when an image still has it, or has it twice; that it ignores such
    # failures on purpose is said in its commit eac1a86f72f3.
    if not sight.current.active:
        erase(sight, snapshot_targets(sight.xmls[name]), name)


def erase(sight: Sight, targets: Iterable[str], name: str) -> None:
    """Delete all snapshots of a name from the images of these disks of a stopped domain.

    A disk that is only read, or came later, may hold one of the name that is somebody else's.
    """
    mine = set(targets) & set(sight.images)
    for disk in sight.current.config["disks"]:
        if disk["target"] not in mine:
            continue
        image = read_image(disk["path"]) if disk["path"] else None
        for _snapshot in [s for s in image.snapshots if s.name == name] if image else ():
            done = subprocess.run(
                ["qemu-img", "snapshot", "-d", name, disk["path"]],
                capture_output=True,
                text=True,
                check=False,
            )
            if done.returncode:
                raise Failure(
                    f"cannot delete snapshot {name} from {disk['path']}: {done.stderr.strip()}"
                )


def sweep_half_made(dom: Any, name: str, sight: Sight) -> None:
    """Delete what a run that crashed has left of a snapshot in images, unknown to libvirt."""
    targets = [target for target, image in sight.images.items() if image and image.find(name)]
    if not targets:
        return
    if not sight.current.active:
        erase(sight, targets, name)
        return
    # QEMU has the images open: let libvirt take the snapshot over, and delete it.
    orphan = build_orphan(name, sight.current.config_xml, targets)
    taken = dom.snapshotCreateXML(orphan, libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_REDEFINE)
    _call_slowly(sight, lambda: taken.delete(0), f"cannot delete snapshot {name} of {sight.label}")


def _call_slowly(sight: Sight, call: Any, failure: str) -> Any:
    """Call libvirt for what takes longer the more memory the guest has."""
    seconds = MONITOR_SECONDS + sight.current.config["memory_max"] * MIB / _SLOWEST
    return call_within(max(seconds, 120.0), call, failure)
