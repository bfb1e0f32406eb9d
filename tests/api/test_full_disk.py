"""API tests: hosts are observed again after a disk was full, and by a play that fell silent."""

import asyncio
import contextlib
import os
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from virtplay.hosts import observer
from virtplay.hosts.observed import Generations
from virtplay.settings import Settings

from tests.api.conftest import BODY, Service, _serve, only_sqlite
from tests.api.fake_hosts import FakeHost
from tests.api.observers import make_observer
from tests.api.test_jobs import living

pytestmark = only_sqlite


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A file system of 8 MB."""
    path = tmp_path / "small"
    path.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", path], check=True)
    yield path
    subprocess.run(["umount", "-l", path], check=True)


@contextlib.asynccontextmanager
async def observing(
    settings: Settings,
    lines: list[str],
    hosts: dict[str, FakeHost],
    monkeypatch: pytest.MonkeyPatch,
) -> AsyncIterator[Service]:
    """The service with short rounds in one play that would stay for an hour."""
    monkeypatch.setattr(observer, "PLAY_SECONDS", 3600.0)
    monkeypatch.setattr(observer, "ROUNDS_MAX", 10_000)
    settings.observe_interval = 1
    settings.observe_timeout = 15
    async with _serve(settings, lines) as running:
        running.hosts = hosts
        await running.until("/hosts", lambda d: all(h["status"] == "ready" for h in d["hosts"]))
        yield running


async def observed_anew(service: Service, domains: int) -> Any:
    """Wait until the host is ready, and shown as it is now."""
    with service.hosts["kvm1"].change() as content:
        content["info"]["host"]["cpus"] = 77
    host = await service.until("/hosts/kvm1", lambda h: h["cpus"] == 77)
    assert host["status"] == "ready"
    vms = (await service.get("/vms"))["vms"]
    assert [vm["status"] for vm in vms] == ["stopped"] * domains
    return host


@pytest.mark.slow
@pytest.mark.usefixtures("cold_ansible")  # a warm one is no descendant of its job process
async def test_a_play_that_falls_silent_is_ended_and_begun_anew(
    settings: Settings,
    log_lines: list[str],
    fake_hosts: dict[str, FakeHost],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with observing(settings, log_lines, fake_hosts, monkeypatch) as service:
        rounds = f"virtplay.jobs.play\0{settings.state_dir}/observation/rounds"
        [play] = living(rounds)
        descendants = psutil.Process(play).children(recursive=True)
        assert descendants
        for each in descendants:
            each.suspend()
        await observed_anew(service, domains=0)
        async with asyncio.timeout(300):
            while play in living(rounds):  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        assert any("the play is ended and begun anew" in line for line in log_lines)


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a file system")
@pytest.mark.parametrize("with_database", [False, True])
async def test_after_a_full_disk_all_is_as_before(
    settings: Settings,
    log_lines: list[str],
    fake_hosts: dict[str, FakeHost],
    small: Path,
    monkeypatch: pytest.MonkeyPatch,
    with_database: bool,
) -> None:
    settings.state_dir = small
    if with_database:
        settings.database_url = f"sqlite://{small}/virtplay.sqlite3"
    async with observing(settings, log_lines, fake_hosts, monkeypatch) as service:
        made = await service.create()
        await service.succeed(made["jobId"])
        filler = small / "filler"
        with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
            while True:
                file.write(bytes(4096))
        refused = await service.post("/vms", {**BODY, "userData": "#cloud-config\nhostname: web\n"})
        assert refused.status_code in (202, 503), refused.text
        # The play notices nothing before its next rounds, and the service before they are due.
        await asyncio.sleep(25)
        for path in ("/vms", "/jobs", "/hosts"):
            assert (await service.client.get(f"/api/v1{path}")).status_code == 200
        filler.unlink()
        expected = 1
        if refused.status_code == 202:
            job = await service.wait(refused.json()["data"]["jobId"])
            assert job["status"] in ("succeeded", "failed")
            expected += job["status"] == "succeeded"
        with fake_hosts["kvm1"].change() as content:
            content["info"]["host"]["cpus"] = 77
        host = await service.until("/hosts/kvm1", lambda h: h["cpus"] == 77)
        assert host["status"] == "ready"
        shown = [vm["status"] for vm in (await service.get("/vms"))["vms"]]
        assert shown.count("stopped") == expected
        assert "unreachable" not in shown
        await service.succeed((await service.act(made["id"], "start"))["jobId"])


async def test_a_host_in_error_is_observed_again_after_growing_pauses(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    from datetime import UTC, datetime

    waits: list[float] = []
    again: list[str] = []
    real_sleep = asyncio.sleep

    async def sleep(seconds: float) -> None:
        if seconds < 15:
            await real_sleep(seconds)  # that of the watch of the event loop
            return
        waits.append(seconds)
        await real_sleep(0)

    service.settings.observe_interval = 15
    made = make_observer(service.settings, "kvm1")
    monkeypatch.setattr(made, "_observe_again", lambda name, **_: again.append(name))
    made._unobserved.clear()
    failed = {"event": "runner_on_failed", "host": "kvm1", "res": {"msg": "libvirt is gone"}}
    before = Generations({}, datetime.now(UTC))
    assert await made._save_event("kvm1", failed, before)
    assert again == ["kvm1"]
    monkeypatch.setattr(asyncio, "sleep", sleep)
    for number in range(1, 8):
        assert await made._save_event("kvm1", failed, before)
        while made._retries:
            await real_sleep(0.01)
        assert len(again) == number + 1
    assert waits == [15, 30, 60, 120, 240, 300, 300]
