"""Acceptance tests: bad days. Whatever breaks is said, is undone, and is good again afterwards."""

from __future__ import annotations

from typing import Any

import pytest

from lab.lab import Host
from tests.acceptance.guests import booted, domains, power, traces
from tests.acceptance.service import BLANK, MICRO, TWO_INTERVALS, Api, Json, Service, wait_for

CUT_SECONDS = 60
"""Until SSH has given up on a host and an observation has said so."""


def allocated(api: Api, host: Host) -> Json:
    found: Json = api.host(host.name)["allocated"]
    return found


def test_host_cut_off(api: Api, one: Host, two: Host) -> None:
    stays, other = api.create_all(
        {"host": two.name, "autoStart": True, **BLANK},
        {"host": one.name, "autoStart": True, **BLANK},
    )
    before = traces(two)
    promised = allocated(api, two)
    statuses: set[str] = set()
    half = api.send("POST", "/vms", {"name": "half way", "host": two.name, **BLANK})
    wait_for("its first task", lambda: api.job(half["jobId"])["progress"] > 0, 30)
    two.cut()
    try:
        # Asked before anyone has noticed: accepted, and it fails with the reason.
        made = api.send("POST", "/vms", {"name": "too late", "host": two.name, **BLANK})
        waiting = api.send("POST", f"/vms/{made['id']}/start")
        job = api.failed(made["jobId"], "HOST_UNREACHABLE", CUT_SECONDS)
        assert job["host"] == two.name
        assert two.name in job["error"]["message"]
        behind = api.ended(waiting["jobId"])
        assert (behind["status"], behind["error"]["code"]) == ("cancelled", "HOST_UNREACHABLE")
        assert api.vm(made["id"])["status"] == "error"
        api.failed(half["jobId"], "HOST_UNREACHABLE", CUT_SECONDS)
        assert allocated(api, two) == promised, "their capacity is given back"

        def noticed() -> bool:
            statuses.add(api.vm(stays["id"])["status"])
            return bool(api.host(two.name)["status"] == "unreachable")

        wait_for("the host unreachable", noticed, CUT_SECONDS)
        api.shows(stays["id"], status="unreachable")
        assert statuses <= {"running", "unreachable"}
        assert api.vm(other["id"])["status"] == "running"
        # From now on it is refused at once; the other host takes what names none.
        for method, path, body in (
            ("POST", "/vms", {"name": "x", "host": two.name, **BLANK}),
            ("POST", f"/vms/{stays['id']}/stop", None),
            ("DELETE", f"/vms/{stays['id']}?force=true", None),
        ):
            api.refused(503, "HOST_UNREACHABLE", method, path, body)
        assert api.create(name="elsewhere", **BLANK)["host"] == one.name
    finally:
        two.mend()
    wait_for("the host ready", lambda: api.host(two.name)["status"] == "ready", CUT_SECONDS)
    api.shows(stays["id"], status="running")
    api.remove(made["id"], half["id"])
    assert traces(two) == before
    api.run("POST", f"/vms/{stays['id']}/stop", {"force": True})


def act_together(api: Api, **body: Any) -> Json:
    answer = api.ask("POST", "/vms/actions", body)
    assert answer.status_code == 202, answer.text
    data: Json = answer.json()["data"]
    return data


def test_power_actions_that_go_together_end_one_by_one(api: Api, one: Host, two: Host) -> None:
    wanted = [{"host": host.name, "autoStart": True, **BLANK} for host in (one, two) * 3]
    vms = sorted(api.create_all(*wanted), key=lambda vm: str(vm["host"]))
    refs, names = [vm["id"] for vm in vms], [vm["domain"] for vm in vms]
    # Whoever has raised it so far is not followed, and the domain is refused.
    fence = f"/var/lib/virtplay/fence/{vms[0]['uuid']}.json"
    one.run("sh", "-c", f"echo '{{\"generation\": {2**40}}}' > {fence}")
    two.cut()
    try:
        sent = act_together(api, action="pause", vms=refs)
        assert [each["id"] for each in sent["jobs"]] == refs
        jobs = [each["jobId"] for each in sent["jobs"]]
        api.failed(jobs[0], "STALE_GENERATION")
        for job in jobs[1:3]:
            assert api.succeeded(job)["progress"] == 100
        for job in jobs[3:]:
            assert two.name in api.failed(job, "HOST_UNREACHABLE", CUT_SECONDS)["error"]["message"]
        assert [power(one, ref) for ref in names[:3]] == ["running", "paused", "paused"]
        log = api.log(jobs[1])
        assert "PLAY [Change the power states of VMs]" in log
        assert f"changed: [{one.name}] => {names[1]} (state: running → paused)" in log
        assert names[2] not in log
    finally:
        one.run("rm", "-f", fence)
        two.mend()
    for ref in refs[3:]:
        api.shows(ref, seconds=CUT_SECONDS, status="running")
    sent = act_together(api, action="resume", vms=refs, atOnce=1)
    assert [each["id"] for each in sent["jobs"]] == refs[1:3]
    assert {each["error"]["code"] for each in sent["refused"]} == {"VM_NOT_PAUSED"}
    for each in sent["jobs"]:
        api.succeeded(each["jobId"])
    assert [power(one, ref) for ref in names[:3]] == ["running"] * 3


