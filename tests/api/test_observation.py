"""API tests: the VM list follows what observations show."""

import asyncio
import time
import uuid
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from virtplay.hosts import observer as observer_module
from virtplay.hosts.observed import Generations, generations, mark_host, save_observation
from virtplay.jobs import runner
from virtplay.jobs.execution import lease
from virtplay.jobs.launcher import Launcher
from virtplay.jobs.outcome import conclude, finish
from virtplay.jobs.progress import Progress
from virtplay.jobs.specification import Specification
from virtplay.states import HostStatus, VmStatus
from virtplay.store import vms as store
from virtplay.store.database import DatabaseError
from virtplay.store.jobs import ReadyJob
from virtplay.store.models import AuditEntry, Host, Job, Vm
from virtplay.store.vms import without_address

from tests.api.conftest import Service, only_sqlite
from tests.api.fake_hosts import GIB, FakeHost, foreign_domain, host_info
from tests.api.observers import make_observer
from tests.api.test_vms import RUNNING, STOPPED, add_vm, put_vm


def own_domain(vm: Vm, **values: Any) -> dict[str, Any]:
    """What the host shows of a VM of ours."""
    metadata = {"id": vm.ref, "generation": vm.generation, "os": "micro", "labels": vm.labels}
    own = {"uuid": str(vm.uuid), "title": vm.name, "vcpus": vm.cpu, "memory": vm.memory}
    return foreign_domain(str(vm.ref), **{**own, "metadata": metadata, **values})


async def test_a_foreign_domain_is_adopted_with_what_is_known_of_it(service: Service) -> None:
    domain = foreign_domain("old-server", title="Old <Server>", description="since 2009")
    await service.see("kvm1", domains=[domain])
    vm = (await service.get("/vms"))["vms"][0]
    expected = {
        "id": "vm-001",
        "name": "Old <Server>",
        "description": "since 2009",
        "status": "running",
        "cpu": 2,
        "memory": 1024,
        "disk": 10,
        "host": "kvm1",
        "uuid": domain["uuid"],
        "ip": "203.0.113.99",
        "template": "",
        "os": "",
        "managed": False,
        "startedAt": "2026-11-22T13:00:00Z",
    }
    assert {key: vm[key] for key in expected} == expected
    assert await service.get("/vms/vm-001") == vm
    assert vm["observedAt"]
    assert vm["network"]["network"] == "default"
    entry = await AuditEntry.get()
    assert (entry.actor, entry.action, entry.vm_ref) == ("observation", "vm_found", "vm-001")
    await service.see("kvm1", domains=[domain])
    assert (await service.get("/vms"))["pagination"]["total"] == 1


async def test_what_cannot_be_read_of_a_host_is_said_and_the_rest_is_there(
    service: Service,
) -> None:
    warnings = ["cannot read network lab: internal error", "cannot list its pools"]
    await service.see("kvm1", domains=[foreign_domain()], warnings=warnings)
    host = await service.get("/hosts/kvm1")
    assert (host["status"], host["message"]) == ("ready", "; ".join(warnings))
    assert (await service.get("/vms"))["pagination"]["total"] == 1
    await service.see("kvm1", domains=[foreign_domain()])
    assert (await service.get("/hosts/kvm1"))["message"] == ""


async def test_an_adopted_vm_can_be_changed_by_its_own_domain_name(service: Service) -> None:
    await service.see("kvm1", domains=[foreign_domain("old-server")])
    data = await service.act("vm-001", "stop")
    job = await Job.get(ref=data["jobId"])
    assert job.variables["libvirt_domain_name"] == "old-server"


async def test_adopted_vms_count_in_the_room(service: Service) -> None:
    await service.see("kvm1", domains=[foreign_domain(str(n)) for n in range(3)])
    host = await service.get("/hosts/kvm1")
    assert host["vms"] == 3
    assert host["allocated"] == {"cpu": 6, "memory": 3072, "disk": 30}


async def test_an_empty_database_takes_up_the_ids_that_hosts_remember(service: Service) -> None:
    metadata = {"id": "vm-007", "template": "micro", "os": "micro",
                "labels": {"team": "web"}}  # fmt: skip
    domain = foreign_domain("vm-007", title="web", metadata=metadata, generation=9)
    await service.see("kvm1", domains=[domain])
    vm = await service.get("/vms/vm-007")
    assert (vm["name"], vm["template"], vm["os"]) == ("web", "micro", "micro")
    assert vm["labels"] == {"team": "web"}
    assert (await Vm.get()).generation == 9
    assert (await service.create())["id"] == "vm-008"
    copy = foreign_domain("copy", metadata=metadata)
    await service.see("kvm1", domains=[domain, copy])
    assert {vm["id"] for vm in (await service.get("/vms"))["vms"]} == {"vm-007", "vm-008", "vm-009"}


async def test_domains_with_an_id_keep_it_whoever_comes_before_them(service: Service) -> None:
    ours = foreign_domain("vm-001", metadata={"id": "vm-001"})
    theirs = foreign_domain("vm-002", metadata={"id": "vm-002"})
    strangers = [foreign_domain("a"), foreign_domain("b")]
    # The first look at a host: other hosts may have domains with an id, too.
    seen = host_info(domains=[*strangers, ours])
    await save_observation("kvm1", seen, await generations("kvm1"), strangers=False)
    await service.see("kvm2", domains=[theirs])
    await save_observation("kvm1", seen, await generations("kvm1"))
    shown = {vm["name"]: vm["id"] for vm in (await service.get("/vms"))["vms"]}
    assert shown == {"vm-001": "vm-001", "vm-002": "vm-002", "a": "vm-003", "b": "vm-004"}


