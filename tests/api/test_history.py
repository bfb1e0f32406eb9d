"""API tests: what VMs used, as JSON."""

import time
import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from tortoise import Tortoise
from virtplay.metrics.history import History
from virtplay.metrics.prometheus_history import PrometheusHistory
from virtplay.settings import Settings
from virtplay.store import samples as store
from virtplay.store.models import Vm
from virtplay.store.samples import Resolution, Sample

from tests.api.conftest import Service
from tests.api.fake_hosts import foreign_domain, host_info
from tests.api.test_vms import RUNNING, put_vm

START = 1_767_225_600  # 2026-01-01T00:00:00Z
HOUR = 3600


def iso(at: float) -> str:
    """A moment as the API writes it."""
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def seen(vm: Vm, uptime: float, **stats: Any) -> dict[str, Any]:
    """An observation of kvm1 with that VM, made at that uptime of the host."""
    info = host_info(
        domains=[
            foreign_domain(
                "vm-001",
                uuid=str(vm.uuid),
                state="running",
                vcpus=2,
                memory=512,
                stats={"block": [], "interface": [], **stats},
            )
        ]
    )
    info["host"]["uptime_seconds"] = uptime
    return info


async def count(table: str) -> int:
    """Rows in a table."""
    _, rows = await Tortoise.get_connection("default").execute_query(
        f"SELECT count(*) AS n FROM {table}"
    )
    return int(rows[0]["n"])


async def test_what_a_vm_uses_and_used(service: Service) -> None:
    vm = await put_vm(RUNNING, cpu=2)
    history: History = service.app.ctx.services.history
    now = time.time() - 600
    now -= now % 60
    for turn in range(9):
        stats = {
            "cpu_time_ns": turn * 15 * 10**9,
            "balloon": {"available_bytes": 500 * 1024**2, "usable_bytes": 372 * 1024**2},
            "block": [{"read_bytes": turn * 1500, "write_bytes": turn * 150}],
            "interface": [{"rx_bytes": turn * 30, "tx_bytes": turn * 15}],
        }
        info = seen(vm, 100 + turn * 15, **stats)
        await history.take("kvm1", info, {str(vm.uuid): vm.id}, now + turn * 15)
    data = await service.get(f"/vms/{vm.ref}/metrics", interval="1m")
    assert data["cpu"]["usage"] == 50.0
    assert data["cpu"]["history"] == [
        {"timestamp": iso(now + minute * 60), "value": 50.0} for minute in range(3)
    ]
    assert data["memory"] == {"used": 128, "total": 512, "usage": 25.0}
    assert data["disk"] == {
        "read": 100, "write": 10, "usage": 30.0, "readTotal": 12000, "writeTotal": 1200,
    }  # fmt: skip
    assert data["network"] == {"rx": 2, "tx": 1, "rxTotal": 240, "txTotal": 120}
    whole = await service.get(f"/vms/{vm.ref}/metrics", history="all", interval="5m")
    for part, keys in (
        ("memory", {"timestamp", "value"}),
        ("disk", {"timestamp", "read", "write", "usage"}),
        ("network", {"timestamp", "rx", "tx"}),
    ):
        assert whole[part]["history"], part
        assert set(whole[part]["history"][0]) == keys


async def test_gaps_are_gaps(service: Service) -> None:
    vm = await put_vm(RUNNING)
    now = int(time.time()) // 60 * 60
    await store.write_samples(
        [(vm.id, Sample(now - 600, cpu=1000)), (vm.id, Sample(now - 60, cpu=2000))]
    )
    data = await service.get(f"/vms/{vm.ref}/metrics")
    assert [(p["timestamp"], p["value"]) for p in data["cpu"]["history"]] == [
        (iso(now - 600), 10.0),
        (iso(now - 60), 20.0),
    ]
    assert data["cpu"]["usage"] is None


async def test_nothing_is_known_of_a_vm_that_never_ran(service: Service) -> None:
    vm = await put_vm()
    data = await service.get(f"/vms/{vm.ref}/metrics", history="all")
    assert data["cpu"] == {"usage": None, "history": []}
    assert data["memory"] == {"used": None, "total": 512, "usage": None, "history": []}
    assert (await service.client.get("/api/v1/vms/vm-999/metrics")).status_code == 404


