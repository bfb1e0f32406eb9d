# Copyright: Virtplay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Creates, restores and deletes the snapshots of a domain."""

from __future__ import annotations

import os
import secrets
import subprocess
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

from ..domain.console_xml import LONG_AGO, is_valid, set_password, temporary_screens
from ..domain.metadata import write_metadata
from ..domain.plan import Current
from ..domain.power import MONITOR_SECONDS, call_within, discard
from ..domain.xml import parse_xml
from ..failure import Failure
from ..host.connection import error_text, has_error_code, libvirt
from ..host.images import image_of
from ..host.qemu_process import resident_bytes
from ..units import MIB
from .list import fill_sizes, list_snapshots
from .plan import SnapshotView, qcow2_variables, split_disks
from .qcow2 import Qcow2Image, read_image
from .xml import build_orphan, snapshot_targets

# The lowest speed at which memory is written and read, in bytes per second.
_SLOWEST = 20 * MIB
# Space for the tables of the image.
_MARGIN = 4 * MIB
_TEXTS = ("title", "description", "metadata")


# --- view -------------------------------------------------------------------------------------


def read_images(disks: Iterable[Mapping[str, Any]]) -> dict[str, Qcow2Image | None]:
    """Return the images of disks with a path by target; None if one is no readable qcow2."""
    return {disk["target"]: _read_image(disk) for disk in disks if disk["path"]}


def _read_image(disk: Mapping[str, Any]) -> Qcow2Image | None:
    # The guest of a raw disk may have written the header of a qcow2 into it.
    image = image_of(disk)
    return read_image(image.path) if image and image.format in {"qcow2", "auto"} else None


def view_snapshots(conn: Any, dom: Any, current: Current) -> SnapshotView:
    """Return what plans need to know, except missing, the files that a restore lacks."""
    entries, xmls = list_snapshots(dom)
    definition = current.live_xml if current.active else current.config_xml
    kept = set(split_disks(definition)[0])
    disks = current.live["disks"] if current.active else current.config["disks"]
    images = read_images(disk for disk in disks if disk["target"] in kept)
    fill_sizes(entries, images.values())
    path = qcow2_variables(definition)
    return SnapshotView(
        current,
        conn.getLibVersion(),
        entries,
        xmls,
        images,
        variables={path: read_image(path)} if path else {},
        checkpoints=[checkpoint.getName() for checkpoint in dom.listAllCheckpoints(0)],
    )


# --- checks before a change -------------------------------------------------------------------


def require_response(dom: Any, view: SnapshotView, what: str) -> None:
    """Raise Failure (GUEST_NOT_RESPONDING) if the domain's QEMU does not respond."""
    target = next(iter(view.images), None)
    if not view.current.active or target is None:
        return
    call_within(MONITOR_SECONDS, lambda: dom.blockInfo(target), f"cannot {what}")


def require_room_for_memory(view: SnapshotView, what: str) -> None:
    """Raise Failure (INSUFFICIENT_RESOURCES) if there is no space for a guest's memory."""
    memory = 0
    if view.current.active:
        memory = view.current.live["memory"] * MIB
        # Pages that the guest has never written take no space.
        memory = min(memory, resident_bytes(view.label) or memory)
    paths = {disk["target"]: disk["path"] for disk in view.current.live["disks"]}
    for number, target in enumerate(view.images):
        # QEMU stores the memory in the first disk that supports snapshots.
        needed = _MARGIN + (memory if number == 0 else 0)
        usage = os.statvfs(os.path.dirname(paths[target]))
        available = usage.f_bavail * usage.f_frsize
        if available < needed:
            raise Failure(
                f"cannot {what}: the file system of {paths[target]} requires {needed} bytes, "
                f"{available} are available",
                "INSUFFICIENT_RESOURCES",
            )


# --- create -----------------------------------------------------------------------------------


def create_snapshot(dom: Any, xml: str, view: SnapshotView, what: str) -> None:
    """Create a snapshot; libvirt completes it even if this process crashes meanwhile."""
    try:
        _call_slowly(view, lambda: dom.snapshotCreateXML(xml, 0), f"cannot {what}")
    except libvirt.libvirtError as error:
        if has_error_code(error, "VIR_ERR_OPERATION_UNSUPPORTED", "VIR_ERR_CONFIG_UNSUPPORTED"):
            raise Failure(f"cannot {what}: {error_text(error)}", "SNAPSHOT_NOT_POSSIBLE") from error
        # QEMU 7.2 reports "Input/output error" for a full file system, and keeps running.
        if "VM state" in error_text(error):
            require_room_for_memory(view, what)
        raise


@contextmanager
def consoles_aside(dom: Any, view: SnapshotView) -> Iterator[None]:
    """Remove the passwords of open consoles from the live definition, which a snapshot stores.

    Afterwards, passwords that are still valid are restored. Open connections stay open; new ones
    fail meanwhile. A password that cannot be removed does not prevent the snapshot: it is valid
    for a minute, and only root can read it.
    """
    taken: list[tuple[Any, str]] = []
    if view.current.active:
        with suppress(libvirt.libvirtError):
            for graphics in temporary_screens(dom.XMLDesc(libvirt.VIR_DOMAIN_XML_SECURE)):
                random_password = secrets.token_hex(4)
                _update(dom, set_password(graphics, random_password, LONG_AGO), view)
                taken.append((graphics, random_password))
    try:
        yield
    finally:
        # The change itself has its own outcome, and the console can be opened again.
        with suppress(libvirt.libvirtError, Failure):
            _restore_passwords(dom, view, taken)


