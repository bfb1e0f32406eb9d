# Copyright: Virtplay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Plans the creation, restore and deletion of a snapshot; pure, no I/O.

A plan that is not allowed raises Failure before anything changes. Check mode, diff and the real run
share these plans, so they cannot disagree.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..domain.arguments import WAITING
from ..domain.plan import Applies, Change, Current, refuse_jobs, refuse_saved
from ..domain.xml import list_files, nvram_path, parse_domain, parse_xml, tpm_path
from ..failure import Failure
from ..states import DomainState, TextEnum
from ..units import GIB
from ..values import NEW_SNAPSHOT_NAME
from .qcow2 import Qcow2Image
from .xml import snapshot_domain, snapshot_targets

# libvirt 10.10 is the first with internal snapshots of UEFI guests, whose variables are then in a
# qcow2 image: https://github.com/virt-manager/virt-manager/issues/851
UEFI_VERSION = 10_010_000
# libvirt 9.0 refuses a snapshot of a stopped domain with checkpoints; 11.3 makes it.
CHECKPOINTS_VERSION = 11_003_000
# libvirt 10.10 is the first to let a running QEMU create, load and delete snapshots in jobs whose
# IDs contain the snapshot's name, and QEMU accepts only these characters in an ID.
JOBS_VERSION = 10_010_000
_JOB_NAME = re.compile(r"[A-Za-z0-9._-]+")
_FORMAT_WITH_SNAPSHOTS = "qcow2"
_TEXTS = ("title", "description", "expires_at")


class SnapshotWanted(TextEnum):
    """The states that a caller may request (the module's `state`)."""

    PRESENT = "present"
    ABSENT = "absent"
    RESTORED = "restored"


@dataclass
class SnapshotView:
    """A domain and its snapshots, as plans need them.

    xmls: snapshot name → its XML. images: target of a disk → its image, None if it is not a
    readable qcow2. variables: the same of the UEFI variables, by their path; empty if they are in
    no snapshot. checkpoints: their names. missing: files that the snapshot to restore needs and
    that do not exist. shared: target of a disk → another domain that stands on it.
    """

    current: Current
    libvirt_version: int
    entries: list[dict[str, Any]]
    xmls: Mapping[str, str] = field(default_factory=dict)
    images: Mapping[str, Qcow2Image | None] = field(default_factory=dict)
    variables: Mapping[str, Qcow2Image | None] = field(default_factory=dict)
    checkpoints: Sequence[str] = ()
    missing: Sequence[str] = ()
    shared: Mapping[str, str] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """Return the domain's libvirt name, for messages."""
        return self.current.label

    @property
    def places(self) -> dict[str, Qcow2Image | None]:
        """Return all images that a snapshot is in, by what messages call them."""
        return {
            **{f"disk {target}": image for target, image in self.images.items()},
            **{f"UEFI variables {path}": image for path, image in self.variables.items()},
        }

    @property
    def applies(self) -> Applies:
        """When a change takes effect."""
        return Applies.LIVE if self.current.active else Applies.OFFLINE

    def find(self, name: str) -> dict[str, Any] | None:
        """Return the entry of a snapshot; None if no snapshot has that name."""
        return next((entry for entry in self.entries if entry["name"] == name), None)


# --- arguments --------------------------------------------------------------------------------


def check_new_name(name: str) -> None:
    """Raise Failure (VALIDATION_ERROR) for a name that a new snapshot cannot have.

    Digits alone are not allowed: QEMU first searches a snapshot by its number in the image, and
    would restore another one.
    """
    if not NEW_SNAPSHOT_NAME.allows(name):
        raise Failure(
            f"cannot create snapshot {name!r}: the name {NEW_SNAPSHOT_NAME.sentence}",
            "VALIDATION_ERROR",
        )


# --- obstacles --------------------------------------------------------------------------------


