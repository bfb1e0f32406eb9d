"""API tests: a database that goes away, is locked or full, and comes back."""

import asyncio
import contextlib
import re
import signal
import sqlite3
from collections.abc import AsyncIterator, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
from tortoise import Tortoise
from virtplay.api.http.auth import Role
from virtplay.api.routes import ROUTES
from virtplay.jobs import dispatcher, execution, outcome
from virtplay.store import database
from virtplay.store import jobs as store
from virtplay.store.database import DatabaseAway, close_database, open_database, transaction
from virtplay.store.models import AuditEntry, Job, JobEvent, Vm

from tests.api.conftest import BODY, Service, only_postgres, only_sqlite
from tests.api.postgres import Cluster
from tests.api.test_jobs import living
from tests.api.test_serve import Server, server, wait_for
from tests.api.test_vms import RUNNING, put_vm

__all__ = ["server"]


@pytest.fixture
def cluster(postgres: Cluster, database_url: str) -> Iterator[Cluster]:
    """The server of the test's database, which the test may stop; it runs again at the end."""
    yield postgres
    postgres.stop()
    postgres.start()


def check_refusal(answer: httpx.Response) -> str:
    """Check that it says in the envelope that the database is away; return the message."""
    assert answer.status_code == 503, answer.text
    assert answer.headers["retry-after"] == "5"
    error = answer.json()["error"]
    assert error["code"] == "DATABASE_NOT_AVAILABLE"
    assert error["details"] == {"retryAfter": 5, "outcomeUnknown": False}
    message: str = error["message"]
    assert message.startswith("cannot use the database of the service: ")
    assert "127.0.0.1" not in message
    return message


@only_postgres
async def test_a_begin_that_fails_keeps_neither_connection_nor_context(
    cluster: Cluster, database: str
) -> None:
    for _ in range(7):  # the pool has five
        assert await Vm.all().count() == 0
        # Without a turn of the event loop: the pool does not know yet.
        cluster.cut_connections()
        with pytest.raises(DatabaseAway):
            async with transaction():
                pytest.fail("it has begun")
    assert await Vm.all().count() == 0
    async with asyncio.timeout(60), transaction():
        _ = await put_vm()
    assert await Vm.all().count() == 1


@only_postgres
async def test_a_lost_connection_is_the_database_away_and_not_a_fault_of_the_change(
    cluster: Cluster, database: str
) -> None:
    async def change(error: Exception | None) -> None:
        async with transaction():
            _ = await put_vm()
            cluster.cut_connections()
            if error is not None:
                raise error

    with pytest.raises(DatabaseAway) as lost:
        await change(None)
    assert lost.value.details["outcomeUnknown"] is True
    assert lost.value.message.endswith("; the change may have been made: check it")
    # What was wrong before counts, and not that it cannot be rolled back.
    with pytest.raises(RuntimeError, match="first"):
        await change(RuntimeError("first"))
    with contextlib.suppress(DatabaseAway):
        _ = await Vm.all().count()
    assert await Vm.all().count() == 0


@only_sqlite
async def test_a_locked_database_is_away_until_it_is_free(
    monkeypatch: pytest.MonkeyPatch, database_url: str, tmp_path: Path
) -> None:
    monkeypatch.setattr(database, "BUSY_TIMEOUT_MS", 50)
    await open_database(database_url)
    try:
        other = sqlite3.connect(tmp_path / "state" / "virtplay.sqlite3")
        with contextlib.closing(other):
            other.execute("BEGIN IMMEDIATE")
            for _ in range(3):
                with pytest.raises(DatabaseAway, match="database is locked"):
                    async with transaction():
                        pytest.fail("it has begun")
                with pytest.raises(DatabaseAway, match="database is locked"):
                    _ = await put_vm()
                assert await Vm.all().count() == 0
            other.rollback()
        async with asyncio.timeout(60), transaction():
            _ = await put_vm()
        assert await Vm.all().count() == 1
    finally:
        await close_database()


async def limit_pages(more: int) -> None:
    """Let the test's SQLite file grow by so many pages."""
    connection = Tortoise.get_connection("default")
    [pages] = await connection.execute_query_dict("PRAGMA page_count")
    limit = pages["page_count"] + more
    _ = await connection.execute_query(f"PRAGMA max_page_count = {limit}")