def _restore_passwords(dom: Any, view: SnapshotView, taken: Iterable[tuple[Any, str]]) -> None:
    replaced = {random_password: graphics for graphics, random_password in taken}
    if not replaced:
        return
    # A console that was opened again meanwhile has a newer password.
    for now in parse_xml(dom.XMLDesc(libvirt.VIR_DOMAIN_XML_SECURE)).iterfind("devices/graphics"):
        before = replaced.get(now.get("passwd"))
        if before is not None and is_valid(before, time.time()):
            xml = set_password(now, before.get("passwd"), before.get("passwdValidTo"))
            _update(dom, xml, view)


def _update(dom: Any, xml: str, view: SnapshotView) -> None:
    failure = f"cannot set the password of the console of {view.label}"
    live = libvirt.VIR_DOMAIN_AFFECT_LIVE
    call_within(MONITOR_SECONDS, lambda: dom.updateDeviceFlags(xml, live), failure)


# --- restore ----------------------------------------------------------------------------------


def revert(dom: Any, name: str, view: SnapshotView, *, force: bool) -> None:
    """Restore a domain to a snapshot; force allows libvirt's own force flag if it is required.

    A managed save image is removed first: libvirt keeps it, and the next start would go on in its
    memory on disks of another time.
    """
    if view.current.has_managed_save:
        discard(dom)
    snapshot = dom.snapshotLookupByName(name, 0)
    what = f"cannot restore {view.label} to snapshot {name}"
    try:
        _call_slowly(view, lambda: dom.revertToSnapshot(snapshot, 0), what)
    except libvirt.libvirtError as error:
        if not has_error_code(error, "VIR_ERR_SNAPSHOT_REVERT_RISKY") or not force:
            raise
        risky = libvirt.VIR_DOMAIN_SNAPSHOT_REVERT_FORCE
        _call_slowly(view, lambda: dom.revertToSnapshot(snapshot, risky), what)


def texts_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a domain's title, description and metadata, which a restore must not change."""
    return {key: config[key] for key in _TEXTS}


def put_back(dom: Any, current: Current, texts: Mapping[str, Any]) -> None:
    """Write texts (title, description, metadata) to a domain, live and for its next boot."""
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


def delete_snapshot(dom: Any, name: str, view: SnapshotView) -> None:
    """Delete a snapshot, even an incomplete one, and keep its children."""
    what = f"cannot delete snapshot {name} of {view.label}"
    snapshot = dom.snapshotLookupByName(name, 0)
    _call_slowly(view, lambda: snapshot.delete(0), what)
    # libvirt reports success if an image still has the snapshot, or has it twice; it ignores such
    # failures on purpose, as its commit eac1a86f72f3 explains.
    if not view.current.active:
        erase(view, snapshot_targets(view.xmls[name]), name)


def erase(view: SnapshotView, targets: Iterable[str], name: str) -> None:
    """Delete all snapshots of a name from the images of these disks of a stopped domain.

    Read-only disks, and disks added later, may contain an unrelated snapshot of that name. The
    variables of UEFI firmware are the domain's own.
    """
    mine = set(targets) & set(view.images)
    images = {
        disk["path"]: _read_image(disk)
        for disk in view.current.config["disks"]
        if disk["target"] in mine
    }
    images.update({path: read_image(path) for path in view.variables})
    for path, image in images.items():
        for _snapshot in [s for s in image.snapshots if s.name == name] if image else ():
            done = subprocess.run(
                ["qemu-img", "snapshot", "-d", name, path],
                capture_output=True,
                text=True,
                check=False,
            )
            if done.returncode:
                raise Failure(f"cannot delete snapshot {name} from {path}: {done.stderr.strip()}")


def sweep_incomplete(dom: Any, name: str, view: SnapshotView) -> None:
    """Delete a snapshot that a crashed run left in images and that is unknown to libvirt."""
    targets = [target for target, image in view.images.items() if image and image.find(name)]
    if not any(image and image.find(name) for image in view.places.values()):
        return
    if not view.current.active:
        erase(view, targets, name)
        return
    # QEMU has the images open: redefine the snapshot, so that libvirt can delete it. Where it is
    # libvirt asks QEMU.
    orphan = build_orphan(name, view.current.config_xml, targets or list(view.images))
    taken = dom.snapshotCreateXML(orphan, libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_REDEFINE)
    _call_slowly(view, lambda: taken.delete(0), f"cannot delete snapshot {name} of {view.label}")


def _call_slowly(view: SnapshotView, call: Any, failure: str) -> Any:
    """Return call(), with a time limit that grows with the guest's memory."""
    seconds = MONITOR_SECONDS + view.current.config["memory_max"] * MIB / _SLOWEST
    return call_within(max(seconds, 120.0), call, failure)
