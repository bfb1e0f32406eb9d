"""API tests: /metrics and the list of Prometheus targets."""

import asyncio
import os
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families
from virtplay.api.http import streaming
from virtplay.metrics.exposition import Exposition
from virtplay.metrics.host_series import VmLabels
from virtplay.settings import Settings
from virtplay.states import (
    FINISHED_JOB,
    JobOrigin,
    JobStatus,
    SnapshotOrigin,
    SnapshotStatus,
    VmStatus,
)
from virtplay.store.models import Job, Snapshot, SnapshotSchedule, Vm
from virtplay.store.tokens import create_token, revoke_token

from tests.api.conftest import Service, only_sqlite
from tests.api.fake_hosts import foreign_domain, host_info

TARGETS = "/api/v1/prometheus/targets"
Series = dict[str, list[tuple[dict[str, str], float]]]


def series_of(text: str) -> Series:
    """Metric → its labels and values."""
    found: Series = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found.setdefault(sample.name, []).append((sample.labels, sample.value))
    return found


async def scrape(service: Service, **query: str) -> Series:
    answer = await service.client.get("/metrics", params=query)
    assert answer.status_code == 200, answer.text
    return series_of(answer.text)


def exposition_of(service: Service) -> Exposition:
    exposition: Exposition = service.app.ctx.services.exposition
    return exposition


def show(service: Service, host: str = "kvm1", *names: str) -> None:
    """Let an observation of the host show domains with these titles."""
    domains = [foreign_domain(f"d{number}", title=name) for number, name in enumerate(names)]
    refs = {domain["uuid"]: VmLabels("vm-001", domain["title"], "", "") for domain in domains}
    exposition_of(service).take(host, host_info(domains=domains), refs, 1000.5, 0.25)


async def test_metrics_are_prometheus_text_of_all_hosts_and_the_service(service: Service) -> None:
    show(service, "kvm1", "web")
    exposition_of(service).fail("kvm2")
    answer = await service.client.get("/metrics")
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert answer.headers["x-request-id"]
    assert answer.headers["cache-control"] == "no-store"
    found = series_of(answer.text)
    assert found["libvirt_up"] == [({"host": "kvm1"}, 1), ({"host": "kvm2"}, 0)]
    assert found["libvirt_domain_info"][0][0]["name"] == "web"
    assert found["virtplay_job_queue_length"] == [({}, 0)]
    assert "virtplay_build_info" in found


async def test_a_host_has_a_part_of_its_own(service: Service) -> None:
    show(service, "kvm1", "web")
    show(service, "kvm2", "db")
    found = await scrape(service, host="kvm2")
    assert {labels.get("host") for rows in found.values() for labels, _ in rows} == {"kvm2"}


async def test_a_host_that_was_not_seen_yet_has_nothing(service: Service) -> None:
    answer = await service.client.get("/metrics", params={"host": "kvm2"})
    assert (answer.status_code, answer.text) == (200, "")


async def test_the_service_and_its_hosts_can_be_had_apart(service: Service) -> None:
    show(service, "kvm1", "web")
    own, seen = await scrape(service, part="service"), await scrape(service, part="hosts")
    assert own.keys().isdisjoint(seen.keys())
    assert "libvirt_up" in seen
    assert "virtplay_jobs_total" in own


WRONG = [
    ({"host": "nowhere"}, 404, "HOST_NOT_FOUND"),
    ({"host": ""}, 404, "HOST_NOT_FOUND"),
    ({"host": 'a"b\nc\\'}, 404, "HOST_NOT_FOUND"),
    ({"host": "\x00"}, 400, "VALIDATION_ERROR"),
    ({"host": "x" * 256}, 400, "VALIDATION_ERROR"),
    ({"host": "kvm1", "part": "hosts"}, 400, "VALIDATION_ERROR"),
    ({"part": "everything"}, 400, "VALIDATION_ERROR"),
    ({"name[]": "libvirt_up"}, 400, "VALIDATION_ERROR"),
]


