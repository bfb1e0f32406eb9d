"""API tests: power actions that are ready at one moment run as one play, and stay jobs."""

import asyncio
import os
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from virtplay.jobs.batch import lease_together
from virtplay.jobs.recovery import recover, sweep_jobs
from virtplay.jobs.submission import batch_directory
from virtplay.store import jobs
from virtplay.store.models import AuditEntry, Job, Vm
from virtplay.store.vms import save_vm

from tests.api.conftest import Service, only_sqlite, write_inventory
from tests.api.fake_hosts import FakeHost, foreign_domain
from tests.api.test_jobs import cmdline, directory_removed, living, none_left

DOWN = {"ansible_connection": "ssh", "ansible_host": "127.0.0.1", "ansible_port": 1}


@pytest.fixture
def fake_hosts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, python: Path
) -> dict[str, FakeHost]:
    """Two fake hypervisors, which the test's inventory lists."""
    folder = tmp_path / "hypervisors"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    hosts = {name: FakeHost(name, folder, python) for name in ("kvm1", "kvm2")}
    write_inventory(tmp_path / "hosts.yml", hosts)
    return hosts


async def find_vms(service: Service, *, each: int, state: str = "running") -> list[str]:
    """Define so many VMs on each host, and return their ids: those of kvm1 first."""
    for name, host in service.hosts.items():
        for number in range(each):
            host.put(foreign_domain(f"{name}-{number}", state=state))
    await service.app.ctx.services.observer.observe()
    return [str(vm.ref) for vm in await Vm.all().order_by("host", "domain")]


async def act(service: Service, action: str, **body: Any) -> dict[str, Any]:
    """Send POST /vms/actions, which must be accepted; return its data."""
    answer = await service.post("/vms/actions", {"action": action, **body})
    assert answer.status_code == 202, answer.text
    data: dict[str, Any] = answer.json()["data"]
    return data


