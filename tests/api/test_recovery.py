"""API tests: what the start of the service does with the jobs that an earlier process has left."""

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from virtplay.errors import CannotStart
from virtplay.jobs.execution import execute, lease
from virtplay.jobs.launcher import Launcher
from virtplay.jobs.processes import MARK
from virtplay.jobs.recovery import LEFT_SECONDS, MOST_STALLED, recover, sweep_jobs
from virtplay.jobs.submission import job_directory, write_secrets
from virtplay.settings import Settings
from virtplay.store.jobs import save_progress
from virtplay.store.models import Job, Vm

from tests.api.conftest import Service, only_sqlite
from tests.api.observers import make_observer
from tests.api.test_observation import own_domain
from tests.api.test_snapshots import begin, console_job, end
from tests.api.test_vms import RUNNING, put_vm

CANARY = "a secret that the job was given"


@contextmanager
def stray(directory: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process that a killed job process has left."""
    words = [sys.executable, "-c", "import time; time.sleep(300)"]
    with subprocess.Popen(words, env={MARK: str(directory)}) as process:
        try:
            yield process
        finally:
            process.kill()


@only_sqlite
async def test_strays_of_every_job_and_observation_are_ended(service: Service) -> None:
    state = service.settings.state_dir
    vm = await put_vm(RUNNING)
    lost = await console_job(service, vm)
    data = await service.act("vm-001", "pause")
    pause = await Job.get(ref=data["jobId"])
    for job in (lost, pause):
        assert await lease(job.id) is not None
    with (
        stray(state / "jobs" / str(lost.ref)) as of_lost,
        stray(state / "jobs" / str(pause.ref)) as of_queued,
        stray(state / "observation" / "rounds") as of_observation,
        stray(state.with_name("state-of-another") / "jobs" / str(pause.ref)) as other,
    ):
        assert await recover(service.settings) == [pause.id]
        assert None not in [p.wait(60) for p in (of_lost, of_queued, of_observation)]
        assert other.poll() is None, "another service has started it"


@only_sqlite
async def test_only_attempts_that_get_no_further_are_counted(service: Service) -> None:
    data = await service.create()
    job = await Job.get(ref=data["jobId"])

    async def crash(progress: int) -> None:
        leased = await lease(job.id)
        assert leased is not None
        await save_progress(leased, max(leased.progress, progress), "Create the VM")
        assert await recover(service.settings) == [job.id]
        await job.refresh_from_db()

    for _ in range(MOST_STALLED + 1):
        await crash(0)
    assert job.stalled is None, "its play has never begun"
    for _ in range(6):  # an operator who tries again, a machine that runs out of memory
        await begin(service, job)
        await crash(0)
    assert job.status == "queued"
    assert job.stalled == 6
    await begin(service, job)
    await crash(20)
    assert job.stalled is None
    for count in (1, 2):
        await begin(service, job)
        await crash(0)
        assert job.stalled == count
    await crash(0)
    assert job.stalled == 2, "what has begun was the play of the attempt before"
    await begin(service, job)
    await crash(30)
    assert job.stalled is None
    await begin(service, job)
    await crash(10)
    assert job.stalled == 1
    await begin(service, job)
    await crash(40)
    assert (job.stalled, job.attempt) == (None, MOST_STALLED + 15)


@pytest.mark.slow
@only_sqlite
async def test_a_graceful_stop_queues_what_runs_and_counts_nothing(playing: Service) -> None:
    gate = playing.hosts["kvm1"].hold("create")
    data = await playing.create()
    await playing.until(f"/jobs/{data['jobId']}", lambda job: job["step"] == "Creating disk and VM")
    await Job.filter(ref=data["jobId"]).update(stalled=MOST_STALLED - 1)
    await playing.app.ctx.services.dispatcher.stop()
    job = await Job.get(ref=data["jobId"])
    assert (job.status, job.attempt, job.stalled) == ("queued", 2, None)
    assert job.started_at is None
    assert (await playing.get("/vms/vm-001"))["status"] == "creating"
    gate.unlink()
    assert await recover(playing.settings) == [job.id]


async def lost_creation(service: Service) -> tuple[str, str]:
    """The ids of a creation that ended as lost, and of the start that has waited for it."""
    data = await service.create()
    start = await service.act(data["id"], "start")
    creation = await Job.get(ref=data["jobId"])
    assert await lease(creation.id) is not None
    await begin(service, creation)
    await Job.filter(id=creation.id).update(stalled=MOST_STALLED - 1)
    assert await recover(service.settings) == []
    return data["jobId"], start["jobId"]


async def test_a_lost_creation_cancels_its_start_and_its_vm_says_why(service: Service) -> None:
    creation, start = await lost_creation(service)
    lost = await service.get(f"/jobs/{creation}")
    assert lost["status"] == "lost"
    shown = await service.get(f"/jobs/{start}")
    assert (shown["status"], shown["error"]["code"]) == ("cancelled", "INTERNAL_ERROR")
    message = f"cannot start VM web (vm-001): its creation {creation} was lost"
    assert shown["error"]["message"] == message
    vm = await service.get("/vms/vm-001")
    assert vm["status"] == "error"
    assert vm["error"] == {
        "code": "INTERNAL_ERROR", "message": lost["error"]["message"], "jobId": creation,
    }  # fmt: skip
    # Nothing holds the VM: what its host has of it is seen.
    await service.see(domains=[own_domain(await Vm.get(), state="stopped")])
    assert (await service.get("/vms/vm-001"))["status"] == "stopped"
    _ = await service.act("vm-001", "start")


@pytest.mark.parametrize("provisioned", [True, False])
async def test_a_start_that_was_left_waiting_is_settled(
    service: Service, provisioned: bool
) -> None:
    creation, start = await lost_creation(service)
    # As earlier releases have left it.
    waiting = await Job.get(ref=start)
    left = {"status": "queued", "finished_at": None, "error": None}
    await Job.filter(id=waiting.id).update(**left, after_id=(await Job.get(ref=creation)).id)
    await Vm.all().update(provisioned=provisioned, error=None)
    assert await recover(service.settings) == ([waiting.id] if provisioned else [])
    shown = await service.get(f"/jobs/{start}")
    assert shown["status"] == ("queued" if provisioned else "cancelled")
    if provisioned:
        assert await lease(waiting.id) is not None
    else:
        assert "its creation did not succeed" in shown["error"]["message"]


async def test_a_start_that_was_left_waiting_lets_the_holder_of_its_vm_end(
    service: Service,
) -> None:
    creation, start = await lost_creation(service)
    answer = await service.client.delete("/api/v1/vms/vm-001")
    deletion = await Job.get(ref=answer.json()["data"]["jobId"])
    left = {"status": "queued", "finished_at": None, "error": None}
    await Job.filter(ref=start).update(**left, after_id=(await Job.get(ref=creation)).id)
    assert await recover(service.settings) == [deletion.id]
    followers = await end(str(deletion.ref), domain={"state": "absent"})
    for follower in followers:
        assert (
            await execute(service.settings, Launcher(service.settings), follower, asyncio.Event())
            == []
        )
    assert (await service.get(f"/jobs/{start}"))["error"]["code"] == "VM_NOT_FOUND"


@only_sqlite
async def test_no_directory_stays_but_those_of_unfinished_jobs(service: Service) -> None:
    settings = service.settings
    vm = await put_vm(RUNNING)
    secrets = {"libvirt_console_password": CANARY}
    lost = await console_job(service, vm, secrets)
    assert await lease(lost.id) is not None
    # Killed between the outcome and the removal of the directory.
    ended = await console_job(service, vm, secrets)
    await Job.filter(id=ended.id).update(status="succeeded", finished_at=ended.created_at)
    queued = await console_job(service, vm, secrets)
    for name in ("rounds", "once-12345678"):
        (settings.state_dir / "observation" / name / "private").mkdir(parents=True)
    # Killed before the transaction that was to create the job was committed.
    unknown = job_directory(settings, "job-000099")
    unknown.mkdir()
    assert await recover(settings) == [queued.id]
    left = [path.name for path in (settings.state_dir / "jobs").iterdir()]
    assert left == [queued.ref]
    assert CANARY in (job_directory(settings, str(queued.ref)) / "secrets.json").read_text()
    assert [*(settings.state_dir / "observation").iterdir()] == []
    assert (await service.get(f"/jobs/{lost.ref}"))["status"] == "lost"


@only_sqlite
async def test_secrets_of_a_job_that_was_never_committed_are_removed_later(
    service: Service,
) -> None:
    settings = service.settings
    vm = await put_vm(RUNNING)
    job = await console_job(service, vm, {"libvirt_console_password": CANARY})
    old, young = (job_directory(settings, f"job-00009{number}") for number in (8, 9))
    long_ago = time.time() - 2 * LEFT_SECONDS
    for directory in (old, young):
        write_secrets(directory, {"password": CANARY})
    for directory in (old, job_directory(settings, str(job.ref))):
        os.utime(directory, (long_ago, long_ago))
    await sweep_jobs(settings)
    left = {path.name for path in (settings.state_dir / "jobs").iterdir()}
    assert left == {job.ref, young.name}


@only_sqlite
@pytest.mark.usefixtures("database")
async def test_a_play_that_cannot_start_leaves_no_directory(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    observer = make_observer(settings, "kvm1")
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    with pytest.raises((OSError, CannotStart)):
        await observer.observe("kvm1")
    observation = settings.state_dir / "observation"
    assert observation.is_dir(), "it was there"
    assert [*observation.iterdir()] == []