@pytest.mark.parametrize(("query", "status", "code"), WRONG)
async def test_a_wrong_question(
    service: Service, query: dict[str, str], status: int, code: str
) -> None:
    answer = await service.client.get("/metrics", params=query)
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)


@pytest.mark.parametrize("path", ["/metrics", TARGETS])
async def test_a_viewer_may_and_a_stranger_may_not(service: Service, path: str) -> None:
    viewer = await service.as_role("viewer")
    async with httpx.AsyncClient(base_url=service.address) as other:
        refused = await other.get(path)
        assert (refused.status_code, refused.json()["error"]["code"]) == (401, "UNAUTHORIZED")
        assert (await other.get(path, headers=viewer)).status_code == 200


@pytest.fixture
def settings(settings: Settings, request: pytest.FixtureRequest) -> Settings:
    """The settings with what the test gives over them."""
    return settings.model_copy(update=getattr(request, "param", {}))


@pytest.mark.parametrize("settings", [{"metrics_open": True}], indirect=True)
async def test_an_open_service_lets_prometheus_in_and_nobody_further(service: Service) -> None:
    async with httpx.AsyncClient(base_url=service.address) as stranger:
        for path in ("/metrics", TARGETS):
            assert (await stranger.get(path)).status_code == 200
            wrong = {"Authorization": "Bearer of-nobody"}
            assert (await stranger.get(path, headers=wrong)).status_code == 200
        assert (await stranger.get("/api/v1/hosts")).status_code == 401


async def test_head_has_no_body(service: Service) -> None:
    show(service, "kvm1", "web")
    answer = await service.client.head("/metrics")
    assert (answer.status_code, answer.content) == (200, b"")
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert (await service.client.get("/healthz")).status_code == 200


async def test_metrics_cannot_be_written(service: Service) -> None:
    answer = await service.client.post("/metrics", content=b"libvirt_up 1")
    assert (answer.status_code, answer.headers["allow"]) == (405, "GET")


@pytest.mark.parametrize("name", ['a"b\nc\\', "\\", '"} 1\nx{y="', "\u202e\U0001f600", "{{ 1 }}"])
async def test_hostile_names_are_only_labels(service: Service, name: str) -> None:
    show(service, "kvm1", name)
    found = await scrape(service)
    assert [labels["name"] for labels, _ in found["libvirt_domain_info"]] == [name]


async def test_a_long_answer_is_whole_and_holds_nobody_up(service: Service) -> None:
    show(service, "kvm1", *(f"VM number {number}" for number in range(2000)))
    task = asyncio.create_task(service.client.get("/metrics", params={"part": "hosts"}))
    waited = 0
    while not task.done():
        assert (await service.client.get("/healthz")).status_code == 200
        waited += 1
    text = (await task).text
    assert text.encode() == b"".join(exposition_of(service).text())
    assert len(text) > 2_000_000
    assert waited > 3


@pytest.mark.slow
async def test_who_does_not_read_is_cut_off(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streaming, "SEND_SECONDS", 0.3)
    show(service, "kvm1", *(f"VM number {number}" * 50 for number in range(5000)))
    token = service.client.headers["authorization"]
    reader, writer = await asyncio.open_connection("127.0.0.1", service.port, limit=1024)
    writer.write(f"GET /metrics HTTP/1.1\r\nHost: x\r\nAuthorization: {token}\r\n\r\n".encode())
    async with asyncio.timeout(300):
        while not any("read /metrics too slowly" in line for line in service.logs):  # noqa: ASYNC110
            await asyncio.sleep(0.05)
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await reader.readexactly(10**9)
    writer.close()
    assert (await service.client.get("/healthz")).status_code == 200


