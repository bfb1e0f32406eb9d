"""API tests: snapshots over HTTP, with plays on fake hosts and without."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from tortoise import Tortoise
from tortoise.backends.base.executor import EXECUTOR_CACHE
from tortoise.migrations.api.migrate import migrate
from virtplay.actions import RULES, Action
from virtplay.hosts.observed import generations, save_observation
from virtplay.jobs.execution import execute, lease
from virtplay.jobs.launcher import Launcher
from virtplay.jobs.outcome import finish
from virtplay.jobs.progress import Progress
from virtplay.jobs.recovery import MOST_STALLED, recover
from virtplay.jobs.specification import EVENTS
from virtplay.jobs.submission import Caller, job_directory, submit
from virtplay.states import HostStatus, JobStatus, SnapshotStatus, VmStatus
from virtplay.store import snapshots as store
from virtplay.store.database import close_database, open_database, tortoise_config, transaction
from virtplay.store.models import AuditEntry, ConsoleTicket, Job, Snapshot, SnapshotSchedule, Vm

from tests.api.conftest import Service, _execute, only_sqlite
from tests.api.fake_hosts import foreign_domain, host_info, snapshot_entry
from tests.api.postgres import Cluster
from tests.api.test_observation import own_domain
from tests.api.test_threats import LITERAL
from tests.api.test_vms import RUNNING, add_vm, put_vm

SHAPE = {"id", "name", "description", "status", "parent", "current", "hasMemory", "size",
         "createdAt", "expiresAt", "origin", "restoresTo", "frozen", "error"}  # fmt: skip
KEYS_OF_THE_DOCUMENT = SHAPE - {"origin", "restoresTo", "frozen", "error"}
MIB = 1024**2


async def put_snapshot(vm: Vm, **values: Any) -> Snapshot:
    """A snapshot as an earlier job would have left it."""
    standard: dict[str, Any] = {
        "title": "before",
        "origin": "manual",
        "status": SnapshotStatus.READY,
        "power": "stopped",
        "size": 0,
    }
    return await store.create_snapshot(vm, **{**standard, **values})


async def add_snapshot(vm: Vm, **values: Any) -> str:
    """Like put_snapshot; the new snapshot's id."""
    return str((await put_snapshot(vm, **values)).ref)


async def listed(service: Service, vm: str = "vm-001") -> dict[str, Any]:
    """Id → snapshot, as the API lists them."""
    return {s["id"]: s for s in (await service.get(f"/vms/{vm}/snapshots"))["snapshots"]}


async def take(service: Service, vm: str = "vm-001", **body: Any) -> Any:
    """`data` of an accepted POST /vms/{vm}/snapshots."""
    answer = await service.post(f"/vms/{vm}/snapshots", {"name": "before", **body})
    assert answer.status_code == 202, answer.text
    return answer.json()["data"]


async def remove(service: Service, snapshot: str, vm: str = "vm-001") -> Any:
    """`data` of an accepted DELETE of a snapshot."""
    answer = await service.client.delete(f"/api/v1/vms/{vm}/snapshots/{snapshot}")
    assert answer.status_code == 202, answer.text
    return answer.json()["data"]


async def end(job: str, **result: Any) -> list[int]:
    """Let a queued job run, and end with that answer of its module, or with its `error`."""
    leased = await lease((await Job.get(ref=job)).id)
    assert leased is not None
    progress = Progress(2, stats_seen=True, error=result.pop("error", None), result=result or None)
    rc = 2 if progress.error else 0
    return await finish(leased, progress, {"rc": rc, "status": "failed" if rc else "successful"})


FAULT = {"code": "LIBVIRT_ERROR", "message": "cannot: the disk is full", "task": "t", "host": "k"}


