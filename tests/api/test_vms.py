"""API tests: VMs listed, made, changed and refused; jobs stay queued."""

import itertools
import json
import re
import uuid
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from tortoise import Tortoise
from virtplay.states import DomainState, HostStatus, VmStatus
from virtplay.store import vms as store
from virtplay.store.domains import follow_domain
from virtplay.store.models import AuditEntry, Host, Job, Vm
from virtplay.store.vm_index import renew_index
from virtplay.store.vms import Promised, create_vm
from virtplay.units import GIB

from tests.api.conftest import BODY, Service, only_sqlite
from tests.api.fake_hosts import foreign_domain


async def put_vm(status: VmStatus = VmStatus.STOPPED, **values: Any) -> Vm:
    """A VM as an earlier creation would have left it."""
    standard: dict[str, Any] = {
        "uuid": uuid.uuid4(),
        "name": "web",
        "host": "kvm1",
        "status": status,
        "power": status.value,
        "provisioned": True,
        "os": "micro",
        "template": "micro",
        "cpu": 1,
        "memory": 512,
        "disk": 2,
        "network": {"type": "network", "network": "default", "mac": "52:54:00:00:00:01"},
    }
    return await create_vm(**{**standard, **values})


async def add_vm(status: VmStatus = VmStatus.STOPPED, **values: Any) -> str:
    """Like put_vm; the new VM's id."""
    return str((await put_vm(status, **values)).ref)


async def refuse(service: Service, method: str, path: str, body: Any = None) -> tuple[int, str]:
    """Status and code of a refusal, which must have changed nothing."""
    before = (await Vm.all().count(), await Job.all().count())
    answer = await service.client.request(method, f"/api/v1{path}", json=body)
    assert (await Vm.all().count(), await Job.all().count()) == before
    return answer.status_code, answer.json()["error"]["code"]


@pytest.mark.parametrize("again", [False, True])
async def test_a_guest_that_a_job_has_started_again_has_no_address_yet(
    service: Service, again: bool
) -> None:
    before = datetime(2026, 11, 22, 13, 0, tzinfo=UTC)
    address = {"mac": "52:54:00:00:00:01", "ip": "203.0.113.5", "source": "lease"}
    vm = await put_vm(VmStatus.RUNNING, ip=address["ip"], addresses=[address], started_at=before)
    started_at = "2026-11-22T13:30:00.000Z" if again else "2026-11-22T13:00:00.000Z"
    await follow_domain(vm, {"state": "running", "started_at": started_at})
    shown = await service.get(f"/vms/{vm.ref}")
    assert shown["addresses"] == ([] if again else [address])
    assert shown["ip"] == (None if again else address["ip"])


async def test_a_created_vm_is_shown_in_full(service: Service) -> None:
    await service.create(
        name="Web Server",
        host="kvm2",
        labels={"team": "web"},
        description="the front",
        network={"type": "bridge", "bridge": "br0", "ip": "192.0.2.5/24"},
        autoStart=True,
    )
    vm = await service.get("/vms/vm-001")
    assert vm == (await service.get("/vms"))["vms"][0]
    expected = {
        "id": "vm-001",
        "name": "Web Server",
        "status": "creating",
        "cpu": 1,
        "memory": 512,
        "disk": 2,
        "os": "micro",
        "ip": None,
        "host": "kvm2",
        "template": "micro",
        "description": "the front",
        "labels": {"team": "web"},
        "autoStart": True,
        "managed": True,
        "pending": {},
        "error": None,
        "addresses": [],
        "startedAt": None,
        "observedAt": None,
    }
    assert {key: vm[key] for key in expected} == expected
    mac = vm["network"]["mac"]
    assert re.fullmatch(r"52(:[0-9a-f]{2}){5}", mac)
    assert vm["network"] == {"type": "bridge", "bridge": "br0", "ip": "192.0.2.5/24", "mac": mac}
    assert vm["createdAt"].endswith("Z")
    assert vm["updatedAt"].endswith("Z")


async def test_the_job_of_a_creation(service: Service) -> None:
    data = await service.create(name="it's {{ mine }}")
    job = await service.get(f"/jobs/{data['jobId']}")
    expected = {
        "id": "job-000001",
        "action": "vm_create",
        "vmId": "vm-001",
        "host": "kvm1",
        "status": "queued",
        "progress": 0,
        "step": "",
        "etaSeconds": None,
        "changed": None,
        "dryRun": False,
        "requestedBy": "bootstrap",
        "error": None,
        "attempt": 1,
        "retryOf": None,
        "startedAt": None,
        "finishedAt": None,
    }
    assert {key: job[key] for key in expected} == expected
    assert job["command"].startswith("ansible-playbook playbooks/vm_create.yml -i ")
    assert '{"__ansible_unsafe": "it' in job["command"]
    status = await service.get("/vms/vm-001/status")
    assert status["status"] == "creating"
    assert status["job"]["id"] == "job-000001"
    entry = await AuditEntry.get()
    assert (entry.actor, entry.action, entry.vm_ref, entry.job_ref, entry.address) == (
        "bootstrap", "vm_create", "vm-001", "job-000001", "127.0.0.1",
    )  # fmt: skip
    assert entry.request_id == job["requestId"]