async def test_the_queue_is_counted_when_it_is_asked_for(service: Service) -> None:
    await service.create(autoStart=True)
    old = datetime.now(UTC) - timedelta(minutes=10)
    await Job.filter(after_id=None).update(created_at=old)
    # A start that waits behind its creation waits for no worker.
    creation = await Job.get(after_id=None)
    waiting = Job(
        action="vm_start", vm_id=creation.vm_id, status=JobStatus.QUEUED, after_id=creation.id,
        requested_by="x", request_id="x", ref="job-000999", locks=False,
        created_at=old - timedelta(days=1),
    )  # fmt: skip
    await waiting.save()
    found = await scrape(service, part="service")
    assert found["virtplay_job_queue_length"] == [({}, 1)]
    assert 600 <= found["virtplay_job_queue_oldest_seconds"][0][1] < 700


async def test_a_lost_job_leaves_its_time(service: Service) -> None:
    assert "virtplay_job_last_lost_timestamp_seconds" not in await scrape(service)
    await service.create()
    job = await Job.get()
    ended = datetime(2026, 1, 2, tzinfo=UTC)
    await Job.filter(id=job.id).update(status=JobStatus.LOST, finished_at=ended)
    shell = Job(
        action="vm_start", status=JobStatus.LOST, finished_at=ended + timedelta(days=1),
        requested_by="x", request_id="x", ref="job-000999", locks=False, origin=JobOrigin.SHELL,
    )  # fmt: skip
    await shell.save()
    found = await scrape(service, part="service")
    assert found["virtplay_job_last_lost_timestamp_seconds"] == [({}, ended.timestamp())]


async def test_a_backup_leaves_its_time(service: Service) -> None:
    metric, file = "virtplay_database_backup_last_timestamp_seconds", service.settings.last_backup
    assert metric not in await scrape(service)
    file.touch()
    os.utime(file, (1, 1_800_000_000))
    assert (await scrape(service, part="service"))[metric] == [({}, 1_800_000_000)]


async def test_vms_in_error_are_named(service: Service) -> None:
    vm = await Vm.get(ref=(await service.create(name='a"b'))["id"])
    error = {"code": "LIBVIRT_ERROR", "message": "no", "task": "", "host": "kvm1"}
    await Vm.filter(id=vm.id).update(status=VmStatus.ERROR, error=error)
    found = await scrape(service, part="service")
    labels = {"host": "kvm1", "uuid": str(vm.uuid), "vm": "vm-001", "name": 'a"b'}
    labels |= {"managed": "true", "code": "LIBVIRT_ERROR"}
    assert found["virtplay_vm_error"] == [(labels, 1)]
    counts = {labels["status"]: value for labels, value in found["virtplay_vms"]}
    assert counts == {status: float(status == VmStatus.ERROR) for status in VmStatus}


@pytest.mark.parametrize(("managed", "label"), [(True, "true"), (False, "false"), (None, "true")])
async def test_a_vm_is_foreign_where_its_domain_is_known_to_be(
    service: Service, managed: bool | None, label: str
) -> None:
    vm = await Vm.get(ref=(await service.create())["id"])
    await SnapshotSchedule(vm_id=vm.id, cron=["0 0 * * *"], keep={"daily": 7}).save()
    await Vm.filter(id=vm.id).update(status=VmStatus.ERROR, error=None, managed=managed)
    found = await scrape(service, part="service")
    for metric in ("virtplay_vm_error", "virtplay_snapshot_schedule_failed"):
        assert [labels["managed"] for labels, _ in found[metric]] == [label], metric


async def test_snapshots_are_counted(service: Service) -> None:
    vm = await Vm.get(ref=(await service.create())["id"])
    assert "virtplay_snapshots" not in await scrape(service)
    for number, status in enumerate((SnapshotStatus.READY, SnapshotStatus.READY, "error")):
        await Snapshot(
            vm_id=vm.id, name=f"s{number}", title="s", origin=SnapshotOrigin.MANUAL, status=status
        ).save()
    found = await scrape(service, part="service")
    counts = {labels["status"]: value for labels, value in found["virtplay_snapshots"]}
    assert counts == {"ready": 2, "error": 1}
    assert {labels["origin"] for labels, _ in found["virtplay_snapshots"]} == {"manual"}


