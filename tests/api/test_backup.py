"""API tests: the database is saved in a file while it is used, and restored from it."""

import asyncio
import os
import shutil
import sqlite3
import sys
import uuid
from asyncio.subprocess import PIPE
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from tortoise import Tortoise
from tortoise.migrations.api.migrate import migrate
from virtplay import background, services
from virtplay.errors import CannotCopy, CannotStart
from virtplay.files import PROJECT
from virtplay.hosts.inventory import HostConfig, Inventory
from virtplay.hosts.placement import Overcommit
from virtplay.jobs.restoration import restore
from virtplay.settings import Settings
from virtplay.states import JobStatus, VmStatus
from virtplay.store import backup, claim, database
from virtplay.store.backup import applied_migrations, save_backup, unpack_backup
from virtplay.store.database import (
    DatabaseError,
    close_database,
    open_database,
    select,
    tortoise_config,
    transaction,
)
from virtplay.store.jobs import create_job
from virtplay.store.models import Host, Job, Snapshot, Vm
from virtplay.store.tokens import create_token
from virtplay.store.upgrade import save_before_upgrade
from virtplay.store.vm_index import renew_index
from virtplay.store.vms import create_vm, delete_vm, sync_hosts

from tests.api.conftest import CATALOGUE, Service, _serve, only_postgres, only_sqlite
from tests.api.fake_hosts import FakeHost
from tests.api.postgres import Cluster
from tests.api.test_serve import VIRTPLAY
from tests.api.test_vms import add_vm

EARLIER = "0012_lists_at_any_size"
LATER = (
    "INSERT INTO tortoise_migrations (id, app, name, applied_at)"
    " VALUES (9999, 'virtplay', '9999_later', '2030-01-01')"
)
"""Makes a database one of a later version."""
DIFFERENT = ("observed_at", "status", "message")
"""Columns of hosts that a restore resets."""


def names_like(path: Path) -> list[str]:
    """The names beside a path that have its name in them."""
    return [each.name for each in path.parent.glob(f"*{path.name}*")]


async def virtplay(settings: Settings, *words: str) -> str:
    """What `virtplay` with these words prints, on the database of the settings."""
    status, output, fault = await run_program(
        VIRTPLAY,
        *words,
        VIRTPLAY_STATE_DIR=str(settings.state_dir),
        VIRTPLAY_DATABASE_URL=settings.database_url,
    )
    assert status == 0, fault
    return output


async def run_program(*command: str | Path, **environment: str) -> tuple[int | None, str, str]:
    """Exit status, standard output and standard error of a program, which is not left behind."""
    program = await asyncio.create_subprocess_exec(
        *command, env={**os.environ, **environment}, stdout=PIPE, stderr=PIPE
    )
    try:
        async with asyncio.timeout(300):
            output, fault = await program.communicate()
    finally:
        if program.returncode is None:
            program.kill()
            await program.wait()
    return program.returncode, output.decode(), fault.decode()


