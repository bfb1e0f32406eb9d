# Copyright: Virtplay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Deletes a domain with its volumes and reservations, or what is left of a deleted domain."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from ..failure import Failure
from ..host.connection import has_error_code, libvirt
from ..host.images import is_locked, require_response
from ..host.pool_watch import require_pools
from ..host.reservations import list_reservations, remove_reservation
from ..host.storage import find_volume_at, is_ours, list_volumes, seed_name, volume_of
from ..lock.fence import Fence
from .devices import derived_macs
from .plan import Applies, Change, Current
from .users import FileUsers
from .xml import default_nvram_path, nvram_path, tpm_path

_AS_REQUESTED = "as requested"
_MAY_UNSEAL = "the state of its TPM, without which a disk that stays may be unreadable"
_LOCKED = "a QEMU has it open, perhaps on another host"


def plan(
    current: Current, users: FileUsers, *, keep_disks: bool, force: bool
) -> tuple[list[Change], dict[str, str]]:
    """Return the changes of deleting a domain, and path → reason of disks that stay on the host.

    Raises Failure (VM_HAS_SNAPSHOTS) for a domain with snapshots unless force is set, and Failure
    if the storage of a disk to delete does not respond.
    """
    if current.snapshots and not force:
        raise Failure(
            f"cannot delete {current.label}: it has {current.snapshots} snapshots",
            "VM_HAS_SNAPSHOTS",
        )
    require_pools(f"delete {current.label}")
    changes = [Change("state", str(current.state), "absent", Applies.LIVE)]
    stays: dict[str, str] = {}
    uuid = current.config["uuid"]
    if not keep_disks:
        paths = [disk["path"] for disk in current.config["disks"] if disk["path"]]
        ours = [path for path in paths if is_ours(uuid, path)]
        require_response(ours, f"delete {current.label} with its disks")
    for disk in current.config["disks"]:
        path = disk["path"]
        if not path:
            continue
        if not is_ours(uuid, path):
            stays[path] = "Virtplay did not create it"
        elif keep_disks:
            stays[path] = _AS_REQUESTED
        elif reason := _reason_to_keep(users, path, own=current.active):
            stays[path] = reason
        else:
            changes.append(
                Change(f"disks.{disk['target']}", path, None, Applies.LIVE, destroys=True)
            )
    _plan_firmware(current, users, changes, stays)
    if current.snapshots:
        changes.append(Change("snapshots", current.snapshots, None, Applies.LIVE, destroys=True))
    for mac, place in _own(current.reservations, users).items():
        changes.append(Change(f"interfaces.{mac}.ip", place[1], None, Applies.LIVE))
    return changes, stays


def _plan_firmware(
    current: Current, users: FileUsers, changes: list[Change], stays: dict[str, str]
) -> None:
    """Add what becomes of the variables of UEFI firmware, and of the state of a TPM."""
    nvram = nvram_path(current.config_xml)
    if nvram and (reason := users.reason_to_keep(nvram)):
        stays[nvram] = reason
    tpm = tpm_path(current.config_xml)
    if tpm is None:
        return
    if tpm_reason := _MAY_UNSEAL if _seals(current, stays) else users.reason_to_keep(tpm):
        stays[tpm] = tpm_reason
    else:
        changes.append(Change("tpm", tpm, None, Applies.LIVE, destroys=True))


def _seals(current: Current, stays: Mapping[str, str]) -> bool:
    """Whether a disk stays that the TPM of a domain may have sealed."""
    return any(disk["path"] in stays for disk in current.config["disks"])


def run(
    conn: Any,
    dom: Any,
    current: Current,
    stays: dict[str, str],
    *,
    users: FileUsers,
    fence: Fence,
) -> dict[str, str]:
    """Delete a stopped domain, its volumes and reservations, the definition last.

    Returns path → reason of all volumes that stay. If a run crashes half way, the next one still
    finds the domain and completes the deletion.
    """
    uuid = current.config["uuid"]
    stays = dict(stays)
    kept = [path for path, reason in stays.items() if reason == _AS_REQUESTED]
    if kept or fence.recall().get("kept"):
        # Only these: what another domain uses is deleted by a later run, once nobody does.
        fence.remember(kept=kept)
    for mac, place in _own(current.reservations, users).items():
        remove_reservation(conn, mac, place)
    for disk in current.config["disks"]:
        path = disk["path"]
        if path and path not in stays and is_ours(uuid, path):
            if is_locked(path):
                stays[path] = _LOCKED
                continue
            volume = find_volume_at(conn, path) if os.path.lexists(path) else volume_of(conn, path)
            if volume is not None:
                volume.delete(0)
            elif os.path.lexists(path):
                stays[path] = "no storage pool of the host contains it"
    stays |= sweep(conn, uuid, list(stays), users)
    nvram, tpm = nvram_path(current.config_xml), tpm_path(current.config_xml)
    if tpm and _seals(current, stays):
        stays[tpm] = _MAY_UNSEAL
    undefine(dom, keep_nvram=nvram in stays, keep_tpm=tpm in stays)
    if nvram not in stays:
        remove_variables(current)
    return stays


def remove_variables(current: Current) -> None:
    """Delete the file of UEFI variables that libvirt has left.

    It does so for a firmware without variables, which it may have chosen after an upgrade.
    """
    path = nvram_path(current.config_xml)
    if path == default_nvram_path(current.label):
        with suppress(FileNotFoundError):
            os.unlink(path)