@pytest.mark.slow
async def test_a_snapshot_from_creation_to_removal(playing: Service) -> None:
    await playing.succeed((await playing.create(autoStart=True))["jobId"])
    soon = (datetime.now(UTC) + timedelta(days=1)).replace(microsecond=0)
    data = await take(
        playing, name="../x{{ 7*7 }}<b> 🚀", description="why & when", expiresAt=soon.isoformat()
    )
    assert data == {
        "id": "snap-001",
        "vmId": "vm-001",
        "name": "../x{{ 7*7 }}<b> 🚀",
        "status": "creating",
        "progress": 0,
        "jobId": "job-000002",
    }
    job = await playing.succeed(data["jobId"])
    assert (job["action"], job["vmId"], job["snapshotId"]) == (
        "snapshot_create", "vm-001", "snap-001",
    )  # fmt: skip
    shown = (await listed(playing))["snap-001"]
    assert shown.keys() == SHAPE
    assert {key: shown[key] for key in SHAPE - {"createdAt"}} == {
        "id": "snap-001",
        "name": "../x{{ 7*7 }}<b> 🚀",
        "description": "why & when",
        "status": "ready",
        "parent": None,
        "current": True,
        "hasMemory": True,
        "size": 64 * MIB,
        "expiresAt": soon.isoformat().replace("+00:00", "Z"),
        "origin": "manual",
        "restoresTo": "running",
        "frozen": True,
        "error": None,
    }
    assert shown["createdAt"].endswith("Z")
    assert await playing.get("/vms/vm-001/snapshots/snap-001") == shown
    call = playing.hosts["kvm1"].calls("snapshot_create")[0]["given"]
    assert (call["name"], call["title"]) == ("snap-001", "../x{{ 7*7 }}<b> 🚀")
    assert (call["job"], call["generation"], call["freeze"]) == ("job-000002", 2, True)

    await playing.succeed((await playing.act("vm-001", "stop", {"force": True}))["jobId"])
    second = await take(playing, name="second", freeze=False)
    await playing.succeed(second["jobId"])
    snapshots = await listed(playing)
    assert [s["id"] for s in snapshots.values()] == ["snap-001", "snap-002"]
    assert snapshots["snap-002"]["parent"] == "snap-001"
    assert [s["current"] for s in snapshots.values()] == [False, True]
    assert (snapshots["snap-002"]["hasMemory"], snapshots["snap-002"]["frozen"]) == (False, None)
    assert playing.hosts["kvm1"].calls("snapshot_create")[1]["given"]["freeze"] is False

    back = await playing.act("vm-001", "snapshots/snap-001/restore", {"guard": True})
    assert (back["id"], back["status"]) == ("snap-001", "restoring")
    job = await playing.succeed(back["jobId"])
    assert job["snapshotId"] == "snap-001"
    assert (await playing.get("/vms/vm-001"))["status"] == "running"
    snapshots = await listed(playing)
    assert [s["current"] for s in snapshots.values()] == [True, False, False]
    guard = snapshots["snap-003"]
    assert (guard["origin"], guard["status"], guard["parent"]) == ("guard", "ready", "snap-002")
    assert guard["name"] == "before restoring ../x{{ 7*7 }}<b> 🚀"

    refusal = await playing.post("/vms/vm-001/snapshots/snap-002/restore")
    assert (refusal.status_code, refusal.json()["error"]["code"]) == (400, "VM_ALREADY_RUNNING")
    back = await playing.act("vm-001", "snapshots/snap-002/restore", {"force": True})
    await playing.succeed(back["jobId"])
    assert (await playing.get("/vms/vm-001"))["status"] == "stopped"

    refusal = await playing.client.delete("/api/v1/vms/vm-001")
    assert (refusal.status_code, refusal.json()["error"]["code"]) == (409, "VM_HAS_SNAPSHOTS")
    assert refusal.json()["error"]["details"] == {"snapshots": 3}
    await playing.succeed((await remove(playing, "snap-002"))["jobId"])
    snapshots = await listed(playing)
    assert snapshots.keys() == {"snap-001", "snap-003"}
    assert snapshots["snap-003"]["parent"] == "snap-001", "children stay"
    await playing.app.ctx.services.observer.observe()
    assert await listed(playing) == snapshots, "an observation says the same"
    gone = await playing.client.delete("/api/v1/vms/vm-001?force=true")
    await playing.succeed(gone.json()["data"]["jobId"])
    assert await Snapshot.all().count() == 0


@pytest.mark.slow
@only_sqlite
async def test_failures_of_the_module_leave_what_is_known(playing: Service) -> None:
    host = playing.hosts["kvm1"]
    await playing.succeed((await playing.create(autoStart=True))["jobId"])
    fail = {"msg": "cannot make it: raw disk", "code": "SNAPSHOT_NOT_POSSIBLE"}
    host.order("snapshot_create", fail=fail)
    data = await take(playing)
    job = await playing.wait(data["jobId"])
    assert (job["status"], job["error"]["code"]) == ("failed", "SNAPSHOT_NOT_POSSIBLE")
    shown = (await listed(playing))["snap-001"]
    assert shown["status"] == "error"
    assert shown["error"] == {
        "code": "SNAPSHOT_NOT_POSSIBLE",
        "message": "cannot make it: raw disk",
        "jobId": data["jobId"],
    }
    assert (await playing.get("/vms/vm-001"))["status"] == "running"
    await playing.app.ctx.services.observer.observe()
    assert (await listed(playing))["snap-001"] == shown, "it stays until someone deletes it"
    refusal = await playing.post("/vms/vm-001/snapshots/snap-001/restore", {"force": True})
    assert refusal.status_code == 400
    assert "its creation failed (cannot make it: raw disk)" in refusal.json()["error"]["message"]
    await playing.succeed((await remove(playing, "snap-001"))["jobId"])
    assert await listed(playing) == {}


