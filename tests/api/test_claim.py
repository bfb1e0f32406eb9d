"""API tests: one service runs the jobs of a database, and never two."""

import asyncio
import contextlib
import signal
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from virtplay.errors import CannotStart, Conflict
from virtplay.jobs.execution import lease
from virtplay.jobs.outcome import conclude
from virtplay.jobs.progress import Progress
from virtplay.states import JobStatus
from virtplay.store import claim
from virtplay.store import jobs as store
from virtplay.store.claim import Claim, claim_of
from virtplay.store.database import DatabaseAway
from virtplay.store.models import Job

from tests.api.conftest import BODY, Service, only_postgres
from tests.api.postgres import Cluster, free_port
from tests.api.test_serve import VIRTPLAY, Server, processes_of, server, wait_for
from tests.api.test_vms import RUNNING, put_vm

__all__ = ["server"]


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A claim that is there is not waited for."""
    monkeypatch.setattr(claim, "PATIENCE_SECONDS", 0.3)


@contextlib.asynccontextmanager
async def claimed(url: str) -> AsyncIterator[Claim]:
    """A claim that is taken, as by a service of its own."""
    made = claim_of(url)
    await made.take()
    try:
        yield made
    finally:
        await made.release()


def other(server: Server, *, port: int) -> dict[str, str]:
    """The environment of another service on the same database."""
    state = str(server.folder / "other-state")
    return {**server.environment, "VIRTPLAY_STATE_DIR": state, "VIRTPLAY_PORT": str(port)}


async def test_a_database_is_claimed_once_until_it_is_released(
    database_url: str, tmp_path: Path
) -> None:
    async with claimed(database_url) as first:
        with pytest.raises(CannotStart, match="another virtplay serve uses the database"):
            await claim_of(database_url).take()
        if database_url.startswith("sqlite"):
            (tmp_path / "alias").symlink_to(tmp_path / "state")
            alias = f"sqlite://{tmp_path}/alias/virtplay.sqlite3"
            with pytest.raises(CannotStart, match="another virtplay serve uses the database"):
                await claim_of(alias).take()
        assert await first.holds()
    async with claimed(database_url) as second:
        assert await second.holds()


@only_postgres
async def test_a_claim_is_taken_again_after_its_session_has_ended(
    postgres: Cluster, database_url: str
) -> None:
    async with claimed(database_url) as first:
        for end in (postgres.cut_connections, postgres.stop):
            end()
            if end == postgres.stop:
                with pytest.raises(DatabaseAway):
                    _ = await first.holds()
                postgres.start()
            assert await first.holds()
            with pytest.raises(CannotStart):
                await claim_of(database_url).take()


@only_postgres
async def test_a_claim_that_another_service_has_taken_is_lost_for_good(
    postgres: Cluster, database_url: str
) -> None:
    async with claimed(database_url) as first:
        postgres.cut_connections()
        async with claimed(database_url):
            assert not await first.holds()
            assert "cannot go on: another virtplay serve uses the database" in first.fault
        assert not await first.holds(), "the other one has recovered its jobs"


@only_postgres
async def test_a_session_that_only_the_server_believes_in_is_ended(
    postgres: Cluster, database_url: str
) -> None:
    async with claimed(database_url) as first:
        # The client has lost it without a word to the server, as when a firewall forgets it.
        kept: Any = first
        session, pool = kept._session, kept._client._pool
        kept._session = kept._client._pool = None
        assert await first.holds()
        with pytest.raises(claim.FAILURES):
            await session.fetchval("SELECT 1")
        pool.terminate()
        with pytest.raises(CannotStart):
            await claim_of(database_url).take()


async def test_a_job_that_another_service_has_taken_over_keeps_its_state(service: Service) -> None:
    vm = await put_vm(RUNNING)
    data = await service.act(str(vm.ref), "stop")
    job = await lease((await Job.get(ref=data["jobId"])).id)
    assert job is not None
    taken_over = await Job.get(id=job.id)
    await store.move(taken_over, JobStatus.QUEUED, attempt=2, leased_by="")
    with pytest.raises(Conflict, match="another worker has leased it"):
        _ = await conclude(job, Progress(2), None, asyncio.Event())
    assert (await service.get(f"/jobs/{data['jobId']}"))["status"] == "queued"
    assert (await service.get("/vms/vm-001"))["status"] == "stopping"


@pytest.mark.slow
def test_a_second_service_on_the_database_is_refused(server: Server) -> None:
    server.start()
    gate = server.host.hold("create")
    data = server.post("/vms", BODY)
    wait_for(lambda: server.host.calls("create"))
    second = subprocess.run(
        [VIRTPLAY, "serve"],
        env=other(server, port=free_port()),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert second.returncode == 1
    url = server.environment["VIRTPLAY_DATABASE_URL"]
    where = url.removeprefix("sqlite://").rsplit("@", 1)[-1]
    assert second.stderr.splitlines()[-1] == (
        f"virtplay: cannot start: another virtplay serve uses the database {where}"
    )
    for words in (("token", "create", "ci"), ("token", "list"), ("db", "upgrade")):
        assert server.command(*words).returncode == 0, words
    gate.unlink()
    job = server.finish(data["jobId"])
    assert (job["status"], job["attempt"]) == ("succeeded", 1)
    # A claim ends with its process, however that ends.
    server.end(signal.SIGKILL)
    server.start()
    assert server.end(signal.SIGTERM) == 0


@only_postgres
@pytest.mark.slow
@pytest.mark.usefixtures("cold_ansible")
def test_a_service_that_has_lost_the_database_to_another_ends_with_its_jobs(
    postgres: Cluster, server: Server
) -> None:
    server.start()
    gate = server.host.hold("create")
    data = server.post("/vms", BODY)
    wait_for(lambda: server.host.calls("create"))
    assert server.process is not None
    # It stands still, as a machine that is paused does, while the database is restarted.
    server.process.send_signal(signal.SIGSTOP)
    postgres.cut_connections()
    port = free_port()
    log = (server.folder / "other.log").open("ab")
    second = subprocess.Popen(
        [VIRTPLAY, "serve"], env=other(server, port=port), stdout=log, stderr=log
    )
    log.close()
    try:
        wait_for(lambda: len(server.host.calls("create")) == 2)
        server.process.send_signal(signal.SIGCONT)
        assert server.process.wait(120) == 1
        assert (
            server.log()
            .splitlines()[-1]
            .startswith(
                "virtplay: cannot go on: another virtplay serve uses the database 127.0.0.1:"
            )
        )
        wait_for(lambda: not processes_of(server.mark))
        gate.unlink()
        server.client.base_url = f"http://127.0.0.1:{port}/api/v1"
        job = server.finish(data["jobId"])
        assert (job["status"], job["attempt"]) == ("succeeded", 2)
        assert server.host.read()["done"] == ["create"]
        assert len(server.host.domains()) == 1
    finally:
        second.send_signal(signal.SIGTERM)
        assert second.wait(60) == 0
        server.process.send_signal(signal.SIGCONT)
