"""API tests: one unfinished job a VM, and room that is not given twice."""

import asyncio
import re
import uuid
from collections import Counter
from datetime import UTC, datetime, timedelta

import pytest
from tortoise.exceptions import IntegrityError
from virtplay.errors import Conflict
from virtplay.jobs import dispatcher
from virtplay.jobs.dispatcher import LocalDispatcher
from virtplay.jobs.execution import columns_of, end, lease, progress_of
from virtplay.jobs.outcome import conclude, finish, lose
from virtplay.jobs.progress import Progress
from virtplay.jobs.recovery import recover
from virtplay.metrics.service_series import REGISTRY
from virtplay.states import JobStatus
from virtplay.store import jobs
from virtplay.store.database import DatabaseAway
from virtplay.store.jobs import append_events, move, save_progress
from virtplay.store.models import AuditEntry, Job, Vm

from tests.api.conftest import BODY, Service
from tests.api.test_vms import RUNNING, add_vm, put_vm


async def test_of_two_concurrent_mutations_exactly_one_is_accepted(service: Service) -> None:
    vm = await put_vm(RUNNING)
    answers = await asyncio.gather(
        *(service.post(f"/vms/{vm.ref}/{action}") for action in ("stop", "pause", "restart") * 3)
    )
    assert Counter(answer.status_code for answer in answers) == {202: 1, 409: 8}
    winner = next(a.json()["data"]["jobId"] for a in answers if a.status_code == 202)
    for answer in answers:
        if answer.status_code == 409:
            error = answer.json()["error"]
            assert error["code"] == "OPERATION_IN_PROGRESS"
            assert error["details"] == {"jobId": winner}
    assert await Job.all().count() == await AuditEntry.all().count() == 1


async def test_every_mutation_of_a_busy_vm_names_the_holder(service: Service) -> None:
    vm = await put_vm(RUNNING)
    holder = (await service.act(str(vm.ref), "pause"))["jobId"]
    for method, path, body in (
        ("PUT", "", {"cpu": 2}), ("DELETE", "?force=true", None), ("POST", "/start", None),
        ("POST", "/stop", None), ("POST", "/restart", None), ("POST", "/pause", None),
        ("POST", "/resume", None),
    ):  # fmt: skip
        answer = await service.client.request(method, f"/api/v1/vms/{vm.ref}{path}", json=body)
        assert answer.status_code == 409, (method, path)
        assert answer.json()["error"]["details"] == {"jobId": holder}


async def test_a_busy_vm_says_what_its_job_waits_for_and_how_long(service: Service) -> None:
    vm = await put_vm(RUNNING)
    held = (await service.act(str(vm.ref), "stop"))["jobId"]
    job = await lease((await Job.get(ref=held)).id)
    assert job is not None
    progress = progress_of(job)
    progress.take({"event": "playbook_on_task_start", "task": "Stop the VM"})
    await save_progress(job, 1, **columns_of(progress))
    message = (await service.post(f"/vms/{vm.ref}/stop")).json()["error"]["message"]
    limit = service.settings.stop_timeout
    assert re.fullmatch(
        rf"cannot change VM web \({vm.ref}\): {held} \(vm_stop\) is running:"
        rf" waiting for the guest to shut down, \d+ of {limit} s; a stop with force cuts the power"
        r" now",
        message,
    )
    shown = await service.get(f"/jobs/{held}")
    assert shown["stepTimeoutSeconds"] == limit
    await save_progress(job, 1, step="VMs are counted")
    message = (await service.post(f"/vms/{vm.ref}/stop")).json()["error"]["message"]
    assert "is running: VMs are counted, " in message
    assert shown["startedAt"] <= shown["stepStartedAt"]
    # Of an earlier attempt nothing is shown.
    later = datetime.now(UTC) + timedelta(minutes=1)
    await Job.filter(ref=held).update(started_at=later)
    shown = await service.get(f"/jobs/{held}")
    assert (shown["stepStartedAt"], shown["stepTimeoutSeconds"]) == (None, None)