async def test_a_creation_that_fails_can_be_deleted_and_does_not_hold_its_vm(
    service: Service,
) -> None:
    vm = await put_vm(RUNNING)
    await end((await take(service))["jobId"], error=FAULT)
    assert (await listed(service))["snap-001"]["status"] == "error"
    assert (await service.get("/vms/vm-001"))["status"] == "running"
    data = await remove(service, "snap-001")
    assert data["status"] == "deleting"
    await end(data["jobId"], domain={"state": "running"}, snapshots=[])
    assert await listed(service) == {}
    assert (await Vm.get(id=vm.id)).snapshots == 0


@pytest.mark.parametrize("verb", ["delete", "restore"])
async def test_a_failure_leaves_a_snapshot_ready_with_its_reason(
    service: Service, verb: str
) -> None:
    vm = await put_vm()
    made = await put_snapshot(vm)
    if verb == "delete":
        data = await remove(service, "snap-001")
    else:
        data = await service.act("vm-001", "snapshots/snap-001/restore", {"guard": True})
    assert (await listed(service))["snap-001"]["status"] == data["status"]
    await end(data["jobId"], error=FAULT)
    snapshots = await listed(service)
    assert snapshots.keys() == {"snap-001"}, "the guard goes until its host shows it"
    shown = snapshots["snap-001"]
    assert (shown["status"], shown["error"]["message"]) == ("ready", FAULT["message"])
    assert shown["error"]["jobId"] == data["jobId"]
    if verb == "restore":
        guard = snapshot_entry("snap-002", origin="guard", title="before restoring before")
        own = own_domain(
            await Vm.get(), snapshots=[snapshot_entry("snap-001", origin="manual"), guard]
        )
        await service.see("kvm1", domains=[own])
        assert (await listed(service))["snap-002"]["origin"] == "guard"
    assert (await listed(service))["snap-001"]["error"], "an observation does not take it back"

    again = await service.act("vm-001", "snapshots/snap-001/restore", {"force": True})
    shows = [snapshot_entry("snap-001", origin="manual", current=True)]
    await end(again["jobId"], domain={"state": "stopped"}, snapshots=shows)
    assert (await listed(service))["snap-001"]["error"] is None
    assert (await Snapshot.get(id=made.id)).prune_after is None


async def test_a_creation_that_seemed_to_fail_is_ready_when_its_host_shows_it(
    service: Service,
) -> None:
    await add_vm()
    await end((await take(service))["jobId"], error=FAULT)
    shown = [snapshot_entry("snap-001", title="before", origin="manual")]
    await service.see("kvm1", domains=[own_domain(await Vm.get(), snapshots=shown)])
    found = (await listed(service))["snap-001"]
    assert (found["status"], found["error"], found["name"]) == ("ready", None, "before")


@only_sqlite
async def test_texts_are_labels_and_kept_to_the_letter(service: Service) -> None:
    for text in LITERAL:
        vm = await add_vm()
        data = await take(service, vm, name=text, description=text)
        shown = await service.get(f"/vms/{vm}/snapshots/{data['id']}")
        assert (shown["id"], shown["name"], shown["description"]) == (data["id"], text, text)
        job = await Job.get(ref=data["jobId"])
        assert job.variables["libvirt_snapshot_name"] == data["id"]
        assert job.variables["libvirt_snapshot_title"] == text


async def test_ids_grow_past_their_padding(service: Service) -> None:
    vm = await put_vm()
    await add_snapshot(vm, number=999)
    assert (await take(service))["id"] == "snap-1000"
    assert (await service.get("/vms/vm-001/snapshots/snap-1000"))["status"] == "creating"