async def test_every_wrong_field_is_named_at_once_and_nothing_is_created(service: Service) -> None:
    answer = await service.post(
        "/vms",
        {"name": "a\nb", "cpu": "2", "memory": 1.5, "disk": True, "colour": 1, "network": {"a": 1}},
    )
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert error["code"] == "VALIDATION_ERROR"
    fields = {entry["field"] for entry in error["details"]["fields"]}
    assert fields == {"name", "template", "cpu", "memory", "disk", "colour", "network.a"}
    assert await Vm.all().count() == await Job.all().count() == await AuditEntry.all().count() == 0


@pytest.mark.parametrize(
    ("values", "refusal"),
    [
        ({"template": "win95"}, (404, "TEMPLATE_NOT_FOUND")),
        ({"template": "../micro"}, (404, "TEMPLATE_NOT_FOUND")),
        ({"host": "kvm9"}, (404, "HOST_NOT_FOUND")),
        ({"host": "KVM1"}, (404, "HOST_NOT_FOUND")),
        ({"network": {"network": "absent"}}, (400, "VALIDATION_ERROR")),
        ({"network": {"network": "asleep"}}, (400, "VALIDATION_ERROR")),
        ({"network": {"type": "bridge", "bridge": "br7"}}, (400, "VALIDATION_ERROR")),
        ({"cpu": 17}, (400, "INSUFFICIENT_RESOURCES")),
        ({"memory": 7681}, (400, "INSUFFICIENT_RESOURCES")),
        ({"disk": 101}, (400, "INSUFFICIENT_RESOURCES")),
        ({"disk": 101, "host": "kvm2"}, (400, "INSUFFICIENT_RESOURCES")),
    ],
)
async def test_creations_that_are_refused(
    service: Service, values: dict[str, Any], refusal: tuple[int, str]
) -> None:
    assert await refuse(service, "POST", "/vms", {**BODY, **values}) == refusal


async def test_a_disk_smaller_than_the_template_is_a_wrong_field(service: Service) -> None:
    image = {"name": "micro", "virtual_size_bytes": 3 * 1024**3, "created_at": None}
    await service.see("kvm1", templates=[image])
    await service.see("kvm2", templates=[image])
    answer = await service.post("/vms", BODY)
    assert answer.status_code == 400
    assert answer.json()["error"]["details"]["fields"][0]["field"] == "disk"
    await service.create(disk=3)


async def test_insufficient_resources_names_figures_of_the_host_asked_for(service: Service) -> None:
    answer = await service.post("/vms", {**BODY, "host": "kvm2", "memory": 99999})
    assert answer.json()["error"]["details"] == {
        "needed": {"cpu": 1, "memory": 99999, "disk": 2},
        "hosts": [
            {
                "host": "kvm2",
                "short": {"memory": {"needed": 99999, "available": 7680}},
                "available": {"cpu": 16, "memory": 7680, "disk": 100},
            }
        ],
    }


async def test_no_host_is_ready(service: Service) -> None:
    await service.mark("kvm1", HostStatus.UNREACHABLE, "no route")
    await service.mark("kvm2", HostStatus.ERROR, "libvirtd is down")
    assert await refuse(service, "POST", "/vms", BODY) == (503, "HOST_UNREACHABLE")
    assert await refuse(service, "POST", "/vms", {**BODY, "host": "kvm1"}) == (
        503,
        "HOST_UNREACHABLE",
    )


async def test_a_host_that_is_not_ready_gets_no_vm(service: Service) -> None:
    await service.mark("kvm1", HostStatus.UNREACHABLE)
    for _ in range(3):
        vm = await service.create()
        assert (await service.get(f"/vms/{vm['id']}"))["host"] == "kvm2"


async def test_creations_spread_over_the_hosts(service: Service) -> None:
    for _ in range(6):
        await service.create()
    hosts = {h["name"]: h for h in (await service.get("/hosts"))["hosts"]}
    assert [hosts[name]["vms"] for name in ("kvm1", "kvm2")] == [3, 3]
    assert hosts["kvm1"]["allocated"] == {"cpu": 3, "memory": 1536, "disk": 6}
    assert hosts["kvm1"]["available"] == {"cpu": 13, "memory": 7680 - 1536, "disk": 94}
    assert hosts["kvm1"]["capacity"] == {"cpu": 16, "memory": 7680, "disk": 100}