def split_disks(xml: str) -> tuple[list[str], list[str]]:
    """Return the targets of a definition's disks: those in a snapshot, and all others."""
    kept: list[str] = []
    left_out: list[str] = []
    for disk in parse_xml(xml).iterfind("devices/disk"):
        target = _target(disk)
        (kept if _is_writable(disk) else left_out).append(target)
    return kept, left_out


def qcow2_variables(xml: str) -> str | None:
    """Return the path of a definition's UEFI variables if snapshots can include them."""
    nvram = parse_xml(xml).find("os/nvram")
    is_qcow2 = nvram is not None and nvram.get("format") == _FORMAT_WITH_SNAPSHOTS
    return nvram_path(xml) if is_qcow2 else None


def find_obstacles(xml: str, *, active: bool, version: int) -> list[str]:
    """Return why a domain with this definition cannot have internal snapshots; [] if it can.

    version is libvirt's version number; active means that the domain is running or paused.
    """
    root = parse_xml(xml)
    reasons = []
    nvram = root.find("os/nvram")
    raw_variables = nvram is None or nvram.get("format") != _FORMAT_WITH_SNAPSHOTS
    if _has_uefi(root) and (raw_variables or version < UEFI_VERSION):
        # For a stopped domain, libvirt 9.0 creates a snapshot without the variables: a restore
        # would leave the firmware's state as it is, and QEMU could not delete the snapshot live.
        reasons.append(_uefi_obstacle(version))
    disks = root.findall("devices/disk")
    writable = [disk for disk in disks if _is_writable(disk)]
    if not writable:
        reasons.append("it has no writable disk")
    for disk in writable:
        reasons.extend(_disk_obstacles(disk))
    reasons.extend(_shared_images(writable))
    if not active and tpm_path(xml) is not None:
        # With the memory QEMU stores it and brings it back (tried with 9.0, 11.3 and 12.8).
        reasons.append("no snapshot of a stopped domain can include the state of its TPM; start it")
    state = root.find("devices")
    if active and state is not None:
        passed = state.find("hostdev") is not None or any(
            nic.get("type") in {"hostdev", "vdpa"} for nic in state.iterfind("interface")
        )
        if passed:
            reasons.append("a host device is passed through to the guest")
        if state.find("filesystem") is not None:
            reasons.append("it shares a directory with the host")
    return reasons


def _uefi_obstacle(version: int) -> str:
    reason = "no snapshot can include the variables of its UEFI firmware, "
    if version < UEFI_VERSION:
        return f"{reason}which requires libvirt 10.10"
    return (
        f"{reason}which are in a raw file; convert it to qcow2 as the README of the role "
        "libvirt_snapshot shows"
    )


def _has_uefi(root: Any) -> bool:
    loader = root.find("os/loader")
    if loader is not None and loader.get("type") == "rom":
        return False
    system = root.find("os")
    requested = system is not None and system.get("firmware") == "efi"
    return requested or (loader is not None and loader.get("type") == "pflash")


def _target(disk: Any) -> str:
    found = disk.find("target")
    return str(found.get("dev")) if found is not None else "without a target"


def _is_writable(disk: Any) -> bool:
    if disk.get("device", "disk") == "cdrom" or disk.find("readonly") is not None:
        return False
    return disk.find("source") is not None


def _disk_obstacles(disk: Any) -> list[str]:
    name = f"disk {_target(disk)}"
    driver = disk.find("driver")
    kind = driver.get("type") if driver is not None else None
    if disk.get("type", "file") not in {"file", "block", "volume"}:
        return [f"{name} is of type {disk.get('type')}, and not stored on the host itself"]
    if disk.get("device", "disk") == "lun":
        return [f"{name} is a SCSI device of the host (lun)"]
    if kind != _FORMAT_WITH_SNAPSHOTS:
        return [f"{name} is {kind or 'of an unknown format'}, not qcow2"]
    if disk.find("encryption") is not None or disk.find("source/encryption") is not None:
        # qemu-img, which libvirt calls for a stopped domain, has no key.
        return [f"{name} is encrypted"]
    if disk.find("shareable") is not None:
        return [f"{name} is shared with other guests"]
    if disk.find("transient") is not None:
        return [f"{name} is transient"]
    return []


