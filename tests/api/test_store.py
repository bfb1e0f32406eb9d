"""API tests: the store on both databases: migrations, the status door, tokens, job events."""

import asyncio
import itertools
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from tortoise import Tortoise
from tortoise.backends.base.executor import EXECUTOR_CACHE
from virtplay.errors import CannotStart, Conflict, ValidationFailed
from virtplay.states import FINISHED_JOB, JOB_MOVES, JobStatus
from virtplay.store import jobs as store
from virtplay.store import tokens
from virtplay.store.database import (
    FEW_NUMBERS,
    close_database,
    is_sqlite,
    open_database,
    select,
    skip_numbers,
    transaction,
)
from virtplay.store.models import AuditEntry, Job, JobEvent, Token, Vm
from virtplay.store.snapshots import create_snapshot

from tests.api.conftest import Service, _execute, only_postgres, only_sqlite
from tests.api.postgres import Cluster
from tests.api.test_vms import put_vm


async def put_job(status: JobStatus = JobStatus.QUEUED, **values: Any) -> Job:
    """A job in that status."""
    job = await store.create_job(
        action="vm_start", vm_id=1, vm_ref="vm-001", host="kvm1", requested_by="x", request_id="x"
    )
    await Job.filter(id=job.id).update(status=status, **values)
    return await Job.get(id=job.id)


async def test_every_move_of_a_job_goes_through_the_door(database: str) -> None:
    for old, new in itertools.product(list(JobStatus), list(JobStatus)):
        job = await put_job(old)
        if new in JOB_MOVES[old]:
            await store.move(job, new)
            stored = await Job.get(id=job.id)
            assert stored.status == job.status == new
            assert (stored.finished_at is not None) == (new in FINISHED_JOB)
        else:
            with pytest.raises(Conflict):
                await store.move(job, new)
            assert (await Job.get(id=job.id)).status == old
        await Job.all().delete()


async def test_a_move_fails_when_someone_was_faster(database: str) -> None:
    job = await put_job(JobStatus.RUNNING)
    await Job.filter(id=job.id).update(status=JobStatus.CANCELLING)
    with pytest.raises(Conflict):
        await store.move(job, JobStatus.SUCCEEDED)
    await Job.filter(id=job.id).update(status=JobStatus.RUNNING, generation=7)
    with pytest.raises(Conflict):
        await store.move(job, JobStatus.SUCCEEDED)
    assert (await Job.get(id=job.id)).status == JobStatus.RUNNING


async def test_of_many_moves_at_once_one_wins(database: str) -> None:
    job = await put_job(JobStatus.RUNNING)
    copies = [await Job.get(id=job.id) for _ in range(8)]
    outcomes = await asyncio.gather(
        *(store.move(copy, JobStatus.SUCCEEDED) for copy in copies), return_exceptions=True
    )
    assert sum(outcome is None for outcome in outcomes) == 1
    assert all(isinstance(o, Conflict) for o in outcomes if o is not None)


async def columns_and_indexes() -> tuple[set[tuple[str, str]], set[str]]:
    """(table, column) pairs and index names of the open database."""
    connection = Tortoise.get_connection("default")
    if connection.capabilities.dialect == "sqlite":
        columns = await connection.execute_query_dict(
            "SELECT m.name AS t, p.name AS c FROM sqlite_master m, pragma_table_info(m.name) p"
            " WHERE m.type = 'table'"
        )
        indexes = await connection.execute_query_dict(
            "SELECT name AS i FROM sqlite_master WHERE type = 'index'"
        )
    else:
        columns = await connection.execute_query_dict(
            "SELECT table_name AS t, column_name AS c FROM information_schema.columns"
            " WHERE table_schema = 'public'"
        )
        indexes = await connection.execute_query_dict(
            "SELECT indexname AS i FROM pg_indexes WHERE schemaname = 'public'"
        )
    return {(row["t"], row["c"]) for row in columns}, {row["i"] for row in indexes}


INDEXES = {
    *("one_unfinished_job_a_vm", "one_waiting_job_a_vm", "one_snapshot_of_a_name"),
    *("jobs_of_origin", "audit_by_time"),
    *("idx_job_vm_id_2b1849", "idx_job_status_2e13c7", "idx_job_finishe_6ddac6"),
    *("vms_by_name", "vms_by_status", "vms_by_host", "vms_by_cpu", "vms_by_memory"),
    *("vms_by_disk", "vms_by_creation", "vms_by_update", "vms_by_domain", "labels_of_vm"),
    *("idx_snapshot_vm_id_e45825", "idx_snapshot_sc_next_at_40b314"),
    "idx_reported_ru_reporte_7c1cd6",
}
"""All but those of keys and unique columns."""
OF_KEYS = re.compile(r"(sqlite_autoindex|uid)_|.*_(pkey|key)$")


async def check_schema() -> None:
    """The tables have exactly the columns of the models, and exactly these indexes."""
    columns, indexes = await columns_and_indexes()
    for model in Tortoise.apps["virtplay"].values():
        table = model._meta.db_table
        found = {column for of, column in columns if of == table}
        assert found == set(model._meta.fields_db_projection.values()), table
    expected = INDEXES | ({"vms_by_number"} if is_sqlite() else set())
    assert {index for index in indexes if not OF_KEYS.match(index)} == expected
    assert "idempotency_key" not in {table for table, _ in columns}