def plan_leftovers(
    conn: Any, current: Current, users: FileUsers, kept: Sequence[str], stays: dict[str, str]
) -> list[Change]:
    """Return the changes of deleting the disks that were a domain's, and are not in its definition.

    Adds to stays those that an earlier deletion has kept as requested.
    """
    uuid = current.config["uuid"]
    attached = [disk["path"] for disk in current.config["disks"]]
    found = [path for volume in list_volumes(conn, uuid) if (path := volume.path()) not in attached]
    stays.update({path: _AS_REQUESTED for path in found if path in kept})
    return [
        Change("volume", path, None, Applies.LIVE, destroys=True)
        for path in found
        if path not in stays
        and os.path.basename(path) != seed_name(uuid)
        and not _reason_to_keep(users, path, own=current.active)
    ]


def _reason_to_keep(users: FileUsers, path: str, *, own: bool = False) -> str | None:
    """Return why a file must stay, or None; own means that the domain's own QEMU may have it open.

    Another host's domains are unknown here, but not the locks of their QEMU.
    """
    return users.reason_to_keep(path) or (_LOCKED if not own and is_locked(path) else None)


def kept_volumes(conn: Any, uuid: str) -> dict[str, str]:
    """Return path → reason of the volumes that stay if a domain's disks are kept: all but its seed.

    Its disks may be based on images that no definition names, and a transient domain leaves none.
    """
    require_pools(f"keep the disks of {uuid}")
    found = (volume.path() for volume in list_volumes(conn, uuid))
    seed = seed_name(uuid)
    return {path: _AS_REQUESTED for path in found if os.path.basename(path) != seed}


def describe_stays(label: str, stays: dict[str, str]) -> str:
    """Return the warning that disks of a deleted domain stay on the host, each with its reason."""
    listed = ", ".join(f"{path} ({reason})" for path, reason in stays.items())
    return f"these disks of {label} stay on the host: {listed}"


def find_leftovers(
    conn: Any, uuid: str, users: FileUsers, kept: Sequence[str]
) -> tuple[list[Change], dict[str, str]]:
    """Return what is left of a domain that was deleted or never defined, to be deleted.

    kept are the paths of volumes that stay as requested. Also returns path → reason of those that
    stay for other domains.
    """
    require_pools(f"delete what is left of {uuid}")
    volumes, stays = _split_volumes(conn, uuid, users, kept)
    changes = [
        Change("volume", volume.path(), None, Applies.OFFLINE, destroys=True) for volume in volumes
    ]
    for mac, place in _own(list_reservations(conn, derived_macs(uuid)), users).items():
        changes.append(Change(f"interfaces.{mac}.ip", place[1], None, Applies.OFFLINE))
    return changes, stays


def sweep(conn: Any, uuid: str, kept: list[str], users: FileUsers) -> dict[str, str]:
    """Delete the volumes named after a domain, and reservations of its derived MAC addresses.

    Returns path → reason of the volumes that stay for other domains.
    """
    volumes, stays = _split_volumes(conn, uuid, users, kept)
    for volume in volumes:
        volume.delete(0)
    for mac, place in _own(list_reservations(conn, derived_macs(uuid)), users).items():
        remove_reservation(conn, mac, place)
    return stays


def _own(
    reservations: Mapping[str, tuple[str, str]], users: FileUsers
) -> dict[str, tuple[str, str]]:
    """Return the reservations, by MAC address, of cards that no other domain has as well."""
    return {mac: place for mac, place in reservations.items() if mac not in users.macs}


def _split_volumes(
    conn: Any, uuid: str, users: FileUsers, kept: Sequence[str]
) -> tuple[list[Any], dict[str, str]]:
    """Return the volumes named after a domain that may be deleted, and path → why others stay.

    Those that are kept as requested are in neither.
    """
    volumes = {volume.path(): volume for volume in list_volumes(conn, uuid)}
    reasons = {path: _reason_to_keep(users, path) for path in volumes if path not in kept}
    stays = {path: reason for path, reason in reasons.items() if reason}
    return [volumes[path] for path in reasons if path not in stays], stays


def undefine(dom: Any, *, keep_nvram: bool = False, keep_tpm: bool = False) -> None:
    """Delete a domain's definition with everything that libvirt stores with it."""
    nvram = libvirt.VIR_DOMAIN_UNDEFINE_NVRAM
    if keep_nvram:
        nvram = libvirt.VIR_DOMAIN_UNDEFINE_KEEP_NVRAM
    # Without either, libvirt does what the definition says; before 8.9 it knows neither.
    tpm = getattr(libvirt, f"VIR_DOMAIN_UNDEFINE_{'KEEP_' if keep_tpm else ''}TPM", 0)
    flags = (
        libvirt.VIR_DOMAIN_UNDEFINE_MANAGED_SAVE
        | libvirt.VIR_DOMAIN_UNDEFINE_SNAPSHOTS_METADATA
        | libvirt.VIR_DOMAIN_UNDEFINE_CHECKPOINTS_METADATA
        | nvram
        | tpm
    )
    try:
        dom.undefineFlags(flags)
    except libvirt.libvirtError as error:
        # A transient domain is gone once it has stopped.
        if not has_error_code(error, "VIR_ERR_NO_DOMAIN"):
            raise
