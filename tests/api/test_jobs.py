"""API tests: jobs that are real plays, on hypervisors that are JSON files."""

import asyncio
import contextlib
import json
import os
import re
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from virtplay.actions import RULES, Action
from virtplay.jobs import ends
from virtplay.jobs.ends import JobEnds
from virtplay.states import VmStatus
from virtplay.store.models import AuditEntry, Job, JobEvent, Vm

from tests.api.conftest import Service, only_sqlite, write_inventory
from tests.api.fake_hosts import FakeHost, host_info


@pytest.fixture(params=["fork", "program"])
def way(request: pytest.FixtureRequest) -> str:
    """Both ways to start a job: a fork of the launcher, and a program of its own."""
    return str(request.getfixturevalue("launcher")) if request.param == "fork" else "off"


def living(needle: str) -> list[int]:
    """The processes (zombies left out) whose command line holds `needle`."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            with contextlib.suppress(OSError):
                if needle.encode() in (entry / "cmdline").read_bytes():
                    found.append(int(entry.name))
    return found


async def none_left(needle: str, seconds: float = 300) -> None:
    """Wait until no process has `needle` in its command line."""
    async with asyncio.timeout(seconds):
        while living(needle):  # noqa: ASYNC110 - processes wake nobody
            await asyncio.sleep(0.05)


async def directory_removed(directory: Path) -> None:
    """Wait until a job's directory is removed, which follows the outcome."""
    async with asyncio.timeout(300):
        while directory.exists():  # noqa: ASYNC110, ASYNC240
            await asyncio.sleep(0.05)


async def called(host: FakeHost, action: str, times: int = 1) -> None:
    """Wait until modules on the host have begun an action so many times."""
    async with asyncio.timeout(300):
        while len(host.calls(action)) < times:  # noqa: ASYNC110 - a file wakes nobody
            await asyncio.sleep(0.05)


async def waited_for(waits: JobEnds) -> None:
    """Wait until a request waits for the end of a job."""
    async with asyncio.timeout(300):
        while not waits.waiting:  # noqa: ASYNC110 - it wakes nobody
            await asyncio.sleep(0.05)