def _shared_images(disks: Sequence[Any]) -> list[str]:
    """Return which disks have one image: it would get every snapshot twice."""
    targets: dict[tuple[str, ...], list[str]] = {}
    for disk in disks:
        source = disk.find("source")
        image = tuple(source.get(key, "") for key in ("file", "dev", "pool", "volume"))
        if any(image):
            targets.setdefault(image, []).append(_target(disk))
    return [
        f"disks {' and '.join(several)} have the same image"
        for several in targets.values()
        if len(several) > 1
    ]


def _refuse(what: str, reasons: Sequence[str]) -> None:
    if reasons:
        raise Failure(f"cannot {what}: {'; '.join(reasons)}", "SNAPSHOT_NOT_POSSIBLE")


def _domain_obstacles(view: SnapshotView) -> list[str]:
    current = view.current
    xml = current.live_xml if current.active else current.config_xml
    reasons = find_obstacles(xml, active=current.active, version=view.libvirt_version)
    reasons += [
        f"disk {target} is not a readable qcow2 that supports snapshots"
        for target in split_disks(xml)[0]
        if view.images.get(target) is None
        and not any(reason.startswith(f"disk {target} ") for reason in reasons)
    ]
    # A file that does not exist is made from its template when the domain starts.
    reasons += [
        f"its UEFI variables {path} are not a readable qcow2 that supports snapshots; start it once"
        for path, image in view.variables.items()
        if image is None
    ]
    if not current.persistent:
        reasons.append("it is transient, and libvirt keeps nothing of it once it has stopped")
    if current.state in (DomainState.SUSPENDED, DomainState.STOPPING, DomainState.CRASHED):
        reasons.append(f"it is {current.state}")
    return reasons


def _bitmap_obstacles(view: SnapshotView) -> list[str]:
    """Return why QEMU would end the domain and then fail to restore a snapshot, if it would."""
    reasons = []
    if view.checkpoints:
        names = ", ".join(sorted(view.checkpoints))
        reasons.append(f"it has checkpoints of a backup ({names}); delete them first")
    bitmaps = [
        f"disk {target} has dirty bitmaps ({', '.join(image.bitmaps)}); remove them first"
        for target, image in view.images.items()
        if image and image.bitmaps
    ]
    # Checkpoints are bitmaps in the images.
    return reasons or bitmaps


# --- create -----------------------------------------------------------------------------------


def plan_creation(
    view: SnapshotView, wanted: Mapping[str, Any], *, known: bool, disks_alone: bool = False
) -> list[Change]:
    """Return the changes of creating a snapshot; [] if it exists already.

    wanted holds name, title, description, origin, expires_at and job. known means that images may
    contain a snapshot of that name, left by an unfinished run. disks_alone means that the memory
    of a saved domain need not be in the snapshot.
    Raises Failure (SNAPSHOT_EXISTS, SNAPSHOT_NOT_POSSIBLE, VALIDATION_ERROR,
    OPERATION_IN_PROGRESS).
    """
    name = wanted["name"]
    present = view.find(name)
    if present is not None:
        if _is_the_one(present, wanted):
            return []
        raise Failure(
            f"cannot create snapshot {name} of {view.label}: another snapshot has that name, "
            f"created {present['created_at']}",
            "SNAPSHOT_EXISTS",
        )
    check_new_name(name)
    doing = f"create snapshot {name} of {view.label}"
    obstacles = _domain_obstacles(view)
    if view.current.saved and not disks_alone:
        obstacles.append("its memory is saved, and no snapshot can include it; start it first")
    if view.checkpoints and not view.current.active and view.libvirt_version < CHECKPOINTS_VERSION:
        obstacles += _bitmap_obstacles(view)
    _refuse(doing, obstacles)
    refuse_jobs(view.current, f"cannot {doing}")
    holders = [place for place, image in view.places.items() if image and image.find(name)]
    if holders and not known:
        raise Failure(
            f"cannot create snapshot {name} of {view.label}: a snapshot of that name that is "
            f"unknown to libvirt is in {', '.join(holders)}",
            "SNAPSHOT_EXISTS",
        )
    return _changes_of_creation(view, wanted)