async def test_an_id_that_is_the_name_of_a_domain_is_that_domains(service: Service) -> None:
    strangers = [foreign_domain(name) for name in ("a", "vm-003", "b", "vm-001")]
    await service.see("kvm2", domains=strangers)
    shown = {vm["name"]: vm["id"] for vm in (await service.get("/vms"))["vms"]}
    assert shown == {"vm-001": "vm-001", "vm-003": "vm-003", "a": "vm-004", "b": "vm-005"}


async def test_a_name_that_a_domain_has_is_given_to_no_new_vm(service: Service) -> None:
    renamed = [foreign_domain(name) for name in ("a", "b")]
    await service.see("kvm2", domains=renamed)
    for domain, name in zip(renamed, ("vm-003", "vm-004"), strict=True):
        domain["name"] = name
    await service.see("kvm2", domains=renamed)
    created = await service.create(name="web")
    assert created["id"] == "vm-005"
    job = await Job.get()
    vm = await Vm.get(ref="vm-005")
    assert job.variables["libvirt_domain_uuid"] == str(vm.uuid)
    assert [vm["id"] for vm in (await service.get("/vms"))["vms"]] == ["vm-001", "vm-002", "vm-005"]


async def test_a_declared_vm_has_no_id_in_its_metadata_and_waits(service: Service) -> None:
    # The playbooks write the name of the domain there.
    declared = foreign_domain("web-1", metadata={"id": "web-1"})
    ours = foreign_domain("vm-001", metadata={"id": "vm-001"})
    odd = [foreign_domain(name, metadata={"id": name}) for name in ("vm-0001", "vm-000", "vm-1")]
    seen = host_info(domains=[declared, *odd, ours])
    await save_observation("kvm1", seen, await generations("kvm1"), strangers=False)
    assert [vm["id"] for vm in (await service.get("/vms"))["vms"]] == ["vm-001"]
    await save_observation("kvm1", seen, await generations("kvm1"))
    shown = {vm["name"]: (vm["id"], vm["error"]) for vm in (await service.get("/vms"))["vms"]}
    assert shown["web-1"] == ("vm-002", None)
    assert len(shown) == 5


async def test_a_claim_beyond_all_ids_leaves_ids_for_new_vms(service: Service) -> None:
    absurd = foreign_domain("vm-999999999", metadata={"id": "vm-999999999"})
    high = foreign_domain("high", metadata={"id": "vm-99999999"})
    await service.see("kvm1", domains=[absurd, high])
    shown = {vm["name"]: vm["id"] for vm in (await service.get("/vms"))["vms"]}
    assert shown == {"high": "vm-99999999", "vm-999999999": "vm-100000000"}
    assert (await service.create(name="web"))["id"] == "vm-100000001"


async def test_an_id_that_comes_back_gives_none_out_again(service: Service) -> None:
    first, last = (foreign_domain(f"vm-00{n}", metadata={"id": f"vm-00{n}"}) for n in (1, 9))
    await service.see("kvm1", domains=[first, last])
    await service.see("kvm1")
    await service.see("kvm1")
    assert not await Vm.exists()
    await service.see("kvm1", domains=[first])
    assert (await service.create())["id"] == "vm-010"


async def test_a_host_that_comes_late_does_not_get_an_id_that_was_given(service: Service) -> None:
    created = await service.create(name="new")
    late = foreign_domain("vm-001", title="late", metadata={"id": "vm-001"})
    other = foreign_domain("vm-005", title="other", metadata={"id": "vm-005"})
    for _ in range(2):
        await service.see("kvm2", domains=[late, other])
        shown = {vm["name"]: vm for vm in (await service.get("/vms"))["vms"]}
        assert {name: vm["id"] for name, vm in shown.items()} == {
            "new": created["id"], "other": "vm-005", "late": "vm-006",
        }  # fmt: skip
        assert shown["late"]["error"] == {
            "code": "ID_IN_USE",
            "message": "VM late (vm-006) has the id vm-001 in its metadata, which another VM had"
            " when it was found: it is a copy of vm-001, or vm-001 was created while its host"
            " was not observed; it is VM vm-006 here, and any update of it writes that into its"
            " metadata",
            "jobId": None,
        }
        assert shown["other"]["error"] is None
    assert sum("has the id vm-001" in line for line in service.logs) == 1
    for ref, variable in (("vm-005", None), ("vm-006", "vm-006")):
        answer = await service.client.put(f"/api/v1/vms/{ref}", json={"description": "mine"})
        job = await Job.get(ref=answer.json()["data"]["jobId"])
        assert job.variables.get("libvirt_domain_id") == variable
        await job.delete()
    # Another error of the VM may be the one that is shown.
    await Vm.filter(ref="vm-006").update(status=RUNNING, error={"code": "GUEST_NOT_RUNNING"})
    answer = await service.client.put("/api/v1/vms/vm-006", json={"description": "mine"})
    job = await Job.get(ref=answer.json()["data"]["jobId"])
    assert job.variables["libvirt_domain_id"] == "vm-006"
    await job.delete()
    await Vm.all().update(status=RUNNING)
    late["metadata"]["id"] = "vm-006"
    await service.see("kvm2", domains=[late, other])
    assert (await service.get("/vms/vm-006"))["error"] is None