async def test_a_range_in_any_offset(service: Service) -> None:
    vm = await put_vm()
    await store.write_samples([(vm.id, Sample(START + 90, cpu=100))])
    for since, until in (
        ("2026-01-01T00:00:00Z", "2026-01-01T01:00:00Z"),
        ("2026-01-01T05:30:00+05:30", "2026-01-01T06:30:00+05:30"),
        ("2025-12-31T19:00:00-05:00", "2025-12-31T20:00:00-05:00"),
    ):
        answer = await service.client.get(
            f"/api/v1/vms/{vm.ref}/metrics?from={since}&to={until}&interval=1m"
        )
        assert answer.status_code == 200, answer.text
        # So old a range is read from the coarsest samples, of which there are none yet.
        assert answer.json()["data"]["cpu"]["history"] == []


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ({"from": "yesterday"}, "from"),
        ({"to": "2026-01-01T00:00:00"}, "to"),
        ({"from": "2026-01-02T00:00:00Z", "to": "2026-01-01T00:00:00Z"}, "body"),
        ({"from": "2026-01-01T00:00:00Z", "to": "2026-01-01T00:00:00Z"}, "body"),
        ({"from": "2025-01-01T00:00:00Z", "to": "2026-01-01T00:00:00Z"}, "body"),
        ({"to": "9999-01-01T00:00:00Z"}, "to"),
        ({"from": "0001-01-01T00:00:00Z"}, "from"),
        ({"interval": "2m"}, "interval"),
        ({"interval": ""}, "interval"),
        ({"history": "some"}, "history"),
        ({"step": "60"}, "step"),
    ],
)
async def test_wrong_ranges(service: Service, query: dict[str, str], field: str) -> None:
    vm = await put_vm()
    answer = await service.client.get(f"/api/v1/vms/{vm.ref}/metrics", params=query)
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert error["code"] == "VALIDATION_ERROR"
    assert [entry["field"] for entry in error["details"]["fields"]] == [field]


