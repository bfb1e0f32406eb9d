"""API tests: what the start of the service does with the jobs that an earlier process has left."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from virtplay.errors import CannotStart
from virtplay.hosts.inventory import HostConfig, Inventory
from virtplay.hosts.observer import Observer
from virtplay.hosts.placement import Overcommit
from virtplay.jobs.execution import lease
from virtplay.jobs.processes import MARK
from virtplay.jobs.recovery import recover
from virtplay.jobs.submission import job_directory
from virtplay.metrics.exposition import Exposition
from virtplay.metrics.history import History
from virtplay.settings import Settings
from virtplay.store.models import Job

from tests.api.conftest import Service, only_sqlite
from tests.api.test_snapshots import console_job
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
@pytest.mark.usefixtures("database")
async def test_a_play_that_cannot_start_leaves_no_directory(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    inventory = Inventory({"kvm1": HostConfig("kvm1", Overcommit(), {})})
    observer = Observer(settings, inventory, Exposition(), History(settings))
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    with pytest.raises((OSError, CannotStart)):
        await observer.observe("kvm1")
    observation = settings.state_dir / "observation"
    assert observation.is_dir(), "it was there"
    assert [*observation.iterdir()] == []
