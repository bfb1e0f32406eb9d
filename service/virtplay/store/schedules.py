"""Store: snapshot schedules as rows."""

from datetime import datetime
from typing import Any, NamedTuple

from tortoise.expressions import F
from tortoise.queryset import QuerySet

from virtplay.errors import ScheduleNotFound
from virtplay.states import SnapshotOrigin, SnapshotStatus
from virtplay.store.database import moment_of, select
from virtplay.store.models import Snapshot, SnapshotSchedule, Vm


class Prunable(NamedTuple):
    """The columns of a snapshot that pruning needs."""

    id: int
    vm_id: int
    created_at: datetime
    prune_after: datetime | None


class ScheduleState(NamedTuple):
    """How the last turns of an enabled schedule ended."""

    host: str
    """Empty until the VM has one."""
    uuid: str
    vm: str
    """The VM's public id."""
    name: str
    managed: bool
    """False only when its domain is known to have none of our metadata."""
    last_at: datetime | None
    skipped_at: datetime | None
    job_status: str
    """Of the last turn's job; empty when there is none any more."""


async def find_schedule(vm: Vm) -> SnapshotSchedule:
    """Return the VM's schedule; raise ScheduleNotFound."""
    schedule = await SnapshotSchedule.get_or_none(vm_id=vm.id)
    if schedule is None:
        raise ScheduleNotFound(f"cannot find a snapshot schedule of VM {vm.label}")
    return schedule


async def save_schedule(vm: Vm, **values: Any) -> SnapshotSchedule:
    """Create or replace the VM's schedule."""
    schedule = await SnapshotSchedule.get_or_none(vm_id=vm.id) or SnapshotSchedule(vm_id=vm.id)
    for key, value in values.items():
        setattr(schedule, key, value)
    await schedule.save()
    return schedule


async def delete_schedule(vm: Vm) -> None:
    """Delete the VM's schedule; raise ScheduleNotFound."""
    schedule = await find_schedule(vm)
    await schedule.delete()


async def due_schedules(now: datetime) -> list[SnapshotSchedule]:
    """Return the enabled schedules whose next turn is due."""
    return await SnapshotSchedule.filter(enabled=True, next_at__lte=now).order_by("next_at")


async def claim_turn(schedule: SnapshotSchedule, following: datetime | None) -> bool:
    """Set a due schedule's next turn; return True to only one of several services."""
    count = await SnapshotSchedule.filter(id=schedule.id, next_at=schedule.next_at).update(
        next_at=following
    )
    return count == 1


async def note_turn(schedule: SnapshotSchedule, **values: Any) -> None:
    """Write the outcome of a turn, unless the schedule was deleted meanwhile."""
    await SnapshotSchedule.filter(id=schedule.id).update(**values)


async def list_schedules() -> list[SnapshotSchedule]:
    """Return every enabled schedule."""
    return await SnapshotSchedule.filter(enabled=True).order_by("id")


async def schedule_states() -> list[ScheduleState]:
    """Return the state of each enabled schedule."""
    rows = await select(
        "SELECT v.host, v.uuid, v.ref, v.name, COALESCE(v.managed, TRUE),"
        " s.last_at, s.skipped_at, j.status"
        " FROM snapshot_schedule s JOIN vm v ON v.id = s.vm_id"
        " LEFT JOIN job j ON j.ref = s.last_job WHERE s.enabled ORDER BY s.id"
    )
    return [
        ScheduleState(
            host or "",
            str(identity),
            vm,
            name,
            bool(managed),
            moment_of(last),
            moment_of(skipped),
            status or "",
        )
        for host, identity, vm, name, managed, last, skipped, status in rows
    ]


async def scheduled_snapshots() -> list[Prunable]:
    """Return all snapshots that schedules created, the oldest first."""
    rows = Snapshot.filter(origin=SnapshotOrigin.SCHEDULE, status=SnapshotStatus.READY)
    return await _prunable(rows.order_by("created_at", "id"))


async def expired_snapshots(now: datetime) -> list[Prunable]:
    """Return the snapshots that have expired, the oldest first."""
    rows = Snapshot.filter(
        expires_at__lte=now, status__in=(SnapshotStatus.READY, SnapshotStatus.ERROR)
    )
    return await _prunable(rows.order_by("expires_at", "id"))


async def guards_before(moment: datetime) -> list[Prunable]:
    """Return the guards that this service created before `moment`, the oldest first.

    Their libvirt name is their id; the guard of a restore from a shell has another name.
    """
    rows = Snapshot.filter(
        **{"origin": SnapshotOrigin.GUARD, "status": SnapshotStatus.READY, "expires_at": None},
        name=F("ref"),
        created_at__lte=moment,
    )
    return await _prunable(rows.order_by("created_at", "id"))


async def _prunable(rows: QuerySet[Snapshot]) -> list[Prunable]:
    # Tuples, not models: there may be tens of thousands, every few seconds.
    return [Prunable(*row) for row in await rows.values_list(*Prunable._fields)]


async def snapshot_to_prune(prunable: Prunable) -> Snapshot | None:
    """Return the row of a snapshot to prune, if it still exists."""
    return await Snapshot.get_or_none(id=prunable.id)


async def vm_of(row: SnapshotSchedule | Snapshot) -> Vm | None:
    """Return the VM that a schedule or snapshot belongs to, if it still exists."""
    return await Vm.get_or_none(id=row.vm_id)


async def put_off(snapshot: Snapshot, until: datetime) -> None:
    """Exclude a snapshot that could not be deleted from pruning until then."""
    await Snapshot.filter(id=snapshot.id).update(prune_after=until)