async def test_an_id_that_virsh_has_taken_as_a_name_is_passed_over(service: Service) -> None:
    vm = await put_vm()
    await add_snapshot(vm, name="snap-002")
    await add_snapshot(vm, name="snap-003")
    assert (await take(service))["id"] == "snap-004"


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", ""), ("POST", "/restore"), ("DELETE", "")],
)
async def test_a_snapshot_that_is_not_there(service: Service, method: str, path: str) -> None:
    await add_vm(RUNNING)
    other = await put_vm()
    await add_snapshot(other)
    for ref in ("snap-001", "snap-009", "snap-1", "%2e%2e", "x" * 300, "snap-٠٠١", "%00"):
        answer = await service.client.request(method, f"/api/v1/vms/vm-001/snapshots/{ref}{path}")
        assert answer.status_code == 404, (ref, answer.text)
        assert answer.json()["error"]["code"] in ("SNAPSHOT_NOT_FOUND", "NOT_FOUND")
        answer = await service.client.request(method, f"/api/v1/vms/vm-009/snapshots/{ref}{path}")
        assert answer.status_code == 404
    answer = await service.client.request(method, f"/api/v1/vms/vm-001/snapshots/snap-001{path}")
    assert answer.json()["error"]["code"] == "SNAPSHOT_NOT_FOUND"
    answer = await service.client.request(method, f"/api/v1/vms/vm-009/snapshots/snap-001{path}")
    assert answer.json()["error"]["code"] == "VM_NOT_FOUND"
    assert await Job.all().count() == await AuditEntry.all().count() == 0


async def test_a_busy_vm_names_the_holder(service: Service) -> None:
    vm = await put_vm()
    await add_snapshot(vm)
    holder = (await service.act("vm-001", "start"))["jobId"]
    for method, path in (
        ("POST", ""), ("POST", "/snap-001/restore"), ("DELETE", "/snap-001"),
    ):  # fmt: skip
        body = {"name": "x"} if not path else None
        answer = await service.client.request(
            method, f"/api/v1/vms/vm-001/snapshots{path}", json=body
        )
        assert answer.status_code == 409
        assert answer.json()["error"]["code"] == "OPERATION_IN_PROGRESS"
        assert answer.json()["error"]["details"] == {"jobId": holder}
    assert (await listed(service))["snap-001"]["status"] == "ready"
    assert await Snapshot.all().count() == 1, "a refused request leaves no row"
    assert (await AuditEntry.all().count()) == 1


async def test_of_many_snapshots_at_once_one_is_made(service: Service) -> None:
    await add_vm()
    answers = await asyncio.gather(
        *(service.post("/vms/vm-001/snapshots", {"name": str(n)}) for n in range(8))
    )
    assert sorted(answer.status_code for answer in answers) == [202] + [409] * 7
    assert await Snapshot.all().count() == await Job.all().count() == 1
    assert (await service.get("/vms/vm-001"))["status"] == "updating"


async def test_vms_that_no_snapshot_can_be_taken_of(service: Service) -> None:
    data = await service.create()
    answer = await service.post(f"/vms/{data['id']}/snapshots", {"name": "x"})
    assert answer.json()["error"]["details"] == {"jobId": data["jobId"]}
    await add_vm(VmStatus.ERROR, provisioned=False, error={"message": "no room"})
    answer = await service.post("/vms/vm-002/snapshots", {"name": "x"})
    assert answer.status_code == 400
    assert "creation failed (no room)" in answer.json()["error"]["message"]
    await add_vm(host="kvm2")
    await service.mark("kvm2", HostStatus.UNREACHABLE)
    answer = await service.post("/vms/vm-003/snapshots", {"name": "x"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "HOST_UNREACHABLE")
    assert await Snapshot.all().count() == 0


@pytest.mark.parametrize("status", [VmStatus.RUNNING, VmStatus.PAUSED])
async def test_a_restore_over_a_vm_that_runs_wants_force(
    service: Service, status: VmStatus
) -> None:
    vm = await put_vm(status)
    await add_snapshot(vm)
    answer = await service.post("/vms/vm-001/snapshots/snap-001/restore", {"guard": True})
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "VM_ALREADY_RUNNING")
    assert await Snapshot.all().count() == 1
    data = await service.act("vm-001", "snapshots/snap-001/restore", {"force": True, "guard": True})
    assert (await service.get("/vms/vm-001"))["status"] == "restoring"
    job = await Job.get(ref=data["jobId"])
    assert job.variables == {
        "libvirt_snapshot_uuid": str(vm.uuid),
        "libvirt_snapshot_domain": "web",
        "libvirt_snapshot_name": "snap-001",
        "libvirt_snapshot_force": True,
        "libvirt_snapshot_guard": "snap-002",
        "libvirt_snapshot_guard_title": "before restoring before",
    }
    assert [s["status"] for s in (await listed(service)).values()] == ["restoring", "creating"]


async def test_a_restore_brings_the_definition_back(service: Service) -> None:
    vm = await put_vm(pending={"memory": 512}, cpu=4, memory=2048, disk=9)
    await add_snapshot(vm)
    data = await service.act("vm-001", "snapshots/snap-001/restore")
    disks = [{"target": "vda", "capacity_bytes": 2 * 1024**3}]
    domain = {"state": "stopped", "vcpus": 1, "memory": 512, "disks": disks}
    await end(data["jobId"], domain=domain, snapshots=[snapshot_entry("snap-001", origin="manual")])
    shown = await service.get("/vms/vm-001")
    assert (shown["cpu"], shown["memory"], shown["disk"]) == (1, 512, 2)
    assert shown["pending"] == {}


