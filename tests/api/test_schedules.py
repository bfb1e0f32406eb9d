"""API tests: snapshot schedules: their turns, what they prune, and what expires."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from virtplay.snapshots import schedules
from virtplay.snapshots.schedules import LATE, LATE_REASON, NAME, Scheduler
from virtplay.states import SAVED, DomainState, HostStatus, JobStatus, SnapshotStatus, VmStatus
from virtplay.store.models import AuditEntry, Job, Snapshot, SnapshotSchedule, Vm

from tests.api.conftest import Service, only_sqlite
from tests.api.fake_hosts import snapshot_entry
from tests.api.test_snapshots import (
    FAULT,
    add_snapshot,
    end,
    listed,
    put_snapshot,
)
from tests.api.test_vms import add_vm, put_vm

HOURLY: dict[str, Any] = {"cron": ["0 * * * *"], "keep": {"hourly": 2}}
NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)


async def put(service: Service, vm: str = "vm-001", **values: Any) -> Any:
    """`data` of an accepted PUT of a VM's schedule."""
    answer = await service.client.put(
        f"/api/v1/vms/{vm}/snapshot-schedule", json={**HOURLY, **values}
    )
    assert answer.status_code == 200, answer.text
    return answer.json()["data"]


async def show(service: Service, vm: str = "vm-001") -> Any:
    """The schedule as the API shows it."""
    return await service.get(f"/vms/{vm}/snapshot-schedule")


def scheduler(service: Service) -> Scheduler:
    """A scheduler that takes turns when the test wants; the service's own takes none."""
    return scheduler_with(service, job_workers=20)


def scheduler_with(service: Service, **settings: Any) -> Scheduler:
    """The same with settings of its own."""
    services = service.app.ctx.services
    return Scheduler(services.snapshots, services.settings.model_copy(update=settings))


async def come(turn: datetime = NOON) -> None:
    """Let the next turn of all schedules be then."""
    await SnapshotSchedule.filter(enabled=True).update(next_at=turn)


async def test_a_schedule_is_put_shown_replaced_and_deleted(service: Service) -> None:
    await add_vm()
    path = "/api/v1/vms/vm-001/snapshot-schedule"
    answer = await service.client.get(path)
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "SCHEDULE_NOT_FOUND")
    answer = await service.client.delete(path)
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "SCHEDULE_NOT_FOUND")
    body: dict[str, Any] = {
        "cron": ["15 3 * * *", "15 15 * * sun"],
        "timezone": "Asia/Shanghai",
        "keep": {"daily": 7, "monthly": 12},
    }
    data = await put(service, **body)
    assert data == await show(service)
    assert data.pop("nextAt").endswith(":15:00Z")
    assert data == {
        "vmId": "vm-001",
        **body,
        "keep": {"hourly": 0, "daily": 7, "weekly": 0, "monthly": 12},
        "enabled": True,
        "lastAt": None,
        "lastJobId": None,
        "skipped": None,
    }
    data = await put(service, enabled=False)
    assert (data["cron"], data["timezone"], data["nextAt"]) == (["0 * * * *"], "UTC", None)
    answer = await service.client.delete(path)
    assert answer.json() == {"success": True, "data": {"vmId": "vm-001"}}
    assert (await service.client.get(path)).status_code == 404
    rows = await AuditEntry.all().order_by("id")
    assert [(row.actor, row.action, row.vm_ref, row.job_ref) for row in rows] == [
        ("bootstrap", "snapshot_schedule_set", "vm-001", None),
        ("bootstrap", "snapshot_schedule_set", "vm-001", None),
        ("bootstrap", "snapshot_schedule_deleted", "vm-001", None),
    ]
    for method in ("GET", "PUT", "DELETE"):
        given = HOURLY if method == "PUT" else None
        answer = await service.client.request(
            method, "/api/v1/vms/vm-009/snapshot-schedule", json=given
        )
        assert answer.json()["error"]["code"] == "VM_NOT_FOUND"


@only_sqlite
async def test_a_schedule_whose_turn_never_comes_is_refused(service: Service) -> None:
    await add_vm()
    answer = await service.client.put(
        "/api/v1/vms/vm-001/snapshot-schedule", json={**HOURLY, "cron": ["0 0 31 2 *"]}
    )
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert [fault["field"] for fault in error["details"]["fields"]] == ["cron"]
    assert await SnapshotSchedule.all().count() == 0