async def test_stopped_vms_hold_memory_but_no_cpus(service: Service) -> None:
    states = ("running", "paused", "stopped", "stopped")
    found = [
        foreign_domain(f"vm{n}", state=state, vcpus=4, metadata={"id": f"vm{n}"} if n % 2 else None)
        for n, state in enumerate(states)
    ]
    await service.see("kvm1", domains=found)
    host = await service.get("/hosts/kvm1")
    assert host["vms"] == 4
    assert host["allocated"] == {"cpu": 8, "memory": 4096, "disk": 40}
    assert host["available"]["cpu"] == 8
    assert host["overcommit"] == {"cpu": 4.0, "memory": 1.0, "disk": 1.0, "reservedMemory": 512}
    assert host["stopped"] == {"vms": 2, "cpu": 8, "memory": 2048}
    assert host["unmanaged"] == {"vms": 2, "cpu": 4, "memory": 2048, "disk": 20}
    await service.create(host="kvm1", cpu=8)
    answer = await service.post("/vms", {**BODY, "host": "kvm1", "cpu": 1})
    assert answer.json()["error"]["message"] == (
        "cannot place the VM: kvm1 has 4 CPUs × virtplay_overcommit_cpu 4 = 16 vCPUs, 16 promised"
        " to VMs that run or are being created, 1 more needed; stop a VM, raise"
        " virtplay_overcommit_cpu, or choose another host"
    )
    # A start is not refused, and counts at once.
    ids = {vm["name"]: vm["id"] for vm in (await service.get("/vms"))["vms"]}
    await service.act(ids["vm2"], "start")
    host = await service.get("/hosts/kvm1")
    assert (host["allocated"]["cpu"], host["available"]["cpu"]) == (20, 0)
    assert host["stopped"]["vms"] == 1


async def test_a_vm_that_is_updated_counts_as_one_that_is_not(service: Service) -> None:
    states = ("running", "paused", "stopped", "crashed")
    domains = [
        foreign_domain(f"vm{n}", state=state, metadata={"id": "x"} if n % 2 else None)
        for n, state in enumerate(states)
    ]
    await service.see("kvm1", domains=domains)
    before = await service.get("/hosts/kvm1")
    for vm in (await service.get("/vms"))["vms"]:
        answer = await service.client.put(f"/api/v1/vms/{vm['id']}", json={"description": "new"})
        assert answer.status_code == 202, answer.text
    assert await service.get("/hosts/kvm1") == before


async def test_disks_outside_the_pool_cost_it_nothing(service: Service) -> None:
    def disk(target: str, pool: str | None, size: int, used: int) -> dict[str, Any]:
        sizes = {"capacity_bytes": size * GIB, "allocation_bytes": used * GIB}
        return {"target": target, "pool": pool, "path": f"/{target}", **sizes}

    elsewhere = foreign_domain("big", disks=[disk("sda", None, 20_000, 0)])
    # Its second disk is large and full: that says nothing about the first one.
    mixed = foreign_domain(
        "mixed", disks=[disk("vda", "default", 8, 1), disk("vdb", "fast", 50, 50)]
    )
    await service.see("kvm1", domains=[elsewhere, mixed])
    host = await service.get("/hosts/kvm1")
    assert [host[kind]["disk"] for kind in ("capacity", "allocated", "available")] == [101, 8, 93]
    await service.create(disk=50, host="kvm1")
    host = await service.get("/hosts/kvm1")
    assert [host[kind]["disk"] for kind in ("capacity", "allocated", "available")] == [101, 58, 43]
    # The disk elsewhere may grow without room in the pool, the one in the pool may not.
    ids = {vm["name"]: vm["id"] for vm in (await service.get("/vms"))["vms"]}
    refused = await refuse(service, "PUT", f"/vms/{ids['mixed']}", {"disk": 60})
    assert refused[1] == "INSUFFICIENT_RESOURCES"
    answer = await service.client.put(f"/api/v1/vms/{ids['big']}", json={"disk": 21_000})
    assert answer.status_code == 202


async def test_user_data_is_neither_in_the_database_nor_in_command_or_log(
    service: Service, tmp_path: Any
) -> None:
    secret = "correct-horse-battery"
    data = await service.create(userData=f"#cloud-config\npassword: {secret}\n")
    job = await service.get(f"/jobs/{data['jobId']}")
    assert secret not in json.dumps(job)
    rows = [dict(row) for table in (Vm, Job, AuditEntry) for row in await table.all().values()]
    assert secret not in repr(rows)
    assert not any(secret in line for line in service.logs)
    kept = service.settings.state_dir / "jobs" / data["jobId"]
    assert oct(kept.stat().st_mode & 0o777) == "0o700"
    secrets = kept / "secrets.json"
    assert secret in secrets.read_text()
    assert oct(secrets.stat().st_mode & 0o777) == "0o600"
    files = [p for p in service.settings.state_dir.rglob("*") if p.is_file() and p != secrets]
    assert not [p for p in files if secret.encode() in p.read_bytes()]