@pytest.mark.slow
async def test_a_vm_from_creation_to_removal(playing: Service) -> None:
    host = playing.hosts["kvm1"]
    gate = host.hold("create")
    secret = "correct-horse-battery"
    data = await playing.create(
        name="{{ 7*7 }} $(id)",
        labels={"team": "{{ web }}"},
        userData=f"#cloud-config\npassword: {secret}\n",
    )
    start = await playing.act(data["id"], "start")
    path = f"/jobs/{data['jobId']}"
    held = await playing.until(path, lambda job: job["step"] == "Creating disk and VM")
    assert held["status"] == "running"
    assert 0 < held["progress"] < 100
    status = await playing.get("/vms/vm-001/status")
    assert (status["status"], status["job"]["id"]) == ("creating", data["jobId"])
    assert (await playing.get(f"/jobs/{start['jobId']}"))["status"] == "queued"
    gate.unlink()
    created = await playing.succeed(data["jobId"])
    assert (created["progress"], created["changed"], created["error"]) == (100, True, None)
    assert created["startedAt"] <= created["finishedAt"]
    await playing.succeed(start["jobId"])
    vm = await playing.get("/vms/vm-001")
    assert (vm["status"], vm["name"]) == ("running", "{{ 7*7 }} $(id)")
    assert vm["startedAt"] == "2026-11-22T13:31:00Z"

    given = host.calls("create")[0]["given"]
    assert given["title"] == "{{ 7*7 }} $(id)"
    assert given["labels"] == {"team": "{{ web }}"}
    assert given["user_data"] == f"#cloud-config\npassword: {secret}\n"
    assert (given["id"], given["name"]) == ("vm-001", "7-7-id")
    assert (given["job"], given["generation"]) == (data["jobId"], 1)
    assert host.calls("start")[0]["given"]["generation"] == 2
    log = (await playing.client.get(f"/api/v1{path}/log")).text
    assert "TASK [Create the VM]" in log
    assert "PLAY RECAP" in log
    assert secret not in log
    assert secret not in "".join(playing.logs)
    tables = [await table.all().values() for table in (Vm, Job, JobEvent, AuditEntry)]
    assert secret not in repr(tables)
    await directory_removed(playing.settings.state_dir / "jobs" / data["jobId"])

    changed = await playing.client.put("/api/v1/vms/vm-001", json={"cpu": 2, "name": "b"})
    job = await playing.succeed(changed.json()["data"]["jobId"])
    assert job["appliesAt"] == "now"
    assert {change["field"] for change in job["changes"]} == {"vcpus", "title"}
    changed = await playing.client.put("/api/v1/vms/vm-001", json={"cpu": 9})
    job = await playing.succeed(changed.json()["data"]["jobId"])
    assert job["appliesAt"] == "next_boot"
    vm = await playing.get("/vms/vm-001")
    assert (vm["cpu"], vm["pending"], vm["name"]) == (9, {"cpu": 2}, "b")

    await playing.succeed((await playing.act("vm-001", "pause"))["jobId"])
    assert (await playing.get("/vms/vm-001"))["status"] == "paused"
    await playing.succeed((await playing.act("vm-001", "resume"))["jobId"])
    await playing.succeed((await playing.act("vm-001", "restart", {"force": True}))["jobId"])
    assert (await playing.get("/vms/vm-001"))["pending"] == {}
    await playing.succeed((await playing.act("vm-001", "stop"))["jobId"])
    assert host.calls("stop")[0]["given"]["force"] is False
    assert host.calls("stop")[0]["given"]["timeout"] == playing.settings.stop_timeout
    assert (await playing.get("/vms/vm-001"))["status"] == "stopped"
    removed = await playing.client.delete("/api/v1/vms/vm-001?keepDisks=true")
    job = await playing.succeed(removed.json()["data"]["jobId"])
    assert host.calls("delete")[0]["given"]["keep_disks"] is True
    assert (await playing.client.get("/api/v1/vms/vm-001")).status_code == 404
    assert job["vmId"] == "vm-001"
    assert host.domains() == []
    assert len((await playing.get("/jobs", vm="vm-001"))["jobs"]) == 9
    etas = [job["etaSeconds"] for job in (await playing.get("/jobs"))["jobs"]]
    assert etas == [None] * 9


@only_sqlite
async def test_progress_rises_and_is_100_only_at_success(playing: Service) -> None:
    data = await playing.create()
    seen: list[tuple[str, int]] = []
    async with asyncio.timeout(300):
        while not seen or seen[-1][0] in ("queued", "running"):
            job = await playing.get(f"/jobs/{data['jobId']}")
            seen.append((job["status"], job["progress"]))
            await asyncio.sleep(0.02)
    percents = [percent for _, percent in seen]
    assert percents == sorted(percents)
    assert all((percent == 100) == (status == "succeeded") for status, percent in seen)


@pytest.mark.slow
@only_sqlite
async def test_failures_of_the_module(playing: Service) -> None:
    host = playing.hosts["kvm1"]
    no_room = {"msg": "cannot make vm-001: pool default is full", "code": "INSUFFICIENT_RESOURCES"}
    host.order("create", fail=no_room)
    data = await playing.create(memory=7000)
    start = await playing.act(data["id"], "start")
    job = await playing.wait(data["jobId"])
    assert job["status"] == "failed"
    assert job["error"] == {
        "code": "INSUFFICIENT_RESOURCES",
        "message": "cannot make vm-001: pool default is full",
        "task": "Create the VM",
        "host": "kvm1",
    }
    assert job["progress"] < 100
    assert (await playing.get(f"/jobs/{start['jobId']}"))["status"] == "cancelled"
    vm = await playing.get("/vms/vm-001")
    assert vm["status"] == "error"
    assert vm["error"]["code"] == "INSUFFICIENT_RESOURCES"
    allocated = (await playing.get("/hosts/kvm1"))["allocated"]
    assert allocated == {"cpu": 0, "memory": 0, "disk": 0}

    host.order("create")
    second = await playing.create(memory=7000, autoStart=True)
    await playing.succeed(second["jobId"])
    host.order(
        "stop", fail={"msg": "cannot stop: it does not answer", "code": "GUEST_NOT_RESPONDING"}
    )
    job = await playing.wait((await playing.act(second["id"], "stop"))["jobId"])
    assert (job["status"], job["error"]["code"]) == ("failed", "GUEST_NOT_RESPONDING")
    assert (await playing.get(f"/vms/{second['id']}"))["status"] == "running"

    host.order("pause", lie="running")
    job = await playing.wait((await playing.act(second["id"], "pause"))["jobId"])
    assert job["status"] == "failed", "it ended well, but not in the state that was asked for"
    assert "the domain is running, not paused" in job["error"]["message"]
    odd = {"msg": "cannot \x00 \ud83d\udc80 \x1b[31m \u202e", "code": "LIBVIRT_ERROR"}
    host.order("restart", fail=odd)
    job = await playing.wait((await playing.act(second["id"], "restart"))["jobId"])
    assert (job["status"], job["error"]["code"]) == ("failed", "LIBVIRT_ERROR")