async def test_a_turn_makes_a_job(service: Service) -> None:
    await add_vm()
    await put(service, timezone="Asia/Shanghai")
    await come()
    await scheduler(service).take_turns(NOON + timedelta(seconds=4))
    shown = (await listed(service))["snap-001"]
    assert (shown["name"], shown["origin"], shown["status"]) == (
        "scheduled 2026-11-22 20:00", "schedule", "creating",
    )  # fmt: skip
    job = await Job.get()
    assert (job.requested_by, job.action) == (NAME, "snapshot_create")
    assert job.variables["libvirt_snapshot_origin"] == "schedule"
    assert service.app.ctx.services.dispatcher.enqueued == [job.id]
    schedule = await show(service)
    assert (schedule["lastAt"], schedule["lastJobId"], schedule["nextAt"]) == (
        "2026-11-22T12:00:00Z", job.ref, "2026-11-22T13:00:00Z",
    )  # fmt: skip
    row = (await AuditEntry.all().order_by("-id"))[0]
    assert (row.actor, row.action, row.job_ref) == (NAME, "snapshot_create", job.ref)
    await scheduler(service).take_turns(NOON + timedelta(minutes=59))
    assert await Job.all().count() == 1, "before its time there is no other"


async def test_a_disabled_schedule_takes_no_turn(service: Service) -> None:
    await add_vm()
    await put(service, enabled=False)
    await SnapshotSchedule.all().update(next_at=NOON)
    await scheduler(service).take_turns(NOON)
    assert await Job.all().count() == 0


async def test_a_busy_vm_skips_its_turns_and_they_do_not_pile_up(service: Service) -> None:
    await add_vm()
    await put(service)
    holder = (await service.act("vm-001", "start"))["jobId"]
    for hour in range(3):
        turn = NOON + timedelta(hours=hour)
        await come(turn)
        await scheduler(service).take_turns(turn)
        skipped = (await show(service))["skipped"]
        assert skipped["at"] == turn.isoformat().replace("+00:00", "Z")
        assert holder in skipped["reason"]
    assert await Job.all().count() == 1
    assert await Snapshot.all().count() == 0
    rows = await AuditEntry.filter(action="snapshot_turn_skipped")
    assert [(row.actor, row.vm_ref) for row in rows] == [(NAME, "vm-001")] * 3
    assert (await show(service))["lastJobId"] is None
    await end(holder, domain={"state": "running"})
    await scheduler(service).take_turns(NOON + timedelta(hours=2, minutes=5))
    assert await Job.all().count() == 1, "a skipped turn is not caught up"


@pytest.mark.parametrize(
    "why", ["is unreachable", "its creation failed", "its memory is saved, and no snapshot can"]
)
async def test_a_vm_that_cannot_be_worked_on_skips_its_turn(service: Service, why: str) -> None:
    if why == "is unreachable":
        await add_vm()
        await service.mark("kvm1", HostStatus.UNREACHABLE)
    elif "saved" in why:
        await add_vm(power=DomainState.STOPPED, state_reason=SAVED)
    else:
        await add_vm(VmStatus.ERROR, provisioned=False)
    await put(service)
    await come()
    await scheduler(service).take_turns(NOON)
    assert why in (await show(service))["skipped"]["reason"]
    assert await Job.all().count() == 0


async def test_a_turn_that_no_service_took_is_skipped(service: Service) -> None:
    await add_vm()
    await put(service)
    await come()
    now = NOON + LATE + timedelta(seconds=1)
    await scheduler(service).take_turns(now)
    assert (await show(service))["skipped"] == {
        "at": "2026-11-22T12:00:00Z",
        "reason": LATE_REASON,
    }
    assert (await show(service))["nextAt"] == "2026-11-22T13:00:00Z"
    assert await Job.all().count() == 0


async def test_of_two_services_one_takes_the_turn(service: Service) -> None:
    for _ in range(3):
        vm = await add_vm()
        await put(service, vm)
    await come(NOON + timedelta(microseconds=123456))
    two = [scheduler(service), scheduler(service)]
    await asyncio.gather(*(each.take_turns(NOON + timedelta(seconds=1)) for each in two))
    assert await Job.all().count() == await Snapshot.all().count() == 3
    assert not await SnapshotSchedule.filter(skipped_at__not_isnull=True).count()


async def test_a_turn_whose_snapshot_fails_leaves_no_row(service: Service) -> None:
    await add_vm()
    await put(service)
    await come()
    await scheduler(service).take_turns(NOON)
    job = await Job.get()
    await end(str(job.ref), error=FAULT)
    assert await listed(service) == {}
    assert (await service.get(f"/jobs/{job.ref}"))["error"]["message"] == FAULT["message"]
    assert (await show(service))["lastJobId"] == job.ref