async def test_samples_are_averaged_and_forgotten(database: str, settings: Settings) -> None:
    vm, other = await put_vm(), await put_vm()
    history = History(settings)
    now = int(time.time()) // HOUR * HOUR + HOUR
    day = 24 * HOUR
    await store.write_samples(
        (number, Sample(now - age, cpu=age % 300, disk_read=None))
        for number in (vm.id, other.id)
        for age in range(60, 2 * day, 150)
    )
    await history.roll_up(now + 60)
    assert await count("sample_raw") < 2 * (day / 150 + 40)
    five = await store.read_samples(vm.id, Resolution.FIVE_MINUTES, now - day, now, 300)
    assert [s.at for s in five] == list(range(now - day, now, 300))
    assert {s.cpu for s in five} == {(60 + 210) // 2}
    assert {s.disk_read for s in five} == {None}
    hours = await store.read_samples(vm.id, Resolution.HOUR, 0, now, HOUR)
    assert {s.cpu for s in hours} == {135}
    before = await count("sample_5m")
    await history.roll_up(now + 61)
    assert await count("sample_5m") == before
    # What was not averaged yet is read from the raw samples.
    await store.write_samples([(vm.id, Sample(now + 30, cpu=700))])
    read = await history.read({"id": vm.id}, now - 3 * day, now + 300, 300)
    assert (read[-1].at, read[-1].cpu) == (now, 700)
    assert len({s.at for s in read}) == len(read)


async def test_the_last_day_is_read_as_it_was_taken(database: str, settings: Settings) -> None:
    vm = await put_vm()
    now = int(time.time()) // 60 * 60
    await store.write_samples((vm.id, Sample(now - n * 60, cpu=n)) for n in range(24 * 60 + 1))
    found = await History(settings).read({"id": vm.id}, now - 24 * HOUR, now, 60)
    assert [sample.at for sample in found] == list(range(now - 24 * HOUR, now, 60))


async def test_a_second_run_after_a_crash_in_the_middle_ends_the_same(
    database: str, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    vm = await put_vm()
    now = int(time.time()) // HOUR * HOUR + HOUR
    await store.write_samples((vm.id, Sample(now - age, cpu=100)) for age in range(60, HOUR, 60))
    history = History(settings)
    with monkeypatch.context() as patch:
        patch.setattr(store, "roll_up", _fails_after_the_work)
        with pytest.raises(ZeroDivisionError):
            await history.roll_up(now + 60)
    await history.roll_up(now + 60)
    assert await count("sample_5m") == 12
    assert await count("sample_1h") == 1


_ROLL_UP = store.roll_up


async def _fails_after_the_work(*arguments: Any) -> None:
    await _ROLL_UP(*arguments)
    raise ZeroDivisionError


async def test_a_deleted_vm_leaves_no_samples(service: Service) -> None:
    vm = await put_vm()
    await store.write_samples([(vm.id, Sample(START, cpu=1))])
    from virtplay.store.vms import delete_vm

    await delete_vm(vm)
    assert await count("sample_raw") == 0


async def test_a_clock_that_was_set_back_replaces_and_never_fails(service: Service) -> None:
    vm = await put_vm()
    for cpu in (1, 2):
        await store.write_samples([(vm.id, Sample(START, cpu=cpu))])
    assert (await store.read_samples(vm.id, Resolution.RAW, START, START + 60, 60))[0].cpu == 2


async def test_a_stopped_or_lost_vm_uses_nothing_that_is_known(service: Service) -> None:
    vm = await put_vm(RUNNING)
    history: History = service.app.ctx.services.history
    numbers = {str(vm.uuid): vm.id}
    for uptime in (100, 115):
        await history.take("kvm1", seen(vm, uptime, cpu_time_ns=10**9), numbers, time.time())
    assert history.latest(str(vm.uuid)) is not None
    history.lose("kvm1")
    assert history.latest(str(vm.uuid)) is None
    await history.take("kvm1", seen(vm, 130, cpu_time_ns=10**9), numbers, time.time())
    latest = history.latest(str(vm.uuid))
    assert latest is not None
    assert latest[0].cpu == 0.0  # nobody reset its counters meanwhile
    await history.take("kvm1", host_info(domains=[]), {}, time.time())
    assert history.latest(str(vm.uuid)) is None


async def test_history_from_prometheus(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[str, str]] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(dict(request.url.params))
        values = [[START + 60, "1234.4"], [START + 120, "NaN"]]
        if "network" in asked[-1]["query"] or "interface" in asked[-1]["query"]:
            values = []
        result = [{"metric": {}, "values": values}] if values else []
        return httpx.Response(200, json={"status": "success", "data": {"result": result}})

    real = httpx.AsyncClient
    monkeypatch.setattr(
        "virtplay.metrics.prometheus_history.httpx.AsyncClient",
        lambda **given: real(transport=httpx.MockTransport(answer), **given),
    )
    identity = str(uuid.uuid4())
    past = PrometheusHistory("http://prometheus.test/")
    found = await past.read({"id": 1, "uuid": identity}, START, START + 120, 60)
    assert [(s.at, s.cpu, s.disk_read, s.network_rx) for s in found] == [(START, 1234, 1234, None)]
    assert all(identity in query["query"] for query in asked)
    assert {query["start"] for query in asked} == {str(START + 60)}


async def test_a_prometheus_that_does_not_answer(service: Service) -> None:
    vm = await put_vm()
    service.app.ctx.services.past = PrometheusHistory("http://127.0.0.1:1")
    answer = await service.client.get(f"/api/v1/vms/{vm.ref}/metrics")
    assert answer.status_code == 503
    assert answer.json()["error"]["code"] == "HISTORY_NOT_AVAILABLE"


async def test_many_points(service: Service) -> None:
    vm = await put_vm()
    now = int(time.time()) // 60 * 60
    await store.write_samples((vm.id, Sample(now - n * 60, cpu=n)) for n in range(1, 1000))
    since = datetime.fromtimestamp(now, UTC) - timedelta(minutes=990)
    data = await service.get(f"/vms/{vm.ref}/metrics", **{"from": since.isoformat()})
    assert len(data["cpu"]["history"]) == 990