@pytest.mark.slow
@pytest.mark.postgres
@pytest.mark.parametrize("database_url", ["postgres"], indirect=True)
async def test_a_message_with_nul_ends_its_job_on_postgresql(playing: Service) -> None:
    fault = {"msg": "cannot \x00 at all", "code": "LIBVIRT_ERROR"}
    playing.hosts["kvm1"].order("create", fail=fault)
    job = await playing.wait((await playing.create())["jobId"])
    assert (job["status"], job["error"]["code"]) == ("failed", "LIBVIRT_ERROR")


@pytest.mark.slow
@only_sqlite
async def test_an_unreachable_host_fails_the_job_and_gives_capacity_back(
    playing: Service, tmp_path: Path
) -> None:
    down = {"ansible_connection": "ssh", "ansible_host": "127.0.0.1", "ansible_port": 1}
    write_inventory(tmp_path / "hosts.yml", playing.hosts, kvm1=down)
    data = await playing.create()
    job = await playing.wait(data["jobId"])
    assert job["status"] == "failed"
    assert job["error"]["code"] == "HOST_UNREACHABLE"
    assert job["error"]["message"].startswith("cannot reach host kvm1: ")
    assert (await playing.get("/hosts/kvm1"))["allocated"]["memory"] == 0
    assert (await playing.get("/vms/vm-001"))["error"]["code"] == "HOST_UNREACHABLE"


@pytest.mark.slow
@only_sqlite
@pytest.mark.usefixtures("cold_ansible")
async def test_a_killed_job_process_is_a_failed_job(playing: Service) -> None:
    host = playing.hosts["kvm1"]
    host.hold("create")
    data = await playing.create()
    await playing.until(f"/jobs/{data['jobId']}", lambda job: job["step"] == "Creating disk and VM")
    directory = str(playing.settings.state_dir / "jobs" / data["jobId"])
    process = next(p for p in living(directory) if b"virtplay.jobs.play" in cmdline(p))
    os.kill(process, signal.SIGKILL)
    job = await playing.wait(data["jobId"])
    assert (job["status"], job["error"]["code"]) == ("failed", "INTERNAL_ERROR")
    assert job["error"]["message"].endswith("its process was killed (signal 9)")
    assert (await playing.get("/vms/vm-001"))["status"] == "error"
    await none_left(directory)
    await none_left("fake_domain")
    assert host.read()["done"] == []


@pytest.mark.slow
@only_sqlite
@pytest.mark.usefixtures("cold_ansible")
async def test_a_killed_ansible_playbook_is_a_failed_job(playing: Service) -> None:
    playing.hosts["kvm1"].hold("create")
    data = await playing.create()
    await playing.until(f"/jobs/{data['jobId']}", lambda job: job["step"] == "Creating disk and VM")
    directory = str(playing.settings.state_dir / "jobs" / data["jobId"])
    for process in living(directory):
        if b"ansible-playbook" in cmdline(process):
            os.kill(process, signal.SIGKILL)
    job = await playing.wait(data["jobId"])
    assert (job["status"], job["error"]["code"]) == ("failed", "PLAYBOOK_FAILED")
    assert job["error"]["message"].endswith("ansible-playbook was killed")
    await none_left(directory)


