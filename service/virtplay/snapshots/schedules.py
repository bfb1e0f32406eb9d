"""Creates and prunes snapshots by the VMs' schedules, with the same jobs as requests."""

import asyncio
import contextlib
import logging
import secrets
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

from virtplay.errors import ValidationFailed, VirtplayError
from virtplay.jobs.submission import Caller
from virtplay.settings import Settings
from virtplay.snapshots.requests import NewSnapshot, Snapshots
from virtplay.snapshots.retention import Retention, choose_expendable, next_turn, read_timezone
from virtplay.states import JobOrigin, SnapshotOrigin
from virtplay.store import schedules as store
from virtplay.store.database import transaction
from virtplay.store.jobs import count_unfinished, unfinished_job, write_audit
from virtplay.store.lookup import find_vm
from virtplay.store.models import SnapshotSchedule, Vm
from virtplay.times import time_text

log = logging.getLogger("virtplay.snapshots.schedules")

NAME = "snapshot schedule"
ROUND_SECONDS = 5.0
PRUNE_EVERY = timedelta(seconds=10)
LATE = timedelta(minutes=30)
"""A turn that is overdue for longer is skipped."""
LATE_REASON = "no service was running when it was due, or too many jobs were ahead of it"


def this_caller() -> Caller:
    """Return the caller of the schedules' jobs."""
    request_id = secrets.token_hex(8)
    return Caller(NAME, token_id=0, request_id=request_id, address="", origin=JobOrigin.SCHEDULE)


async def set_schedule(
    caller: Caller, ref: str, *, cron: list[str], timezone: str, retention: Retention, enabled: bool
) -> tuple[Vm, SnapshotSchedule]:
    """Create or replace a VM's schedule; raise ValidationFailed if no date ever matches it."""
    following = next_turn(cron, read_timezone(timezone), datetime.now(UTC))
    if following is None:
        message = "no date ever matches the cron expression"
        raise ValidationFailed(
            f"cannot set the snapshot schedule of VM {ref}: {message}",
            [{"field": "cron", "message": message}],
        )
    async with transaction():
        vm = await find_vm(ref, lock=True)
        schedule = await store.save_schedule(
            vm,
            cron=cron,
            timezone=timezone,
            keep=asdict(retention),
            enabled=enabled,
            next_at=following if enabled else None,
            updated_at=datetime.now(UTC),
        )
        await _audit(caller, "snapshot_schedule_set", vm)
    return vm, schedule


async def remove_schedule(caller: Caller, ref: str) -> Vm:
    """Delete a VM's schedule; the snapshots that it created are kept."""
    async with transaction():
        vm = await find_vm(ref, lock=True)
        await store.delete_schedule(vm)
        await _audit(caller, "snapshot_schedule_deleted", vm)
    return vm


async def _audit(caller: Caller, action: str, vm: Vm) -> None:
    await write_audit(
        actor=caller.name,
        action=action,
        vm_ref=vm.ref,
        address=caller.address,
        request_id=caller.request_id,
    )