async def test_of_a_vm_and_its_copy_the_one_with_more_jobs_has_the_id(service: Service) -> None:
    metadata = {"id": "vm-007", "generation": 3}
    copy = foreign_domain("copy", metadata=metadata, generation=3)
    original = foreign_domain("original", metadata=metadata, generation=4)
    await service.see("kvm1", domains=[copy, original])
    shown = {vm["name"]: vm["id"] for vm in (await service.get("/vms"))["vms"]}
    assert shown == {"original": "vm-007", "copy": "vm-008"}


async def test_a_host_that_has_seen_a_later_generation_is_followed(service: Service) -> None:
    vm = await put_vm(RUNNING, generation=2)
    await service.see("kvm1", domains=[own_domain(vm, generation=5)])
    data = await service.act("vm-001", "stop")
    job = await lease((await Job.get(ref=data["jobId"])).id)
    assert job is not None
    assert job.generation == 6
    await job.delete()
    for generation in (3, 10**30):
        await service.see("kvm1", domains=[own_domain(vm, generation=generation)])
    assert (await Vm.get()).generation == 2**30


async def test_jobs_that_a_host_remembers_of_a_later_generation_are_passed_over(
    service: Service,
) -> None:
    vm = await put_vm(RUNNING, generation=2)
    same = own_domain(vm, generation=2, restart_job="job-000050")
    await service.see("kvm1", domains=[same])
    first = await service.act("vm-001", "pause")
    assert first["jobId"] == "job-000001"
    await Job.all().delete()
    await Vm.all().update(status=RUNNING)
    later = own_domain(vm, generation=5, restart_job="job-000060")
    await service.see("kvm1", domains=[later])
    assert (await service.act("vm-001", "stop"))["jobId"] == "job-000061"


@pytest.mark.parametrize(
    ("state", "status"),
    [("running", "running"), ("paused", "paused"), ("stopped", "stopped"), ("crashed", "error"),
     ("stopping", "stopping"), ("suspended", "paused"), ("unknown", "error"), ("", "error")],
)  # fmt: skip
async def test_power_states_are_followed(service: Service, state: str, status: str) -> None:
    vm = await put_vm(RUNNING)
    await service.see("kvm1", domains=[own_domain(vm, state=state)])
    shown = await service.get("/vms/vm-001")
    assert shown["status"] == status
    assert shown["observedAt"]


async def test_guest_that_qemu_has_paused_is_an_error_until_it_runs(service: Service) -> None:
    vm = await put_vm(RUNNING)
    full = {"state": "paused", "state_reason": "io_error", "disk_errors": {"vda": "no space"}}
    await service.see("kvm1", domains=[own_domain(vm, **full)])
    shown = await service.get("/vms/vm-001")
    assert (shown["status"], shown["statusReason"]) == ("error", "io_error")
    assert shown["error"] == {
        "code": "GUEST_NOT_RUNNING",
        "message": "VM web (vm-001) does not run: QEMU has paused its guest after an I/O error of a"
        " disk (vda: no space); make room on its storage or repair it, then resume the VM",
        "jobId": None,
    }
    by_a_person = own_domain(vm, state="paused", state_reason="user")
    await service.see("kvm1", domains=[by_a_person])
    shown = await service.get("/vms/vm-001")
    assert (shown["status"], shown["statusReason"], shown["error"]) == ("paused", "user", None)


async def test_unknown_is_a_reason_only_of_an_error(service: Service) -> None:
    vm = await put_vm(RUNNING)
    for state, seen in (
        ("running", ("running", None)),
        ("paused", ("error", "unknown")),
        ("stopped", ("stopped", None)),
    ):
        await service.see("kvm1", domains=[own_domain(vm, state=state, state_reason="unknown")])
        shown = await service.get("/vms/vm-001")
        assert (shown["status"], shown["statusReason"]) == seen


async def test_changes_made_with_virsh_are_followed(service: Service) -> None:
    vm = await put_vm(STOPPED)
    disks = [{"target": "vda", "capacity_bytes": 7 * GIB, "allocation_bytes": 2 * GIB}]
    changed = own_domain(
        vm, title="renamed", vcpus=3, memory=768, autostart=True, disks=disks, state="stopped"
    )
    await service.see("kvm1", domains=[changed])
    shown = await service.get("/vms/vm-001")
    assert [shown[k] for k in ("name", "cpu", "memory", "disk", "autoStart")] == [
        "renamed", 3, 768, 7, True,
    ]  # fmt: skip
    assert [v["id"] for v in (await service.get("/vms", search="renamed"))["vms"]] == ["vm-001"]


async def test_two_misses_and_a_vm_is_gone_but_one_is_forgiven(service: Service) -> None:
    vm = await put_vm(RUNNING)
    await service.see("kvm1")
    assert (await service.get("/vms/vm-001"))["status"] == "running"
    await service.see("kvm1", domains=[own_domain(vm)])
    await service.see("kvm1")
    assert (await service.get("/vms/vm-001"))["status"] == "running"
    await service.see("kvm1")
    assert (await service.client.get("/api/v1/vms/vm-001")).status_code == 404
    assert (await AuditEntry.get()).action == "vm_gone"


async def test_another_hosts_silence_about_a_vm_means_nothing(service: Service) -> None:
    await add_vm(RUNNING, host="kvm2")
    for _ in range(4):
        await service.see("kvm1")
    assert (await service.get("/vms/vm-001"))["status"] == "running"