@pytest.mark.parametrize("running", [True, False])
@pytest.mark.parametrize("waiting", ["stop", "restart"])
async def test_a_stop_with_force_takes_the_place_of_what_waits_for_the_guest(
    service: Service, waiting: str, running: bool
) -> None:
    vm = await put_vm(RUNNING)
    held = (await service.act(str(vm.ref), waiting))["jobId"]
    old = await Job.get(ref=held)
    if running:
        leased = await lease(old.id)
        assert leased is not None
        old = leased
    before = cancelled(waiting)
    answers = await asyncio.gather(
        *(service.post(f"/vms/{vm.ref}/stop", {"force": True}) for _ in range(3))
    )
    assert Counter(answer.status_code for answer in answers) == {202: 1, 409: 2}
    data = next(answer.json()["data"] for answer in answers if answer.status_code == 202)
    assert data["status"] == "stopping"
    for answer in answers:
        if answer.status_code == 409:
            assert answer.json()["error"]["details"] == {"jobId": data["jobId"]}
    shown = await service.get(f"/jobs/{held}")
    assert (shown["status"], shown["error"]["code"]) == ("cancelled", "SUPERSEDED")
    assert shown["error"]["message"] == (
        f"cannot {waiting} VM web ({vm.ref}): {data['jobId']} has superseded it, with force"
    )
    job = await Job.get(ref=data["jobId"])
    assert (job.status, job.after_id) == (JobStatus.QUEUED, None)
    assert service.app.ctx.services.dispatcher.enqueued == [old.id, job.id]
    assert await AuditEntry.all().count() == 2
    # What the play of the first reports late counts no more, nor does a crash bring it back.
    if running:
        done = Progress(1, result={"domain": {"state": "running"}}, stats_seen=True)
        late = {"rc": 0, "status": "successful"}
        assert await conclude(old, done, late, asyncio.Event()) == []
    else:
        assert await lease(old.id) is None
    assert cancelled(waiting) == before + 1
    assert await recover(service.settings) == [job.id]
    forced = await lease(job.id)
    assert forced is not None
    assert forced.generation == (old.generation + 1 if running else 1)
    off = Progress(1, result={"domain": {"state": "stopped"}}, stats_seen=True)
    assert await finish(forced, off, {"rc": 0, "status": "successful"}) == []
    assert (await service.get(f"/vms/{vm.ref}"))["status"] == "stopped"
    assert (await service.get(f"/jobs/{held}"))["status"] == "cancelled"


async def leased_stop(service: Service) -> tuple[Vm, Job]:
    """Return a running VM and its stop, which a worker has begun."""
    vm = await put_vm(RUNNING)
    job = await lease((await Job.get(ref=(await service.act(str(vm.ref), "stop"))["jobId"])).id)
    assert job is not None
    return vm, job