async def test_a_schedule_tells_whether_its_last_turn_failed(service: Service) -> None:
    vm = await Vm.get(ref=(await service.create())["id"])
    path = f"/api/v1/vms/{vm.ref}/snapshot-schedule"
    assert (
        await service.client.put(path, json={"cron": ["0 0 * * *"], "keep": {"daily": 7}})
    ).status_code == 200
    labels = {"host": "kvm1", "uuid": str(vm.uuid), "vm": vm.ref}
    alerted = {**labels, "name": vm.name, "managed": "true"}

    async def failed() -> float:
        [(found, value)] = (await scrape(service))["virtplay_snapshot_schedule_failed"]
        assert found == alerted
        return value

    last = "virtplay_snapshot_schedule_last_turn_timestamp_seconds"
    assert await failed() == 0
    assert last not in await scrape(service)
    moment = datetime(2026, 1, 2, tzinfo=UTC)
    await SnapshotSchedule.all().update(skipped_at=moment)
    assert await failed() == 1
    job = await Job.get()
    await SnapshotSchedule.all().update(last_at=moment + timedelta(hours=1), last_job=job.ref)
    assert await failed() == 0
    assert (await scrape(service))[last] == [(labels, moment.timestamp() + 3600)]
    for status in FINISHED_JOB:
        await Job.filter(id=job.id).update(status=status)
        assert await failed() == (status != JobStatus.SUCCEEDED), status
    await SnapshotSchedule.all().update(enabled=False)
    assert "virtplay_snapshot_schedule_failed" not in await scrape(service)


async def test_tokens_that_expire_are_named_until_a_week_later(service: Service) -> None:
    now = datetime.now(UTC)
    for name, days in (("for-ever", None), ("soon", 3), ("gone", -3), ("long-gone", -8)):
        expires = None if days is None else now + timedelta(days=days)
        await create_token(name, "viewer", expires)
    await create_token("revoked", "viewer", now + timedelta(days=3))
    await revoke_token("revoked")
    found = await scrape(service, part="service")
    ends = {
        labels["token"]: value
        for labels, value in found["virtplay_token_expires_timestamp_seconds"]
    }
    assert ends == {
        "soon": pytest.approx((now + timedelta(days=3)).timestamp()),
        "gone": pytest.approx((now - timedelta(days=3)).timestamp()),
    }
    begins = found["virtplay_token_created_timestamp_seconds"]
    assert {(labels["token"], labels["role"]) for labels, _ in begins} == {
        ("soon", "viewer"),
        ("gone", "viewer"),
    }
    assert all(abs(value - now.timestamp()) < 600 for _, value in begins)


async def test_requests_are_counted_by_route(service: Service) -> None:
    def of_vms(found: Series) -> float:
        wanted = {"method": "GET", "route": "/api/v1/vms/{id}", "status": "404"}
        rows = found.get("virtplay_http_request_duration_seconds_count", [])
        return sum(value for labels, value in rows if labels == wanted)

    before = of_vms(await scrape(service, part="service"))
    for path in ("vm-001", "vm-002", "vm-%0a", "nothing"):
        await service.client.get(f"/api/v1/vms/{path}")
    await service.client.get("/no/such/path")
    found = await scrape(service, part="service")
    assert of_vms(found) == before + 4
    routes = {row[0]["route"] for row in found["virtplay_http_request_duration_seconds_count"]}
    assert "other" in routes
    assert not any("vm-0" in route or "such" in route for route in routes)