async def test_a_schedule_that_cannot_be_read_stops_no_other(service: Service) -> None:
    await add_vm()
    await add_vm()
    await put(service)
    await put(service, "vm-002")
    await SnapshotSchedule.filter(id=1).update(timezone="Nowhere/At_All")
    await come()
    await scheduler(service).take_turns(NOON)
    await scheduler(service).prune(NOON)
    odd = await show(service)
    assert "Nowhere/At_All" in odd["skipped"]["reason"]
    assert odd["nextAt"] is None
    assert [job.vm_ref for job in await Job.all()] == ["vm-002"]
    await put(service)
    assert (await show(service))["nextAt"]


async def put_series(vm: Vm, count: int, **values: Any) -> list[Snapshot]:
    """A snapshot of the schedule for each of the last hours before NOON, the oldest first."""
    made = []
    for hour in reversed(range(count)):
        snapshot = await put_snapshot(vm, **{"origin": "schedule", **values})
        moment = NOON - timedelta(hours=hour, minutes=1)
        await Snapshot.filter(id=snapshot.id).update(created_at=moment)
        made.append(snapshot)
    return made


async def deleting() -> list[str]:
    """The ids of the snapshots that jobs are to delete, in the jobs' order."""
    jobs = await Job.filter(action="snapshot_delete").order_by("id")
    assert {job.requested_by for job in jobs} <= {NAME}
    return [str(job.snapshot_ref) for job in jobs]


async def test_only_the_schedules_own_are_pruned_one_at_a_time(service: Service) -> None:
    vm = await put_vm()
    for origin in ("manual", "guard", "found"):
        await put_series(vm, 3, origin=origin)
    series = await put_series(vm, 4)
    await add_snapshot(vm, origin="schedule", status=SnapshotStatus.CREATING)
    other = await put_vm()
    await put_series(other, 4)
    await put(service)
    look = scheduler(service)
    await look.prune(NOON)
    assert await deleting() == [series[0].ref], "a VM without a schedule keeps all that it has"
    await look.prune(NOON)
    assert await deleting() == [series[0].ref], "it is busy"
    left = [
        snapshot_entry(s.name, origin=s.origin, created_at=s.created_at.isoformat())
        for s in await Snapshot.filter(vm_id=vm.id).exclude(id=series[0].id)
        if s.status != SnapshotStatus.CREATING
    ]
    await end((await Job.get()).ref or "", domain={"state": "stopped"}, snapshots=left)
    await look.prune(NOON)
    assert await deleting() == [series[0].ref, series[1].ref]
    left = [one for one in left if one["name"] != series[1].name]
    job = await Job.get(finished_at=None)
    await end(str(job.ref), domain={"state": "stopped"}, snapshots=left)
    await look.prune(NOON)
    assert len(await deleting()) == 2
    origins = [s["origin"] for s in (await listed(service)).values()]
    assert sorted(origins) == ["found"] * 3 + ["guard"] * 3 + ["manual"] * 3 + ["schedule"] * 2
    answer = await service.client.delete("/api/v1/vms/vm-001/snapshot-schedule")
    assert answer.status_code == 200
    await look.prune(NOON)
    assert len(await deleting()) == 2


@pytest.mark.parametrize("origin", ["manual", "schedule", "guard", "found"])
async def test_any_snapshot_expires(service: Service, origin: str) -> None:
    vm = await put_vm()
    await add_snapshot(vm, origin=origin, expires_at=NOON)
    await add_snapshot(vm, origin=origin, expires_at=NOON + timedelta(hours=1))
    await add_snapshot(vm, origin=origin)
    look = scheduler(service)
    await look.prune(NOON - timedelta(seconds=1))
    assert await deleting() == []
    await look.prune(NOON)
    assert await deleting() == ["snap-001"]
    assert (await listed(service))["snap-001"]["status"] == "deleting"


async def test_guards_of_restores_are_kept_for_a_time(service: Service) -> None:
    vm = await put_vm()
    await add_snapshot(vm, origin="guard", created_at=NOON)
    await add_snapshot(vm, origin="guard", created_at=NOON, name="by-hand")
    await add_snapshot(vm, origin="manual", created_at=NOON)
    own = datetime(2050, 1, 1, tzinfo=UTC)
    await add_snapshot(vm, origin="guard", created_at=NOON, expires_at=own)
    shown = {ref: one["expiresAt"] for ref, one in (await listed(service)).items()}
    assert shown == {
        **{"snap-001": "2026-12-22T12:00:00Z", "snap-002": None, "snap-003": None},
        "snap-004": "2050-01-01T00:00:00Z",
    }
    assert (await service.get("/vms/vm-001/snapshots/snap-001"))["expiresAt"] == shown["snap-001"]
    await scheduler(service).prune(NOON + timedelta(days=30, seconds=-1))
    assert await deleting() == []
    await scheduler_with(service, guard_retention_days=31).prune(NOON + timedelta(days=30))
    assert await deleting() == []
    await scheduler(service).prune(NOON + timedelta(days=30))
    assert await deleting() == ["snap-001"]
    await Snapshot.filter(ref="snap-001").delete()
    await Job.all().delete()
    await scheduler(service).prune(NOON + timedelta(days=300))
    assert await deleting() == []