@pytest.mark.slow
async def test_migrations_from_an_empty_sqlite_file_and_again(tmp_path: Path) -> None:
    EXECUTOR_CACHE.clear()
    url = f"sqlite://{tmp_path}/new/virtplay.sqlite3"
    for _ in range(2):
        await open_database(url)
        await check_schema()
        await close_database()
    assert oct((tmp_path / "new").stat().st_mode & 0o777) == "0o700"


@pytest.mark.postgres
async def test_migrations_from_an_empty_postgresql_and_again(postgres: Cluster) -> None:
    EXECUTOR_CACHE.clear()
    await _execute(postgres, "CREATE DATABASE from_empty")
    for _ in range(2):
        await open_database(postgres.url("from_empty"))
        await check_schema()
        await close_database()
    await _execute(postgres, "DROP DATABASE from_empty WITH (FORCE)")


@pytest.mark.parametrize(
    "url",
    ["mysql://x@y/z", "nonsense", "sqlite:///proc/nowhere/x.sqlite3",
     "postgres://user:pass-word@127.0.0.1:1/none"],
)  # fmt: skip
async def test_a_database_that_cannot_be_opened_says_so_without_its_password(url: str) -> None:
    with pytest.raises(CannotStart, match="cannot ") as caught:
        await open_database(url)
    assert "pass-word" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "place"),
    [
        ("sqlite:///proc/me@home/x.sqlite3", "/proc/me@home/x.sqlite3"),
        ("postgres://user:pass-word@127.0.0.1:1/none?schema=mine", "127.0.0.1:1/none"),
    ],
)
async def test_a_database_that_cannot_be_opened_is_named(url: str, place: str) -> None:
    with pytest.raises(CannotStart, match=f"^cannot open the database at {place}: "):
        await open_database(url)


async def test_numbers_are_skipped_and_none_is_given_twice(database: str) -> None:
    assert (vm := await put_vm()).id == 1
    for number in (1, 3, 2, 10, 11 + FEW_NUMBERS, 11 + 3 * FEW_NUMBERS, 5):
        await skip_numbers("vm", number)
    assert (await put_vm()).id == 12 + 3 * FEW_NUMBERS
    await skip_numbers("snapshot", 1)  # a table that has never had a row
    values: dict[str, Any] = {"title": "t", "origin": "manual", "status": "ready"}
    assert (await create_snapshot(vm, **values)).id == 2


@only_postgres
async def test_numbers_that_others_take_meanwhile_are_not_given_again(database: str) -> None:
    taken: list[int] = []

    async def take() -> None:
        for _ in range(200):
            [(number,)] = await select("SELECT nextval('vm_id_seq')")
            taken.append(number)

    async def skip() -> None:
        for _ in range(200):
            await skip_numbers("vm", max(taken, default=0) + 2)

    await asyncio.gather(take(), take(), skip(), skip())
    assert len(set(taken)) == len(taken)


async def test_a_transaction_is_undone_as_a_whole(database: str) -> None:
    async def break_off() -> None:
        async with transaction():
            await Vm.all().delete()
            raise RuntimeError

    vm = await put_vm()
    with pytest.raises(RuntimeError):
        await break_off()
    assert await Vm.all().count() == 1
    assert (await Vm.get()).ref == vm.ref


async def test_a_transaction_that_is_cancelled_at_its_begin_keeps_no_connection(
    database: str,
) -> None:
    async def wait_in_transaction() -> None:
        async with transaction():
            await asyncio.sleep(60)

    for steps in range(12):
        tasks = [asyncio.create_task(wait_in_transaction()) for _ in range(6)]
        for _ in range(steps):
            await asyncio.sleep(0)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    together = asyncio.Barrier(1 if is_sqlite() else 5)  # as many as the pool has connections

    async def meet_in_transaction() -> None:
        async with transaction():
            await together.wait()

    async with asyncio.timeout(30):
        await asyncio.gather(*(meet_in_transaction() for _ in range(together.parties)))


async def test_reads_and_writes_beside_an_undone_transaction_are_not_lost(database: str) -> None:
    vm = await put_vm()
    inside, outside = asyncio.Event(), asyncio.Event()

    async def break_off() -> None:
        async with transaction():
            await Vm.filter(id=vm.id).update(name="undone")
            inside.set()
            await asyncio.sleep(0.2)
            raise RuntimeError

    async def write() -> None:
        await inside.wait()
        job = await put_job()
        await store.append_events(job.id, 1, [{"event": "x", "text": "kept"}])
        outside.set()

    outcomes = await asyncio.gather(break_off(), write(), return_exceptions=True)
    assert isinstance(outcomes[0], RuntimeError)
    assert outcomes[1] is None
    assert outside.is_set()
    assert (await JobEvent.get()).text == "kept"
    assert (await Vm.get()).name == "web"