@only_sqlite
async def test_a_full_database_undoes_the_whole_change(database: str) -> None:
    await limit_pages(20)
    vm = await put_vm()

    async def fill() -> None:
        async with transaction():
            await Vm.filter(id=vm.id).update(name="undone")
            for number in range(10_000):
                await AuditEntry(actor="x" * 128, action=str(number)).save()

    with pytest.raises(DatabaseAway, match="database or disk is full"):
        await fill()
    assert (await Vm.get()).name == "web"
    assert await AuditEntry.all().count() == 0
    await limit_pages(100_000)
    async with transaction():
        await Vm.filter(id=vm.id).update(name="done")
    assert (await Vm.get()).name == "done"


def url_of(path: str) -> str:
    """A path of the API with values for its parameters."""
    for name, value in {"{id}": "vm-001", "{snapshot}": "snap-001", "{name}": "kvm1"}.items():
        path = path.replace(name, value)
    return re.sub(r"\{\w+\}", "snap-001", path)


@only_postgres
async def test_without_a_database_every_route_says_so_and_when_to_come_again(
    cluster: Cluster, service: Service
) -> None:
    _ = await put_vm(RUNNING)
    assert (await service.client.get("/api/v1/vms/vm-001")).status_code == 200
    cluster.stop()
    for _ in range(2):
        for route in ROUTES:
            body = BODY if route.body is not None else None
            answer = await service.client.request(route.method, url_of(route.path), json=body)
            if route.role > Role.NOBODY:
                check_refusal(answer)
            elif route.path == "/readyz":
                assert answer.status_code == 503
                assert answer.json()["data"]["checks"]["database"] != "ok"
            else:
                assert answer.status_code == 200
    cluster.start()
    answer = await service.post("/vms/vm-001/stop")
    assert answer.status_code == 202, answer.text
    assert await Job.all().count() == 1
    faults = [line for line in service.logs if " virtplay." in line and "Traceback" in line]
    assert faults == []


@only_sqlite
async def test_a_change_that_cannot_be_written_leaves_nothing_and_reads_go_on(
    service: Service, tmp_path: Path
) -> None:
    _ = await put_vm(RUNNING)
    _ = await Tortoise.get_connection("default").execute_query("PRAGMA busy_timeout = 50")
    file = tmp_path / "state" / "virtplay.sqlite3"
    with contextlib.closing(sqlite3.connect(file)) as other:
        other.execute("BEGIN IMMEDIATE")
        for method, path, body in (
            ("POST", "/vms", BODY), ("PUT", "/vms/vm-001", {"cpu": 2}),
            ("DELETE", "/vms/vm-001?force=true", None), ("POST", "/vms/vm-001/stop", None),
            ("POST", "/vms/vm-001/snapshots", {"name": "a"}), ("GET", "/vms/vm-001/console", None),
            ("PUT", "/vms/vm-001/snapshot-schedule",
             {"cron": ["0 0 * * *"], "keep": {"daily": 1}}),
        ):  # fmt: skip
            answer = await service.client.request(method, f"/api/v1{path}", json=body)
            assert check_refusal(answer).endswith(": database is locked; try again"), path
        assert (await service.get("/vms/vm-001"))["status"] == "running"
        other.rollback()
    assert await Job.all().count() == await AuditEntry.all().count() == 0
    assert await Vm.all().count() == 1
    assert (await service.post("/vms/vm-001/stop")).status_code == 202