async def test_a_viewer_may_look_and_change_nothing(service: Service) -> None:
    vm = await put_vm()
    await add_snapshot(vm)
    viewer = await service.as_role("viewer")
    for path in ("", "/snap-001"):
        answer = await service.client.get(f"/api/v1/vms/vm-001/snapshots{path}", headers=viewer)
        assert answer.status_code == 200
    for method, path, body in (
        ("POST", "snapshots", {"name": "x"}),
        ("POST", "snapshots/snap-001/restore", None),
        ("DELETE", "snapshots/snap-001", None),
        ("PUT", "snapshot-schedule", {"cron": ["0 * * * *"], "keep": {"daily": 1}}),
        ("DELETE", "snapshot-schedule", None),
    ):
        answer = await service.client.request(
            method, f"/api/v1/vms/vm-001/{path}", json=body, headers=viewer
        )
        assert (answer.status_code, answer.json()["error"]["code"]) == (403, "FORBIDDEN"), path
        bare = await service.client.request(
            method, f"/api/v1/vms/vm-001/{path}", json=body, headers={"Authorization": ""}
        )
        assert bare.status_code == 401
    assert await Job.all().count() == await AuditEntry.all().count() == 0
    assert await SnapshotSchedule.all().count() == 0


async def test_mutations_are_audited(service: Service) -> None:
    vm = await put_vm()
    await add_snapshot(vm)
    data = await service.act("vm-001", "snapshots/snap-001/restore")
    row = await AuditEntry.get()
    assert (row.actor, row.action, row.vm_ref, row.job_ref) == (
        "bootstrap", "snapshot_restore", "vm-001", data["jobId"],
    )  # fmt: skip


async def test_snapshots_made_with_virsh_appear_and_go(service: Service) -> None:
    snapshots = [
        snapshot_entry("clean install"),
        snapshot_entry(
            "../{{ x }}", parent="clean install", current=True, has_memory=True, state="running"
        ),
    ]
    domain = foreign_domain(snapshots=snapshots)
    await service.see("kvm1", domains=[domain])
    found = await listed(service)
    assert [(s["id"], s["name"], s["parent"], s["current"]) for s in found.values()] == [
        ("snap-001", "clean install", None, False),
        ("snap-002", "../{{ x }}", "snap-001", True),
    ]
    assert [(s["origin"], s["status"], s["restoresTo"]) for s in found.values()] == [
        ("found", "ready", "stopped"), ("found", "ready", "running"),
    ]  # fmt: skip
    data = await service.act("vm-001", "snapshots/snap-002/restore", {"force": True})
    job = await Job.get(ref=data["jobId"])
    assert job.variables["libvirt_snapshot_name"] == "../{{ x }}", "libvirt's own name"
    await end(data["jobId"], domain={"state": "running"}, snapshots=snapshots)
    again = {**domain, "snapshots": [snapshot_entry("third", parent="clean install")]}
    await service.see("kvm1", domains=[again])
    found = await listed(service)
    assert [(s["id"], s["name"], s["parent"]) for s in found.values()] == [
        ("snap-003", "third", None)
    ]
    await service.see("kvm1", domains=[{**domain, "snapshots": []}])
    assert await listed(service) == {}
    assert (await service.client.delete("/api/v1/vms/vm-001?force=true")).status_code == 202


async def test_an_odd_entry_hides_no_other(service: Service) -> None:
    odd = [
        snapshot_entry("x" * 300),
        snapshot_entry("edited", origin="nobody", expires_at="soon", created_at=None, title=None),
        snapshot_entry("early", expires_at="0001-01-01T00:00:00+14:00", title="t" * 400),
        snapshot_entry("naive", expires_at="2099-01-01T00:00:00"),
    ]
    await service.see("kvm1", domains=[foreign_domain(snapshots=odd)])
    found = list((await listed(service)).values())
    assert sorted(s["name"][:6] for s in found) == ["edited", "naive", "tttttt"]
    assert {s["origin"] for s in found} == {"found"}
    assert (await service.get("/hosts/kvm1"))["status"] == "ready"