class Scheduler:
    """Creates the snapshots that are due, and deletes those that are expired or not kept."""

    def __init__(self, snapshots: Snapshots, settings: Settings) -> None:
        self._snapshots = snapshots
        self._guard_retention = timedelta(days=settings.guard_retention_days)
        self._at_once = max(1, settings.job_workers // 2)
        """Limit of unfinished jobs: they hold their VMs while they wait, and delay users' jobs."""
        self._stopping = asyncio.Event()

    async def run(self) -> None:
        """Take due turns and prune every few seconds, until stopped."""
        prune_at = datetime.now(UTC)
        while not self._stopping.is_set():
            now = datetime.now(UTC)
            await self.take_turns(now)
            if now >= prune_at:
                await self.prune(now)
                prune_at = now + PRUNE_EVERY
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), ROUND_SECONDS)

    def stop(self) -> None:
        """Stop after the current round."""
        self._stopping.set()

    async def take_turns(self, now: datetime) -> None:
        """Submit a snapshot for every schedule that is due, or record why not."""
        for schedule in await store.due_schedules(now):
            if await self._room() == 0:
                return  # the turn stays due
            try:
                zone = read_timezone(schedule.timezone)
                following = next_turn(schedule.cron, zone, now)
            except ValueError as error:
                await self._end(schedule, str(error))
            else:
                await self._take_turn(schedule, now, zone, following)

    async def prune(self, now: datetime) -> None:
        """Submit the deletion of one expendable snapshot of each idle VM."""
        for vm_id, snapshot in (await self._expendable(now)).items():
            if await self._room() == 0:
                return
            await self._delete(vm_id, snapshot, now)

    async def _room(self) -> int:
        """Return how many more jobs may be submitted now."""
        return max(0, self._at_once - await count_unfinished(JobOrigin.SCHEDULE))

    async def _end(self, schedule: SnapshotSchedule, reason: str) -> None:
        """Stop a schedule that cannot be read, so that it does not block the others."""
        vm, turn = await store.vm_of(schedule), schedule.next_at
        if await store.claim_turn(schedule, None) and vm is not None and turn is not None:
            await self._skip(schedule, vm, turn, reason)

    async def _take_turn(
        self, schedule: SnapshotSchedule, now: datetime, zone: ZoneInfo, following: datetime | None
    ) -> None:
        turn = schedule.next_at
        assert turn is not None
        if not await store.claim_turn(schedule, following):
            return  # another service has taken the turn
        vm = await store.vm_of(schedule)
        if vm is None:
            return
        if now - turn > LATE:
            await self._skip(schedule, vm, turn, LATE_REASON)
            return
        title = f"scheduled {turn.astimezone(zone):%Y-%m-%d %H:%M}"
        new = NewSnapshot(title=title, origin=SnapshotOrigin.SCHEDULE)
        try:
            accepted = await self._snapshots.create(this_caller(), str(vm.ref), new)
        except VirtplayError as error:
            # Skipped, not postponed: turns must not pile up for a busy VM.
            await self._skip(schedule, vm, turn, error.message)
            return
        await store.note_turn(schedule, last_at=turn, last_job=accepted.job.ref)

    async def _skip(self, schedule: SnapshotSchedule, vm: Vm, turn: datetime, reason: str) -> None:
        log.warning("VM %s: skipped the snapshot due at %s: %s", vm.ref, time_text(turn), reason)
        await store.note_turn(schedule, skipped_at=turn, skipped_because=reason)
        await _audit(this_caller(), "snapshot_turn_skipped", vm)

    async def _expendable(self, now: datetime) -> dict[int, store.Prunable]:
        """Return VM number → one snapshot to delete now, as a VM has one job at a time."""
        expired = await store.expired_snapshots(now)
        guards = await store.guards_before(now - self._guard_retention)
        scheduled = await store.scheduled_snapshots()
        schedules = await store.list_schedules()
        # In a thread: sorting tens of thousands must not delay requests.
        unkept = await asyncio.to_thread(_choose_unkept, scheduled, schedules)
        found: dict[int, store.Prunable] = {}
        for snapshot in (*expired, *guards, *unkept):
            waits = snapshot.prune_after is not None and snapshot.prune_after > now
            if not waits:
                found.setdefault(snapshot.vm_id, snapshot)
        return found

    async def _delete(self, vm_id: int, prunable: store.Prunable, now: datetime) -> None:
        snapshot = await store.snapshot_to_prune(prunable)
        vm = await store.vm_of(snapshot) if snapshot else None
        if snapshot is None or vm is None or await unfinished_job(vm_id) is not None:
            return  # the next round tries again
        try:
            _ = await self._snapshots.delete(this_caller(), str(vm.ref), str(snapshot.ref))
        except VirtplayError as error:
            log.warning("VM %s: kept snapshot %s for now: %s", vm.ref, snapshot.ref, error.message)
            await store.put_off(snapshot, now + LATE)


def _choose_unkept(
    snapshots: Iterable[store.Prunable], schedules: Iterable[SnapshotSchedule]
) -> list[store.Prunable]:
    """Return the schedules' snapshots that their schedules do not keep."""
    snapshots_of: dict[int, list[store.Prunable]] = defaultdict(list)
    for snapshot in snapshots:
        snapshots_of[snapshot.vm_id].append(snapshot)
    unkept = []
    for schedule in schedules:
        try:
            zone = read_timezone(schedule.timezone)
        except ValueError:
            continue  # its next turn reports the error
        retention = Retention(**schedule.keep)
        snapshots_of_vm = snapshots_of[schedule.vm_id]
        unkept += choose_expendable(snapshots_of_vm, _created_at, retention, zone)
    return unkept


def _created_at(snapshot: store.Prunable) -> datetime:
    return snapshot.created_at