ADDRESSES: list[tuple[dict[str, Any], dict[str, str], str, dict[str, str]]] = [
    ({}, {"Host": "virt.example.org:3000"}, "virt.example.org:3000", {}),
    ({}, {"Host": "[2001:db8::1]:3000"}, "[2001:db8::1]:3000", {}),
    ({}, {"Host": 'a"b/../c'}, "127.0.0.1:3000", {}),
    ({"public_url": "https://v.example.org"}, {}, "v.example.org:443", {"__scheme__": "https"}),
    ({"public_url": "http://v.example.org"}, {}, "v.example.org:80", {"__scheme__": "http"}),
    ({"public_url": "http://[2001:db8::1]:81"}, {}, "[2001:db8::1]:81", {"__scheme__": "http"}),
    ({"public_url": "http://[2001:db8::1]"}, {}, "[2001:db8::1]:80", {"__scheme__": "http"}),
]


@pytest.mark.parametrize(
    ("settings", "headers", "address", "scheme"), ADDRESSES, indirect=["settings"]
)
async def test_each_host_is_a_target(
    service: Service, headers: dict[str, str], address: str, scheme: dict[str, str]
) -> None:
    answer = await service.client.get(TARGETS, headers=headers)
    assert answer.headers["content-type"].startswith("application/json")
    assert answer.json() == [
        {
            "targets": [address],
            "labels": {
                "instance": host,
                "__metrics_path__": "/metrics",
                "__param_host": host,
                **scheme,
            },
        }
        for host in ("kvm1", "kvm2")
    ]


@pytest.fixture
async def worked(playing: Service) -> Service:
    """A service whose one VM is made by a real play."""
    data = await playing.create(name='a"b\nc\\'.replace("\n", " "))
    await playing.succeed(data["jobId"])
    return playing


async def wait_for(service: Service, test: Callable[[Series], object]) -> Series:
    async with asyncio.timeout(300):
        while not test(found := await scrape(service)):
            service.app.ctx.services.observer._observe_again("kvm1")
            await asyncio.sleep(0.2)
    return found


@pytest.mark.slow
@only_sqlite
async def test_a_vm_comes_is_renamed_and_goes(worked: Service) -> None:
    found = await wait_for(worked, lambda found: found.get("libvirt_domain_info"))
    vm = found["libvirt_domain_info"][0][0]
    assert (vm["vm"], vm["domain"], vm["host"]) == ("vm-001", "a-b-c", "kvm1")
    assert vm["name"] == 'a"b c\\'
    done = {"action": "vm_create", "status": "succeeded"}
    assert next(value for labels, value in found["virtplay_jobs_total"] if labels == done) >= 1
    states = {labels["uuid"] for labels, _ in found["libvirt_domain_state"]}
    answer = await worked.client.put("/api/v1/vms/vm-001", json={"name": "other"})
    await worked.succeed(answer.json()["data"]["jobId"])
    found = await wait_for(
        worked, lambda found: found["libvirt_domain_info"][0][0]["name"] == "other"
    )
    assert {labels["uuid"] for labels, _ in found["libvirt_domain_state"]} == states
    answer = await worked.client.delete("/api/v1/vms/vm-001", params={"force": "true"})
    await worked.succeed(answer.json()["data"]["jobId"])
    found = await wait_for(worked, lambda found: "libvirt_domain_info" not in found)
    assert not re.search("vm-001|a-b-c", str(found))


@pytest.mark.slow
@only_sqlite
async def test_a_host_that_fails_has_only_its_failures(playing: Service) -> None:
    observer = playing.app.ctx.services.observer
    failed = {"event": "runner_on_unreachable", "host": "kvm1", "res": {"msg": "no route"}}
    await wait_for(playing, lambda found: found.get("libvirt_up") == [({"host": "kvm1"}, 1)])
    before = await scrape(playing, host="kvm1")
    assert await observer._save_event("kvm1", failed, {})
    found = await scrape(playing, host="kvm1")
    assert found["libvirt_up"] == [({"host": "kvm1"}, 0)]
    assert "virtplay_host_cpus" not in found
    counted = "virtplay_observation_failures_total"
    assert found[counted][0][1] == before[counted][0][1] + 1
