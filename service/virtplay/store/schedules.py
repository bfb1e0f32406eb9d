"""Store: snapshot schedules as rows."""

from datetime import datetime
from typing import Any, NamedTuple

from tortoise.expressions import F
from tortoise.queryset import QuerySet

from virtplay.errors import ScheduleNotFound
from virtplay.states import SnapshotOrigin, SnapshotStatus
from virtplay.store.models import Snapshot, SnapshotSchedule, Vm


class Prunable(NamedTuple):
    """What pruning asks of a snapshot."""

    id: int
    vm_id: int
    created_at: datetime
    prune_after: datetime | None


async def find_schedule(vm: Vm) -> SnapshotSchedule:
    """The VM's schedule; ScheduleNotFound."""
    schedule = await SnapshotSchedule.get_or_none(vm_id=vm.id)
    if schedule is None:
        raise ScheduleNotFound(f"cannot find a snapshot schedule of VM {vm.ref}")
    return schedule


async def save_schedule(vm: Vm, **values: Any) -> SnapshotSchedule:
    """Make or replace the VM's schedule."""
    schedule = await SnapshotSchedule.get_or_none(vm_id=vm.id) or SnapshotSchedule(vm_id=vm.id)
    for key, value in values.items():
        setattr(schedule, key, value)
    await schedule.save()
    return schedule


async def delete_schedule(vm: Vm) -> None:
    """Delete the VM's schedule; ScheduleNotFound."""
    schedule = await find_schedule(vm)
    await schedule.delete()


async def due_schedules(now: datetime) -> list[SnapshotSchedule]:
    """The enabled schedules whose turn has come."""
    return await SnapshotSchedule.filter(enabled=True, next_at__lte=now).order_by("next_at")


async def claim_turn(schedule: SnapshotSchedule, following: datetime | None) -> bool:
    """Take the turn that has come: True for the one service that moves it on, once."""
    count = await SnapshotSchedule.filter(id=schedule.id, next_at=schedule.next_at).update(
        next_at=following
    )
    return count == 1


async def note_turn(schedule: SnapshotSchedule, **values: Any) -> None:
    """Write what became of a turn; a schedule that is gone meanwhile is let go."""
    await SnapshotSchedule.filter(id=schedule.id).update(**values)


async def list_schedules() -> list[SnapshotSchedule]:
    """Every enabled schedule."""
    return await SnapshotSchedule.filter(enabled=True).order_by("id")


async def scheduled_snapshots() -> list[Prunable]:
    """All snapshots that schedules made, the oldest first."""
    rows = Snapshot.filter(origin=SnapshotOrigin.SCHEDULE, status=SnapshotStatus.READY)
    return await _prunable(rows.order_by("created_at", "id"))


async def expired_snapshots(now: datetime) -> list[Prunable]:
    """Snapshots whose time is over, the oldest first."""
    rows = Snapshot.filter(
        expires_at__lte=now, status__in=(SnapshotStatus.READY, SnapshotStatus.ERROR)
    )
    return await _prunable(rows.order_by("expires_at", "id"))


async def guards_before(moment: datetime) -> list[Prunable]:
    """Guards of this service's restores that were taken before it, the oldest first.

    Those have their id as libvirt's name; one of a restore by hand has another.
    """
    rows = Snapshot.filter(
        **{"origin": SnapshotOrigin.GUARD, "status": SnapshotStatus.READY, "expires_at": None},
        name=F("ref"),
        created_at__lte=moment,
    )
    return await _prunable(rows.order_by("created_at", "id"))


async def _prunable(rows: QuerySet[Snapshot]) -> list[Prunable]:
    # No model of each: there may be tens of thousands, every few seconds.
    return [Prunable(*row) for row in await rows.values_list(*Prunable._fields)]


async def snapshot_to_prune(prunable: Prunable) -> Snapshot | None:
    """Its row, if it is there still."""
    return await Snapshot.get_or_none(id=prunable.id)


async def vm_of(row: SnapshotSchedule | Snapshot) -> Vm | None:
    """The VM that a schedule or snapshot belongs to, if it is there still."""
    return await Vm.get_or_none(id=row.vm_id)


async def put_off(snapshot: Snapshot, until: datetime) -> None:
    """Leave a snapshot that could not be deleted alone for a while."""
    await Snapshot.filter(id=snapshot.id).update(prune_after=until)