@pytest.mark.parametrize(
    ("template", "code"),
    [("wrong-checksum", "CHECKSUM_MISMATCH"), ("absent-file", "DOWNLOAD_FAILED")],
)
def test_template_that_cannot_be_had_leaves_no_file(
    api: Api, one: Host, template: str, code: str
) -> None:
    before = traces(one)
    promised = allocated(api, one)
    made = api.send("POST", "/vms", {"name": "x", "host": one.name, **BLANK, "template": template})
    job = api.failed(made["jobId"], code)
    assert job["error"]["message"].startswith("cannot ")
    assert traces(one) == before
    assert allocated(api, one) == promised
    vm = api.vm(made["id"])
    assert (vm["status"], vm["error"]["code"]) == ("error", code)
    api.refused(400, "VALIDATION_ERROR", "POST", f"/vms/{made['id']}/start")
    api.run("DELETE", f"/vms/{made['id']}")


def test_full_pool(api: Api, two: Host) -> None:
    before = traces(two)
    size = 1200 * 1024 * 1024
    with two.small_pool(size):
        wait_for("the small pool", lambda: api.host(two.name)["available"]["disk"] == 1,
                 TWO_INTERVALS)  # fmt: skip
        # Too large, as far as anyone knows: refused with the figures.
        wanted = {"name": "large", "host": two.name, **BLANK, "disk": 5}
        error = api.refused(400, "INSUFFICIENT_RESOURCES", "POST", "/vms", wanted)
        assert error["details"]["hosts"] == [
            {
                "host": two.name,
                "short": {"disk": {"needed": 5, "available": 1}},
                "available": api.host(two.name)["available"],
            }
        ]
        # Filled behind the service's back: the job fails, and everything is undone.
        empty = set(two.run("ls", "/var/lib/libvirt/images").stdout.split())
        two.fill_pool(leave=100_000)
        late = {"name": "late", "host": two.name, **MICRO, "clone": "full"}
        made = api.ask("POST", "/vms", late)
        assert made.status_code == 202, "the list was not to know yet: " + made.text
        job = api.failed(made.json()["data"]["jobId"], "INSUFFICIENT_RESOURCES")
        assert "bytes" in job["error"]["message"] or "space" in job["error"]["message"]
        left = set(two.run("ls", "/var/lib/libvirt/images").stdout.split())
        assert left - {"filler"} == empty
        assert domains(two) == before["domains"]
        api.run("DELETE", f"/vms/{made.json()['data']['id']}")
    assert traces(two) == before
    wait_for("the room", lambda: api.host(two.name)["available"]["disk"] > 1, TWO_INTERVALS)


def test_killed_libvirtd(api: Api, one: Host, two: Host) -> None:
    vm = api.create(host=two.name, autoStart=True, **BLANK)
    two.kill_libvirtd()
    try:
        stop = api.ask("POST", f"/vms/{vm['id']}/stop")
        if stop.status_code == 202:
            job = api.failed(stop.json()["data"]["jobId"], "LIBVIRT_ERROR", 60)
            assert "cannot connect to libvirt" in job["error"]["message"]
        wait_for("the host's error", lambda: api.host(two.name)["status"] == "error", 20)
        assert "libvirt" in api.host(two.name)["message"]
        api.shows(vm["id"], status="unreachable")
        assert api.create(name="elsewhere", **BLANK)["host"] == one.name
    finally:
        two.start_libvirtd()
    wait_for("the host ready", lambda: api.host(two.name)["status"] == "ready", 20)
    api.shows(vm["id"], status="running")
    api.run("POST", f"/vms/{vm['id']}/stop", {"force": True})