@pytest.mark.parametrize("status", [HostStatus.UNREACHABLE, HostStatus.ERROR])
async def test_vms_of_a_host_without_an_answer_are_unreachable_never_stopped_or_gone(
    service: Service, status: HostStatus
) -> None:
    vm = await put_vm(RUNNING)
    for _ in range(4):
        await mark_host("kvm1", status, "no route to host")
    shown = await service.get("/vms/vm-001")
    assert shown["status"] == "unreachable"
    host = await service.get("/hosts/kvm1")
    assert (host["status"], host["message"]) == (status.value, "no route to host")
    assert host["allocated"]["memory"] == 512
    await service.see("kvm1", domains=[own_domain(vm, state="paused")])
    assert (await service.get("/vms/vm-001"))["status"] == "paused"


async def test_a_vm_with_an_unfinished_job_is_left_alone(service: Service) -> None:
    vm = await put_vm(RUNNING)
    await service.act("vm-001", "stop")
    await service.see("kvm1", domains=[own_domain(vm, state="stopped", title="other")])
    await service.see("kvm1")
    await service.see("kvm1")
    await mark_host("kvm1", HostStatus.UNREACHABLE, "x")
    shown = await service.get("/vms/vm-001")
    assert (shown["status"], shown["name"]) == ("stopping", "web")


async def test_an_observation_older_than_a_job_changes_nothing(service: Service) -> None:
    vm = await put_vm(RUNNING)
    before = await generations("kvm1")
    data = await service.act("vm-001", "stop")
    job = await lease((await Job.get(ref=data["jobId"])).id)
    assert job is not None
    await Job.all().delete()
    await Vm.all().update(status=VmStatus.STOPPED, power="stopped")
    await save_observation("kvm1", host_info(domains=[own_domain(vm)]), before)
    assert (await service.get("/vms/vm-001"))["status"] == "stopped"
    await save_observation("kvm1", host_info(), before)
    assert (await Vm.get()).missed == 0


async def test_an_observation_that_began_during_a_job_changes_nothing(service: Service) -> None:
    vm = await put_vm(RUNNING)
    data = await service.act("vm-001", "stop")
    job = await lease((await Job.get(ref=data["jobId"])).id)
    assert job is not None
    before = await generations("kvm1")
    await Job.all().delete()
    await Vm.all().update(status=VmStatus.STOPPED, power="stopped")
    await save_observation("kvm1", host_info(domains=[own_domain(vm)]), before)
    assert (await service.get("/vms/vm-001"))["status"] == "stopped"
    await save_observation("kvm1", host_info(), before)
    assert (await Vm.get()).missed == 0


@pytest.mark.parametrize(
    ("action", "state"), [("start", "running"), ("pause", "paused"), ("stop", "stopped")]
)
async def test_a_job_makes_of_a_domain_what_an_observation_makes_of_it(
    service: Service, action: str, state: str
) -> None:
    mac, ip = "52:54:00:00:00:99", "192.0.2.9"
    ran: dict[str, Any] = {
        "addresses": [{"mac": mac, "ip": ip, "source": "lease"}],
        "ip": ip,
        "started_at": datetime(2026, 11, 22, 13, 0, tzinfo=UTC),
    }
    vm = await put_vm(
        STOPPED if action == "start" else RUNNING,
        network={"type": "network", "network": "old", "mac": mac, "ip": ip},
        **({} if action == "start" else ran),
    )
    observed = own_domain(
        vm,
        title="renamed",
        description="with virsh",
        state=state,
        vcpus=3,
        memory=768,
        autostart=True,
        pending={"memory": 1024, "memory_max": 1024},
        # Only host_info reports the pools of disks, here that there is none.
        disks=[{"target": "vda", "capacity_bytes": 7 * GIB, "pool": None}],
        addresses=[] if state == "stopped" else vm.addresses,
        started_at=None if state == "stopped" else "2026-11-22T13:00:00.000Z",
    )
    # As the module domain reports it: addresses and snapshots are host_info's alone.
    reported = {k: v for k, v in observed.items() if k not in ("addresses", "snapshots", "stats")}
    data = await service.act("vm-001", action)
    job = await lease((await Job.get(ref=data["jobId"])).id)
    assert job is not None
    progress = Progress(1, result={"domain": reported}, stats_seen=True)
    _ = await finish(job, progress, {"rc": 0, "status": "successful"})
    by_job = await Vm.get()
    assert (by_job.name, by_job.cpu, by_job.memory, by_job.disk) == ("renamed", 3, 1024, 7)
    assert (by_job.pending, by_job.network["ip"]) == ({"memory": 768}, "192.0.2.9")
    await service.see("kvm1", domains=[observed])
    by_observation = await Vm.get()
    assert by_observation.observed_at is not None
    by_observation.observed_at = by_job.observed_at
    assert vars(by_observation) == vars(by_job)


@pytest.mark.parametrize(
    "result",
    [
        {"domain": {"state": "stopped", "vcpus": None}},
        {"domain": {"state": "stopped", "disks": 7}},
        {"domain": {"state": "stopped"}, "snapshots": [{}]},
    ],
)
async def test_a_job_whose_result_cannot_be_read_has_failed(
    service: Service, result: dict[str, Any]
) -> None:
    _ = await put_vm(RUNNING)
    data = await service.act("vm-001", "stop")
    job = await lease((await Job.get(ref=data["jobId"])).id)
    assert job is not None
    progress = Progress(1, result=result, stats_seen=True)
    outcome = {"rc": 0, "status": "successful"}
    assert await conclude(job, progress, outcome, asyncio.Event()) == []
    shown = await service.get(f"/jobs/{data['jobId']}")
    assert (shown["status"], shown["error"]["code"]) == ("failed", "INTERNAL_ERROR")
    assert (await service.get("/vms/vm-001"))["status"] == "stopped"