async def test_one_that_was_never_made_expires_too(service: Service) -> None:
    vm = await put_vm()
    await add_snapshot(vm, status=SnapshotStatus.ERROR, power="", expires_at=NOON)
    await scheduler(service).prune(NOON)
    assert await deleting() == ["snap-001"]


async def test_a_deletion_that_fails_is_not_repeated_at_once(service: Service) -> None:
    vm = await put_vm()
    await add_snapshot(vm, expires_at=NOON)
    await add_snapshot(vm, expires_at=NOON + timedelta(seconds=1))
    now = datetime.now(UTC)
    look = scheduler(service)
    await look.prune(now)
    await end((await Job.get()).ref or "", error=FAULT)
    assert (await listed(service))["snap-001"]["status"] == "ready"
    await look.prune(now + timedelta(minutes=1))
    assert await deleting() == ["snap-001", "snap-002"], "the other one's turn"
    await end(str((await Job.get(finished_at=None)).ref), error=FAULT)
    await look.prune(now + timedelta(minutes=2))
    assert len(await deleting()) == 2
    await look.prune(now + timedelta(minutes=70))
    assert (await deleting())[2:] == ["snap-001"]


async def test_what_cannot_be_deleted_now_is_put_off(service: Service) -> None:
    vm = await put_vm()
    made = await put_snapshot(vm, expires_at=NOON)
    await service.mark("kvm1", HostStatus.UNREACHABLE)
    look = scheduler(service)
    await look.prune(NOON)
    assert await Job.all().count() == 0
    assert (await Snapshot.get(id=made.id)).prune_after == NOON + LATE
    assert any("kept snapshot" in line for line in service.logs)
    await service.see("kvm1")
    await look.prune(NOON + timedelta(seconds=1))
    assert await Job.all().count() == 0
    await look.prune(NOON + LATE + timedelta(seconds=1))
    assert await deleting() == ["snap-001"]


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Schedulers that look all the time."""
    monkeypatch.setattr(schedules, "ROUND_SECONDS", 0.1)
    monkeypatch.setattr(schedules, "PRUNE_EVERY", timedelta(seconds=0.2))


@pytest.mark.slow
async def test_the_service_takes_turns_and_prunes_by_itself(hasty: None, playing: Service) -> None:
    await playing.succeed((await playing.create())["jobId"])
    await put(playing, keep={"hourly": 1})
    await come(datetime.now(UTC) - timedelta(seconds=1))
    await playing.until(
        "/vms/vm-001/snapshots", lambda d: [s["status"] for s in d["snapshots"]] == ["ready"]
    )
    with playing.hosts["kvm1"].change() as content:
        for domain in content["domains"].values():
            domain["snapshots"][0]["created_at"] = "2026-11-01T00:00:00Z"
    await come(datetime.now(UTC) - timedelta(seconds=1))
    found = await playing.until(
        "/vms/vm-001/snapshots", lambda d: [s["id"] for s in d["snapshots"]] == ["snap-002"]
    )
    assert (found["snapshots"][0]["origin"], found["snapshots"][0]["parent"]) == ("schedule", None)
    done = await Job.filter(status=JobStatus.SUCCEEDED, requested_by=NAME).order_by("id")
    assert [job.action for job in done] == ["snapshot_create"] * 2 + ["snapshot_delete"]
    assert playing.hosts["kvm1"].calls("snapshot_delete")[0]["given"]["name"] == "snap-001"


async def test_many_turns_at_once_leave_room_for_people(service: Service) -> None:
    look = scheduler_with(service, job_workers=4)
    vms = [await put_vm(VmStatus.RUNNING) for _ in range(5)]
    for vm in vms:
        await put(service, str(vm.ref))
        await SnapshotSchedule.filter(vm_id=vm.id).update(next_at=NOON)
    await look.take_turns(NOON)
    await look.take_turns(NOON)
    assert await Job.filter(requested_by=NAME).count() == 2, "half of the four workers"
    assert await SnapshotSchedule.filter(next_at=NOON).count() == 3, "they stay due"
    await Job.all().update(finished_at=NOON)
    await look.take_turns(NOON)
    assert await Job.filter(requested_by=NAME).count() == 4