async def test_an_empty_database_takes_up_the_ids_that_hosts_remember(service: Service) -> None:
    ours = {"origin": "schedule", "title": "scheduled", "expires_at": "2030-01-01T00:00:00Z"}
    one = foreign_domain(
        "one", snapshots=[snapshot_entry("snap-012", **ours), snapshot_entry("snap-007")]
    )
    two = foreign_domain(
        "two",
        snapshots=[
            snapshot_entry("snap-012", origin="manual"),
            snapshot_entry("snap-000", origin="manual"),
        ],
    )
    await service.see("kvm1", domains=[one])
    found = await listed(service)
    assert found["snap-012"]["origin"] == "schedule"
    assert found["snap-012"]["expiresAt"] == "2030-01-01T00:00:00Z"
    [other] = [s for s in found.values() if s["id"] != "snap-012"]
    assert (other["name"], other["origin"]) == ("snap-007", "found")
    await service.see("kvm1", domains=[one, two])
    assert await listed(service) == found
    names = {s["name"]: s["id"] for s in (await listed(service, "vm-002")).values()}
    assert names.keys() == {"snap-012", "snap-000"}
    assert len({*names.values(), *found}) == 4, "ids are unique over all VMs"
    number = int((await take(service))["id"].removeprefix("snap-"))
    assert number > 12


async def test_an_empty_database_gives_no_job_a_number_that_hosts_remember(
    service: Service,
) -> None:
    # The host would take it for the old job, and do nothing of what that has done already.
    one = foreign_domain("one", metadata={"id": "vm-001", "job": "job-000041"})
    await service.see("kvm1", domains=[one])
    assert (await take(service))["jobId"] == "job-000042"
    odd = [snapshot_entry("x", job="job-9999999999"), snapshot_entry("y", job="job-'; --")]
    two = foreign_domain("two", snapshots=[snapshot_entry("z", job="job-000007"), *odd])
    three = foreign_domain("three", snapshots=[snapshot_entry("snap-007", job="job-000050")])
    await service.see("kvm1", domains=[one, two])
    number = int((await take(service, "vm-002"))["jobId"].removeprefix("job-"))
    assert 42 < number < 50
    await service.see("kvm1", domains=[one, two, three])
    assert int((await take(service, "vm-003"))["jobId"].removeprefix("job-")) > 50
    # The restart of a foreign domain, which has no metadata of ours.
    four = foreign_domain("four", restart_job="job-000060")
    await service.see("kvm1", domains=[one, two, three, four])
    assert int((await take(service, "vm-004"))["jobId"].removeprefix("job-")) > 60


async def test_an_observation_leaves_the_snapshots_of_a_busy_vm_alone(service: Service) -> None:
    vm = await put_vm()
    made = await put_snapshot(vm)
    before = own_domain(vm, snapshots=[snapshot_entry("snap-001", origin="manual")])
    data = await take(service, name="second")
    await service.see("kvm1", domains=[before])
    statuses = [s["status"] for s in (await listed(service)).values()]
    assert statuses == ["ready", "creating"]
    # 1. An observation has looked. 2. A job begins and ends. 3. What was seen arrives.
    seen = await generations("kvm1")
    both = [
        snapshot_entry("snap-001", origin="manual"),
        snapshot_entry("snap-002", origin="manual"),
    ]
    await end(data["jobId"], domain={"state": "stopped"}, snapshots=both)
    await save_observation("kvm1", host_info(domains=[before]), seen)
    assert (await listed(service)).keys() == {"snap-001", "snap-002"}
    assert (await Snapshot.get(id=made.id)).status == SnapshotStatus.READY


@pytest.mark.postgres
@pytest.mark.parametrize("database_url", ["postgres"], indirect=True)
async def test_an_observation_waits_for_a_request_that_is_being_accepted(service: Service) -> None:
    vm = await put_vm()
    seen = asyncio.Event()
    go_on = asyncio.Event()

    async def accept() -> None:
        async with transaction():
            await Vm.filter(id=vm.id).select_for_update().first()
            await add_snapshot(vm, status=SnapshotStatus.CREATING)
            caller = Caller("x", 1, "x", "")
            _ = await submit(service.settings, caller, vm, Action.SNAPSHOT_CREATE, {})
            seen.set()
            await go_on.wait()

    accepting = asyncio.create_task(accept())
    await seen.wait()
    looking = asyncio.create_task(service.see("kvm1", domains=[own_domain(vm)]))
    await asyncio.sleep(0.3)
    go_on.set()
    await asyncio.gather(accepting, looking)
    assert [s["status"] for s in (await listed(service)).values()] == ["creating"]
    assert (await service.get("/vms/vm-001"))["status"] == "updating"