STOPPED, RUNNING, PAUSED, ERROR = (
    VmStatus.STOPPED, VmStatus.RUNNING, VmStatus.PAUSED, VmStatus.ERROR,
)  # fmt: skip
GONE = VmStatus.UNREACHABLE


MOVES: list[tuple[VmStatus, str, str, Any, tuple[int, str]]] = [
    (STOPPED, "POST", "/start", None, (202, "starting")),
    (STOPPED, "POST", "/stop", None, (400, "VM_ALREADY_STOPPED")),
    (STOPPED, "POST", "/stop", {"force": True}, (400, "VM_ALREADY_STOPPED")),
    (STOPPED, "POST", "/restart", None, (400, "VM_ALREADY_STOPPED")),
    (STOPPED, "POST", "/pause", None, (400, "VM_ALREADY_STOPPED")),
    (STOPPED, "POST", "/resume", None, (400, "VM_ALREADY_STOPPED")),
    (STOPPED, "DELETE", "", None, (202, "deleting")),
    (STOPPED, "PUT", "", {"cpu": 2}, (202, "updating")),
    (RUNNING, "POST", "/start", None, (400, "VM_ALREADY_RUNNING")),
    (RUNNING, "POST", "/stop", None, (202, "stopping")),
    (RUNNING, "POST", "/stop", {"force": True}, (202, "stopping")),
    (RUNNING, "POST", "/restart", None, (202, "restarting")),
    (RUNNING, "POST", "/pause", None, (202, "pausing")),
    (RUNNING, "POST", "/resume", None, (400, "VM_NOT_PAUSED")),
    (RUNNING, "DELETE", "", None, (400, "VM_ALREADY_RUNNING")),
    (RUNNING, "DELETE", "?force=true", None, (202, "deleting")),
    (RUNNING, "PUT", "", {"name": "x"}, (202, "updating")),
    (PAUSED, "POST", "/start", None, (400, "VM_ALREADY_RUNNING")),
    (PAUSED, "POST", "/stop", {"force": True}, (202, "stopping")),
    (PAUSED, "POST", "/pause", None, (400, "VM_ALREADY_PAUSED")),
    (PAUSED, "POST", "/resume", None, (202, "resuming")),
    (PAUSED, "DELETE", "", None, (400, "VM_ALREADY_RUNNING")),
    (ERROR, "POST", "/start", None, (202, "starting")),
    (ERROR, "POST", "/stop", {"force": True}, (202, "stopping")),
    (ERROR, "DELETE", "", None, (202, "deleting")),
    (GONE, "POST", "/start", None, (503, "HOST_UNREACHABLE")),
    (GONE, "POST", "/stop", None, (503, "HOST_UNREACHABLE")),
    (GONE, "PUT", "", {"cpu": 2}, (503, "HOST_UNREACHABLE")),
    (GONE, "DELETE", "?force=true", None, (503, "HOST_UNREACHABLE")),
]


async def test_what_may_happen_in_each_state(service: Service) -> None:
    for case in MOVES:
        status, method, path, body, expected = case
        vm = await put_vm(status, memory=32)
        answer = await service.client.request(method, f"/api/v1/vms/{vm.ref}{path}", json=body)
        found = answer.json()
        outcome = found["data"]["status"] if answer.is_success else found["error"]["code"]
        assert (answer.status_code, outcome) == expected, case
        shown = await service.get(f"/vms/{vm.ref}")
        assert shown["status"] == (expected[1] if answer.is_success else status.value), case
        await Job.all().delete()
        await Vm.all().delete()


SAVED = {"status": STOPPED, "power": "stopped", "state_reason": "saved"}
FULL = {"status": ERROR, "power": "paused", "state_reason": "io_error"}
PANICKED = {"status": ERROR, "power": "crashed", "state_reason": "panicked"}
ODD_MOVES: list[tuple[dict[str, Any], str, str, Any, tuple[int, str]]] = [
    (SAVED, "POST", "/start", None, (202, "starting")),
    (SAVED, "POST", "/stop", None, (400, "VM_ALREADY_STOPPED")),
    (SAVED, "POST", "/stop", {"force": True}, (202, "stopping")),
    (SAVED, "POST", "/restart", {"force": True}, (400, "VM_ALREADY_STOPPED")),
    (SAVED, "DELETE", "", None, (409, "VM_HAS_SAVED_STATE")),
    (SAVED, "DELETE", "?force=true", None, (202, "deleting")),
    (SAVED, "PUT", "", {"disk": 3}, (409, "VM_HAS_SAVED_STATE")),
    (SAVED, "PUT", "", {"cpu": 2, "disk": 2}, (202, "updating")),
    (SAVED, "POST", "/snapshots", {"name": "One"}, (409, "VM_HAS_SAVED_STATE")),
    (FULL, "POST", "/start", None, (400, "VM_ALREADY_RUNNING")),
    (FULL, "POST", "/resume", None, (202, "resuming")),
    (FULL, "POST", "/pause", None, (400, "VM_ALREADY_PAUSED")),
    (FULL, "POST", "/restart", {"force": True}, (202, "restarting")),
    (FULL, "DELETE", "", None, (400, "VM_ALREADY_RUNNING")),
    (PANICKED, "POST", "/start", None, (400, "VM_ALREADY_RUNNING")),
    (PANICKED, "POST", "/resume", None, (400, "VM_NOT_PAUSED")),
    (PANICKED, "POST", "/pause", None, (400, "VM_ALREADY_PAUSED")),
    (PANICKED, "POST", "/stop", {"force": True}, (202, "stopping")),
    (PANICKED, "POST", "/restart", {"force": True}, (202, "restarting")),
    (PANICKED, "DELETE", "", None, (400, "VM_ALREADY_RUNNING")),
    (PANICKED, "DELETE", "?force=true", None, (202, "deleting")),
]


