"""API tests: lists of VMs at any size: what serves them, and that it follows every write."""

import logging
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from tortoise import Tortoise
from tortoise.backends.base.executor import EXECUTOR_CACHE
from tortoise.exceptions import OperationalError
from tortoise.migrations.api.migrate import migrate
from virtplay.states import VmStatus
from virtplay.store import vm_index
from virtplay.store.database import (
    close_database,
    is_sqlite,
    open_database,
    tortoise_config,
    transaction,
)
from virtplay.store.models import Vm
from virtplay.store.vm_index import compact_counts, label_text_of, renew_index
from virtplay.store.vm_list import SORTS, page_vms
from virtplay.store.vms import delete_vm, save_vm, sync_hosts

from tests.api.conftest import Service, _execute, only_postgres, only_sqlite
from tests.api.fake_hosts import foreign_domain
from tests.api.postgres import Cluster
from tests.api.test_vms import add_vm, names, put_vm

BEFORE = "virtplay.0011_stalled_attempts"


async def rows(sql: str) -> list[dict[str, Any]]:
    """The rows of a query."""
    found: list[dict[str, Any]] = await Tortoise.get_connection("default").execute_query_dict(sql)
    return found


async def totals() -> dict[str, int]:
    """What the counts say, beside what is true."""
    counts = await rows("SELECT COALESCE(SUM(vms), 0) AS n FROM vm_count")
    return {"counted": int(counts[0]["n"]), "true": await Vm.all().count()}


async def test_a_search_of_one_or_two_characters_finds_them_anywhere(service: Service) -> None:
    for name in ("ab", "xab", "abx", "b", "虚拟机", "é1", 'q"', "ends in 7"):
        _ = await add_vm(name=name, os="zz")
    assert await names(service, search="ab") == ["ab", "xab", "abx"]
    assert await names(service, search="AB") == ["ab", "xab", "abx"]
    assert await names(service, search="拟机") == await names(service, search="拟") == ["虚拟机"]
    assert await names(service, search="e\u0301") == ["é1"]
    assert await names(service, search='"') == await names(service, search='q"') == ['q"']
    assert await names(service, search=" 7") == ["ends in 7"]
    assert await names(service, search="x") == ["xab", "abx"]
    assert await names(service, search="aa") == []
    assert await names(service, search="*") == await names(service, search="OR") == []


async def test_a_search_is_a_part_of_one_text_and_never_words(service: Service) -> None:
    for name in ("abcabd", "abd abc", "web OR db", "NEAR(x)"):
        _ = await add_vm(name=name, os="zz")
    assert await names(service, search="abcabd") == ["abcabd"]
    assert await names(service, search="abd abc") == ["abd abc"]
    assert await names(service, search="abc abd") == []
    assert await names(service, search="web OR db") == ["web OR db"]
    assert await names(service, search="near(x)") == ["NEAR(x)"]


async def test_filters_search_and_order_together(service: Service) -> None:
    running, stopped = VmStatus.RUNNING, VmStatus.STOPPED
    _ = await add_vm(running, name="web 1", cpu=4, labels={"team": "a"}, host="kvm1")
    _ = await add_vm(running, name="web 2", cpu=2, labels={"team": "a"}, host="kvm2")
    _ = await add_vm(stopped, name="web 3", cpu=2, labels={"team": "b"}, host="kvm1")
    _ = await add_vm(running, name="db 4", cpu=1, labels={"team": "a"}, host="kvm1")
    assert await names(service, search="web", label="team=a") == ["web 1", "web 2"]
    assert await names(service, search="we", label="team", sort="cpu") == [
        "web 2",
        "web 3",
        "web 1",
    ]
    assert await names(service, search="web", status="running", host="kvm1") == ["web 1"]
    assert await names(service, label="team=a", host="kvm1", sort="-name") == ["web 1", "db 4"]
    found = await service.get("/vms", search="web", label="team=a", limit=1, page=2)
    assert found["pagination"] == {"page": 2, "limit": 1, "total": 2, "pages": 2}
    assert [vm["name"] for vm in found["vms"]] == ["web 2"]