def _is_the_one(present: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    if wanted.get("job") is not None:
        return bool(present["job"] == wanted["job"])
    given = {key: wanted.get(key) for key in _TEXTS}
    # An empty text counts as none, and the title of a snapshot is its name by default.
    return all(
        value is None or (value or None) == present[key] or (key == "title" and not value)
        for key, value in given.items()
    )


def _changes_of_creation(view: SnapshotView, wanted: Mapping[str, Any]) -> list[Change]:
    name = wanted["name"]
    holds = "disks and memory" if view.current.active else "disks"
    changes = [Change(f"snapshots.{name}", None, holds, view.applies)]
    changes += [
        Change(f"snapshots.{name}.{key}", None, wanted[key], view.applies)
        for key in _TEXTS
        if wanted.get(key)
    ]
    return changes


def entry_to_be(view: SnapshotView, wanted: Mapping[str, Any]) -> dict[str, Any]:
    """Return the entry of a snapshot before its creation; unknown values are None."""
    current = view.current
    parent = next((entry["name"] for entry in view.entries if entry["current"]), None)
    return {
        "name": wanted["name"],
        "title": wanted.get("title") or wanted["name"],
        "description": wanted.get("description") or None,
        "origin": wanted["origin"],
        "expires_at": wanted.get("expires_at"),
        "job": wanted.get("job"),
        "parent": parent,
        "current": True,
        "has_memory": current.active,
        "state": str(current.state) if current.active else "stopped",
        "kind": "internal",
        "size_bytes": None if current.active else 0,
        "frozen": None,
        "created_at": None,
    }


def tree_with(
    entries: Sequence[Mapping[str, Any]], new: Mapping[str, Any] | None, current: str
) -> list[dict[str, Any]]:
    """Return the entries, with the new one unless it is None, and with this current snapshot."""
    tree = [*entries, new] if new is not None else list(entries)
    return [{**entry, "current": entry["name"] == current} for entry in tree]


# --- delete -----------------------------------------------------------------------------------


def plan_deletion(view: SnapshotView, name: str) -> list[Change]:
    """Return the changes of deleting a snapshot; [] if no snapshot has that name.

    Raises Failure (SNAPSHOT_NOT_POSSIBLE).
    """
    entry = view.find(name)
    if entry is None:
        return []
    doing = f"delete snapshot {name} of {view.label}"
    if entry["kind"] == "external":
        _refuse(doing, ["it is external, with its data in separate files; use virsh"])
    if view.current.active and _is_held(view, name):
        # QEMU would fail, but libvirt 9.0 would delete the snapshot from its list all the same.
        _refuse(
            f"{doing} while it is running", [*_domain_obstacles(view), *_name_obstacles(view, name)]
        )
    _refuse(doing, _mistaken(view, name))
    refuse_jobs(view.current, f"cannot {doing}")
    changes = [Change(f"snapshots.{name}", entry["title"], None, view.applies, destroys=True)]
    changes += [
        Change(f"snapshots.{child['name']}.parent", name, entry["parent"], view.applies)
        for child in view.entries
        if child["parent"] == name
    ]
    if entry["current"]:
        changes.append(Change("snapshots.current", name, entry["parent"], view.applies))
    return changes


def tree_without(entries: Sequence[Mapping[str, Any]], name: str) -> list[dict[str, Any]]:
    """Return the entries without one; its parent takes over its children and the current marker."""
    gone = next(entry for entry in entries if entry["name"] == name)
    return [
        {
            **entry,
            "parent": gone["parent"] if entry["parent"] == name else entry["parent"],
            "current": entry["current"] or (gone["current"] and entry["name"] == gone["parent"]),
        }
        for entry in entries
        if entry["name"] != name
    ]


def _is_held(view: SnapshotView, name: str) -> bool:
    return any(image is None or image.find(name) for image in view.places.values())


def _name_obstacles(view: SnapshotView, name: str) -> list[str]:
    """Return why QEMU would refuse a job for this snapshot."""
    if view.libvirt_version < JOBS_VERSION or _JOB_NAME.fullmatch(name):
        return []
    return ["its name has other characters than letters, digits and . _ -, which QEMU refuses"]


def _mistaken(view: SnapshotView, name: str) -> list[str]:
    """Return why QEMU would delete or restore another snapshot, whose number is this name."""
    return [
        f"{place} has another snapshot with that number"
        for place, image in view.places.items()
        if image and any(s.id == name and s.name != name for s in image.snapshots)
    ]


# --- restore ----------------------------------------------------------------------------------


def plan_restore(
    view: SnapshotView,
    name: str,
    *,
    force: bool,
    guard: Mapping[str, Any] | None = None,
    guard_is_made: bool = False,
    resumed: bool = False,
) -> list[Change]:
    """Return the changes of restoring a snapshot; [] if the domain is in that state already.

    guard is the snapshot to create first, as plan_creation's wanted; guard_is_made means that this
    job created it before a crash. resumed means that an earlier run has begun the restore: force
    is not required then, and the restore is never skipped.
    Raises Failure (SNAPSHOT_NOT_FOUND, VM_ALREADY_RUNNING, VM_HAS_SAVED_STATE, SNAPSHOT_EXISTS,
    SNAPSHOT_NOT_POSSIBLE, OPERATION_IN_PROGRESS).
    """
    entry = view.find(name)
    if entry is None:
        raise Failure(f"cannot find snapshot {name!r} of {view.label}", "SNAPSHOT_NOT_FOUND")
    then_xml = snapshot_domain(view.xmls[name])
    then = parse_domain(then_xml) if then_xml else None
    definition = _definition_changes(view, then, name)
    if not resumed and not definition and _is_as_then(view, entry):
        return []
    doing = f"restore {view.label} to snapshot {name}"
    _refuse(doing, [*_restore_obstacles(view, entry, then, name), *_bitmap_obstacles(view)])
    if not resumed:
        refuse_jobs(view.current, f"cannot {doing}")
        if not force:
            if view.current.active:
                raise Failure(
                    f"cannot {doing}: it is {view.current.state}, and the content of its memory "
                    "would be lost; stop it first, or use force",
                    "VM_ALREADY_RUNNING",
                )
            refuse_saved(view.current, f"cannot {doing}", "start it first, or use force")
    changes = []
    if guard is not None and not guard_is_made:
        if guard["name"] == name:
            raise Failure(
                f"cannot guard the restore of {name} by a snapshot of the same name",
                "VALIDATION_ERROR",
            )
        if view.find(guard["name"]) is not None:
            raise Failure(
                f"cannot create snapshot {guard['name']} of {view.label} before the restore: "
                "another snapshot has that name",
                "SNAPSHOT_EXISTS",
            )
        changes += plan_creation(view, guard, known=True, disks_alone=True)
    before = next((e["name"] for e in view.entries if e["current"]), None)
    lost = guard is None
    changes.append(Change("snapshots.current", before, name, view.applies, destroys=lost))
    if view.current.has_managed_save:
        saved = view.current.saved
        changes.append(Change("has_managed_save", True, False, view.applies, destroys=saved))
    if entry["state"] != str(view.current.state):
        changes.append(Change("state", str(view.current.state), entry["state"], view.applies))
    return [*changes, *definition]


def _is_as_then(view: SnapshotView, entry: Mapping[str, Any]) -> bool:
    if view.current.active or view.current.saved or entry["has_memory"] or not entry["current"]:
        return False
    held = [image.find(entry["name"]) if image else None for image in view.places.values()]
    return bool(held) and all(snapshot is not None and snapshot.is_active for snapshot in held)


def _definition_changes(
    view: SnapshotView, then: Mapping[str, Any] | None, name: str
) -> list[Change]:
    """Return what a restore changes besides the content of disks and memory."""
    changes = []
    if then is not None:
        now = view.current.config
        # A snapshot also contains these values.
        changes = [
            Change(key, now[key], then[key], view.applies)
            for key in WAITING
            if now[key] != then[key]
        ]
        cards = [{nic["mac"]: _cable(nic) for nic in d["interfaces"]} for d in (now, then)]
        changes += [
            Change(f"interfaces.{mac}", cards[0].get(mac), cards[1].get(mac), view.applies)
            for mac in dict.fromkeys([*cards[0], *cards[1]])
            if cards[0].get(mac) != cards[1].get(mac)
        ]
    for target, image in view.images.items():
        held = image.find(name) if image else None
        if image and held and held.disk_bytes != image.disk_bytes:
            sizes = (image.disk_bytes / GIB, held.disk_bytes / GIB)
            lost = held.disk_bytes < image.disk_bytes
            changes.append(Change(f"disks.{target}.size", *sizes, view.applies, destroys=lost))
    return changes


def _place(disk: Mapping[str, Any]) -> str | None:
    # A definition names a volume by its pool; only the host knows its path.
    return disk.get("source") or disk["path"]


def _cable(nic: Mapping[str, Any]) -> str:
    return f"{nic['type']} {nic['source']} {nic['model']}"


def _restore_obstacles(
    view: SnapshotView, entry: Mapping[str, Any], then: Mapping[str, Any] | None, name: str
) -> list[str]:
    if entry["kind"] == "external":
        return ["it is external, with its data in separate files; use virsh"]
    reasons = [] if view.current.persistent else ["it is transient"]
    targets = snapshot_targets(view.xmls[name])
    for target in targets:
        image = view.images.get(target)
        if target in view.images and image is not None and image.find(name) is None:
            reasons.append(f"disk {target} does not contain that snapshot any more")
        if image is not None and len([s for s in image.snapshots if s.name == name]) > 1:
            # libvirt adds one to a stopped domain's image whatever is in there, seen from 9.0 to
            # 12.8; QEMU restores the first of that name, and libvirt knows the last.
            reasons.append(
                f"disk {target} contains several snapshots of that name, and QEMU would restore "
                "the oldest; delete that with qemu-img snapshot -d while the VM is stopped"
            )
        if target not in view.images:
            reasons.append(f"disk {target} was detached since")
    reasons += [
        f"its UEFI variables {path} do not contain that snapshot"
        for path, image in view.variables.items()
        if image is None or image.find(name) is None
    ]
    if then is not None:
        places_then = {disk["target"]: _place(disk) for disk in then["disks"]}
        for now in (view.current.config, view.current.live):
            for disk in now["disks"]:
                target = disk["target"]
                if target not in places_then:
                    reasons.append(f"disk {target} was added since, and would be detached")
                elif places_then[target] != _place(disk):
                    reasons.append(f"disk {target} was then in {places_then[target]}")
    reasons += [f"file {path} does not exist any more" for path in view.missing]
    if entry["has_memory"]:
        # QEMU would refuse only after libvirt has ended the guest.
        reasons += _name_obstacles(view, name)
    reasons += [
        f"domain {user} uses disk {target} too, or a disk that is based on it"
        for target, user in view.shared.items()
    ]
    return list(dict.fromkeys([*reasons, *_mistaken(view, name)]))


def files_needed(xml: str) -> list[str]:
    """Return the files that a snapshot's domain needs to start, from the snapshot's XML."""
    domain = snapshot_domain(xml)
    return list_files(domain) if domain else []