async def test_what_may_happen_in_states_that_nobody_expects(service: Service) -> None:
    for case in ODD_MOVES:
        values, method, path, body, expected = case
        vm = await put_vm(**values, memory=32)
        answer = await service.client.request(method, f"/api/v1/vms/{vm.ref}{path}", json=body)
        found = answer.json()
        outcome = found["data"]["status"] if answer.is_success else found["error"]["code"]
        assert (answer.status_code, outcome) == expected, case
        shown = await service.get(f"/vms/{vm.ref}")
        assert shown["statusReason"] == (None if answer.is_success else values["state_reason"])
        await Job.all().delete()
        await Vm.all().delete()


async def test_reads_of_a_vm_that_is_not_there(service: Service) -> None:
    for vm in ("vm-999", "vm-1", "VM-1", "x", "vm-001'--", "%00", "vm-%F0%9F%9A%80"):
        for path in ("", "/status"):
            answer = await service.client.get(f"/api/v1/vms/{vm}{path}")
            assert (answer.status_code, answer.json()["error"]["code"]) == (404, "VM_NOT_FOUND"), vm


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [("PUT", "", {"cpu": 2}), ("DELETE", "", None)]
    + [("POST", f"/{a}", None) for a in ("start", "stop", "restart", "pause", "resume")],
)
async def test_changes_of_a_vm_that_is_not_there(
    service: Service, method: str, path: str, body: Any
) -> None:
    assert await refuse(service, method, f"/vms/vm-404{path}", body) == (404, "VM_NOT_FOUND")


async def test_jobs_and_hosts_that_are_not_there(service: Service) -> None:
    for path, code in (
        ("/jobs/job-000009", "JOB_NOT_FOUND"),
        ("/jobs/job-000009/log", "JOB_NOT_FOUND"),
        ("/jobs/%00", "JOB_NOT_FOUND"),
        ("/hosts/kvm9", "HOST_NOT_FOUND"),
        ("/hosts/%00", "HOST_NOT_FOUND"),
    ):
        answer = await service.client.get(f"/api/v1{path}")
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, code), path


async def test_a_disk_never_shrinks(service: Service) -> None:
    vm = await put_vm(disk=20)
    answer = await service.client.put(f"/api/v1/vms/{vm.ref}", json={"disk": 19})
    assert answer.status_code == 400
    assert answer.json()["error"]["details"]["fields"][0]["field"] == "disk"


@pytest.mark.parametrize(
    ("body", "short"),
    [({"cpu": 17}, "cpu"), ({"memory": 7681}, "memory"), ({"disk": 200}, "disk")],
)
async def test_growth_needs_room(service: Service, body: dict[str, Any], short: str) -> None:
    vm = await put_vm()
    answer = await service.client.put(f"/api/v1/vms/{vm.ref}", json=body)
    assert answer.json()["error"]["code"] == "INSUFFICIENT_RESOURCES"
    assert set(answer.json()["error"]["details"]["hosts"][0]["short"]) == {short}


async def test_shrinking_is_possible_on_a_full_host(service: Service) -> None:
    vm = await put_vm(cpu=16, memory=7680)
    await add_vm(cpu=16, memory=7680)
    bodies: list[dict[str, Any]] = [{"cpu": 8}, {"name": "smaller"}, {"labels": {}}]
    for body in bodies:
        answer = await service.client.put(f"/api/v1/vms/{vm.ref}", json=body)
        assert answer.status_code == 202, answer.text
        await Job.all().delete()