def test_stuck_qemu_hides_nobody_else(api: Api, one: Host, two: Host) -> None:
    stuck, well, there = api.create_all(
        {"host": one.name, "name": "stuck", "autoStart": True, **BLANK},
        {"host": one.name, "name": "well", **BLANK},
        {"host": two.name, "name": "there", **BLANK},
    )
    one.freeze(stuck["domain"])
    try:
        one.run("virsh", "start", well["domain"])
        two.run("virsh", "start", there["domain"])
        # The call itself may now take its whole time limit.
        api.shows(well["id"], TWO_INTERVALS + 8, status="running")
        api.shows(there["id"], status="running")
        assert api.host(one.name)["status"] == "ready"
        assert api.vm(stuck["id"])["status"] in {"running", "error"}
        seen = api.vm(well["id"])["observedAt"]
        wait_for("another look", lambda: api.vm(well["id"])["observedAt"] > seen, 20)
        api.run("POST", f"/vms/{well['id']}/stop", {"force": True})
        # Even its power can be cut. libvirt, which lists no domain meanwhile, takes its time.
        api.run("POST", f"/vms/{stuck['id']}/stop", {"force": True}, seconds=60)
    finally:
        one.run("sh", "-c", f"kill -CONT $(cat /run/libvirt/qemu/{stuck['id']}.pid)", check=False)
    api.all_ready()
    api.shows(stuck["id"], status="stopped")


def test_killed_service_in_the_middle_of_a_creation(service: Service, api: Api, one: Host) -> None:
    made = api.send("POST", "/vms", {"name": "survivor", "host": one.name, **BLANK})
    start = api.send("POST", f"/vms/{made['id']}/start")
    wait_for("the play", lambda: api.job(made["jobId"])["progress"] > 0, 30)
    service.kill()
    wait_for("the end of its job processes", lambda: not service.pids(), 15)
    service.start()
    job = api.ended(made["jobId"])
    assert job["status"] == "succeeded", job["error"]
    assert job["attempt"] == 2
    api.succeeded(start["jobId"])
    mine = [vm for vm in api.vms().values() if vm["name"] == "survivor"]
    assert [vm["id"] for vm in mine] == [made["id"]]
    assert domains(one) == {"survivor"}
    assert no_job_is_left(api)
    api.run("DELETE", f"/vms/{made['id']}?force=true")
    assert domains(one) == set()


def test_killed_service_in_the_middle_of_a_stop(service: Service, api: Api, one: Host) -> None:
    vm = api.create(host=one.name, autoStart=True)
    booted(one, vm["domain"])
    # A guest that is held takes its time with the power button.
    one.freeze(vm["domain"])
    stop = api.send("POST", f"/vms/{vm['id']}/stop")
    wait_for("the play", lambda: api.job(stop["jobId"])["progress"] > 0, 30)
    service.kill()
    one.thaw(vm["domain"])
    service.start()
    assert api.ended(stop["jobId"])["status"] == "succeeded"
    assert api.vm(vm["id"])["status"] == "stopped"
    assert power(one, vm["domain"]) == "shut off"
    assert no_job_is_left(api)


def starts(host: Host, vm: str) -> int:
    """How often libvirt has started a QEMU for a VM, by its log."""
    log = str(host.run("cat", f"/var/log/libvirt/qemu/{vm}.log").stdout)
    return log.count(": starting up libvirt version")


def test_killed_service_in_the_middle_of_a_restart(service: Service, api: Api, one: Host) -> None:
    vm = api.create(host=one.name, autoStart=True)
    booted(one, vm["domain"])
    before = starts(one, vm["domain"])
    # Killed once before the guest goes down, and once when it may be down or up again.
    one.freeze(vm["domain"])
    restart = api.send("POST", f"/vms/{vm['id']}/restart")
    wait_for("the play", lambda: api.job(restart["jobId"])["progress"] > 0, 30)
    service.kill()
    one.thaw(vm["domain"])
    service.start()
    wait_for("the repetition", lambda: api.job(restart["jobId"])["progress"] > 0, 60)
    service.kill()
    service.start()
    assert api.ended(restart["jobId"])["status"] == "succeeded"
    assert power(one, vm["domain"]) == "running"
    assert starts(one, vm["domain"]) == before + 1
    assert no_job_is_left(api)


def no_job_is_left(api: Api) -> bool:
    return all(
        api.get(f"/jobs?status={status}")["pagination"]["total"] == 0
        for status in ("queued", "running", "cancelling")
    )


def test_stopped_service_goes_on_where_it_was(service: Service, api: Api, one: Host) -> None:
    vm = api.create(host=one.name, autoStart=True, **BLANK)
    assert service.stop() == 0
    assert service.pids() == []
    one.run("virsh", "suspend", vm["domain"])
    service.start()
    assert api.vms()[vm["id"]]["status"] == "paused"