async def test_a_vms_end_takes_its_rows_along(service: Service) -> None:
    vm, other = await put_vm(), await put_vm()
    await add_snapshot(vm)
    kept = await put_snapshot(other)
    body = {"cron": ["0 * * * *"], "keep": {"daily": 1}}
    for ref in (vm.ref, other.ref):
        answer = await service.client.put(f"/api/v1/vms/{ref}/snapshot-schedule", json=body)
        assert answer.status_code == 200
    now = datetime.now(UTC)
    await ConsoleTicket(digest="x", vm_id=vm.id, token_id=1, kind="vnc", expires_at=now).save()
    answer = await service.client.delete("/api/v1/vms/vm-001?force=true")
    await end(answer.json()["data"]["jobId"], domain={"state": "absent"})
    assert [s.id for s in await Snapshot.all()] == [kept.id]
    assert [s.vm_id for s in await SnapshotSchedule.all()] == [other.id]
    assert await ConsoleTicket.all().count() == 0


async def begin(service: Service, job: Job) -> None:
    """Let the play of a job have begun, as its spool shows."""
    directory = job_directory(service.settings, str(job.ref))
    directory.mkdir(exist_ok=True)
    (directory / EVENTS).write_text("{}\n")


async def test_after_a_crash_it_is_done_again_and_at_last_given_up(service: Service) -> None:
    await add_vm()
    data = await take(service)
    job = await Job.get(ref=data["jobId"])
    for attempt in range(1, MOST_STALLED):
        assert await lease(job.id) is not None
        await begin(service, job)
        assert await recover(service.settings) == [job.id]
        await job.refresh_from_db()
        assert (job.status, job.attempt) == (JobStatus.QUEUED, attempt + 1)
        assert (await listed(service))["snap-001"]["status"] == "creating"
    assert await lease(job.id) is not None
    await begin(service, job)
    assert await recover(service.settings) == []
    shown = (await listed(service))["snap-001"]
    assert (await service.get(f"/jobs/{data['jobId']}"))["status"] == "lost"
    assert (shown["status"], shown["error"]["jobId"]) == ("error", data["jobId"])
    assert (await service.get("/vms/vm-001"))["status"] == "stopped"


async def console_job(service: Service, vm: Vm, secrets: dict[str, str] | None = None) -> Job:
    """A queued job that opens the VM's console."""
    caller = Caller("x", 1, "x", "")
    async with transaction():
        return await submit(service.settings, caller, vm, Action.CONSOLE_OPEN, {}, secrets=secrets)


async def test_a_consoles_job_neither_blocks_nor_is_blocked(service: Service) -> None:
    vm = await put_vm(RUNNING)
    assert not RULES[Action.CONSOLE_OPEN].locks
    first = await console_job(service, vm)
    assert (await service.get("/vms/vm-001"))["status"] == "running"
    assert (await service.get("/vms/vm-001/status"))["job"] is None
    data = await service.act("vm-001", "pause")
    second = await console_job(service, await Vm.get())
    assert await lease(first.id) is not None
    assert (await Vm.get()).generation == 0
    assert (await service.get("/vms/vm-001"))["status"] == "pausing"
    leased = await lease((await Job.get(ref=data["jobId"])).id)
    assert leased is not None
    assert (await Vm.get()).generation == 1
    await end(str(second.ref), domain={"state": "running"}, console={"type": "vnc"})
    shown = await service.get(f"/jobs/{second.ref}")
    assert (shown["status"], shown["progress"]) == ("succeeded", 100)
    assert (await service.get("/vms/vm-001"))["status"] == "pausing"
    assert (await Job.get(id=second.id)).result == {"console": {"type": "vnc"}}
    done = Progress(2, result={"domain": {"state": "paused"}}, stats_seen=True)
    await finish(leased, done, {"rc": 0, "status": "successful"})
    assert (await service.get("/vms/vm-001"))["status"] == "paused"
    assert (await Job.get(id=first.id)).status == JobStatus.RUNNING


async def test_a_consoles_job_survives_its_vm(service: Service) -> None:
    vm = await put_vm()
    first = await console_job(service, vm)
    second = await console_job(service, vm, {"libvirt_console_password": "secret"})
    leased = await lease(first.id)
    assert leased is not None
    answer = await service.client.delete("/api/v1/vms/vm-001")
    await end(answer.json()["data"]["jobId"], domain={"state": "absent"})
    done = Progress(2, result={"domain": {"state": "running"}}, stats_seen=True)
    assert await finish(leased, done, {"rc": 0, "status": "successful"}) == []
    assert (await service.get(f"/jobs/{first.ref}"))["status"] == "succeeded"
    directory = job_directory(service.settings, str(second.ref))
    assert directory.exists()
    assert (
        await execute(service.settings, Launcher(service.settings), second.id, asyncio.Event())
        == []
    )
    shown = await service.get(f"/jobs/{second.ref}")
    assert (shown["status"], shown["error"]["code"]) == ("failed", "VM_NOT_FOUND")
    assert not directory.exists(), "its password goes with it"