async def outcomes(service: Service, data: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Wait for the jobs of a request; return VM → job."""
    return {each["id"]: await service.wait(each["jobId"]) for each in data["jobs"]}


def plays(service: Service) -> int:
    """How many processes of the module all calls on the hosts were."""
    return len({call["pid"] for host in service.hosts.values() for call in host.calls()})


async def log_of(service: Service, job: str) -> str:
    """The log of a job."""
    return (await service.client.get(f"/api/v1/jobs/{job}/log")).text


@pytest.mark.slow
async def test_what_is_ready_at_one_moment_is_one_play_and_each_a_job(playing: Service) -> None:
    vms = await find_vms(playing, each=3)
    data = await act(playing, "pause", vms=vms)
    assert [each["id"] for each in data["jobs"]] == vms
    assert {each["status"] for each in data["jobs"]} == {"pausing"}
    assert data["refused"] == []
    jobs = await outcomes(playing, data)
    assert {job["status"] for job in jobs.values()} == {"succeeded"}
    assert {(job["progress"], job["changed"], job["attempt"]) for job in jobs.values()} == {
        (100, True, 1)
    }
    assert {vm["status"] for vm in (await playing.get("/vms"))["vms"]} == {"paused"}
    assert plays(playing) == 2, "one process of the module on each host"
    first = data["jobs"][0]
    job = jobs[first["id"]]
    assert job["command"].startswith("ansible-playbook playbooks/vm_pause.yml ")
    assert job["changes"][0]["after"] == "paused"
    log = await log_of(playing, first["jobId"])
    assert "TASK [Change the power states of the VMs]" in log
    assert "changed: [kvm1] => kvm1-0 (state: running → paused)" in log
    assert "kvm1-1" not in log
    calls = {call["given"]["job"]: call["given"] for call in playing.hosts["kvm1"].calls("pause")}
    assert calls[first["jobId"]]["generation"] == 1
    assert await AuditEntry.filter(action="vm_pause").count() == 6
    for directory in (playing.settings.state_dir / "jobs").iterdir():
        await directory_removed(directory)


@pytest.mark.slow
@only_sqlite
async def test_one_that_fails_stops_no_other(playing: Service) -> None:
    vms = await find_vms(playing, each=2)
    why = {"msg": "cannot pause kvm1-1: QEMU is stuck", "code": "LIBVIRT_ERROR"}
    playing.hosts["kvm1"].order("pause kvm1-1", fail=why)
    playing.hosts["kvm2"].order("pause kvm2-0", lie="running")
    jobs = await outcomes(playing, await act(playing, "pause", vms=vms))
    assert [jobs[vm]["status"] for vm in vms] == ["succeeded", "failed", "failed", "succeeded"]
    assert jobs[vms[1]]["error"] == {
        "code": "LIBVIRT_ERROR",
        "message": why["msg"],
        "task": "Change the power states of the VMs",
        "host": "kvm1",
    }
    assert "the domain is running, not paused" in jobs[vms[2]]["error"]["message"]
    shown = {vm["id"]: vm["status"] for vm in (await playing.get("/vms"))["vms"]}
    assert [shown[vm] for vm in vms] == ["paused", "running", "running", "paused"]
    log = await log_of(playing, jobs[vms[1]]["id"])
    assert f"fatal: [kvm1]: FAILED! => {why['msg']} (LIBVIRT_ERROR)" in log


@pytest.mark.slow
@only_sqlite
async def test_what_the_time_of_a_batch_was_too_short_for_is_in_the_next(playing: Service) -> None:
    vms = await find_vms(playing, each=1)
    why = {"msg": "cannot pause kvm1-0: it was not begun within 270 s", "code": "NOT_BEGUN"}
    playing.hosts["kvm1"].order("pause kvm1-0", fail=why)
    data = await act(playing, "pause", vms=vms)
    first = data["jobs"][0]["jobId"]
    await playing.until(f"/jobs/{first}", lambda job: job["attempt"] > 1)
    playing.hosts["kvm1"].order("pause kvm1-0")
    jobs = await outcomes(playing, data)
    assert {job["status"] for job in jobs.values()} == {"succeeded"}
    assert jobs[vms[1]]["attempt"] == 1


@pytest.mark.slow
@only_sqlite
async def test_a_host_ends_its_jobs_without_the_others(playing: Service, tmp_path: Path) -> None:
    vms = await find_vms(playing, each=2)
    gate = playing.hosts["kvm2"].hold("pause")
    data = await act(playing, "pause", vms=vms)
    for each in data["jobs"][:2]:
        await playing.succeed(each["jobId"])
    for each in data["jobs"][2:]:
        job = await playing.get(f"/jobs/{each['jobId']}")
        assert (job["status"], job["step"]) == ("running", "Pausing")
        assert job["progress"] < 100
    # They hold their host no longer.
    await playing.succeed((await playing.act(vms[0], "resume"))["jobId"])
    gate.unlink()
    for each in data["jobs"][2:]:
        await playing.succeed(each["jobId"])

    write_inventory(tmp_path / "hosts.yml", playing.hosts, kvm2=DOWN)
    jobs = await outcomes(playing, await act(playing, "resume", vms=vms[1:]))
    assert jobs[vms[1]]["status"] == "succeeded"
    assert {jobs[vm]["error"]["code"] for vm in vms[2:]} == {"HOST_UNREACHABLE"}
    assert {(await playing.get(f"/vms/{vm}"))["status"] for vm in vms[2:]} == {"unreachable"}


@pytest.mark.slow
@only_sqlite
async def test_a_database_behind_a_host_is_caught_up_by_each_job(playing: Service) -> None:
    vms = await find_vms(playing, each=1)
    playing.hosts["kvm1"].order("pause", seen_generation=7)
    jobs = await outcomes(playing, await act(playing, "pause", vms=vms))
    assert [jobs[vm]["status"] for vm in vms] == ["succeeded"] * 2
    assert [jobs[vm]["attempt"] for vm in vms] == [2, 1]
    generations = [call["given"]["generation"] for call in playing.hosts["kvm1"].calls("pause")]
    assert generations == [1, 8]


@pytest.mark.slow
@only_sqlite
@pytest.mark.usefixtures("cold_ansible")
async def test_a_killed_play_fails_the_jobs_without_a_result(playing: Service) -> None:
    vms = await find_vms(playing, each=1)
    playing.hosts["kvm2"].hold("pause")
    data = await act(playing, "pause", vms=vms)
    await playing.succeed(data["jobs"][0]["jobId"])
    (directory,) = (playing.settings.state_dir / "jobs").glob("batch-*")
    process = next(p for p in living(str(directory)) if b"virtplay.jobs.play" in cmdline(p))
    os.kill(process, signal.SIGKILL)
    job = await playing.wait(data["jobs"][1]["jobId"])
    assert (job["status"], job["error"]["code"]) == ("failed", "INTERNAL_ERROR")
    assert job["error"]["message"].endswith("its process was killed (signal 9)")
    await none_left(str(directory))


@pytest.mark.slow
@only_sqlite
async def test_only_so_many_jobs_of_a_request_run_at_once(playing: Service) -> None:
    vms = await find_vms(playing, each=3)
    gates = [host.hold("pause") for host in playing.hosts.values()]
    data = await act(playing, "pause", vms=vms, atOnce=2)

    async def statuses() -> list[str]:
        return [(await playing.get(f"/jobs/{e['jobId']}"))["status"] for e in data["jobs"]]

    async with asyncio.timeout(300):
        while (await statuses()).count("running") < 2:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    playing.app.ctx.services.dispatcher.enqueue(0)
    await asyncio.sleep(0.5)
    assert (await statuses()).count("running") == 2
    assert len({job.bulk_id for job in await Job.all()}) == 1
    for gate in gates:
        gate.unlink()
    jobs = await outcomes(playing, data)
    assert {job["status"] for job in jobs.values()} == {"succeeded"}


async def test_jobs_of_a_batch_that_died_are_recovered_one_by_one(service: Service) -> None:
    for name in ("kvm1", "kvm2"):
        domains = [foreign_domain(f"{name}-{number}") for number in range(2)]
        await service.see(name, domains=domains)
    vms = [str(vm.ref) for vm in await Vm.all()]
    await act(service, "pause", vms=vms, atOnce=3)
    ids = [job.id for job in await Job.all()]
    jobs = await lease_together(ids[:3], "here:1:abcd")
    assert [job.id for job in jobs] == ids[:3]
    assert [job.id for job in await lease_together(ids, "here:1:abcd")] == ids
    assert await lease_together(ids, "there:2:bcde") == []
    assert {vm.generation for vm in await Vm.all()} == {1}
    directory = batch_directory(service.settings, "here:1:abcd")
    directory.mkdir()
    (directory / "events.jsonl").write_text("{}\n")
    os.utime(directory, (0, 0))
    await sweep_jobs(service.settings)
    assert directory.exists(), "it is in use, however old"
    assert await recover(service.settings) == ids
    rows = await Job.all()
    assert {(job.status, job.attempt, job.stalled) for job in rows} == {("queued", 2, 1)}
    assert {(job.bulk_id, job.at_once) for job in rows} == {(ids[0], 3)}
    assert not directory.exists()


async def test_a_job_whose_vm_is_gone_fails_also_in_a_batch(service: Service) -> None:
    await service.see(domains=[foreign_domain(f"kvm1-{number}") for number in range(2)])
    await act(service, "pause", vms=[str(vm.ref) for vm in await Vm.all()])
    gone, other = await Job.all().order_by("id")
    await Vm.filter(id=gone.vm_id).delete()
    assert [job.id for job in await lease_together([gone.id, other.id], "here")] == [other.id]
    shown = await service.get(f"/jobs/{gone.ref}")
    assert (shown["status"], shown["error"]["code"]) == ("failed", "VM_NOT_FOUND")


async def test_requests_for_many_are_checked_vm_by_vm(service: Service) -> None:
    labelled = [foreign_domain(f"web-{number}") for number in range(2)]
    stopped = foreign_domain("off", state="stopped")
    await service.see(domains=[*labelled, stopped])
    refs = {vm.domain: str(vm.ref) for vm in await Vm.all()}
    for vm in await Vm.filter(domain__startswith="web"):
        await save_vm(vm, labels={"team": "web"})
    data = await act(service, "pause", vms=[refs["web-0"], refs["off"], "vm-999", "x"])
    assert [each["id"] for each in data["jobs"]] == [refs["web-0"]]
    assert [(each["id"], each["error"]["code"]) for each in data["refused"]] == [
        (refs["off"], "VM_ALREADY_STOPPED"),
        ("vm-999", "VM_NOT_FOUND"),
        ("x", "VM_NOT_FOUND"),
    ]
    data = await act(service, "pause", label="team")
    assert [each["id"] for each in data["jobs"]] == [refs["web-1"]]
    (refusal,) = data["refused"]
    assert refusal["error"]["code"] == "OPERATION_IN_PROGRESS"
    assert refusal["error"]["details"]["jobId"] == "job-000001"

    answer = await service.post("/vms/actions", {"action": "stop", "label": "team=web"})
    assert answer.status_code == 409
    error = answer.json()["error"]
    assert error["code"] == "ALL_REFUSED"
    assert error["message"].startswith("cannot stop any of 2 VMs: cannot change VM web-")
    assert [each["id"] for each in error["details"]["refused"]] == [refs["web-0"], refs["web-1"]]
    for body in ({"label": "team=db"}, {"vms": ["vm-999"]}):
        answer = await service.post("/vms/actions", {"action": "start", **body})
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "VM_NOT_FOUND")
    assert await Job.all().count() == 2


@only_sqlite
async def test_a_request_for_many_reads_the_history_once(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    await service.see(domains=[foreign_domain(f"web-{number}") for number in range(3)])
    asked: list[str] = []

    async def unknown(action: str) -> None:
        asked.append(action)

    monkeypatch.setattr(jobs, "usual_seconds", unknown)
    data = await act(service, "stop", vms=[str(vm.ref) for vm in await Vm.all()])
    assert len(data["jobs"]) == 3
    assert asked == ["vm_stop"]
    await Job.all().delete()
    await Vm.all().update(status="running")
    assert (await service.post("/vms/vm-001/stop")).status_code == 202
    assert asked == ["vm_stop"] * 2


@only_sqlite
@pytest.mark.parametrize(
    "body",
    [
        {"action": "start"},
        {"action": "start", "vms": []},
        {"action": "start", "vms": ["vm-001"], "label": "a"},
        {"action": "start", "vms": ["vm-001"], "force": True},
        {"action": "start", "vms": ["vm-001", "vm-001"]},
        {"action": "delete", "vms": ["vm-001"]},
        {"action": "stop", "vms": ["vm-001"], "atOnce": 0},
        {"action": "stop", "vms": [f"vm-{number:03d}" for number in range(1, 502)]},
    ],
)
async def test_requests_that_are_no_such_request(service: Service, body: dict[str, Any]) -> None:
    answer = await service.post("/vms/actions", body)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "VALIDATION_ERROR")


@only_sqlite
async def test_a_viewer_may_not_act_on_many(service: Service) -> None:
    headers = await service.as_role("viewer")
    body = {"action": "start", "vms": ["vm-001"]}
    answer = await service.client.post("/api/v1/vms/actions", json=body, headers=headers)
    assert answer.status_code == 403