@pytest.mark.parametrize("sort", SORTS)
async def test_a_descending_order_is_the_ascending_one_backwards(
    service: Service, sort: str
) -> None:
    for number in range(7):
        await add_vm(name=f"vm {number % 3}", cpu=number % 2 + 1, host=f"kvm{number % 2 + 1}")

    async def pages(sort: str) -> list[str]:
        found = [
            (await service.get("/vms", sort=sort, limit=2, page=n))["vms"] for n in range(1, 6)
        ]
        return [vm["id"] for page in found for vm in page]

    up = await pages(sort)
    assert sorted(up) == [f"vm-{number:03d}" for number in range(1, 8)]
    assert await pages(f"-{sort}") == up[::-1]
    assert await names(service, sort=sort, status="stopped", host="kvm1")


async def test_the_index_follows_every_write_of_a_vm(service: Service) -> None:
    domain = foreign_domain("first")
    await service.see("kvm1", domains=[{**domain, "addresses": []}])
    assert await names(service, search="first") == ["first"]
    vm = await Vm.get()
    assert await names(service, search="203.0.113") == []
    await service.see("kvm1", domains=[domain])
    assert await names(service, search="203.0.113") == ["first"]
    await save_vm(vm, name="second", domain="renamed", labels={"k": "v", "k2": "w"})
    assert await names(service, search="renamed") == ["second"]
    assert await names(service, search="first") == []
    assert await names(service, search="second") == await names(service, label="k=v") == ["second"]
    await save_vm(vm, labels={"k": "x"})
    assert await names(service, label="k=v") == await names(service, label="k2") == []
    assert await names(service, label="k") == ["second"]
    assert len(await names(service, status=vm.status.value)) == 1
    await save_vm(vm, status=VmStatus.ERROR, host="kvm2")
    assert await names(service, status="error", host="kvm2") == ["second"]
    assert (await service.get("/vms", host="kvm1"))["pagination"]["total"] == 0
    await delete_vm(vm)
    assert await names(service, search="second") == await names(service, label="k") == []
    assert await rows("SELECT * FROM vm_label") == []
    assert (await service.get("/vms"))["pagination"]["total"] == 0


async def test_what_is_rolled_back_leaves_no_trace_in_the_index(database: str) -> None:
    async def break_off() -> None:
        async with transaction():
            _ = await put_vm(name="undone", labels={"a": "b"})
            raise RuntimeError

    with pytest.raises(RuntimeError):
        await break_off()
    assert await page_vms(page=1, limit=20, search="undone") == ([], 0)
    assert await page_vms(page=1, limit=20, label="a") == ([], 0)
    assert await totals() == {"counted": 0, "true": 0}


async def test_totals_are_exact_before_and_after_their_rows_are_compacted(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vm_index, "SPARE_COUNTS", 0)
    vms = [await put_vm(name=f"vm {n}", host=f"kvm{n % 2}") for n in range(6)]
    for vm in vms:
        await save_vm(vm, status=VmStatus.RUNNING)
    await save_vm(vms[0], host=None)
    await delete_vm(vms[1])
    for _ in range(2):
        assert await totals() == {"counted": 5, "true": 5}
        for filters, total in (
            ({"status": VmStatus.RUNNING}, 5), ({"status": VmStatus.STOPPED}, 0),
            ({"host": "kvm0"}, 2), ({"host": "kvm1", "status": VmStatus.RUNNING}, 2),
        ):  # fmt: skip
            assert (await page_vms(page=1, limit=1, **filters))[1] == total
        await compact_counts()
    assert len(await rows("SELECT * FROM vm_count")) <= 6


async def test_labels_of_odd_domains_are_found_and_overlong_ones_do_no_harm(database: str) -> None:
    _ = await put_vm(name="odd", labels={"a=b": "c", "a": "b=c", "long": "x" * 5000, "": "y"})
    for label in ("a", "a=b=c", "long", "=y"):
        assert (await page_vms(page=1, limit=20, label=label))[1] == 1, label
    for label in ("a=b", "b", "long=x", "long=" + "x" * 300):
        assert (await page_vms(page=1, limit=20, label=label))[1] == 0, label
    assert label_text_of({}) == "[]"


