"""API: /vms/{id}/snapshots and /vms/{id}/snapshot-schedule."""

from datetime import UTC, datetime

from virtplay.api.http.envelope import ApiResponse
from virtplay.api.http.requests import ApiRequest
from virtplay.api.schemas.snapshots import (
    AcceptedSnapshotOut,
    KeepBody,
    ScheduleBody,
    ScheduleGone,
    ScheduleOut,
    SkippedOut,
    SnapshotCreate,
    SnapshotList,
    SnapshotOut,
)
from virtplay.settings import Settings
from virtplay.snapshots.requests import AcceptedSnapshot, NewSnapshot, expiry_of
from virtplay.snapshots.schedules import remove_schedule, set_schedule
from virtplay.store import schedules as schedule_store
from virtplay.store import snapshots as store
from virtplay.store.lookup import find_vm
from virtplay.store.models import Snapshot, SnapshotSchedule, Vm
from virtplay.times import time_text


def snapshot_out(settings: Settings, snapshot: Snapshot, refs: dict[str, str]) -> SnapshotOut:
    """Return a snapshot in the format of the API; `refs` maps libvirt's names to ids."""
    return SnapshotOut(
        id=str(snapshot.ref),
        name=snapshot.title,
        description=snapshot.description,
        status=snapshot.status,
        parent=refs.get(snapshot.parent or ""),
        current=snapshot.current,
        hasMemory=snapshot.has_memory,
        size=snapshot.size,
        createdAt=time_text(snapshot.created_at) or "",
        expiresAt=time_text(expiry_of(settings, snapshot)),
        origin=snapshot.origin,
        restoresTo=snapshot.power or None,
        frozen=snapshot.frozen,
        error=snapshot.error,
    )


async def _snapshots_out(settings: Settings, vm: Vm) -> list[SnapshotOut]:
    snapshots = await store.list_snapshots(vm)
    refs = {snapshot.name: str(snapshot.ref) for snapshot in snapshots}
    return [snapshot_out(settings, snapshot, refs) for snapshot in snapshots]


def accepted(what: AcceptedSnapshot) -> ApiResponse:
    """Return the response 202 of an accepted request."""
    data = AcceptedSnapshotOut(
        id=str(what.snapshot.ref),
        vmId=str(what.vm.ref),
        name=what.snapshot.title,
        status=what.snapshot.status,
        progress=what.job.progress,
        jobId=str(what.job.ref),
    )
    location = f"/api/v1/jobs/{what.job.ref}"
    return ApiResponse(data.model_dump(mode="json"), 202, {"Location": location})


async def list_snapshots(request: ApiRequest) -> ApiResponse:
    """GET /vms/{id}/snapshots."""
    vm = await find_vm(request.path["id"])
    return ApiResponse(
        SnapshotList(snapshots=await _snapshots_out(request.services.settings, vm)).model_dump(
            mode="json"
        )
    )


async def get_snapshot(request: ApiRequest) -> ApiResponse:
    """GET /vms/{id}/snapshots/{sid}."""
    vm = await find_vm(request.path["id"])
    snapshot = await store.find_snapshot(vm, request.path["sid"])
    shown = next(
        s for s in await _snapshots_out(request.services.settings, vm) if s.id == snapshot.ref
    )
    return ApiResponse(shown.model_dump(mode="json"))


async def create_snapshot(request: ApiRequest) -> ApiResponse:
    """POST /vms/{id}/snapshots."""
    body: SnapshotCreate = request.body
    new = NewSnapshot(
        title=body.name,
        description=body.description,
        expires_at=datetime.fromisoformat(body.expiresAt).astimezone(UTC)
        if body.expiresAt
        else None,
        freeze=body.freeze,
    )
    return accepted(
        await request.services.snapshots.create(request.caller, request.path["id"], new)
    )


async def restore_snapshot(request: ApiRequest) -> ApiResponse:
    """POST /vms/{id}/snapshots/{sid}/restore."""
    return accepted(
        await request.services.snapshots.restore(
            request.caller,
            request.path["id"],
            request.path["sid"],
            force=request.body.force,
            guard=request.body.guard,
        )
    )


async def delete_snapshot(request: ApiRequest) -> ApiResponse:
    """DELETE /vms/{id}/snapshots/{sid}."""
    snapshots = request.services.snapshots
    return accepted(await snapshots.delete(request.caller, request.path["id"], request.path["sid"]))


def schedule_out(vm: Vm, schedule: SnapshotSchedule) -> ScheduleOut:
    """Return a snapshot schedule in the format of the API."""
    skipped = None
    if schedule.skipped_at is not None:
        skipped = SkippedOut(
            at=time_text(schedule.skipped_at) or "", reason=schedule.skipped_because
        )
    return ScheduleOut(
        vmId=str(vm.ref),
        cron=schedule.cron,
        timezone=schedule.timezone,
        keep=KeepBody(**schedule.keep),
        enabled=schedule.enabled,
        nextAt=time_text(schedule.next_at),
        lastAt=time_text(schedule.last_at),
        lastJobId=schedule.last_job,
        skipped=skipped,
    )


async def get_schedule(request: ApiRequest) -> ApiResponse:
    """GET /vms/{id}/snapshot-schedule."""
    vm = await find_vm(request.path["id"])
    schedule = await schedule_store.find_schedule(vm)
    return ApiResponse(schedule_out(vm, schedule).model_dump(mode="json"))


async def put_schedule(request: ApiRequest) -> ApiResponse:
    """PUT /vms/{id}/snapshot-schedule."""
    body: ScheduleBody = request.body
    vm, schedule = await set_schedule(
        request.caller,
        request.path["id"],
        cron=body.cron,
        timezone=body.timezone,
        retention=body.keep.as_retention(),
        enabled=body.enabled,
    )
    return ApiResponse(schedule_out(vm, schedule).model_dump(mode="json"))


async def delete_schedule(request: ApiRequest) -> ApiResponse:
    """DELETE /vms/{id}/snapshot-schedule."""
    vm = await remove_schedule(request.caller, request.path["id"])
    return ApiResponse(ScheduleGone(vmId=str(vm.ref)).model_dump(mode="json"))
