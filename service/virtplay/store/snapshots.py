"""Store: snapshots as rows."""

import logging
import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

from virtplay.errors import SnapshotNotFound
from virtplay.states import SnapshotOrigin, SnapshotStatus
from virtplay.store.database import fit, select, skip_numbers
from virtplay.store.models import Snapshot, Vm

REF = re.compile(r"snap-(\d{3,9})")
NAME_MAX = 255

log = logging.getLogger("virtplay.store.snapshots")


def snapshot_ref(number: int) -> str:
    """Return the public id of a snapshot, such as snap-001."""
    return f"snap-{number:03d}"


async def create_snapshot(
    vm: Vm, number: int | None = None, name: str | None = None, **values: Any
) -> Snapshot:
    """Insert a snapshot with the next public id, or with `number` from its name on the host.

    `name` is libvirt's name of a snapshot that exists; a new snapshot's name is its id.
    """
    if number is not None:
        values["id"] = number
    while True:
        snapshot = Snapshot(vm_id=vm.id, name=name or "", **fit(Snapshot, values))
        await snapshot.save(force_create=True)
        if name or not await Snapshot.exists(vm_id=vm.id, name=snapshot_ref(snapshot.id)):
            break
        await snapshot.delete()  # virsh has created one of this name: use the next number
    if number is not None:
        await skip_numbers("snapshot", number)
    snapshot.ref = snapshot_ref(snapshot.id)
    snapshot.name = name or snapshot.ref
    await snapshot.save(update_fields=["ref", "name"])
    return snapshot


async def save_snapshot(snapshot: Snapshot, **values: Any) -> None:
    """Write the values that differ from the row's."""
    fitting = fit(Snapshot, values)
    changed = {key: value for key, value in fitting.items() if getattr(snapshot, key) != value}
    for key, value in changed.items():
        setattr(snapshot, key, value)
    if changed:
        await snapshot.save(update_fields=[*changed])


async def find_snapshot(vm: Vm, ref: str) -> Snapshot:
    """Return the snapshot of `vm` with public id `ref`; raise SnapshotNotFound."""
    snapshot = await Snapshot.get_or_none(vm_id=vm.id, ref=ref) if REF.fullmatch(ref) else None
    if snapshot is None:
        raise SnapshotNotFound(f"cannot find snapshot {ref[:64]} of VM {vm.label}")
    return snapshot


async def snapshot_of_job(vm: Vm, ref: str | None) -> Snapshot | None:
    """Return the snapshot of a job of `vm`, if it still exists."""
    return await Snapshot.get_or_none(vm_id=vm.id, ref=ref) if ref else None


async def delete_snapshot(snapshot: Snapshot) -> None:
    """Delete the row of a snapshot."""
    await snapshot.delete()


async def delete_guard(vm: Vm) -> None:
    """Delete the row of a guard whose restore did not succeed."""
    await Snapshot.filter(
        vm_id=vm.id, origin=SnapshotOrigin.GUARD, status=SnapshotStatus.CREATING
    ).delete()


async def list_snapshots(vm: Vm) -> list[Snapshot]:
    """Return the VM's snapshots, the oldest first."""
    return await Snapshot.filter(vm_id=vm.id).order_by("created_at", "id")


async def snapshots_of(vm_ids: Iterable[int]) -> dict[int, list[Snapshot]]:
    """Return VM number → rows of its snapshots; a VM without snapshots is absent."""
    found: dict[int, list[Snapshot]] = {}
    for row in await Snapshot.filter(vm_id__in=list(vm_ids)):
        found.setdefault(row.vm_id, []).append(row)
    return found


async def count_snapshots() -> dict[tuple[str, str], int]:
    """Return (origin, status) → number of snapshots."""
    rows = await select("SELECT origin, status, COUNT(*) FROM snapshot GROUP BY origin, status")
    return {(origin, status): int(number) for origin, status, number in rows}


async def follow_snapshots(
    vm: Vm, entries: Iterable[Mapping[str, Any]], rows: Iterable[Snapshot]
) -> None:
    """Update `rows`, all snapshots of an idle VM, to the entries that its host reports.

    A snapshot that could not be created has no entry; its row stays until it is deleted.
    """
    known = {row.name: row for row in rows}
    for entry in entries:
        name = str(entry["name"])
        if len(name) > NAME_MAX:
            log.warning("VM %s: skipped a snapshot with an overlong name", vm.ref)
            continue
        values = _observed_values(entry)
        row = known.pop(name, None)
        if row is None:
            number = await _free_number(entry)
            row = await create_snapshot(vm, number, name, **values)
        if row.status == SnapshotStatus.ERROR:
            values["error"] = None
        await save_snapshot(row, **values)
    for row in known.values():
        if row.status != SnapshotStatus.ERROR:
            await row.delete()


async def _free_number(entry: Mapping[str, Any]) -> int | None:
    """Return the number in a name of ours (snap-007 → 7), if no row has that number."""
    match = REF.fullmatch(str(entry["name"]))
    if match is None or entry.get("origin") == SnapshotOrigin.FOUND:
        return None
    number = int(match[1])
    return None if not number or await Snapshot.exists(id=number) else number


def _observed_values(entry: Mapping[str, Any]) -> dict[str, Any]:
    """Return the columns of a snapshot from its host's entry."""
    values = {
        "title": str(entry.get("title") or entry["name"])[:NAME_MAX],
        "description": entry.get("description") or "",
        "origin": _origin(entry.get("origin")),
        "status": SnapshotStatus.READY,
        "parent": entry.get("parent"),
        "current": bool(entry.get("current")),
        "has_memory": bool(entry.get("has_memory")),
        "power": str(entry.get("state") or ""),
        "frozen": entry.get("frozen"),
        "size": entry.get("size_bytes"),
        "expires_at": _time(entry.get("expires_at")),
    }
    if created := _time(entry.get("created_at")):
        values["created_at"] = created
    return values


def _origin(text: str | None) -> SnapshotOrigin:
    return SnapshotOrigin(text) if text in set(SnapshotOrigin) else SnapshotOrigin.FOUND


def _time(text: str | None) -> datetime | None:
    """Read a time in a host's text; None if invalid, as users can edit it on the host."""
    try:
        return datetime.fromisoformat(text).astimezone(UTC) if text else None
    except (ValueError, OverflowError):
        return None