async def test_a_vm_deleted_during_the_observation_is_not_adopted_again(service: Service) -> None:
    vm = await put_vm(STOPPED)
    before = await generations("kvm1")
    domain = own_domain(vm)
    await vm.delete()
    await save_observation("kvm1", host_info(domains=[domain]), before)
    assert await Vm.all().count() == 0


async def test_a_vm_made_during_the_observation_is_not_missed(service: Service) -> None:
    vm = await put_vm(STOPPED)
    for _ in range(3):
        await save_observation("kvm1", host_info(), Generations({}, datetime.now(UTC)))
    assert (await Vm.get()).id == vm.id


async def test_a_failed_creation_is_neither_missed_nor_counted(service: Service) -> None:
    vm = await put_vm(VmStatus.ERROR, provisioned=False)
    for _ in range(3):
        await service.see("kvm1")
    assert (await service.get("/vms/vm-001"))["status"] == "error"
    await service.see("kvm1", domains=[own_domain(vm, state="stopped")])
    assert (await service.get("/vms/vm-001"))["status"] == "stopped"


async def test_a_vm_that_moved_to_another_host_is_followed(service: Service) -> None:
    vm = await put_vm(RUNNING)
    await service.see("kvm2", domains=[own_domain(vm)])
    await service.see("kvm1")
    await service.see("kvm1")
    assert (await service.get("/vms/vm-001"))["host"] == "kvm2"


async def test_of_two_hosts_that_define_a_vm_the_one_where_it_runs_has_it(
    service: Service,
) -> None:
    """As after virsh migrate --persistent without --undefinesource."""
    vm = await put_vm(RUNNING)
    stopped = own_domain(vm, state="stopped", state_reason="migrated")
    arriving = own_domain(vm, state="paused", state_reason="migration")
    running = own_domain(vm, state="running", state_reason="migrated")

    async def seen() -> tuple[str, str]:
        shown = await service.get("/vms/vm-001")
        return shown["host"], shown["status"]

    await service.see("kvm2", domains=[arriving])
    assert await seen() == ("kvm1", "running")
    for _ in range(2):
        await service.see("kvm2", domains=[running])
        assert await seen() == ("kvm2", "running")
        await service.see("kvm1", domains=[stopped])
        assert await seen() == ("kvm2", "running")
    error = (await service.get("/vms/vm-001"))["error"]
    assert error["code"] == "DEFINED_TWICE"
    assert "kvm1 (stopped), kvm2 (running)" in error["message"]
    warnings = [line for line in service.logs if "is defined on several hosts" in line]
    assert len(warnings) == 1

    # Stopped on both it stays where it is, and is started there; running on both it is not touched.
    await service.see("kvm2", domains=[own_domain(vm, state="stopped")])
    await service.see("kvm1", domains=[stopped])
    assert await seen() == ("kvm2", "stopped")
    refused = await service.client.delete("/api/v1/vms/vm-001?force=true")
    assert refused.json()["error"]["details"]["fields"][0]["field"] == "keepDisks"
    assert "kvm1 defines it too, perhaps on the same disks" in refused.text
    await Vm.all().update(elsewhere={"kvm1": "running"})
    for method, path in (
        ("POST", "/start"),
        ("POST", "/restart"),
        ("POST", "/resume"),
        ("DELETE", "?force=true"),
    ):
        refused = await service.client.request(method, f"/api/v1/vms/vm-001{path}")
        assert refused.json()["error"]["code"] == "VM_ALREADY_RUNNING"
        assert "is defined on kvm2 and on kvm1, and is running on kvm1" in refused.text
    await service.see("kvm1", domains=[running])
    assert await seen() == ("kvm1", "running")

    await service.see("kvm2")
    assert (await service.get("/vms/vm-001"))["error"] is None
    await service.see("kvm1", domains=[running])
    assert (await service.get("/vms/vm-001"))["error"] is None


async def test_hostile_texts_of_foreign_domains_are_only_texts(service: Service) -> None:
    titles = ["{{ lookup('pipe','id') }}", "</name><devices>", "x" * 5000, "a\nb\x1b[31m\u202e", ""]
    metadata = {"id": "x" * 999, "os": "o" * 999, "template": "t" * 999, "labels": {"k" * 99: "v"}}
    domains = [
        foreign_domain(f"d{n}", title=title, metadata=metadata) for n, title in enumerate(titles)
    ]
    await service.see("kvm1", domains=domains)
    vms = (await service.get("/vms"))["vms"]
    assert len(vms) == 5
    assert vms[0]["name"] == titles[0]
    data = await service.act("vm-001", "stop")
    assert "lookup" not in (await service.get(f"/jobs/{data['jobId']}"))["command"]


async def test_a_domain_without_disks_cards_and_addresses(service: Service) -> None:
    bare = {"uuid": str(uuid.uuid4()), "name": "bare", "state": "stopped", "vcpus": 1, "memory": 64}
    await service.see("kvm1", domains=[bare])
    shown = await service.get("/vms/vm-001")
    assert (shown["disk"], shown["ip"], shown["network"]) == (0, None, {})


async def test_a_domain_of_any_size_hides_no_other(service: Service) -> None:
    disk = {"target": "vda", "pool": "default", "capacity_bytes": 2**64 - 1, "size": 2**34}
    snapshot = {"name": "huge", "size_bytes": 2**65, "created_at": "2026-11-20T10:00:00Z"}
    huge = foreign_domain("huge", vcpus=2**40, memory=2**43, disks=[disk] * 2, snapshots=[snapshot])
    for _ in ("found", "known"):
        await service.see("kvm1", domains=[huge, foreign_domain("other")])
    vms = {vm["name"]: vm for vm in (await service.get("/vms"))["vms"]}
    assert vms.keys() == {"huge", "other"}
    assert {vms["huge"][key] for key in ("cpu", "memory", "disk")} == {2**31 - 1}