async def test_only_vms_of_hosts_that_left_the_inventory_become_unreachable(database: str) -> None:
    stay, gone = await put_vm(host="kvm1"), await put_vm(host="kvm2")
    nowhere, failed = await put_vm(host=None), await put_vm(host="kvm2", provisioned=False)
    await sync_hosts({"kvm1"})
    statuses = {vm.id: vm.status for vm in await Vm.all()}
    assert statuses == {
        stay.id: VmStatus.STOPPED,
        gone.id: VmStatus.UNREACHABLE,
        nowhere.id: VmStatus.UNREACHABLE,
        failed.id: VmStatus.STOPPED,
    }


USUAL: tuple[dict[str, Any], ...] = (
    {},
    {"page": 50},
    {"status": VmStatus.RUNNING},
    {"host": "kvm007"},
    {"label": "team=team-3"},
    {"search": "web-prod-0421"},
    {"search": "10.0.4.7"},
    {"search": "0000002a"},
    {"search": "0000002a", "label": "team=team-2", "sort": "name"},
    *({"sort": sign + sort} for sort in SORTS for sign in ("", "-")),
    {"status": VmStatus.RUNNING, "sort": "name"},
)


@pytest.mark.slow
async def test_no_usual_list_reads_every_vm(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    await renew_index()
    await fill(20_000)
    client = Tortoise.get_connection("default")
    asked: list[tuple[str, Any]] = []
    original = type(client).execute_query_dict

    async def note(self: Any, query: str, values: Any = None) -> Any:
        asked.append((query, list(values)))
        return await original(self, query, values)

    monkeypatch.setattr(type(client), "execute_query_dict", note)
    for query in USUAL:
        _, total = await page_vms(**{"page": 1, "limit": 20, **query})
        assert total > 0 or "search" in query
    monkeypatch.undo()
    if is_sqlite():
        for sql, values in asked:
            plan = await client.execute_query_dict(f"EXPLAIN QUERY PLAN {sql}", values)
            for step in plan:
                detail = str(step["detail"])
                # An index that gives the order is read only until the page is full.
                assert not detail.startswith(("SCAN vm", "SCAN v")) or (
                    "INDEX" in detail or "vm_count" in detail or "VIRTUAL" in detail
                ), (sql, detail)
        return
    for sql, values in asked:
        plan = await client.execute_query_dict(f"EXPLAIN {sql}", values)
        text = "\n".join(str(line["QUERY PLAN"]) for line in plan)
        assert "Seq Scan on vm " not in text, (sql, text)
        assert "Seq Scan on vm_label" not in text, (sql, text)


async def fill(vms: int) -> None:
    """Insert VMs as a statement."""
    series = (
        "(WITH RECURSIVE n(value) AS (SELECT 1 UNION ALL SELECT value + 1 FROM n"
        f" WHERE value < {vms}) SELECT value FROM n)"
        if is_sqlite()
        else f"(SELECT value FROM generate_series(1, {vms}) AS value)"
    )
    text = f"'web-' || value || '-{'x' * 400}'"
    identity = (
        "printf('%08x-0000-4000-8000-000000000000', value)"
        if is_sqlite()
        else "lpad(to_hex(value), 32, '0')::uuid"
    )
    connection = Tortoise.get_connection("default")
    await connection.execute_query(
        "INSERT INTO vm (ref, uuid, name, description, host, status, power, provisioned, template,"
        " os, cpu, memory, disk, disk_allocation, network, addresses, auto_start, labels, pending,"
        " search_text, label_text, generation, snapshots, missed, created_at, updated_at)"
        f" SELECT 'vm-' || value, {identity}, 'web-' || value, {text},"
        f" 'kvm00' || (value % 10), CASE value % 2 WHEN 0 THEN 'running' ELSE 'stopped' END,"
        f" '', TRUE, '', '', value % 8, value % 16, value % 32, 0, '{{}}', '[]', FALSE,"
        f" '{{}}', '{{}}', 'vm-' || value || '{chr(10)}web-' || value,"
        f" '[\"team\", \"team=team-' || (value % 10) || '\"]', 0, 0, 0,"
        f" '2026-01-01 00:00:00+00:00', '2026-01-01 00:00:00+00:00' FROM {series} AS numbers"
    )
    if not is_sqlite():
        for table in ("vm", "vm_label"):
            await connection.execute_query(f"ANALYZE {table}")


async def go_back(url: str) -> None:
    """Undo the migration, and write a VM as the version before has written it."""
    await migrate(config=tortoise_config(url), target=BEFORE)
    await Tortoise.init(config=tortoise_config(url), _enable_global_fallback=True)
    await put_old_vm()
    await close_database()


async def put_old_vm() -> None:
    """Insert a VM with the columns and the texts of the version before."""
    identity = uuid4()
    values = {
        "ref": f"vm-{identity.hex[:8]}", "uuid": str(identity), "name": "Größe", "description": "",
        "host": "kvm1", "status": "stopped", "power": "stopped", "provisioned": True,
        "template": "", "os": "", "cpu": 1, "memory": 512, "disk": 1, "disk_allocation": 0,
        "network": "{}", "addresses": "[]", "auto_start": False,
        "labels": '{"team": "caf\u00e9"}', "pending": "{}", "search_text": "vm-001\ngrösse",
        "label_text": "\nteam=caf\u00e9\n", "generation": 0, "snapshots": 0, "missed": 0,
    }  # fmt: skip
    texts = (f"'{value}'" if isinstance(value, str) else str(value) for value in values.values())
    now = "'2026-01-01 00:00:00+00:00'"
    await Tortoise.get_connection("default").execute_query(
        f"INSERT INTO vm ({', '.join(values)}, created_at, updated_at)"
        f" VALUES ({', '.join(texts)}, {now}, {now})"
    )


async def check_upgrade(url: str) -> None:
    """Go back from the migration, write VMs, and upgrade: all of them are found."""
    await open_database(url)
    await renew_index()
    await close_database()
    for _ in range(2):  # there and back again
        await go_back(url)
        await open_database(url)
        count = await Vm.all().count()
        assert (await page_vms(page=1, limit=20))[1] == count
        await renew_index()
        assert (await page_vms(page=1, limit=20, search="GRÖSSE"))[1] == count
        assert (await page_vms(page=1, limit=20, search="se"))[1] == count
        assert (await page_vms(page=1, limit=20, label="team=cafe\u0301"))[1] == count
        assert await totals() == {"counted": count, "true": count}
        await close_database()


@pytest.mark.slow
async def test_upgrade_of_a_filled_sqlite_and_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    EXECUTOR_CACHE.clear()
    monkeypatch.setattr(vm_index, "BATCH", 1)
    await check_upgrade(f"sqlite://{tmp_path}/old.sqlite3")
    with closing(sqlite3.connect(tmp_path / "old.sqlite3")) as file:
        triggers = {name for (name,) in file.execute(
            "SELECT name FROM sqlite_master WHERE type = 'trigger'")}  # fmt: skip
    assert triggers == {
        "vm_inserted", "vm_deleted", "vm_search_changed", "vm_labels_changed", "vm_moved",
    }  # fmt: skip


@pytest.mark.slow
@pytest.mark.postgres
async def test_upgrade_of_a_filled_postgresql_and_back(postgres: Cluster) -> None:
    EXECUTOR_CACHE.clear()
    await _execute(postgres, "CREATE DATABASE from_before")
    await check_upgrade(postgres.url("from_before"))
    await _execute(postgres, "DROP DATABASE from_before WITH (FORCE)")


@only_sqlite
async def test_a_current_index_is_not_read_at_the_start(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await renew_index()
    _ = await put_vm()

    def fail(_vm: Vm) -> None:
        raise AssertionError("it was indexed again")

    monkeypatch.setattr(vm_index, "index_texts", fail)
    await renew_index()
    await Tortoise.get_connection("default").execute_query("DELETE FROM vm_index_version")
    with pytest.raises(AssertionError, match="indexed again"):
        await renew_index()


@only_postgres
async def test_without_its_extension_postgresql_searches_slowly_and_says_so(
    database: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    client = type(Tortoise.get_connection("default"))
    original = client.execute_query

    async def refuse(self: Any, query: str, values: Any = None) -> Any:
        if "CREATE EXTENSION" in query:
            raise OperationalError('extension "pg_trgm" is not available')
        return await original(self, query, values)

    monkeypatch.setattr(client, "execute_query", refuse)
    with caplog.at_level(logging.WARNING):
        await renew_index()
    assert "cannot index searches" in caplog.text
    _ = await put_vm(name="found anyway")
    assert (await page_vms(page=1, limit=20, search="anyway"))[1] == 1
