# Copyright: Virtplay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Deletes a domain with its volumes and reservations, or what is left of a deleted domain."""

from __future__ import annotations

import os
from typing import Any

from ..failure import Failure
from ..host.connection import has_error_code, libvirt
from ..host.reservations import list_reservations, remove_reservation
from ..host.storage import is_ours, list_volumes, refresh_pools, volume_of
from ..lock.fence import Fence
from .devices import derived_macs
from .plan import Applies, Change, Current


def plan(current: Current, *, keep_disks: bool, force: bool) -> tuple[list[Change], list[str]]:
    """Return the changes of deleting a domain, and the paths of disks that stay on the host.

    Raises Failure (VM_HAS_SNAPSHOTS) for a domain with snapshots unless force is set.
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
        # A disk that Virtplay did not create may have other users: it is never deleted.
        if keep_disks or not is_ours(uuid, path):
            stays.append(path)
        else:
            changes.append(
                Change(f"disks.{disk['target']}", path, None, Applies.LIVE, destroys=True)
            )
    if current.has_managed_save:
        saved = current.saved
        changes.append(Change("has_managed_save", True, False, Applies.LIVE, destroys=saved))
    if current.snapshots:
        changes.append(Change("snapshots", current.snapshots, None, Applies.LIVE, destroys=True))
    for mac, place in current.reservations.items():
        changes.append(Change(f"interfaces.{mac}.ip", place[1], None, Applies.LIVE))
    return changes, stays


def run(conn: Any, dom: Any, current: Current, stays: list[str], fence: Fence) -> None:
    """Delete a stopped domain, its volumes and reservations, the definition last.

    If a run crashes half way, the next one still finds the domain and completes the deletion.
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
    sweep(conn, uuid, ours)
    undefine(dom)


def find_leftovers(conn: Any, uuid: str, fence: Fence) -> list[Change]:
    """Return what is left on the host of a domain that was deleted or never defined."""
    kept = fence.recall().get("kept") or []
    changes = [
        Change("volume", volume.path(), None, Applies.OFFLINE, destroys=True)
        for volume in list_volumes(conn, uuid)
        if volume.path() not in kept
    ]
    for mac, place in list_reservations(conn, derived_macs(uuid)).items():
        changes.append(Change(f"interfaces.{mac}.ip", place[1], None, Applies.OFFLINE))
    return changes


def sweep(conn: Any, uuid: str, kept: list[str]) -> None:
    """Delete the volumes named after a domain, and reservations of its derived MAC addresses."""
    for volume in list_volumes(conn, uuid):
        if volume.path() not in kept:
            volume.delete(0)
    for mac, place in list_reservations(conn, derived_macs(uuid)).items():
        remove_reservation(conn, mac, place)


def undefine(dom: Any) -> None:
    """Delete a domain's definition with everything that libvirt stores with it."""
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