async def test_growth_to_exactly_the_room_there_is(service: Service) -> None:
    vm = await put_vm(cpu=1, memory=512)
    await add_vm(cpu=15, memory=1024)
    body = {"memory": 7680 - 1024}
    assert (await service.client.put(f"/api/v1/vms/{vm.ref}", json=body)).status_code == 202
    await Job.all().delete()
    await Vm.filter(id=vm.id).update(status=STOPPED)
    body = {"memory": 7680 - 1023}
    assert (await service.client.put(f"/api/v1/vms/{vm.ref}", json=body)).status_code == 400


async def test_disk_growth_counts_only_what_is_added(service: Service) -> None:
    vm = await put_vm(disk=90)
    answer = await service.client.put(f"/api/v1/vms/{vm.ref}", json={"disk": 100})
    assert answer.status_code == 202, answer.text


async def test_two_growths_cannot_share_the_same_room(service: Service) -> None:
    first = await put_vm(memory=1024)
    second = await put_vm(memory=1024)
    body = {"memory": 6000}
    assert (await service.client.put(f"/api/v1/vms/{first.ref}", json=body)).status_code == 202
    answer = await service.client.put(f"/api/v1/vms/{second.ref}", json=body)
    assert answer.status_code == 400, "what an unfinished update was promised is given twice"


async def test_an_update_passes_only_what_was_asked_for(service: Service) -> None:
    vm = await put_vm(disk=2)
    # The disk as it was shown: the host may not know its size.
    answer = await service.client.put(f"/api/v1/vms/{vm.ref}", json={"cpu": 2, "disk": 2})
    job = await Job.get(ref=answer.json()["data"]["jobId"])
    assert job.variables == {
        "libvirt_domain_uuid": str(vm.uuid),
        "libvirt_domain_name": "web",
        "libvirt_domain_vcpus": 2,
    }


async def test_a_vm_whose_creation_failed_can_only_be_deleted(service: Service) -> None:
    error = {"code": "LIBVIRT_ERROR", "message": "cannot make it", "jobId": "job-000001"}
    vm = await put_vm(ERROR, provisioned=False, power="", error=error)
    for path in ("start", "stop", "restart", "pause", "resume"):
        answer = await service.post(f"/vms/{vm.ref}/{path}")
        assert answer.status_code == 400
    answer = await service.client.delete(f"/api/v1/vms/{vm.ref}")
    assert answer.status_code == 202
    assert (await service.get("/hosts/kvm1"))["vms"] == 0


async def test_pages(service: Service) -> None:
    for number in range(25):
        await add_vm(name=f"vm {number}", cpu=number % 3 + 1)
    first = await service.get("/vms")
    assert first["pagination"] == {"page": 1, "limit": 10, "total": 25, "pages": 3}
    assert [vm["id"] for vm in first["vms"]] == [f"vm-{n:03d}" for n in range(1, 11)]
    last = await service.get("/vms", page=3, limit=10)
    assert [vm["id"] for vm in last["vms"]] == [f"vm-{n:03d}" for n in range(21, 26)]
    beyond = await service.get("/vms", page=4)
    assert beyond["vms"] == []
    assert beyond["pagination"]["total"] == 25
    assert (await service.get("/vms", page=1_000_000, limit=100))["vms"] == []
    whole = await service.get("/vms", limit=100)
    assert len(whole["vms"]) == 25
    seen: list[str] = []
    for page in (1, 2, 3, 4, 5):
        found = await service.get("/vms", page=page, limit=6, sort="-cpu")
        seen += [vm["id"] for vm in found["vms"]]
    assert len(set(seen)) == 25


async def test_an_empty_list_has_no_pages(service: Service) -> None:
    assert await service.get("/vms") == {
        "vms": [],
        "pagination": {"page": 1, "limit": 10, "total": 0, "pages": 0},
    }


async def names(service: Service, **query: Any) -> list[str]:
    """The names of the VMs that a query finds."""
    return [vm["name"] for vm in (await service.get("/vms", limit=100, **query))["vms"]]


async def test_search_folds_unicode_case_and_takes_no_wildcards(service: Service) -> None:
    for name in ("Größe", "ÅNGSTRÖM", "İstanbul", "100% cpu", "under_score", "back\\slash",
                 "虚拟机 一号", "it's", "plain"):  # fmt: skip
        await add_vm(name=name, os="debian12")
    assert await names(service, search="grösse") == ["Größe"]
    assert await names(service, search="GRÖSSE") == ["Größe"]
    assert await names(service, search="ångström") == ["ÅNGSTRÖM"]
    assert await names(service, search="拟机") == ["虚拟机 一号"]
    assert await names(service, search="%") == ["100% cpu"]
    assert await names(service, search="_") == ["under_score"]
    assert await names(service, search="\\") == ["back\\slash"]
    assert await names(service, search="'") == ["it's"]
    assert len(await names(service, search="DEBIAN")) == 9
    assert await names(service, search="vm-003") == ["İstanbul"]
    assert await names(service, search="nothing") == []
    assert len(await names(service, search="")) == 9