async def test_events_become_the_log(database: str) -> None:
    job = await put_job()
    texts = ["", "PLAY [x]", "", "TASK [y]\r\nok: [kvm1]", "nul \x00 here"]
    following = await store.append_events(
        job.id, 1, [{"event": "e", "task": "t" * 999, "text": text} for text in texts]
    )
    assert following == await store.next_event(job.id) == 6
    assert await store.read_log(job.id) == "PLAY [x]\nTASK [y]\nok: [kvm1]\nnul  here\n"
    assert await store.append_events(job.id, following, []) == 6
    assert await store.read_log(9999) == ""


async def test_old_jobs_are_forgotten_with_their_events_and_unfinished_ones_never(
    database: str,
) -> None:
    old = datetime.now(UTC) - timedelta(days=40)
    done = await put_job(JobStatus.SUCCEEDED, finished_at=old)
    await store.append_events(done.id, 1, [{"event": "e", "text": "x"}])
    recent = await put_job(JobStatus.FAILED, finished_at=datetime.now(UTC))
    waiting = await put_job(JobStatus.QUEUED, created_at=old)
    assert await store.forget_jobs(timedelta(days=30)) == 1
    assert await store.forget_jobs(timedelta(days=30)) == 0
    assert {job.id for job in await Job.all()} == {recent.id, waiting.id}
    assert await JobEvent.all().count() == 0


async def test_the_usual_time_is_that_of_the_last_successes(database: str) -> None:
    assert await store.usual_seconds("vm_start") is None
    now = datetime.now(UTC)
    for seconds in (2, 4):
        begun = now - timedelta(seconds=seconds)
        _ = (await put_job(JobStatus.SUCCEEDED, started_at=begun, finished_at=now)).id
    _ = (await put_job(JobStatus.FAILED, started_at=now - timedelta(hours=1), finished_at=now)).id
    usual = await store.usual_seconds("vm_start")
    assert usual == pytest.approx(3, abs=0.01)
    # One of six is an exception, two of seven are not: then no estimate would be right.
    for seconds, expected in ((3, 3), (3, 3), (3, 3), (55, 3), (50, None)):
        begun = now - timedelta(seconds=seconds)
        _ = await put_job(JobStatus.SUCCEEDED, started_at=begun, finished_at=now)
        usual = await store.usual_seconds("vm_start")
        assert usual == (expected and pytest.approx(expected, abs=0.01))


async def test_tokens_are_kept_as_digests_only(database: str) -> None:
    text = await tokens.create_token("ci", "operator")
    assert len(text) >= 43
    rows = await Token.all().values()
    assert text not in repr(rows)
    assert len(rows[0]["digest"]) == 64
    found = await tokens.check_token(text)
    assert found is not None
    assert (found.name, found.role) == ("ci", "operator")
    assert await tokens.check_token(text + "x") is None
    assert await tokens.check_token(rows[0]["digest"]) is None
    assert await tokens.check_token("") is None
    assert (await Token.get()).last_used_at is not None


async def test_tokens_expire_and_are_revoked(database: str) -> None:
    now = datetime.now(UTC)
    over = await tokens.create_token("over", "viewer", now - timedelta(seconds=1))
    valid = await tokens.create_token("valid", "viewer", now + timedelta(hours=1))
    assert await tokens.check_token(over) is None
    assert await tokens.check_token(valid) is not None
    await tokens.revoke_token("valid")
    assert await tokens.check_token(valid) is None
    with pytest.raises(ValidationFailed, match="cannot revoke token valid"):
        await tokens.revoke_token("valid")
    with pytest.raises(ValidationFailed, match="cannot create token over"):
        await tokens.create_token("over", "viewer")
    assert [token.name for token in await tokens.list_tokens()] == ["over", "valid"]


async def test_old_audit_rows_go_and_the_others_stay(database: str) -> None:
    now = datetime.now(UTC)
    for days in (400, 366, 364, 0):
        await store.write_audit(actor=f"{days} days ago", action="vm_start")
        await AuditEntry.filter(actor=f"{days} days ago").update(created_at=now - timedelta(days))
    assert await store.forget_audit(timedelta(days=365)) == 2
    assert await store.forget_audit(timedelta(days=365)) == 0
    left = [entry.actor for entry in await AuditEntry.all().order_by("id")]
    assert left == ["364 days ago", "0 days ago"]


@only_sqlite
async def test_service_forgets_what_was_kept_long_enough(service: Service) -> None:
    old = datetime.now(UTC) - timedelta(days=1)
    service.settings.audit_retention_days = service.settings.job_retention_days = 0.5
    await store.write_audit(actor="old", action="vm_start")
    await AuditEntry.all().update(created_at=old)
    await store.write_audit(actor="new", action="vm_start")
    _ = await put_job(JobStatus.SUCCEEDED, finished_at=old)
    upkeep = asyncio.create_task(service.app.ctx.background._delete_expired())
    for _ in range(400):
        if not await Job.all().count() and await AuditEntry.all().count() == 1:
            break
        await asyncio.sleep(0.05)
    upkeep.cancel()
    assert await Job.all().count() == 0
    assert [entry.actor for entry in await AuditEntry.all()] == ["new"]