def cmdline(pid: int) -> bytes:
    """The command line of a process, empty when it is gone."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    return b""


@pytest.mark.slow
@only_sqlite
@pytest.mark.usefixtures("cold_ansible")
async def test_a_play_over_its_time_limit_is_ended_with_all_its_processes(
    playing: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dataclasses import replace

    short = replace(RULES[Action.VM_CREATE], time_limit=4)
    monkeypatch.setitem(RULES, Action.VM_CREATE, short)
    host = playing.hosts["kvm1"]
    host.hold("create")
    data = await playing.create()
    job = await playing.wait(data["jobId"])
    assert (job["status"], job["error"]["code"]) == ("failed", "TIMEOUT")
    assert "4 s" in job["error"]["message"]
    await none_left(str(playing.settings.state_dir / "jobs" / data["jobId"]))
    assert host.read()["done"] == []


@pytest.mark.slow
@only_sqlite
async def test_a_playbook_that_is_broken_fails_the_job(playing: Service, tmp_path: Path) -> None:
    hosts = playing.hosts
    write_inventory(tmp_path / "hosts.yml", hosts, kvm1={"fake_hypervisor": "{{ absent }}"})
    data = await playing.create()
    job = await playing.wait(data["jobId"])
    assert (job["status"], job["error"]["code"]) == ("failed", "PLAYBOOK_FAILED")
    assert "absent" in job["error"]["message"]
    write_inventory(tmp_path / "hosts.yml", {}, kvm9={})
    (tmp_path / "hosts.yml").write_text("hypervisors:\n  hosts:\n    kvm9: {}\n")
    data = await playing.create()
    job = await playing.wait(data["jobId"])
    assert (job["status"], job["error"]["code"]) == ("failed", "PLAYBOOK_FAILED")


@pytest.mark.slow
@only_sqlite
async def test_only_so_many_jobs_run_at_once_on_a_host(playing: Service) -> None:
    host = playing.hosts["kvm1"]
    gate = host.hold("create")
    playing.settings.jobs_per_host = 2
    datas = [await playing.create(memory=64) for _ in range(4)]
    await called(host, "create", 2)
    await asyncio.sleep(1)
    assert len(host.calls("create")) == 2
    statuses = [(await playing.get(f"/jobs/{d['jobId']}"))["status"] for d in datas]
    assert statuses == ["running", "running", "queued", "queued"]
    gate.unlink()
    for data in datas:
        await playing.succeed(data["jobId"])
    assert [vm["status"] for vm in (await playing.get("/vms"))["vms"]] == ["stopped"] * 4


@pytest.mark.slow
async def test_a_response_waits_until_the_job_has_ended(
    playing: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ends, "LOOK_SECONDS", 1000)  # the end is announced
    began = time.monotonic()
    gate = playing.hosts["kvm1"].hold("create")
    creation = (await playing.create())["jobId"]
    start = (await playing.act("vm-001", "start"))["jobId"]
    assert (await playing.get(f"/jobs/{creation}", wait=0.2))["status"] in ("queued", "running")
    waits = [asyncio.create_task(playing.get(f"/jobs/{job}", wait=60)) for job in (creation, start)]
    await called(playing.hosts["kvm1"], "create")
    gate.unlink()
    assert [(await wait)["status"] for wait in waits] == ["succeeded", "succeeded"]
    assert time.monotonic() - began < 60, "only the end of the wait was seen"
    assert (await playing.get(f"/jobs/{creation}", wait=60))["status"] == "succeeded"


@pytest.mark.slow
async def test_a_wait_sees_the_end_of_a_job_that_did_not_run(playing: Service) -> None:
    host = playing.hosts["kvm1"]
    gate = host.hold("create")
    host.order("create", hold=str(gate), fail={"msg": "no room", "code": "INSUFFICIENT_RESOURCES"})
    creation = (await playing.create())["jobId"]
    start = (await playing.act("vm-001", "start"))["jobId"]
    wait = asyncio.create_task(playing.get(f"/jobs/{start}", wait=60))
    await called(host, "create")
    gate.unlink()
    assert (await wait)["status"] == "cancelled"
    assert (await playing.get(f"/jobs/{creation}"))["status"] == "failed"


async def test_waits_end_when_the_service_stops(service: Service) -> None:
    job = (await service.create())["jobId"]
    wait = asyncio.create_task(service.get(f"/jobs/{job}", wait=60))
    await waited_for(service.app.ctx.services.ends)
    await service.app.ctx.background.stop()
    assert (await wait)["status"] == "queued"
    assert (await service.get(f"/jobs/{job}", wait=60))["status"] == "queued"


async def test_what_a_client_waits_does_not_count_as_taken(service: Service) -> None:
    async def taken() -> float:
        text = (await service.client.get("/metrics")).text
        series = r'virtplay_http_request_duration_seconds_sum{.*route="/api/v1/jobs/{id}".*} (.+)'
        return sum(map(float, re.findall(series, text)))

    job = (await service.create())["jobId"]
    before = await taken()
    assert (await service.get(f"/jobs/{job}", wait=5))["status"] == "queued"
    assert await taken() - before < 5


@pytest.mark.parametrize("wait", ["61", "-1", "nan", "inf", "soon", ""])
async def test_a_wrong_wait_is_refused(service: Service, wait: str) -> None:
    job = (await service.create())["jobId"]
    answer = await service.client.get(f"/api/v1/jobs/{job}", params={"wait": wait})
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "VALIDATION_ERROR")
    assert "wait" in answer.json()["error"]["message"]


@pytest.mark.slow
@only_sqlite
async def test_a_stop_with_force_ends_the_play_that_waits_for_the_guest(playing: Service) -> None:
    host = playing.hosts["kvm1"]
    await playing.succeed((await playing.create(autoStart=True))["jobId"])
    host.hold("restart")
    playing.settings.jobs_per_host = 1  # the power is cut in the place of the one that waits
    restart = (await playing.act("vm-001", "restart"))["jobId"]
    await called(host, "restart")
    await playing.succeed((await playing.act("vm-001", "stop", {"force": True}))["jobId"])
    assert (await playing.get("/vms/vm-001"))["status"] == "stopped"
    job = await playing.get(f"/jobs/{restart}")
    assert (job["status"], job["error"]["code"]) == ("cancelled", "SUPERSEDED")
    directory = playing.settings.state_dir / "jobs" / restart
    await none_left(str(directory))
    await directory_removed(directory)
    assert host.read()["done"] == ["create", "stop"]


@pytest.mark.slow
async def test_an_observation_follows_the_hosts(playing: Service, tmp_path: Path) -> None:
    host = playing.hosts["kvm1"]
    observer = playing.app.ctx.services.observer
    data = await playing.create(start=True)
    await playing.succeed(data["jobId"])
    created = await playing.get("/vms/vm-001")
    assert (created["status"], created["autoStart"]) == ("running", False)
    with host.change() as content:
        next(iter(content["domains"].values()))["state"] = "stopped"
    await observer.observe()
    vm = await playing.get("/vms/vm-001")
    assert vm["status"] == "stopped"
    assert vm["observedAt"]

    gate = host.hold("start")
    start = await playing.act("vm-001", "start")
    await observer.observe()
    assert (await playing.get("/vms/vm-001"))["status"] == "starting"
    gate.unlink()
    await playing.succeed(start["jobId"])

    down = {"ansible_connection": "ssh", "ansible_host": "127.0.0.1", "ansible_port": 1}
    write_inventory(tmp_path / "hosts.yml", playing.hosts, kvm1=down)
    await observer.observe()
    await observer.observe()
    shown = await playing.get("/hosts/kvm1")
    assert shown["status"] == "unreachable"
    assert "onnect" in shown["message"]
    assert (await playing.get("/vms/vm-001"))["status"] == "unreachable"
    write_inventory(tmp_path / "hosts.yml", playing.hosts)
    host.order("observe", fail={"msg": "cannot connect to libvirt", "code": "LIBVIRT_ERROR"})
    await observer.observe()
    shown = await playing.get("/hosts/kvm1")
    assert (shown["status"], shown["message"]) == ("error", "cannot connect to libvirt")
    host.order("observe")
    with host.change() as content:
        content["domains"].clear()
    await observer.observe()
    assert (await playing.client.get("/api/v1/vms/vm-001")).status_code == 200
    await observer.observe()
    assert (await playing.client.get("/api/v1/vms/vm-001")).status_code == 404


def nonsense() -> list[Any]:
    """Answers that no host_info should give."""
    domain: dict[str, Any] = {"uuid": "no uuid", "name": "x", "state": "running", "vcpus": 1}
    return [
        {},
        {"domains": None},
        host_info(domains=[domain]),
        host_info(domains=[{**domain, "uuid": "00000000-0000-0000-0000-000000000001"}]),
        json.loads('{"host": 7, "domains": [{}]}'),
    ]


@pytest.mark.slow
@only_sqlite
async def test_one_host_that_answers_nonsense_hides_no_other(
    playing: Service, tmp_path: Path
) -> None:
    folder = tmp_path / "more"
    folder.mkdir()
    hosts = {**playing.hosts, "kvm0": FakeHost("kvm0", folder, playing.hosts["kvm1"].python)}
    write_inventory(tmp_path / "hosts.yml", hosts)
    await playing.app.ctx.background.reload_inventory()
    await playing.until("/hosts", lambda d: [h["status"] for h in d["hosts"]] == ["ready"] * 2)
    observer = playing.app.ctx.services.observer
    for number, answer in enumerate(nonsense()[2:4]):
        hosts["kvm0"].order("observe", answer=answer)
        with hosts["kvm1"].change() as content:
            content["info"]["host"]["cpus"] = 10 + number
        await observer.observe()
        assert (await playing.get("/hosts/kvm1"))["cpus"] == 10 + number
    assert VmStatus.RUNNING not in {v["status"] for v in (await playing.get("/vms"))["vms"]}


@pytest.mark.slow
@only_sqlite
async def test_an_outcome_that_cannot_be_written_is_written_later(
    playing: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    from virtplay.jobs import outcome

    failures = iter([OSError("the database is away")] * 2)
    write = outcome.finish

    async def finish(*given: Any) -> list[int]:
        for error in failures:
            raise error
        return await write(*given)

    monkeypatch.setattr(outcome, "finish", finish)
    monkeypatch.setattr(outcome, "RETRY_SECONDS", 0.2)
    await playing.succeed((await playing.create())["jobId"])
    assert next(failures, None) is None


@pytest.mark.slow
@only_sqlite
async def test_a_database_behind_its_host_is_caught_up_by_the_job_itself(playing: Service) -> None:
    host = playing.hosts["kvm1"]
    host.order("create", seen_generation=7)
    made = await playing.create(userData="#cloud-config\nhostname: kept\n")
    job = await playing.succeed(made["jobId"])
    assert (job["attempt"], job["error"]) == (2, None)
    calls = [call["given"] for call in host.calls("create")]
    assert [call["generation"] for call in calls] == [1, 8]
    assert {call["user_data"] for call in calls} == {"#cloud-config\nhostname: kept\n"}
    await directory_removed(playing.settings.state_dir / "jobs" / made["jobId"])
    gate = host.hold("start")
    host.order("start", seen_generation=41, hold=str(gate))
    start = (await playing.act(made["id"], "start"))["jobId"]
    await playing.until(f"/jobs/{start}", lambda shown: shown["status"] == "running")
    await Job.filter(ref=start).update(attempt=7)  # the service has died that often meanwhile
    gate.unlink()
    assert (await playing.succeed(start))["attempt"] == 8
    assert [call["given"]["generation"] for call in host.calls("start")] == [9, 42]
    assert (await Vm.get()).generation == 42
    # What no database can hold is not followed: anybody may have written it there.
    host.order("stop", seen_generation=2**40)
    stopped = await playing.wait((await playing.act(made["id"], "stop"))["jobId"])
    assert (stopped["status"], stopped["error"]["code"]) == ("failed", "STALE_GENERATION")
    assert (await Vm.get()).generation == 43