@only_sqlite
async def test_a_full_state_directory_is_no_fault_of_the_service(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    from virtplay.jobs import submission

    def write(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(submission, "write_secrets", write)
    answer = await service.post("/vms", BODY)
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
    error = answer.json()["error"]
    assert error["code"] == "DATABASE_NOT_AVAILABLE"
    assert error["message"] == (
        "cannot use the state directory of the service: no space left on device; try again"
    )
    assert await Vm.all().count() == await Job.all().count() == 0


@only_postgres
@pytest.mark.slow
def test_a_job_whose_database_is_restarted_before_it_begins_is_begun(
    cluster: Cluster, server: Server
) -> None:
    server.start()
    made = server.post("/vms", BODY)
    assert server.finish(made["jobId"])["status"] == "succeeded"
    assert server.process is not None
    # The response is there before the job is taken up; then the service stands still.
    gate = server.host.hold("create")
    answers = [server.post("/vms", BODY) for _ in range(3)]
    server.process.send_signal(signal.SIGSTOP)
    cluster.stop()
    cluster.start()
    server.process.send_signal(signal.SIGCONT)
    gate.unlink()

    def ended(job: str) -> Any:
        # Connections of before may still fail, each of them once.
        found = server.client.get(f"/jobs/{job}")
        assert found.status_code in (200, 503), found.text
        return found.status_code == 200 and found.json()["data"]["finishedAt"]

    for answer in answers:
        _ = wait_for(partial(ended, answer["jobId"]))
        assert server.finish(answer["jobId"])["status"] == "succeeded"
    assert {vm["status"] for vm in server.get("/vms")["vms"]} == {"stopped"}


@only_postgres
@pytest.mark.slow
async def test_a_job_that_ends_without_a_database_gets_its_true_outcome_later(
    cluster: Cluster, playing: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (execution, outcome):
        monkeypatch.setattr(module, "RETRY_SECONDS", 0.2)
    host = playing.hosts["kvm1"]
    gates = host.hold("create"), host.hold("stop")
    made = await playing.create(autoStart=True)
    await playing.until(
        f"/jobs/{made['jobId']}", lambda job: job["step"] == "Creating disk, starting VM"
    )
    cluster.stop()
    gates[0].unlink()
    async with asyncio.timeout(300):
        while not host.domains() or living(f"jobs/{made['jobId']}"):  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    check_refusal(await playing.client.get(f"/api/v1/jobs/{made['jobId']}"))
    cluster.start()
    job = await playing.succeed(made["jobId"])
    assert (job["attempt"], job["progress"], job["error"]) == (1, 100, None)
    assert (await playing.get(f"/vms/{made['id']}"))["status"] == "running"
    assert len(host.calls("create")) == 1
    log = (await playing.client.get(f"/api/v1/jobs/{made['jobId']}/log")).text
    assert log.count("PLAY [") == log.count("PLAY RECAP") == 1
    numbers = [event.seq for event in await JobEvent.all().order_by("seq")]
    assert numbers == list(range(1, len(numbers) + 1))


@pytest.mark.slow
@only_sqlite
async def test_a_job_that_could_not_be_read_or_leased_is_tried_again(
    playing: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dispatcher, "LOOK_SECONDS", 0.2)
    monkeypatch.setattr(execution, "RETRY_SECONDS", 0.2)
    failures = {"read": 2, "lease": 2, "commit": 1, "bug": 1}
    begin = transaction

    def fail(name: str, error: Exception) -> None:
        if failures[name]:
            failures[name] -= 1
            raise error

    async def ready() -> list[store.ReadyJob]:
        found = await store.ready_jobs()
        if found:
            fail("read", DatabaseAway("it is restarted"))
        return found

    async def lease(*given: Any) -> bool:
        fail("bug", RuntimeError("a fault"))
        fail("lease", DatabaseAway("it is restarted"))
        return await lease_job(*given)

    @contextlib.asynccontextmanager
    async def committing() -> AsyncIterator[None]:
        async with begin():
            yield
        if await Job.exists(status="running"):
            fail("commit", DatabaseAway("it is restarted", outcome_unknown=True))

    lease_job = store.lease_job
    monkeypatch.setattr(dispatcher, "ready_jobs", ready)
    monkeypatch.setattr(store, "lease_job", lease)
    monkeypatch.setattr(execution, "transaction", committing)
    job = await playing.succeed((await playing.create())["jobId"])
    assert failures == {"read": 0, "lease": 0, "commit": 0, "bug": 0}
    assert job["attempt"] == 1
    assert len(playing.hosts["kvm1"].calls("create")) == 1
    assert (await Job.get()).generation == (await Vm.get()).generation == 1


@pytest.mark.slow
@only_sqlite
async def test_a_job_that_nobody_announced_is_found(
    playing: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dispatcher, "LOOK_SECONDS", 0.2)
    # As after a commit without a response: the client got no 202, and the job is there.
    monkeypatch.setattr(playing.app.ctx.services.dispatcher, "enqueue", lambda _job: None)
    made = await playing.create()
    start = await playing.act(made["id"], "start")
    for each in (made, start):
        await playing.succeed(each["jobId"])


@pytest.mark.slow
@only_sqlite
async def test_an_outcome_whose_commit_got_no_response_is_written_once(
    playing: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dispatcher, "LOOK_SECONDS", 0.2)
    monkeypatch.setattr(outcome, "RETRY_SECONDS", 0.2)
    finish = outcome.finish
    lost: list[str] = []

    async def committing(job: Job, *given: Any) -> list[int]:
        followers = await finish(job, *given)
        if job.action == "vm_create" and not lost:
            lost.append(str(job.ref))
            raise DatabaseAway("it is restarted", outcome_unknown=True)
        return followers

    monkeypatch.setattr(outcome, "finish", committing)
    gate = playing.hosts["kvm1"].hold("create")
    made = await playing.create()
    start = await playing.act(made["id"], "start")
    gate.unlink()
    for each in (made, start):
        await playing.succeed(each["jobId"])
    assert lost == [made["jobId"]]
    assert (await playing.get(f"/vms/{made['id']}"))["status"] == "running"