async def test_search_finds_texts_however_they_are_written(service: Service) -> None:
    found = [
        ("cafe\u0301", ["caf\u00e9", "cafe\u0301", "CAFÉ"]),
        ("caf\u00e9 two", ["cafe\u0301 t"]),
        ("straße", ["STRASSE", "strasse", "Straße"]),
        ("STRASSE 2", ["straße 2"]),
        ("İx", ["ix", "İx", "IX", "i\u0307x"]),
        ("ﬁle Ａ", ["file a"]),
        ("한글", ["\u1112\u1161\u11ab"]),
    ]
    for name, _searches in found:
        _ = await add_vm(name=name, labels={"k": name})
    for name, searches in found:
        for search in searches:
            assert name in await names(service, search=search), (name, search)
    assert await names(service, label="k=caf\u00e9") == ["cafe\u0301"]
    assert await names(service, search="cafe two") == []


async def test_index_of_an_earlier_version_is_renewed(service: Service) -> None:
    database = Tortoise.get_connection("default")
    _ = await add_vm(name="cafe\u0301"), await add_vm(name="web")
    before = await Vm.get(name="web")
    await Vm.filter(name="cafe\u0301").update(search_text="vm-001\ncafe\u0301")
    assert await names(service, search="café") == []
    await database.execute_query("DELETE FROM vm_index_version")
    await renew_index()
    assert await names(service, search="café") == ["cafe\u0301"]
    assert (await Vm.get(name="web")).updated_at == before.updated_at


async def test_search_finds_addresses(service: Service) -> None:
    await service.see("kvm1", domains=[foreign_domain("a"), foreign_domain("b", addresses=[])])
    assert await names(service, search="203.0.113.99") == ["a"]


async def test_labels_are_matched_to_the_letter(service: Service) -> None:
    await add_vm(name="one", labels={"team": "web", "env": "prod"})
    await add_vm(name="two", labels={"team": "webmail"})
    await add_vm(name="three", labels={"team": "Web"})
    await add_vm(name="four", labels={"myteam": "web"})
    await add_vm(name="five", labels={"a_b": "x=y"})
    await add_vm(name="six", labels={"aXb": ""})
    assert await names(service, label="team=web") == ["one"]
    assert await names(service, label="team=Web") == ["three"]
    assert await names(service, label="team") == ["one", "two", "three"]
    assert await names(service, label="a_b") == ["five"]
    assert await names(service, label="a_b=x=y") == ["five"]
    assert await names(service, label="aXb=") == ["six"]
    assert await names(service, label="%=%") == []
    assert await names(service, label="TEAM") == []


async def test_filters_and_sort(service: Service) -> None:
    await add_vm(RUNNING, name="b", cpu=4, host="kvm1")
    await add_vm(STOPPED, name="a", cpu=2, host="kvm2")
    await add_vm(RUNNING, name="c", cpu=2, host="kvm2")
    assert await names(service, status="running") == ["b", "c"]
    assert await names(service, host="kvm2") == ["a", "c"]
    assert await names(service, host="kvm2", status="running") == ["c"]
    assert await names(service, host="nowhere") == []
    assert await names(service, sort="name") == ["a", "b", "c"]
    assert await names(service, sort="-name") == ["c", "b", "a"]
    assert await names(service, sort="cpu") == ["a", "c", "b"]
    assert await names(service, sort="-id") == ["c", "a", "b"]
    assert await names(service, sort="createdAt") == ["b", "a", "c"]


@pytest.mark.parametrize(
    "query",
    ["search=%00", "host=%00", "label=%00", "label=a%00%3Db", "search=%ED%A0%80", "search=%FF%FE",
     "host=%F0%9F%9A%80", "search=%E2%80%AE"],
)  # fmt: skip
async def test_odd_text_in_a_query_finds_nothing_or_is_400(service: Service, query: str) -> None:
    answer = await service.client.get(f"/api/v1/vms?{query}")
    assert answer.status_code in (200, 400), answer.text
    if answer.status_code == 200:
        assert answer.json()["data"]["vms"] == []


@pytest.mark.parametrize("query", ["vm=%00", "action=%00", "status=x", "page=0", "limit=1000"])
async def test_odd_queries_of_jobs(service: Service, query: str) -> None:
    answer = await service.client.get(f"/api/v1/jobs?{query}")
    assert answer.status_code in (200, 400), answer.text


async def test_jobs_are_listed_newest_first_and_filtered(service: Service) -> None:
    for _ in range(3):
        await service.create()
    jobs = await service.get("/jobs")
    assert [job["id"] for job in jobs["jobs"]] == ["job-000003", "job-000002", "job-000001"]
    assert jobs["pagination"] == {"page": 1, "limit": 10, "total": 3, "pages": 1}
    found = await service.get("/jobs", vm="vm-002", status="queued", action="vm_create")
    assert [job["id"] for job in found["jobs"]] == ["job-000002"]
    assert (await service.get("/jobs", status="failed"))["jobs"] == []