async def test_a_host_full_of_domains(service: Service) -> None:
    domains = [foreign_domain(f"d{n}") for n in range(300)]
    await service.see("kvm1", domains=domains)
    assert (await service.get("/vms", limit=100))["pagination"]["total"] == 300


@pytest.mark.parametrize("kind", ["runner_on_failed", "runner_on_unreachable"])
async def test_a_failure_that_is_read_after_a_later_observation_changes_nothing(
    service: Service, kind: str
) -> None:
    observer = make_observer(service.settings)
    before = Generations({}, datetime.now(UTC))
    seen = {"event": "runner_on_ok", "res": {"host_info": host_info()}, "at": 1000.5}
    assert await observer._save_event("kvm1", seen, before)
    failed = {"event": kind, "host": "kvm1", "res": {"msg": "no response"}, "at": 1000.0}
    assert await observer._save_event("kvm1", failed, before)
    assert (await service.get("/hosts/kvm1"))["status"] == "ready"
    assert observer._suspect == set()
    # Those that follow count, even if the clock was set back.
    for _ in range(2):
        assert await observer._save_event("kvm1", failed, before)
    assert (await service.get("/hosts/kvm1"))["status"] in {"error", "unreachable"}


async def test_a_host_that_libvirt_hides_once_is_only_looked_at_again(service: Service) -> None:
    vm = await put_vm(RUNNING)
    observer = make_observer(service.settings)
    failed = {"event": "runner_on_failed", "host": "kvm1", "res": {"msg": "libvirt is busy"}}
    assert await observer._save_event("kvm1", failed, Generations({}, datetime.now(UTC)))
    assert (await service.get("/hosts/kvm1"))["status"] == "ready"
    assert (await service.get(f"/vms/{vm.ref}"))["status"] == "running"
    assert await observer._save_event("kvm1", failed, Generations({}, datetime.now(UTC)))
    host = await service.get("/hosts/kvm1")
    assert (host["status"], host["message"]) == ("error", "libvirt is busy")
    assert await observer._save_event("kvm1", failed, Generations({}, datetime.now(UTC)))
    # Of an outage only the first observation is kept, as a job like any other.
    jobs = (await service.get("/jobs", action="host_observe"))["jobs"]
    assert [(j["host"], j["status"], j["error"]["message"]) for j in jobs] == [
        ("kvm1", "failed", "libvirt is busy")
    ]
    assert "playbooks/host_observe.yml" in jobs[0]["command"]
    log = await service.client.get(f"/api/v1/jobs/{jobs[0]['id']}/log")
    assert log.text == "libvirt is busy\n"
    assert (await service.get(f"/vms/{vm.ref}"))["status"] == "unreachable"


async def test_a_libvirt_that_does_not_respond_yet_delays_no_other_host(service: Service) -> None:
    hosts = ("kvm1", "kvm2")
    observer = make_observer(service.settings, *hosts)
    observer.stop()  # it starts no play
    before = Generations({}, datetime.now(UTC))
    failed = {"event": "runner_on_failed", "host": "kvm1", "res": {"msg": "no response"}}
    assert await observer._save_event("kvm1", failed, before)
    assert not observer.has_observed
    assert (await service.get("/hosts/kvm1"))["status"] == "ready"
    at = datetime.now(UTC).timestamp()
    seen = {"event": "runner_on_ok", "res": {"host_info": host_info()}, "at": at}
    assert await observer._save_event("kvm2", seen, before)
    assert observer.has_observed
    assert await observer._save_event("kvm1", failed, before, last=True)
    assert (await service.get("/hosts/kvm1"))["status"] == "error"


