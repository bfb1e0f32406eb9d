"""Store: snapshots as rows."""

import logging
import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

from tortoise import Tortoise

from virtplay.errors import SnapshotNotFound
from virtplay.states import SnapshotOrigin, SnapshotStatus
from virtplay.store.database import is_sqlite
from virtplay.store.models import Snapshot, Vm

REF = re.compile(r"snap-(\d{3,9})")
NAME_MAX = 255

log = logging.getLogger("virtplay.store.snapshots")


def snapshot_ref(number: int) -> str:
    """The public id of a snapshot, snap-001."""
    return f"snap-{number:03d}"


async def create_snapshot(
    vm: Vm, number: int | None = None, name: str | None = None, **values: Any
) -> Snapshot:
    """Insert a snapshot with the next public id, or with `number` if its host's name has it.

    `name` is libvirt's name of one that is there already; a new one gets its id as its name.
    """
    if number is not None:
        values["id"] = number
    while True:
        snapshot = Snapshot(vm_id=vm.id, name=name or "", **values)
        await snapshot.save(force_create=True)
        if name or not await Snapshot.exists(vm_id=vm.id, name=snapshot_ref(snapshot.id)):
            break
        await snapshot.delete()  # someone has made one of this name with virsh: the next number
    if number is not None and not is_sqlite():
        await Tortoise.get_connection("default").execute_query(
            "SELECT setval(pg_get_serial_sequence('snapshot', 'id'),"
            " (SELECT max(id) FROM snapshot))"
        )
    snapshot.ref = snapshot_ref(snapshot.id)
    snapshot.name = name or snapshot.ref
    await snapshot.save(update_fields=["ref", "name"])
    return snapshot


async def save_snapshot(snapshot: Snapshot, **values: Any) -> None:
    """Write what differs."""
    changed = {key: value for key, value in values.items() if getattr(snapshot, key) != value}
    for key, value in changed.items():
        setattr(snapshot, key, value)
    if changed:
        await snapshot.save(update_fields=[*changed])


async def find_snapshot(vm: Vm, ref: str) -> Snapshot:
    """The snapshot of `vm` with public id `ref`; SnapshotNotFound."""
    snapshot = await Snapshot.get_or_none(vm_id=vm.id, ref=ref) if REF.fullmatch(ref) else None
    if snapshot is None:
        raise SnapshotNotFound(f"cannot find snapshot {ref[:64]} of VM {vm.ref}")
    return snapshot


async def snapshot_of_job(vm: Vm, ref: str | None) -> Snapshot | None:
    """The snapshot that a job of `vm` is about, if it is there still."""
    return await Snapshot.get_or_none(vm_id=vm.id, ref=ref) if ref else None


async def delete_snapshot(snapshot: Snapshot) -> None:
    """Delete the row of a snapshot."""
    await snapshot.delete()


async def delete_guard(vm: Vm) -> None:
    """Delete the row of a guard whose restore did not get to its end."""
    await Snapshot.filter(
        vm_id=vm.id, origin=SnapshotOrigin.GUARD, status=SnapshotStatus.CREATING
    ).delete()


async def list_snapshots(vm: Vm) -> list[Snapshot]:
    """The VM's snapshots, the oldest first."""
    return await Snapshot.filter(vm_id=vm.id).order_by("created_at", "id")


async def snapshots_of(vm_ids: Iterable[int]) -> dict[int, list[Snapshot]]:
    """VM number → the rows of its snapshots; a VM without any is absent."""
    found: dict[int, list[Snapshot]] = {}
    for row in await Snapshot.filter(vm_id__in=list(vm_ids)):
        found.setdefault(row.vm_id, []).append(row)
    return found


async def follow_snapshots(
    vm: Vm, entries: Iterable[Mapping[str, Any]], rows: Iterable[Snapshot]
) -> None:
    """Make `rows`, all of an idle VM's snapshots, what its host shows of them.

    One that could not be made, and so never was on the host, stays until it is deleted.
    """
    known = {row.name: row for row in rows}
    for entry in entries:
        name = str(entry["name"])
        if len(name) > NAME_MAX:
            log.warning("VM %s has a snapshot whose name is too long to show", vm.ref)
            continue
        values = _seen_values(entry)
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
    """The number in the name of a snapshot of ours (snap-007 → 7) that an earlier database knew."""
    match = REF.fullmatch(str(entry["name"]))
    if match is None or entry.get("origin") == SnapshotOrigin.FOUND:
        return None
    number = int(match[1])
    return None if not number or await Snapshot.exists(id=number) else number


def _seen_values(entry: Mapping[str, Any]) -> dict[str, Any]:
    """The columns of a snapshot that its host's entry gives."""
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
    """The moment in a host's text; None for one that is none, as anybody may edit it there."""
    try:
        return datetime.fromisoformat(text).astimezone(UTC) if text else None
    except (ValueError, OverflowError):
        return None