async def test_a_consoles_job_is_lost_in_a_crash_and_its_vm_untouched(service: Service) -> None:
    vm = await put_vm(RUNNING)
    console = await console_job(service, vm)
    data = await service.act("vm-001", "pause")
    assert await lease(console.id) is not None
    pause = await Job.get(ref=data["jobId"])
    assert await recover(service.settings) == [pause.id]
    assert (await service.get(f"/jobs/{console.ref}"))["status"] == "lost"
    assert (await service.get("/vms/vm-001"))["status"] == "pausing"


async def test_two_snapshots_of_a_vm_cannot_have_one_name(service: Service) -> None:
    vm, other = await put_vm(), await put_vm()
    await add_snapshot(vm, name="x")
    await add_snapshot(other, name="x")
    from tortoise.exceptions import IntegrityError

    with pytest.raises(IntegrityError):
        await add_snapshot(vm, name="x")


async def migrate_from_0002(url: str) -> None:
    """Fill a database of 0002 with rows, as an earlier release has left it, and open it now."""
    EXECUTOR_CACHE.clear()
    await migrate(config=tortoise_config(url), target="virtplay.0002_one_unfinished_job")
    await Tortoise.init(config=tortoise_config(url))
    connection = Tortoise.get_connection("default")
    columns = "name, uuid, status, cpu, memory, disk, generation, created_at, updated_at"
    for number in (1, 2):
        identity = f"00000000-0000-0000-0000-00000000000{number}"
        await connection.execute_script(
            "INSERT INTO vm (ref, description, host, domain, power, provisioned, template, os,"
            " disk_allocation, network, addresses, auto_start, labels, pending, search_text,"
            f" label_text, snapshots, missed, {columns}) VALUES ('vm-00{number}', '', 'kvm1',"
            f" 'vm-00{number}', 'running', '1', 'micro', 'micro', 0, '{{}}', '[]', '0', '{{}}',"
            f" '{{}}', '', '', 3, 0, 'web', '{identity}', 'stopping', 1, 512, 2, 4,"
            " '2026-11-01 00:00:00+00:00', '2026-11-01 00:00:00+00:00')"
        )
    for vm, status, finished in (
        (1, "succeeded", "'2026-11-01 00:00:00+00:00'"), (1, "running", "NULL"),
        (2, "queued", "NULL"),
    ):  # fmt: skip
        await connection.execute_script(
            "INSERT INTO job (ref, action, vm_id, vm_ref, host, status, progress, step, dry_run,"
            " requested_by, request_id, command, variables, attempt, generation, leased_by,"
            f" created_at, finished_at) VALUES ('{status}', 'vm_stop', {vm}, 'vm-00{vm}', 'kvm1',"
            f" '{status}', 0, '', '0', 'x', 'x', '', '{{}}', 1, 4, '',"
            f" '2026-11-01 00:00:00+00:00', {finished})"
        )
    await close_database()
    await open_database(url)


async def check_migrated() -> None:
    """What was there holds its VMs still, and the new tables and indexes bite."""
    from virtplay.errors import OperationInProgress
    from virtplay.store.jobs import create_job, unfinished_job

    jobs = await Job.all().order_by("id")
    assert [(j.locks, j.snapshot_ref) for j in jobs] == [(True, None)] * 3
    vms = await Vm.all().order_by("id")
    assert [vm.snapshots for vm in vms] == [3, 3]
    more: dict[str, Any] = {"host": "kvm1", "requested_by": "x", "request_id": "x"}
    for vm, status in zip(vms, ("running", "queued"), strict=True):
        holder = await unfinished_job(vm.id)
        assert holder is not None
        assert holder.ref == status
        given = {**more, "vm_id": vm.id, "vm_ref": vm.ref}
        with pytest.raises(OperationInProgress):
            _ = await create_job(action="vm_stop", **given)
        for _ in range(2):
            _ = await create_job(action="console_open", locks=False, **given)
    assert await add_snapshot(vms[0]) == "snap-001"


@pytest.mark.slow
async def test_migration_of_a_filled_sqlite_file(tmp_path: Any) -> None:
    url = f"sqlite://{tmp_path}/old.sqlite3"
    await migrate_from_0002(url)
    try:
        await check_migrated()
    finally:
        await close_database()


@pytest.mark.postgres
async def test_migration_of_a_filled_postgresql(postgres: Cluster) -> None:
    await _execute(postgres, "CREATE DATABASE filled")
    await migrate_from_0002(postgres.url("filled"))
    try:
        await check_migrated()
    finally:
        await close_database()
        await _execute(postgres, "DROP DATABASE filled WITH (FORCE)")