async def test_a_host_is_observed_again_only_for_domains_that_wait_for_an_id(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    hosts = ("kvm1", "kvm2")
    observer = make_observer(service.settings, *hosts)
    again: list[str] = []
    monkeypatch.setattr(observer, "_observe_again", again.append)
    before = Generations({}, datetime.now(UTC))
    for number, name in enumerate(hosts, 1):
        ours = foreign_domain(f"vm-00{number}", metadata={"id": f"vm-00{number}"})
        info = host_info(domains=[ours])
        event = {"event": "runner_on_ok", "res": {"host_info": info}, "at": 1000.5}
        assert await observer._save_event(name, event, before)
    assert again == []
    assert observer.has_observed


async def test_an_unreadable_text_of_a_host_is_an_error_of_that_host(service: Service) -> None:
    hosts = ("kvm1", "kvm2")
    observer = make_observer(service.settings, *hosts)
    observer.stop()  # it starts no play
    before = Generations({}, datetime.now(UTC))
    event = {"event": "runner_on_ok", "res": {"host_info_compressed": "?"}, "at": 1000.5}
    assert await observer._save_event("kvm1", event, before, last=True)
    host = await service.get("/hosts/kvm1")
    assert host["status"] == "error"
    assert "cannot read its observation" in host["message"]


@pytest.mark.parametrize(
    ("forks", "hosts", "tags", "seconds"),
    [(3, 3, "observe_repeatedly", None), (2, 5, "observe_once", 90), (5, 6, "observe_once", 60)],
)
async def test_with_more_hosts_than_forks_every_host_has_its_time(
    service: Service,
    monkeypatch: pytest.MonkeyPatch,
    forks: int,
    hosts: int,
    tags: str,
    seconds: int | None,
) -> None:
    settings = service.settings.model_copy(
        update={"observe_forks": forks, "observe_timeout": 30.0, "observe_interval": 15.0}
    )
    names = [f"kvm{number}" for number in range(hosts)]
    observer = make_observer(settings, *names)
    asked: list[Specification] = []

    async def start(_: Launcher, specification: Specification, _directory: Path) -> runner.Run:
        asked.append(specification)
        raise OSError("no play in this test")

    monkeypatch.setattr(runner, "start", start)
    with pytest.raises(OSError, match="no play"):
        await observer._observe_in_rounds()
    (one,) = asked
    assert (one.tags, one.forks) == (tags, forks)
    if seconds:
        assert one.time_limit == seconds


async def test_strangers_get_no_id_before_every_host_was_seen(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    hosts = ("kvm1", "kvm2")
    observer = make_observer(service.settings, *hosts)
    again: list[str] = []
    monkeypatch.setattr(observer, "_observe_again", again.append)
    before = Generations({}, datetime.now(UTC))

    def seen(*domains: dict[str, Any]) -> dict[str, Any]:
        at = datetime.now(UTC).timestamp()
        info = host_info(domains=list(domains))
        return {"event": "runner_on_ok", "res": {"host_info": info}, "at": at}

    stranger = foreign_domain("stranger")
    assert await observer._save_event("kvm1", seen(stranger), before)
    assert (await service.get("/vms"))["vms"] == []
    ours = foreign_domain("vm-001", metadata={"id": "vm-001"})
    assert await observer._save_event("kvm2", seen(ours), before)
    assert again == ["kvm1"]
    assert await observer._save_event("kvm1", seen(stranger), before)
    shown = {vm["name"]: vm["id"] for vm in (await service.get("/vms"))["vms"]}
    assert shown == {"vm-001": "vm-001", "stranger": "vm-002"}


@pytest.mark.parametrize(
    ("action", "code"),
    [("delete", "INTERNAL_ERROR"), ("delete", "HOST_UNREACHABLE"), ("stop", "VM_NOT_FOUND")],
)
async def test_vm_that_a_job_may_have_found_gone_needs_one_observation(
    service: Service, action: str, code: str
) -> None:
    vm = await put_vm(RUNNING)

    async def fail() -> None:
        await vm.refresh_from_db()
        method, path = ("DELETE", "?force=true") if action == "delete" else ("POST", "/stop")
        answer = await service.client.request(method, f"/api/v1/vms/{vm.ref}{path}")
        job = await lease((await Job.get(ref=answer.json()["data"]["jobId"])).id)
        assert job is not None
        error = {"code": code, "message": "cannot", "task": "", "host": "kvm1"}
        _ = await finish(job, Progress(2, error=error), {"rc": 2, "status": "failed"})
        await vm.refresh_from_db()

    await fail()
    # It is there: nothing has changed, and two observations without it are needed again.
    await service.see("kvm1", domains=[own_domain(vm)])
    await service.see("kvm1")
    assert (await service.get("/vms/vm-001"))["status"] == "running"
    await service.see("kvm1", domains=[own_domain(vm)])
    await fail()
    await service.see("kvm1")
    assert (await service.client.get("/api/v1/vms/vm-001")).status_code == 404


async def test_deletion_that_was_refused_needs_two_observations_as_before(service: Service) -> None:
    vm = await put_vm(RUNNING)
    answer = await service.client.delete(f"/api/v1/vms/{vm.ref}?force=true")
    job = await lease((await Job.get(ref=answer.json()["data"]["jobId"])).id)
    assert job is not None
    error = {"code": "OPERATION_IN_PROGRESS", "message": "cannot", "task": "", "host": "kvm1"}
    _ = await finish(job, Progress(2, error=error), {"rc": 2, "status": "failed"})
    await service.see("kvm1")
    assert (await service.get("/vms/vm-001"))["status"] == "running"


@pytest.mark.parametrize("first", ["runner_on_unreachable", "runner_on_failed"])
async def test_strangers_of_an_empty_database_wait_for_a_host_that_is_down(
    service: Service, monkeypatch: pytest.MonkeyPatch, first: str
) -> None:
    await Host.all().update(observed_at=None, status=HostStatus.UNKNOWN)
    hosts = ("kvm1", "kvm2")
    observer = make_observer(service.settings, *hosts)
    monkeypatch.setattr(observer, "_observe_again", lambda *_, **__: None)
    before = Generations({}, datetime.now(UTC))

    async def see(host: str, *domains: dict[str, Any]) -> list[str]:
        at = datetime.now(UTC).timestamp()
        info = host_info(domains=list(domains))
        event = {"event": "runner_on_ok", "res": {"host_info": info}, "at": at}
        assert await observer._save_event(host, event, before)
        return [vm["id"] for vm in (await service.get("/vms"))["vms"]]

    down = {"event": first, "host": "kvm2", "res": {"msg": "no route to host"}}
    assert await observer._save_event("kvm2", down, before)
    stranger = foreign_domain("stranger")
    own = foreign_domain("vm-003", metadata={"id": "vm-003"})
    for _ in range(2):
        assert await see("kvm1", stranger, own) == ["vm-003"]
    assert observer.has_observed
    ours = foreign_domain("vm-001", metadata={"id": "vm-001"})
    assert await see("kvm2", ours) == ["vm-001", "vm-003"]
    assert await see("kvm1", stranger, own) == ["vm-001", "vm-003", "vm-004"]


async def test_strangers_do_not_wait_for_ever_or_for_a_host_that_was_seen_before(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    hosts = ("kvm1", "kvm2")
    for number, (observed_at, patience) in enumerate(((datetime.now(UTC), 600.0), (None, 0.0)), 1):
        await Host.filter(name="kvm2").update(observed_at=observed_at)
        monkeypatch.setattr(observer_module, "STRANGERS_SECONDS", patience)
        observer = make_observer(service.settings, *hosts)
        monkeypatch.setattr(observer, "_observe_again", lambda *_, **__: None)
        before = Generations({}, datetime.now(UTC))
        down = {"event": "runner_on_unreachable", "host": "kvm2", "res": {"msg": "no route"}}
        assert await observer._save_event("kvm2", down, before)
        info = host_info(domains=[foreign_domain(f"stranger-{n}") for n in range(number)])
        at = datetime.now(UTC).timestamp()
        event = {"event": "runner_on_ok", "res": {"host_info": info}, "at": at}
        assert await observer._save_event("kvm1", event, before)
        assert await Vm.filter(missed=0).count() >= number


def give_address(host: FakeHost, identity: str, ip: str) -> None:
    """Let a guest get an address."""
    with host.change() as content:
        address = {"mac": "52:54:00:00:00:01", "ip": ip, "source": "lease"}
        content["domains"][identity]["addresses"] = [address]


async def waits_are(observer: Any, hosts: set[str]) -> None:
    """Wait until addresses are awaited on these hosts alone; that begins after a job's outcome."""
    async with asyncio.timeout(300):
        while observer._address_waits.keys() != hosts:  # noqa: ASYNC110
            await asyncio.sleep(0.05)


@pytest.mark.slow
@only_sqlite
async def test_a_started_guest_has_its_address_long_before_the_interval(playing: Service) -> None:
    host, observer = playing.hosts["kvm1"], playing.app.ctx.services.observer
    playing.settings.observe_address_timeout = 600
    first, second = [await playing.create(autoStart=True) for _ in range(2)]
    await playing.succeed(first["jobId"])
    await playing.succeed(second["jobId"])
    uuids = {domain["name"]: domain["uuid"] for domain in host.domains()}
    await waits_are(observer, {"kvm1"})
    refs = {vm["id"]: uuids[vm["domain"]] for vm in (await playing.get("/vms"))["vms"]}
    for number, (ref, identity) in enumerate(refs.items(), 1):
        give_address(host, identity, f"192.0.2.{number}")
        vm = await playing.until(f"/vms/{ref}", lambda vm: vm["ip"] is not None)
        assert vm["ip"] == f"192.0.2.{number}"
    # Then nothing is awaited any more.
    await waits_are(observer, set())
    assert observer._started == {}


@pytest.mark.slow
@only_sqlite
async def test_a_guest_that_stops_is_awaited_no_longer(playing: Service) -> None:
    observer = playing.app.ctx.services.observer
    playing.settings.observe_address_timeout = 600
    made = await playing.create(autoStart=True)
    await playing.succeed(made["jobId"])
    await waits_are(observer, {"kvm1"})
    await playing.succeed((await playing.act(made["id"], "stop", {"force": True}))["jobId"])
    await waits_are(observer, set())


@only_sqlite
async def test_a_guest_that_is_started_again_meanwhile_is_still_awaited(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    observer = make_observer(service.settings, "kvm1")
    started = {1: time.monotonic() + 60, 2: time.monotonic() + 60}

    async def start_during_the_query(_host: str, _numbers: object) -> dict[int, str]:
        started[1] += 5
        return {}

    monkeypatch.setattr(store, "without_address", start_during_the_query)
    before = dict(started)
    assert await observer._without_address("kvm1", started) == []
    assert started == {1: before[1] + 5}


@only_sqlite
async def test_an_error_that_ends_the_wait_for_addresses_is_logged_as_that(
    service: Service, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def refuse(*_: object) -> dict[int, str]:
        raise DatabaseError("no such table")

    monkeypatch.setattr(store, "without_address", refuse)
    service.settings.observe_address_timeout = 60
    service.settings.observe_interval = 15
    observer = make_observer(service.settings, "kvm1")
    observer.follow_start(ReadyJob(1, "vm_start", True, "kvm1", vm_id=1))
    await observer._address_waits["kvm1"]
    assert "cannot await the addresses of VMs on host kvm1: no such table" in caplog.messages
    assert (observer._address_waits, observer._started) == ({}, {})


async def test_only_a_start_is_followed_and_only_where_it_gains_something(
    service: Service,
) -> None:
    observer = make_observer(service.settings, "kvm1")
    vm = await put_vm(RUNNING)
    start = ReadyJob(1, "vm_start", True, "kvm1", vm_id=vm.id)
    for settings, job in (
        ({"observe_address_timeout": 0}, start),
        ({"observe_address_timeout": 60, "observe_interval": 2}, start),
        ({"observe_address_timeout": 60, "observe_interval": 15}, start._replace(action="vm_stop")),
    ):
        for name, value in settings.items():
            setattr(service.settings, name, value)
        observer.follow_start(job)
        assert observer._address_waits == {}
    # Another host's VM, and one that has an address.
    for values in ({"host": "kvm2"}, {"ip": "192.0.2.1"}):
        await Vm.filter(id=vm.id).update(**values)
        observer.follow_start(start)
        await observer._address_waits["kvm1"]
        assert (observer._address_waits, observer._started) == ({}, {})
        await Vm.filter(id=vm.id).update(host="kvm1", ip=None)
    assert await without_address("kvm1", [vm.id]) == {vm.id: str(vm.uuid)}
    await Vm.filter(id=vm.id).update(network={})
    assert await without_address("kvm1", [vm.id]) == {}