async def test_log_of_a_job_that_has_not_run(service: Service) -> None:
    data = await service.create()
    answer = await service.client.get(f"/api/v1/jobs/{data['jobId']}/log")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain")
    assert answer.text == ""


async def test_hosts_and_templates(service: Service) -> None:
    host = await service.get("/hosts/kvm1")
    expected = {"name": "kvm1", "status": "ready", "vms": 0, "virtType": "qemu", "cpus": 4,
                "memory": 8192, "bridges": ["br0"]}  # fmt: skip
    assert {key: host[key] for key in expected} == expected
    assert host["connection"] == {"type": "ssh", "address": "kvm1", "port": None, "user": None}
    assert host["versions"]["libvirt"] == "9.0.0"
    assert host["observedAt"].endswith("Z")
    templates = {t["id"]: t for t in (await service.get("/templates"))["templates"]}
    assert set(templates) == {"micro", "debian12"}
    assert templates["micro"]["minDisk"] == 1
    assert [h["ready"] for h in templates["micro"]["hosts"]] == [True, True]
    assert [h["ready"] for h in templates["debian12"]["hosts"]] == [False, False]


async def test_a_name_that_is_nearly_right_is_suggested(service: Service) -> None:
    for values, words in (
        ({"template": "debain12"}, "; did you mean debian12? it has debian12, micro"),
        ({"host": "kvm11"}, "; did you mean kvm1?"),
    ):
        answer = await service.post("/vms", {**BODY, **values})
        assert answer.status_code == 404
        assert answer.json()["error"]["message"].endswith(words)


async def test_ids_are_not_given_twice(service: Service) -> None:
    first = await put_vm()
    second = await put_vm()
    await second.delete()
    third = await put_vm()
    assert [first.ref, third.ref] == ["vm-001", "vm-003"]


async def test_ids_grow_past_the_padding(service: Service) -> None:
    vm = await create_vm(
        1000, uuid=uuid.uuid4(), name="x", host="kvm1", status=STOPPED, cpu=1, memory=1, disk=1
    )
    assert vm.ref == "vm-1000"
    assert (await service.create())["id"] == "vm-1001"
    assert (await service.get("/vms/vm-1000"))["id"] == "vm-1000"


@only_sqlite
async def test_a_name_that_no_host_has_costs_no_facts(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse() -> None:
        raise AssertionError("reads the facts of every host")

    monkeypatch.setattr(store, "list_hosts", refuse)
    answer = await service.client.get("/api/v1/hosts/kvm3")
    assert answer.json()["error"]["message"] == (
        "cannot find host kvm3: the inventory has no such hypervisor; did you mean kvm2?"
    )
    vm = await put_vm(host="gone")
    answer = await service.post(f"/vms/{vm.ref}/start")
    assert answer.json()["error"]["message"] == (
        "cannot change VM web (vm-001): its host gone is no longer in the inventory"
    )


async def test_what_the_database_adds_up_is_what_each_vm_is_promised(database: str) -> None:
    """_SUMS adds up in SQL what _promised_to says of one VM."""
    disks: tuple[dict[str, Any], ...] = (
        {},
        {"disk_pool": "default", "pool_size": 5 * GIB, "disk_allocation": GIB},
        {"disk_pool": "other", "pool_size": 0, "disk_allocation": GIB},
    )
    powers = (DomainState.RUNNING, DomainState.STOPPED)
    expected: dict[str, Promised] = {}
    for number, (status, power, managed) in enumerate(
        itertools.product(VmStatus, powers, (True, False, None))
    ):
        host = f"{status}-{power}-{managed}"
        values = {"host": host, "power": power, "managed": managed, **disks[number // 2 % 3]}
        vm = await put_vm(status, cpu=3, memory=700, disk=3, **values)
        one = store._promised_to(vars(vm), {"cpu": 3, "memory": 700, "disk": 3})
        expected[host] = replace(Promised(), **one)
    assert await store.promised_by_host() == expected


@only_sqlite
async def test_a_host_that_joins_during_a_request_is_in_the_next_answer(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed = store.list_hosts

    async def list_then_join() -> list[Host]:
        hosts = await listed()
        await store.sync_hosts({"kvm1", "kvm2", "kvm3"})
        return hosts

    monkeypatch.setattr(store, "list_hosts", list_then_join)
    for names in (["kvm1", "kvm2"], ["kvm1", "kvm2", "kvm3"]):
        assert [host["name"] for host in (await service.get("/hosts"))["hosts"]] == names
    assert (await service.get("/hosts/kvm3"))["available"] == {"cpu": 0, "memory": 0, "disk": 0}