async def test_a_job_that_is_superseded_while_it_ends_keeps_that_outcome(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    vm, old = await leased_stop(service)
    before = cancelled("stop")

    async def read_before(number: int) -> Job | None:
        job = await get_job(number)
        monkeypatch.setattr(jobs, "get_job", get_job)
        _ = await service.act(str(vm.ref), "stop", {"force": True})
        return job

    get_job = jobs.get_job
    monkeypatch.setattr(jobs, "get_job", read_before)
    done = Progress(1, result={"domain": {"state": "stopped"}}, stats_seen=True)
    ended = {"rc": 0, "status": "successful"}
    assert await end(old, done, ended, asyncio.Event()) == []
    assert (await Job.get(id=old.id)).status == JobStatus.CANCELLED
    assert cancelled("stop") == before + 1
    assert (await service.get(f"/vms/{vm.ref}"))["status"] == "stopping"


async def test_a_job_that_is_given_up_without_a_database_is_left_in_a_few_words(
    service: Service, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    _, job = await leased_stop(service)

    async def move(*_: object, **__: object) -> None:
        raise DatabaseAway("it is restarted")

    monkeypatch.setattr(jobs, "move", move)
    give_up = asyncio.Event()
    give_up.set()
    outcome = {"rc": None, "status": "ended"}
    assert await end(job, progress_of(job), outcome, give_up) is None
    (record,) = [each for each in caplog.records if each.name == "virtplay.jobs.execution"]
    assert record.levelname == "WARNING"
    assert record.exc_info is None
    message = f"cannot queue {job.ref} again, or count it: cannot use the database"
    assert record.getMessage().startswith(message)


async def test_a_play_is_ended_also_if_nobody_reports_that_its_job_is_superseded(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    vm, old = await leased_stop(service)
    await move(old, JobStatus.QUEUED, leased_by="")
    begun, ended = asyncio.Event(), asyncio.Event()

    async def execute(number: int, give_up: asyncio.Event) -> list[int]:
        _ = await lease(number)
        if number == old.id:
            begun.set()
            _ = await give_up.wait()
            ended.set()
        return []

    async def is_allowed() -> bool:
        return True

    async def execute_batch(*_: object) -> None:
        raise AssertionError

    monkeypatch.setattr(dispatcher, "LOOK_SECONDS", 0.1)
    local = LocalDispatcher(
        service.settings, execute, execute_batch, is_allowed, on_end=lambda _job: None
    )
    running = asyncio.create_task(local.run())
    try:
        async with asyncio.timeout(300):
            _ = await begun.wait()
            # The service's own dispatcher does nothing, as if the request had ended with the
            # commit.
            _ = await service.act(str(vm.ref), "stop", {"force": True})
            _ = await ended.wait()
    finally:
        await local.stop()
        await running


async def test_the_error_of_a_superseded_or_lost_job_names_ansibles_task(service: Service) -> None:
    async def begin(job: Job) -> None:
        task = {"event": "playbook_on_task_start", "task": "Stop the VM"}
        progress = progress_of(job)
        progress.take(task)
        await save_progress(job, 1, **columns_of(progress))
        _ = await append_events(job.id, 1, [task, {"event": "verbose", "text": "no task"}])

    vm, job = await leased_stop(service)
    await begin(job)
    data = await service.act(str(vm.ref), "stop", {"force": True})
    error = (await service.get(f"/jobs/{job.ref}"))["error"]
    assert (error["task"], error["host"]) == ("Stop the VM", job.host)
    forced = await lease((await Job.get(ref=data["jobId"])).id)
    assert forced is not None
    await begin(forced)
    await lose(await Job.get(id=forced.id))
    assert (await service.get(f"/jobs/{forced.ref}"))["error"]["task"] == "Stop the VM"


def cancelled(action: str) -> float:
    """How many jobs of a power action are counted as cancelled."""
    labels = {"action": f"vm_{action}", "status": "cancelled"}
    value = REGISTRY.get_sample_value("virtplay_jobs_total", labels)
    assert value is not None
    return value


async def test_force_takes_the_place_of_nothing_that_works_on_the_vm(service: Service) -> None:
    vms = [await put_vm(RUNNING, name=f"web-{number}") for number in range(4)]
    held = [
        (await service.act(str(vm.ref), action, body))["jobId"]
        for vm, (action, body) in zip(
            vms,
            [("pause", None), ("stop", {"force": True}), ("restart", {"force": True}),
             ("stop", None)],
            strict=True,
        )
    ]  # fmt: skip
    for vm, holder in zip(vms[:3], held, strict=False):
        for action in ("stop", "restart"):
            answer = await service.post(f"/vms/{vm.ref}/{action}", {"force": True})
            assert answer.json()["error"]["details"] == {"jobId": holder}
    for path, body in (("stop", None), ("restart", None), ("pause", None)):
        answer = await service.post(f"/vms/{vms[3].ref}/{path}", body)
        assert answer.json()["error"]["details"] == {"jobId": held[3]}
    # Of many, each for itself.
    body = {"action": "restart", "vms": [vm.ref for vm in vms], "force": True}
    data = (await service.post("/vms/actions", body)).json()["data"]
    assert [(each["id"], each["status"]) for each in data["jobs"]] == [(vms[3].ref, "restarting")]
    assert [each["id"] for each in data["refused"]] == [vm.ref for vm in vms[:3]]
    assert (await service.get(f"/jobs/{held[3]}"))["status"] == "cancelled"


async def test_a_wait_that_somebody_ends_by_hand_is_cancelled(service: Service) -> None:
    vm = await put_vm(RUNNING)
    job = await lease((await Job.get(ref=(await service.act(str(vm.ref), "stop"))["jobId"])).id)
    assert job is not None
    error = {"code": "SUPERSEDED", "message": "cannot stop web: a run by al has superseded it,"
             " with force", "task": "Stop the VM", "host": "kvm1"}  # fmt: skip
    assert await finish(job, Progress(1, error=error), {"rc": 2, "status": "failed"}) == []
    shown = await service.get(f"/jobs/{job.ref}")
    assert (shown["status"], shown["error"]) == ("cancelled", error)


async def test_only_a_start_is_accepted_behind_a_creation_and_only_once(service: Service) -> None:
    data = await service.create()
    for action in ("stop", "restart", "pause", "resume"):
        answer = await service.post(f"/vms/{data['id']}/{action}")
        assert answer.json()["error"]["details"] == {"jobId": data["jobId"]}, action
    answers = await asyncio.gather(*(service.post(f"/vms/{data['id']}/start") for _ in range(4)))
    assert Counter(answer.status_code for answer in answers) == {202: 1, 409: 3}
    start = next(a.json()["data"] for a in answers if a.status_code == 202)
    assert start["status"] == "creating"
    assert {
        a.json()["error"]["details"]["jobId"] for a in answers if a.status_code == 409
    } == {start["jobId"]}  # fmt: skip
    assert (await service.get("/vms/vm-001/status"))["job"]["id"] == data["jobId"]
    assert len(service.app.ctx.services.dispatcher.enqueued) == 1


async def test_a_waiting_start_becomes_the_holder_when_the_creation_succeeds(
    service: Service,
) -> None:
    data = await service.create()
    start = await service.act(data["id"], "start")
    creation = await Job.get(ref=data["jobId"])
    leased = await lease(creation.id)
    assert leased is not None
    progress = Progress(2, result={"domain": {"state": "stopped"}}, stats_seen=True)
    followers = await finish(leased, progress, {"rc": 0, "status": "successful"})
    waiting = await Job.get(ref=start["jobId"])
    assert followers == [waiting.id]
    assert waiting.after_id is None
    assert (await service.get("/vms/vm-001"))["status"] == "starting"
    answer = await service.post("/vms/vm-001/stop")
    assert answer.json()["error"]["details"] == {"jobId": start["jobId"]}


async def test_a_waiting_start_is_cancelled_when_the_creation_fails(service: Service) -> None:
    data = await service.create()
    start = await service.act(data["id"], "start")
    leased = await lease((await Job.get(ref=data["jobId"])).id)
    assert leased is not None
    error = {"code": "INSUFFICIENT_RESOURCES", "message": "cannot: full", "task": "", "host": "k"}
    assert await finish(leased, Progress(2, error=error), {"rc": 2, "status": "failed"}) == []
    job = await service.get(f"/jobs/{start['jobId']}")
    assert job["status"] == "cancelled"
    assert job["error"]["code"] == "INSUFFICIENT_RESOURCES"
    assert job["finishedAt"]
    vm = await service.get("/vms/vm-001")
    assert vm["status"] == "error"
    assert vm["error"]["jobId"] == data["jobId"]
    assert (await service.get("/hosts/kvm1"))["allocated"] == {"cpu": 0, "memory": 0, "disk": 0}


async def test_the_database_itself_refuses_a_second_unfinished_job(database: str) -> None:
    values = {"action": "vm_stop", "vm_id": 7, "vm_ref": "vm-007", "host": "kvm1",
              "requested_by": "x", "request_id": "x", "status": JobStatus.QUEUED}  # fmt: skip
    first = Job(**values)
    await first.save()
    with pytest.raises(IntegrityError):
        await Job(**values).save()
    with pytest.raises(IntegrityError):
        await Job(**{**values, "status": JobStatus.RUNNING}).save()
    await Job(**values, after_id=first.id).save()
    with pytest.raises(IntegrityError):
        await Job(**values, after_id=first.id).save()
    await Job(**{**values, "vm_id": 8}).save()
    await Job.filter(id=first.id).update(finished_at=datetime.now(UTC))
    await Job(**values).save()


async def test_the_database_itself_refuses_the_same_vm_twice(database: str) -> None:
    vm = await put_vm()
    with pytest.raises(IntegrityError):
        await add_vm(uuid=vm.uuid)


async def test_twenty_creations_at_once_fill_exactly_the_room(service: Service) -> None:
    await service.see("kvm1", memory=512 + 7 * 512)
    await service.see("kvm2", memory=512 + 4 * 512)
    answers = await asyncio.gather(*(service.post("/vms", BODY) for _ in range(20)))
    assert Counter(answer.status_code for answer in answers) == {202: 11, 400: 9}
    for answer in answers:
        if answer.status_code == 400:
            error = answer.json()["error"]
            assert error["code"] == "INSUFFICIENT_RESOURCES"
            assert error["details"]["needed"] == {"cpu": 1, "memory": 512, "disk": 2}
            shown = {h["host"]: h["short"] for h in error["details"]["hosts"]}
            assert shown == {
                name: {"memory": {"needed": 512, "available": 0}} for name in ("kvm1", "kvm2")
            }
    hosts = (await service.get("/hosts"))["hosts"]
    assert [(h["vms"], h["available"]["memory"]) for h in hosts] == [(7, 0), (4, 0)]
    assert await Vm.all().count() == await Job.all().count() == 11


async def test_creations_and_changes_at_once_lose_nothing(service: Service) -> None:
    vms = [await put_vm(RUNNING, memory=32) for _ in range(10)]
    answers = await asyncio.gather(
        *(service.post(f"/vms/{vm.ref}/pause") for vm in vms),
        *(service.post("/vms", {**BODY, "memory": 32}) for _ in range(10)),
        *(service.client.get("/api/v1/vms") for _ in range(10)),
    )
    assert Counter(answer.status_code for answer in answers) == {202: 20, 200: 10}
    refs = {answer.json()["data"]["jobId"] for answer in answers[:20]}
    assert len(refs) == 20


async def test_a_lease_is_taken_once_and_raises_the_generation(service: Service) -> None:
    data = await service.create()
    number = (await Job.get(ref=data["jobId"])).id
    leases = await asyncio.gather(*(lease(number) for _ in range(5)))
    taken = [each for each in leases if each is not None]
    assert len(taken) == 1
    assert taken[0].generation == (await Vm.get(ref=data["id"])).generation == 1
    assert await Vm.filter(uuid=uuid.UUID(int=0)).count() == 0


async def test_a_job_that_another_has_leased_since_catches_up_with_no_host(
    service: Service,
) -> None:
    vm = await put_vm(RUNNING)
    data = await service.act(str(vm.ref), "stop")
    number = (await Job.get(ref=data["jobId"])).id
    old = await lease(number)
    assert old is not None
    await move(await Job.get(id=number), JobStatus.QUEUED, leased_by="")
    new = await lease(number)
    assert new is not None
    assert new.generation == 2
    error = {"code": "STALE_GENERATION", "message": "cannot", "task": "", "host": "kvm1"}
    refused = Progress(2, error=error, seen_generation=2, stats_seen=True)
    with pytest.raises(Conflict, match="another worker has leased it"):
        _ = await conclude(old, refused, {"rc": 2, "status": "failed"}, asyncio.Event())
    assert (await Vm.get()).generation == 2
    assert (await Job.get()).status == JobStatus.RUNNING
    # The one that holds the lease follows the host, and runs again above it.
    refused.seen_generation = 5
    assert await conclude(new, refused, {"rc": 2, "status": "failed"}, asyncio.Event()) == [number]
    again = await lease(number)
    assert again is not None
    assert again.generation == 6