@pytest.mark.slow
async def test_a_backup_while_jobs_run_is_restored_beside_the_hosts(
    settings: Settings,
    log_lines: list[str],
    fake_hosts: dict[str, FakeHost],
    way: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def load(_settings: Settings) -> Inventory:
        return Inventory({"kvm1": HostConfig("kvm1", Overcommit(), CATALOGUE)})

    for module in (background, services):
        monkeypatch.setattr(module, "load_inventory", load)  # Ansible takes a second for it
    settings.launcher = way
    file, host = tmp_path / "virtplay.backup", fake_hosts["kvm1"]
    async with _serve(settings, log_lines) as service:
        await service.app.ctx.services.observer.wait_observed()
        first = await service.create(name="first", autoStart=True)
        await service.succeed(first["jobId"])
        gate = host.hold("create")
        running = await service.create(name="second")
        start = await service.act(running["id"], "start")
        await service.until(f"/jobs/{running['jobId']}", lambda job: job["status"] == "running")
        held = host.hold("stop")
        stop = await service.act(first["id"], "stop", {"force": True})
        await service.until(f"/jobs/{stop['jobId']}", lambda job: job["status"] == "running")
        assert await virtplay(settings, "db", "backup", str(file)) == (
            f"saved the database in {file}: 2 VMs, 4 jobs, 1 token, 0 snapshots\n"
        )
        assert file.stat().st_mode & 0o777 == 0o600
        assert names_like(file) == [file.name]
        assert names_like(settings.last_backup) == ["last-backup"]
        # All of it ends, and more happens, before the database is lost.
        gate.unlink()
        held.unlink()
        for job in (running, start, stop):
            await service.succeed(job["jobId"])
        later = await service.create(name="later")
        await service.succeed(later["jobId"])
    restored = await virtplay(settings, "db", "restore", str(file), "--replace")
    ids = ", ".join(each["jobId"] for each in (running, start, stop))
    assert f"3 jobs were unfinished, and are not run again: {ids}" in restored
    assert names_like(settings.state_dir / "restore-") == []
    calls = len(host.calls())
    async with _serve(settings, log_lines) as service:
        jobs = [await service.get(f"/jobs/{each['jobId']}") for each in (running, start, stop)]
        assert [job["status"] for job in jobs] == ["lost", "cancelled", "lost"]
        assert "restored from a backup of" in jobs[2]["error"]["message"]
        found = await service.until("/vms", lambda data: len(data["vms"]) == 3)
        shown = {vm["id"]: (vm["name"], vm["status"], vm["error"]) for vm in found["vms"]}
        assert shown == {
            first["id"]: ("first", "stopped", None),
            running["id"]: ("second", "running", None),
            later["id"]: ("later", "stopped", None),
        }
        assert {call["action"] for call in host.calls()[calls:]} <= {"observe"}
        new = await service.create(name="new")
        assert new["id"] > later["id"]
        await service.succeed(new["jobId"])


async def make_earlier(url: str) -> None:
    """Make a database of an earlier version, with a token."""
    await migrate(config=tortoise_config(url), target=f"virtplay.{EARLIER}")
    await Tortoise.get_connection("default").execute_query(
        "INSERT INTO token (name, digest, role, created_at) VALUES ('ci', 'd', 'admin',"
        " '2026-01-02 03:04:05+00:00')"
    )
    await close_database()


@pytest.fixture(scope="module")
def earlier_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An SQLite database of an earlier version, for copies: migrations take long."""
    path = tmp_path_factory.mktemp("earlier") / "earlier.sqlite3"
    asyncio.run(make_earlier(f"sqlite://{path}"))
    return path


@pytest.fixture
def earlier_sqlite(earlier_file: Path, tmp_path: Path) -> str:
    """The URL of an SQLite database of an earlier version."""
    return f"sqlite://{shutil.copyfile(earlier_file, tmp_path / 'earlier.sqlite3')}"


@pytest.fixture(scope="module")
def earlier_postgres(postgres: Cluster) -> str:
    """The name of a PostgreSQL database of an earlier version, for copies."""
    name = f"earlier_{uuid.uuid4().hex[:8]}"
    asyncio.run(make_earlier(postgres.new_database(name)))
    return name


@pytest.fixture
def earlier(request: pytest.FixtureRequest, database_url: str) -> str:
    """The URL of a database of an earlier version, of the kind of `database_url`."""
    if database_url.startswith("sqlite"):
        return str(request.getfixturevalue("earlier_sqlite"))
    model = request.getfixturevalue("earlier_postgres")
    cluster: Cluster = request.getfixturevalue("postgres")
    return cluster.new_database(f"copy_{uuid.uuid4().hex[:8]}", like=model)


@pytest.fixture
def new_postgres(postgres: Cluster) -> str:
    """The URL of a PostgreSQL database without tables."""
    return postgres.new_database(f"restored_{uuid.uuid4().hex[:8]}")


def settings_of(tmp_path: Path, url: str) -> Settings:
    """Settings of a service on the database."""
    return Settings(state_dir=tmp_path / "state", database_url=url)


def hidden(folder: Path) -> list[Path]:
    """The files whose names begin with a dot."""
    return list(folder.glob(".*"))


async def fill() -> None:
    """Write a row of each kind, and rows that are gone."""
    await sync_hosts({"kvm1", "kvm2"})
    await renew_index()
    labels = {"team": "wéb", "env": "prod"}
    await add_vm(VmStatus.RUNNING, name="wéb\n", labels=labels, elsewhere={"kvm2": "stopped"})
    await add_vm(VmStatus.STOPPED, name="it's", error={"code": "X", "message": 'a "b" \\'})
    await create_token("ci", "operator")
    job = await create_job(
        action="vm_stop", vm_id=9, vm_ref="vm-009", requested_by="ci", request_id="r",
        variables={"a": [1, None, "ü"]}, host="kvm1",
    )  # fmt: skip
    await Job.filter(id=job.id).update(status=JobStatus.RUNNING, generation=3)
    await Snapshot(vm_id=1, ref="snap-001", name="snap-001", title="t", origin="manual",
                   status="ready", size=2**40).save()  # fmt: skip
    connection = Tortoise.get_connection("default")
    for table in ("sample_raw", "sample_1h"):
        await connection.execute_query(
            f"INSERT INTO {table} (vm_id, at, cpu, disk_read) VALUES (1, 1700000000, 12, NULL)"
        )
    async with transaction():
        gone = await create_vm(
            9, uuid=uuid.uuid4(), name="gone", cpu=1, memory=1, disk=1, status="stopped"
        )
        await delete_vm(gone)


async def rows_of_all_tables() -> dict[str, Any]:
    """Every row, as Python's values."""
    found: dict[str, Any] = {
        model.__name__: await model.all().order_by(model._meta.pk_attr).values()
        for model in Tortoise.apps["virtplay"].values()
    }
    for table in ("sample_raw", "sample_5m", "sample_1h", "sample_rollup", "vm_index_version"):
        found[table] = await select(f"SELECT * FROM {table}")
    found["vm_label"] = await select("SELECT label, vm_id FROM vm_label ORDER BY label, vm_id")
    found["vm_count"] = await select(
        "SELECT host, status, sum(vms) FROM vm_count GROUP BY host, status HAVING sum(vms) > 0"
        " ORDER BY status"
    )
    return found


def without_what_restores_settle(rows: dict[str, Any]) -> dict[str, Any]:
    """The rows without those columns of hosts and without jobs."""
    hosts = [{k: v for k, v in row.items() if k not in DIFFERENT} for row in rows["Host"]]
    vms = [{k: v for k, v in row.items() if k != "updated_at"} for row in rows["Vm"]]
    return {**rows, "Host": hosts, "Vm": vms, "Job": []}


@pytest.mark.parametrize("target", ["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
async def test_either_kind_is_restored_into_either_kind(
    request: pytest.FixtureRequest, tmp_path: Path, database_url: str, target: str
) -> None:
    file = tmp_path / "file"
    await open_database(database_url)
    await fill()
    before = await rows_of_all_tables()
    await close_database()
    contents = await save_backup(database_url, file)
    assert (contents.rows["vm"], contents.rows["job"], contents.rows["sample_raw"]) == (2, 1, 1)
    url = f"sqlite://{tmp_path}/new/other.sqlite3"
    if target == "postgres":
        url = request.getfixturevalue("new_postgres")
    restored = await restore(settings_of(tmp_path, url), file, replace=False)
    assert restored.contents.made_at
    assert restored.ended == ["job-000001"]
    await open_database(url)
    after = await rows_of_all_tables()
    assert without_what_restores_settle(after) == without_what_restores_settle(before)
    assert [(host.status, host.observed_at) for host in await Host.all()] == [("unknown", None)] * 2
    assert [job["status"] for job in after["Job"]] == [JobStatus.LOST]
    found = await create_vm(
        uuid=uuid.uuid4(), name="new", cpu=1, memory=1, disk=1, status="stopped"
    )
    assert found.ref == "vm-010", "the number of a deleted VM is given again"
    await close_database()


async def test_a_backup_of_an_earlier_schema_keeps_it_and_is_upgraded_when_restored(
    tmp_path: Path, database_url: str, earlier: str
) -> None:
    file = tmp_path / "file"
    await save_backup(earlier, file)
    with closing(sqlite3.connect(file)) as copy:
        assert max(backup._applied(copy)) == EARLIER
    await restore(settings_of(tmp_path, database_url), file, replace=True)
    await open_database(database_url)
    assert await select("SELECT name, role FROM token") == [("ci", "admin")]
    assert not await Vm.exists(managed=True)
    await close_database()


async def test_a_restore_that_fails_changes_nothing(
    tmp_path: Path, database_url: str, sqlite_template: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await open_database(database_url)
    await fill()
    before = await rows_of_all_tables()
    await close_database()
    file = tmp_path / "file"
    await save_backup(f"sqlite://{sqlite_template}", file)  # it has no rows
    settings = settings_of(tmp_path, database_url)
    with pytest.raises(CannotCopy, match=r"it is not empty \(2 VMs, 1 job, 1 token,"):
        await restore(settings, file, replace=False)
    monkeypatch.setattr(claim, "PATIENCE_SECONDS", 0.1)
    service = claim.claim_of(database_url)
    await service.take()
    with pytest.raises(CannotCopy, match=r"another virtplay serve uses the database .*; stop it"):
        await restore(settings, file, replace=True)
    await service.release()
    if not database_url.startswith("sqlite"):
        # In the middle of the rows; on SQLite there is only one step.
        load = backup._load_rows

        async def fail(source: Any, target: Any, table: str) -> None:
            await load(source, target, table)
            if table == "vm":
                raise OSError("no more")

        monkeypatch.setattr(backup, "_load_rows", fail)
        with pytest.raises(CannotCopy, match="no more"):
            await restore(settings, file, replace=True)
    await open_database(database_url)
    assert await rows_of_all_tables() == before
    await close_database()


@only_sqlite
async def test_what_is_no_backup_is_refused(tmp_path: Path, database_url: str) -> None:
    settings = settings_of(tmp_path, database_url)

    async def refused(file: Path) -> str:
        with pytest.raises(CannotCopy) as caught:
            await restore(settings, file, replace=True)
        return caught.value.message

    good = tmp_path / "good"
    await save_backup(database_url, good)
    assert "No such file" in await refused(tmp_path / "absent")
    text = tmp_path / "text"
    text.write_text("a text, long enough to be no header of SQLite" * 100)
    assert "is no backup of Virtplay" in await refused(text)
    other = tmp_path / "other"
    with closing(sqlite3.connect(other)) as opened:
        opened.execute("CREATE TABLE mine (a)")
    assert "is no backup of Virtplay" in await refused(other)
    damaged = tmp_path / "damaged"
    content = bytearray(good.read_bytes())
    content[4096 * 3 : 4096 * 20] = b"\xff" * (4096 * 17)
    damaged.write_bytes(content)
    assert "cannot read" in await refused(damaged)
    short = tmp_path / "short"
    short.write_bytes(good.read_bytes()[:-20])
    assert "it is damaged (" in await refused(short)
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    assert "it is a pipe or a device" in await refused(pipe)
    with pytest.raises(CannotCopy, match="it exists and is no backup; choose another name"):
        await save_backup(database_url, pipe)
    place = Path(database_url.removeprefix("sqlite://"))
    link = tmp_path / "link"
    link.symlink_to(place)
    for itself in (place, link):
        assert "it is the database itself; name a backup of it" in await refused(itself)
    later = tmp_path / "later"
    later.write_bytes(good.read_bytes())
    await change(f"sqlite://{later}", LATER)
    assert "a later version of Virtplay has written it (9999_later)" in await refused(later)
    for existing, why in ((text, "exists and is no backup"), (place, "is the database itself")):
        before = existing.read_bytes()
        with pytest.raises(CannotCopy, match=f"it {why}; choose another name"):
            await save_backup(database_url, existing)
        assert existing.read_bytes() == before
    await save_backup(database_url, good)  # an earlier backup is replaced
    link.unlink()
    link.symlink_to(tmp_path / "target")
    for _ in range(2):  # of a link its target, whether it exists or not
        await save_backup(database_url, link)
        assert link.is_symlink()
        assert (await unpack_backup(tmp_path / "target", tmp_path / "copy")).made_at
    with pytest.raises(CannotCopy, match="No such file or directory"):
        await save_backup(database_url, tmp_path / "nowhere" / "file")
    with pytest.raises(CannotCopy, match="there is no such file"):
        await save_backup(f"sqlite://{tmp_path}/none.sqlite3", tmp_path / "new")
    assert not (tmp_path / "new").exists()
    assert not hidden(tmp_path)


@only_sqlite
async def test_what_an_open_database_has_in_its_wal_file_alone_is_read(
    tmp_path: Path, database_url: str
) -> None:
    await open_database(database_url)
    await close_database()
    place = Path(database_url.removeprefix("sqlite://"))
    with closing(sqlite3.connect(place)) as writer:
        assert writer.execute("PRAGMA journal_mode = WAL").fetchone() == ("wal",)
        writer.execute(
            "INSERT INTO token (name, role, digest, created_at)"
            " VALUES ('a', 'admin', 'b', '2030-01-01')"
        )
        writer.commit()
        before = await asyncio.to_thread(place.read_bytes)
        link = tmp_path / "elsewhere" / "link"
        link.parent.mkdir()
        link.symlink_to(place)
        contents = await unpack_backup(link, tmp_path / "copy")
        # What was written is in its -wal file alone.
        assert await asyncio.to_thread(place.read_bytes) == before
    assert contents.rows["token"] == 1


async def test_a_database_of_an_earlier_version_is_saved_before_its_upgrade(
    tmp_path: Path, database_url: str, earlier: str
) -> None:
    folder = tmp_path / "backups"
    await save_before_upgrade(f"sqlite://{tmp_path}/none.sqlite3", folder)
    await save_before_upgrade(database_url, folder)
    assert not folder.exists(), "a new database, and one with the present schema, need no backup"
    folder.touch()
    with pytest.raises(CannotStart, match="cannot upgrade the database without a backup"):
        await save_before_upgrade(earlier, folder)
    assert max(await applied_migrations(earlier)) == EARLIER
    folder.unlink()
    folder.mkdir()
    for number in range(6):
        (folder / f"2025010{number + 1}T000000Z-0001_initial").touch()
    strange = ["20250101T000000Z-0002_folder", "20250101T000000Z-copy", "zz-mine"]
    (folder / strange[0]).mkdir()
    for name in strange[1:]:
        (folder / name).touch()
    await save_before_upgrade(earlier, folder)
    assert {*strange} <= {path.name for path in folder.iterdir()}
    names = sorted(path.name for path in folder.iterdir() if path.name not in strange)
    assert len(names) == 5
    assert names[0].startswith("20250103T")
    assert names[-1].endswith(f"Z-{EARLIER}")
    assert await applied_migrations(f"sqlite://{folder / names[-1]}") < await applied_migrations(
        database_url
    )
    await open_database(earlier)
    await close_database()
    await save_before_upgrade(earlier, folder)
    assert sorted(path.name for path in folder.iterdir()) == sorted([*names, *strange])


async def test_the_database_of_a_later_version_is_not_opened_but_can_be_replaced(
    tmp_path: Path, database_url: str
) -> None:
    file = tmp_path / "file"
    await save_backup(database_url, file)
    await open_database(database_url)
    await close_database()
    remedy = "--replace" if database_url.startswith("sqlite") else "into an empty database"
    words = rf"a later version .* \(9999_later\); install that version, or restore .* {remedy}"
    await change(database_url, LATER)
    try:
        with pytest.raises(CannotStart, match=words):
            await open_database(database_url)
        if database_url.startswith("sqlite"):
            await restore(settings_of(tmp_path, database_url), file, replace=True)
    finally:
        if not database_url.startswith("sqlite"):  # other tests use the same database
            await change(database_url, "DELETE FROM tortoise_migrations WHERE id = 9999")
    await open_database(database_url)
    await close_database()


async def test_the_database_of_a_later_version_is_not_migrated(
    tmp_path: Path, earlier: str
) -> None:
    await change(earlier, LATER)
    before = await applied_migrations(earlier)
    for opening in (save_before_upgrade(earlier, tmp_path / "backups"), open_database(earlier)):
        with pytest.raises(CannotStart, match=r"a later version .* \(9999_later\); install that"):
            await opening
    assert EARLIER in before
    assert await applied_migrations(earlier) == before
    assert not (tmp_path / "backups").exists()


async def change(url: str, statement: str) -> None:
    """Run a statement beside Tortoise."""
    if url.startswith("sqlite"):
        with closing(sqlite3.connect(url.removeprefix("sqlite://"))) as opened:
            opened.execute(statement)
            opened.commit()
        return
    async with backup._connected(url) as connection:
        await connection.execute(statement)


async def test_a_database_that_cannot_be_read_is_not_taken_for_a_new_one(
    tmp_path: Path, database_url: str
) -> None:
    if database_url.startswith("sqlite"):
        url, why = f"sqlite://{tmp_path}/damaged.sqlite3", "file is not a database"
        (tmp_path / "damaged.sqlite3").write_text("no database" * 1000)
    else:
        url, why = f"{database_url.rpartition('/')[0]}/nowhere", "Can't establish connection"
    with pytest.raises(CannotStart, match=f"cannot open the database at [^@]+: {why}"):
        await save_before_upgrade(url, tmp_path / "backups")
    # An empty file, or a database without tables, is one.
    (tmp_path / "empty.sqlite3").touch()
    assert await applied_migrations(f"sqlite://{tmp_path}/empty.sqlite3") == set()


@only_sqlite
async def test_a_copy_that_the_database_refuses_says_so(
    tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "file"
    await open_database(database_url)
    await close_database()
    await save_backup(database_url, file)

    async def refuse(**_: object) -> None:
        raise DatabaseError("a migration failed")

    monkeypatch.setattr(database, "migrate", refuse)
    with pytest.raises(CannotCopy, match=f"cannot restore {file}: a migration failed"):
        await restore(settings_of(tmp_path, database_url), file, replace=True)


@only_postgres
async def test_a_postgresql_that_refuses_a_migration_says_so(
    tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(**_: object) -> None:
        raise DatabaseError("a migration failed")

    monkeypatch.setattr(backup, "migrate", refuse)
    monkeypatch.setattr(database, "migrate", refuse)
    with pytest.raises(CannotCopy, match=r"cannot save the database .*: a migration failed"):
        await save_backup(database_url, tmp_path / "file")
    with pytest.raises(CannotCopy, match=r"cannot restore the database .*: a migration failed"):
        await backup.load_backup(tmp_path / "copy", database_url, replace=True)


@pytest.mark.postgres
async def test_the_role_restores_postgresql_as_a_whole_or_not_at_all(
    postgres: Cluster, tmp_path: Path
) -> None:
    name = f"of_a_role_{uuid.uuid4().hex[:8]}"
    async with backup._connected(postgres.new_database(name)) as server:
        # The service does not own the database's extension.
        await server.execute("CREATE EXTENSION pg_trgm")
        await server.execute(f"CREATE ROLE {name} LOGIN PASSWORD 'known'")
        await server.execute(f"ALTER DATABASE {name} OWNER TO {name}")
    address = postgres.url(name).rpartition("@")[2]
    url = f"postgres://{name}:known@{address}"
    program, copy = PROJECT / "roles/virtplay_service/files/database_copy.py", tmp_path / "copy"

    async def run(verb: str) -> tuple[int | None, str]:
        words = (sys.executable, program, verb, copy)
        status, _output, fault = await run_program(*words, VIRTPLAY_DATABASE_URL=url)
        return status, fault

    async def rows() -> dict[str, Any]:
        await open_database(url)
        found = await rows_of_all_tables()
        await close_database()
        return found

    await open_database(url)
    await fill()
    await close_database()
    before = await rows()
    assert await run("save") == (0, "")
    async with backup._connected(url) as service:
        await service.execute("DELETE FROM vm; CREATE TABLE newer (id INT)")
        ruined = await rows()
        whole = copy.read_bytes()
        copy.write_bytes(whole[:-500])
        status, fault = await run("restore")
        assert status == 1
        assert "cannot copy the database: pg_restore failed" in fault
        assert await rows() == ruined
        copy.write_bytes(whole)
        assert await run("restore") == (0, "")
        assert await service.fetchval("SELECT to_regclass('newer')") is None
    assert await rows() == before
    assert names_like(copy) == ["copy"]


async def test_an_old_backup_that_cannot_be_deleted_is_logged(
    tmp_path: Path,
    earlier_sqlite: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    folder = tmp_path / "backups"
    folder.mkdir()
    for number in range(6):
        (folder / f"2025010{number + 1}T000000Z-0001_initial").touch()

    unlink = Path.unlink

    def refuse(path: Path, missing_ok: bool = False) -> None:
        if path.name.startswith("2025"):
            raise PermissionError(1, "Operation not permitted", str(path))
        unlink(path, missing_ok)

    monkeypatch.setattr(Path, "unlink", refuse)
    await save_before_upgrade(earlier_sqlite, folder)
    assert "cannot delete old backups" in caplog.text
    assert len(list(folder.iterdir())) == 7


async def test_the_way_back_keeps_the_indexes_of_the_jobs(earlier_sqlite: str) -> None:
    config = tortoise_config(earlier_sqlite)

    def jobs_table() -> tuple[list[str], set[str]]:
        with closing(sqlite3.connect(earlier_sqlite.removeprefix("sqlite://"))) as opened:
            indexes = opened.execute(
                "SELECT sql FROM sqlite_master WHERE type = 'index' AND tbl_name = 'job'"
            ).fetchall()
            columns = opened.execute("PRAGMA table_info(job)").fetchall()
        return sorted(str(sql) for (sql,) in indexes), {str(row[1]) for row in columns}

    before = jobs_table()
    await migrate(config=config)
    assert jobs_table()[1] - before[1] == {"at_once", "bulk_id", "step_started_at", "step_timeout"}
    await migrate(config=config, target=f"virtplay.{EARLIER}")
    await close_database()
    assert before[0]
    assert jobs_table() == before


@pytest.fixture
def earlier_in_place(database_url: str, earlier_file: Path) -> None:
    """Put a database of an earlier version in the place of the service's."""
    shutil.copyfile(earlier_file, database_url.removeprefix("sqlite://"))


@only_sqlite
@pytest.mark.usefixtures("earlier_in_place")
async def test_a_newer_service_saves_the_database_when_it_starts(service: Service) -> None:
    (saved,) = service.settings.backups.iterdir()
    assert saved.name.endswith(f"-{EARLIER}")
    assert f"saved the database in {saved} before its upgrade" in "\n".join(service.logs)
