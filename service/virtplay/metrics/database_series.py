"""What the database knows as Prometheus text: queue, backup, VMs, schedules, tokens."""

import asyncio
import contextlib
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

from virtplay.metrics.exposition import render_text
from virtplay.metrics.families import DATABASE_FAMILIES
from virtplay.metrics.host_series import Values, label_value, managed_label
from virtplay.states import JobStatus, VmStatus
from virtplay.store import jobs, schedules, snapshots, tokens, vm_list, vms

ERRORS_MAX = 1000
"""Most VMs in error that have a series each; their number has one of its own."""
EXPIRED = timedelta(days=7)
"""How long the series of an expired token stay."""
FAILED = (JobStatus.FAILED, JobStatus.CANCELLED, JobStatus.LOST)


class _Rows(NamedTuple):
    """What is read of the database."""

    queue: tuple[int, float]
    last_lost: datetime | None
    vms: dict[str, int]
    in_error: list[vms.VmInError]
    snapshots: dict[tuple[str, str], int]
    schedules: list[schedules.ScheduleState]
    tokens: list[tokens.ExpiringToken]


async def database_text(last_backup: Path) -> bytes:
    """Return the series of the database now; raise DatabaseError or OSError if it is away.

    The file `last_backup` is as old as the last backup.
    """
    rows = _Rows(
        await jobs.queue_state(),
        await jobs.last_lost(),
        await vm_list.count_by_status(),
        await vms.vms_in_error(ERRORS_MAX),
        await snapshots.count_snapshots(),
        await schedules.schedule_states(),
        await tokens.expiring_tokens(),
    )
    # A schedule for each of thousands of VMs would hold the loop.
    return await asyncio.to_thread(_describe, rows, last_backup)


def _describe(rows: _Rows, last_backup: Path) -> bytes:
    values: Values = {}
    with contextlib.suppress(FileNotFoundError):
        saved = last_backup.stat().st_mtime
        values["virtplay_database_backup_last_timestamp_seconds"] = {(): saved}
    length, oldest = rows.queue
    values["virtplay_job_queue_length"] = {(): length}
    values["virtplay_job_queue_oldest_seconds"] = {(): oldest}
    if rows.last_lost is not None:
        values["virtplay_job_last_lost_timestamp_seconds"] = {(): rows.last_lost.timestamp()}
    values["virtplay_vms"] = {(status,): rows.vms.get(status, 0) for status in VmStatus}
    values["virtplay_vm_error"] = {
        (*_alerted_vm(vm), label_value(vm.code)): 1 for vm in rows.in_error
    }
    values["virtplay_snapshots"] = {
        (origin, status): number for (origin, status), number in rows.snapshots.items()
    }
    values["virtplay_snapshot_schedule_failed"] = {
        _alerted_vm(state): float(_has_failed(state)) for state in rows.schedules
    }
    values["virtplay_snapshot_schedule_last_turn_timestamp_seconds"] = {
        (state.host, state.uuid, state.vm): state.last_at.timestamp()
        for state in rows.schedules
        if state.last_at is not None
    }
    now = datetime.now(UTC)
    expiring = [token for token in rows.tokens if now - token.expires_at < EXPIRED]
    for metric, moment in (
        ("virtplay_token_created_timestamp_seconds", "created_at"),
        ("virtplay_token_expires_timestamp_seconds", "expires_at"),
    ):
        values[metric] = {
            (label_value(token.name), token.role): getattr(token, moment).timestamp()
            for token in expiring
        }
    return render_text(DATABASE_FAMILIES, values)


def _alerted_vm(row: vms.VmInError | schedules.ScheduleState) -> tuple[str, ...]:
    """Return the labels of ALERTED_VM."""
    managed = managed_label(managed=row.managed)
    return row.host, row.uuid, row.vm, label_value(row.name), managed


def _has_failed(state: schedules.ScheduleState) -> bool:
    """Whether the last turn of a schedule was skipped, or its job failed."""
    if state.skipped_at is not None and (state.last_at is None or state.skipped_at > state.last_at):
        return True
    return state.job_status in FAILED
