"""API tests: runs from a shell that tell of themselves, and only of themselves."""

import asyncio
import uuid
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import httpx
import pytest
from tortoise import Tortoise
from tortoise.backends.base.executor import EXECUTOR_CACHE
from tortoise.exceptions import IntegrityError
from tortoise.migrations.api.migrate import migrate
from virtplay.errors import OperationInProgress
from virtplay.jobs.recovery import recover
from virtplay.jobs.reported import LEASE, give_up_silent, name_new_vms
from virtplay.metrics.service_series import REGISTRY
from virtplay.states import JobOrigin, JobStatus
from virtplay.store import jobs as store
from virtplay.store.database import close_database, open_database, tortoise_config, transaction
from virtplay.store.models import AuditEntry, Job, JobEvent, ReportedRun, Vm
from virtplay.store.reports import create_run, find_run, silent_jobs

from tests.api.conftest import Service, _execute
from tests.api.fake_hosts import foreign_domain
from tests.api.postgres import Cluster
from tests.api.test_store import check_schema
from tests.api.test_vms import put_vm

RUN = "run-of-these-tests"
BEGIN = {"runId": RUN, "playbook": "playbooks/vm_start.yml", "user": "alice@admin"}
TASK = {"event": "playbook_on_task_start", "task": "Start the VM", "text": "TASK [Start the VM]"}


async def begin(service: Service, **values: Any) -> Any:
    """The job of a run that begins."""
    answer = await service.post("/jobs", {**BEGIN, **values})
    assert answer.status_code in (200, 201), answer.text
    return answer.json()["data"]


async def tell(service: Service, job: str, first: int = 1, **values: Any) -> httpx.Response:
    """The answer to a batch."""
    return await service.post(f"/jobs/{job}/events", {"first": first, **values})


async def told(service: Service, job: str, first: int = 1, **values: Any) -> Any:
    """The job after a batch that was taken in."""
    answer = await tell(service, job, first, **values)
    assert answer.status_code == 200, answer.text
    return await service.get(f"/jobs/{job}")


def number_of(job: str) -> int:
    """The number in a job's id."""
    return int(job.removeprefix("job-"))


def code(answer: httpx.Response) -> tuple[int, str]:
    """Status and code of a refusal."""
    return answer.status_code, answer.json()["error"]["code"]


def counted(status: str) -> float:
    """How many reported jobs have ended so."""
    value = REGISTRY.get_sample_value("virtplay_reported_jobs_total", {"status": status})
    assert value is not None
    return value


async def test_run_is_a_job_with_its_progress_and_log(service: Service) -> None:
    vm = await put_vm()
    before = counted("succeeded")
    answer = await service.post(
        "/jobs", {**BEGIN, "command": "ansible-playbook playbooks/vm_start.yml"}
    )
    assert answer.status_code == 201
    job = answer.json()["data"]
    assert answer.headers["Location"] == f"/api/v1/jobs/{job['id']}"
    wanted = {
        **{"origin": "shell", "action": "vm_start", "playbook": "playbooks/vm_start.yml"},
        **{"status": "running", "progress": 0, "user": "alice@admin", "requestedBy": "bootstrap"},
        **{"vmId": None, "host": None, "hosts": [], "dryRun": False},
        "command": "ansible-playbook playbooks/vm_start.yml",
    }
    assert {key: job[key] for key in wanted} == wanted
    told_of = [{"uuid": str(vm.uuid)}]
    half = await told(
        service, job["id"], events=[{**TASK, "percent": 50}], hosts=["kvm1"], domains=told_of
    )
    shown = ("progress", "step", "host", "hosts", "vmId", "status")
    assert [half[key] for key in shown] == [
        50,
        "Starting",
        "kvm1",
        ["kvm1"],
        "vm-001",
        "running",
    ]
    # It holds nothing: the API may do what it likes meanwhile.
    assert (await service.get("/vms/vm-001/status"))["job"] is None
    assert (await service.act("vm-001", "start"))["jobId"]
    change = {"field": "state", "before": "stopped", "after": "running", "applies": "live"}
    done = {
        **{"event": "runner_on_ok", "host": "kvm1", "task": "Start the VM"},
        "text": "changed: [kvm1]",
        "res": {"changed": True, "domain": {}, "changes": [change], "applies_at": "live"},
    }
    ended = await told(service, job["id"], 2, events=[done], outcome="succeeded")
    shown = ("status", "progress", "changed", "changes", "appliesAt", "error")
    assert [ended[key] for key in shown] == ["succeeded", 100, True, [change], "now", None]
    assert ended["finishedAt"]
    log = await service.client.get(f"/api/v1/jobs/{job['id']}/log")
    assert log.text == "TASK [Start the VM]\nchanged: [kvm1]\n"
    assert counted("succeeded") == before + 1
    entry = await AuditEntry.get(action="report")
    assert (entry.actor, entry.job_ref) == ("bootstrap", job["id"])


async def test_jobs_are_listed_by_origin(service: Service) -> None:
    _ = await put_vm()
    run = await begin(service)
    started = await service.act("vm-001", "start")
    error = {"code": "HOST_UNREACHABLE", "message": "y", "task": "", "host": "kvm1"}
    await store.keep_observation(host="kvm1", error=error, command="")
    for origin, found in (
        ("shell", run["id"]),
        ("api", started["jobId"]),
        ("observation", "job-000003"),
    ):
        page = await service.get("/jobs", origin=origin)
        assert [(job["id"], job["origin"]) for job in page["jobs"]] == [(found, origin)]
    assert (await service.get("/jobs", origin="schedule"))["jobs"] == []
    answer = await service.client.get("/api/v1/jobs", params={"origin": "cli"})
    assert code(answer) == (400, "VALIDATION_ERROR")


async def test_same_run_is_the_same_job_for_its_token_alone(service: Service) -> None:
    answers = await asyncio.gather(*(service.post("/jobs", BEGIN) for _ in range(5)))
    assert sorted(answer.status_code for answer in answers) == [200, 200, 200, 200, 201]
    assert {answer.json()["data"]["id"] for answer in answers} == {"job-000001"}
    other = await service.client.post(
        "/api/v1/jobs", json=BEGIN, headers=await service.as_role("operator")
    )
    assert other.status_code == 201
    assert other.json()["data"]["id"] != "job-000001"


async def test_batch_that_is_sent_again_changes_nothing(service: Service) -> None:
    job = (await begin(service))["id"]
    events = [{"event": "output", "text": str(number)} for number in range(1, 6)]
    for _ in range(2):
        answer = await tell(service, job, 1, events=events[:3])
        assert answer.json()["data"] == {"id": job, "status": "running", "next": 4}
    _ = await told(service, job, 2, events=events[1:])  # some known, some new
    for _ in range(2):
        ended = await tell(
            service, job, 6, outcome="failed", events=[{"event": "output", "text": "6"}]
        )
        assert ended.json()["data"] == {"id": job, "status": "failed", "next": 7}
    log = await service.client.get(f"/api/v1/jobs/{job}/log")
    assert log.text == "1\n2\n3\n4\n5\n6\n"
    late = await tell(service, job, 7, events=[{"event": "output", "text": "7"}])
    assert code(late) == (409, "JOB_FINISHED")
    assert code(await tell(service, job, 7)) == (409, "JOB_FINISHED")


async def test_same_batch_many_times_at_once_is_taken_in_once(service: Service) -> None:
    job = (await begin(service))["id"]
    events = [{"event": "output", "text": str(number)} for number in range(50)]
    answers = await asyncio.gather(*(tell(service, job, 1, events=events) for _ in range(8)))
    assert {answer.status_code for answer in answers} == {200}
    assert await JobEvent.all().count() == 50


async def test_only_the_token_that_reported_a_run_goes_on_with_it(service: Service) -> None:
    _ = await put_vm()
    job = (await begin(service))["id"]
    of_api = (await service.act("vm-001", "start"))["jobId"]
    operator, viewer = await service.as_role("operator"), await service.as_role("viewer")
    body = {"first": 1, "outcome": "succeeded"}
    for path, headers, wanted in (
        (f"/jobs/{job}/events", operator, (403, "FORBIDDEN")),
        (f"/jobs/{job}/events", viewer, (403, "FORBIDDEN")),
        (f"/jobs/{of_api}/events", None, (403, "FORBIDDEN")),
        ("/jobs/job-000099/events", None, (404, "JOB_NOT_FOUND")),
    ):
        answer = await service.client.post(f"/api/v1{path}", json=body, headers=headers)
        assert code(answer) == wanted, path
    answer = await service.client.post("/api/v1/jobs", json=BEGIN, headers=viewer)
    assert code(answer) == (403, "FORBIDDEN")
    assert {j["status"] for j in (await service.get("/jobs"))["jobs"]} == {"running", "queued"}


@pytest.mark.parametrize(
    ("outcome", "events", "error"),
    [
        (
            "failed",
            [
                {
                    **{"event": "runner_on_failed", "host": "kvm1", "task": "Stop the VM"},
                    "res": {"msg": "cannot stop web", "code": "GUEST_NOT_RESPONDING"},
                }
            ],
            ("GUEST_NOT_RESPONDING", "cannot stop web", "Stop the VM", "kvm1"),
        ),
        (
            "failed",
            [{"event": "runner_on_unreachable", "host": "kvm1", "res": {"msg": "no route"}}],
            ("HOST_UNREACHABLE", "cannot reach host kvm1: no route", "", "kvm1"),
        ),
        (
            "failed",
            [{"event": "runner_on_failed", "ignoreErrors": True, "res": {"msg": "harmless"}}],
            (
                "PLAYBOOK_FAILED",
                "cannot report why job-000001 failed: its run sent no error; read its log",
                "",
                "",
            ),
        ),
        ("succeeded", [{"event": "runner_on_failed", "res": {"msg": "rescued"}}], None),
    ],
)
async def test_outcome_is_the_runs_own(
    service: Service, outcome: str, events: list[Any], error: tuple[str, ...] | None
) -> None:
    job = (await begin(service))["id"]
    _ = await told(service, job, events=events)
    ended = await told(service, job, 2, outcome=outcome)
    assert ended["status"] == outcome
    found = ended["error"]
    keys = ("code", "message", "task", "host")
    assert (tuple(found[key] for key in keys) if found else None) == error


async def test_interrupted_run_says_so(service: Service) -> None:
    job = (await begin(service, dryRun=True))["id"]
    error = {"code": "RUN_INTERRUPTED", "message": "cannot finish: it was interrupted"}
    rescued = {"event": "runner_on_failed", "res": {"msg": "rescued"}}
    assert (await told(service, job, events=[rescued]))["error"] is None
    ended = await told(service, job, 2, outcome="failed", error=error)
    assert (ended["status"], ended["dryRun"]) == ("failed", True)
    assert {key: ended["error"][key] for key in error} == error


@pytest.mark.parametrize("error", [None, {"code": "RUN_INTERRUPTED", "message": "by SIGTERM"}])
async def test_run_that_somebody_ended_is_cancelled(
    service: Service, error: dict[str, str] | None
) -> None:
    job = (await begin(service))["id"]
    before = counted("cancelled")
    _ = await told(service, job, events=[{**TASK, "percent": 50}])
    ended = await told(service, job, 2, outcome="cancelled", error=error)
    assert (ended["status"], ended["progress"]) == ("cancelled", 50)
    assert ended["finishedAt"] is not None
    found = ended["error"]
    assert (found and {key: found[key] for key in ("code", "message")}) == error
    assert counted("cancelled") == before + 1
    assert code(await tell(service, job, 3, outcome="succeeded")) == (409, "JOB_FINISHED")


async def test_progress_never_falls_and_is_100_only_when_succeeded(service: Service) -> None:
    job = (await begin(service))["id"]
    seen = []
    for first, percent in enumerate((0, 60, 30, 100, None), start=1):
        event = {**TASK, **({} if percent is None else {"percent": percent})}
        seen.append((await told(service, job, first, events=[event]))["progress"])
    assert seen == [1, 60, 60, 99, 99]
    assert (await told(service, job, 6, outcome="failed"))["progress"] == 99


async def test_vm_is_found_by_uuid_or_by_name_and_host(service: Service) -> None:
    web, db = await put_vm(), await put_vm(host="kvm2", domain="db")
    twins = [await put_vm(host=host, domain="twin") for host in ("kvm1", "kvm2")]
    job = (await begin(service))["id"]
    for domains, ref in (
        ([{"uuid": str(web.uuid)}], "vm-001"),
        ([{"uuid": str(web.uuid).upper().replace("-", "")}], "vm-001"),
        ([{"name": "db"}], str(db.ref)),
        ([{"name": "db", "host": "kvm1"}], None),
        ([{"name": "twin"}], None),
        ([{"name": "twin", "host": "kvm2"}], str(twins[1].ref)),
        ([{"uuid": str(uuid.uuid4()), "name": "db"}], None),  # another of that name
        ([{"uuid": str(web.uuid)}, {"name": "db"}], None),  # several
        ([{"name": "web"}], "vm-001"),
    ):
        assert (await told(service, job, domains=domains))["vmId"] == ref, domains
    assert (await told(service, job))["vmId"] == "vm-001"  # as before
    page = await service.get("/jobs", vm="vm-001")
    assert [found["id"] for found in page["jobs"]] == [job]


async def test_run_over_several_vms_is_a_job_of_each(service: Service) -> None:
    web, db = await put_vm(), await put_vm(host="kvm2", domain="db")
    other = await put_vm(domain="other")
    job = (await begin(service))["id"]
    stranger = {"uuid": str(uuid.uuid4())}
    named = [{"uuid": str(web.uuid)}, stranger, {"name": "db", "host": "kvm2"}, {"name": "web"}]
    change = {"field": "vcpus", "before": 1, "after": 2, "applies": "live"}
    done = {"event": "runner_on_ok", "res": {"domain": {}, "changes": [change]}}
    several = await told(service, job, events=[done], domains=named)
    assert (several["vmId"], several["vmIds"]) == (None, [web.ref, db.ref])
    assert several["changes"] is None
    assert (await told(service, job, 2))["vmIds"] == [web.ref, db.ref]  # as before
    of_api = (await service.act(str(web.ref), "start"))["jobId"]
    for vm, found in ((web, [of_api, job]), (db, [job]), (other, [])):
        page = await service.get("/jobs", vm=str(vm.ref))
        assert [entry["id"] for entry in page["jobs"]] == found
        assert page["pagination"]["total"] == len(found)
    assert (await service.get("/jobs", vm="vm-0010"))["jobs"] == []
    for odd in ("vm-00", "%", "\n", "vm_001"):
        answer = await service.client.get("/api/v1/jobs", params={"vm": odd})
        assert answer.json()["error"]["code"] == "VM_NOT_FOUND"
    alone = await told(service, job, 2, domains=[{"name": "db"}])
    assert (alone["vmId"], alone["vmIds"]) == (db.ref, [db.ref])
    assert (await service.get("/jobs", vm=str(web.ref)))["pagination"]["total"] == 1
    none = await told(service, job, 2, domains=[])
    assert (none["vmId"], none["vmIds"]) == (None, [])


async def test_vms_that_a_run_has_made_are_named_once_they_are_seen(service: Service) -> None:
    old = foreign_domain("old")
    await service.see("kvm1", domains=[old])
    one = (await begin(service, runId="makes-one-vm"))["id"]
    many = (await begin(service, runId="makes-many-vms"))["id"]
    of_many = [{"name": name, "host": "kvm1"} for name in ("old", "new", "newer")]
    _ = await told(service, one, domains=of_many[1:2], outcome="succeeded")
    _ = await told(service, many, domains=of_many)
    recently = datetime.now(UTC) - timedelta(minutes=1)
    await name_new_vms(recently)
    assert (await service.get(f"/jobs/{one}"))["vmIds"] == []
    assert (await service.get(f"/jobs/{many}"))["vmIds"] == ["vm-001"]
    await service.see("kvm1", domains=[old, foreign_domain("new")])
    await name_new_vms(datetime.now(UTC))
    assert (await service.get("/jobs", vm="vm-002"))["jobs"] == [], "too long ago"
    await name_new_vms(recently)
    assert (await service.get(f"/jobs/{one}"))["vmId"] == "vm-002"
    assert (await service.get(f"/jobs/{many}"))["vmIds"] == ["vm-001", "vm-002"]
    page = await service.get("/jobs", vm="vm-002")
    assert [job["id"] for job in page["jobs"]] == [many, one]
    # One that the run has deleted stays named.
    await Vm.filter(ref="vm-001").delete()
    await name_new_vms(recently)
    more = await told(service, many, domains=[*of_many, {"name": "newest"}])
    assert more["vmIds"] == ["vm-001", "vm-002"]


async def test_several_hosts_are_all_named(service: Service) -> None:
    job = (await begin(service))["id"]
    several = await told(service, job, hosts=["kvm1", "kvm2"])
    assert (several["host"], several["hosts"]) == (None, ["kvm1", "kvm2"])


PLAYBOOKS = [
    ("playbooks/vm_stop.yml", "vm_stop"),
    ("/srv/site.yaml", "site"),
    ("Web-Farm.yml", "playbook"),
    ("x" * 60 + ".yml", "playbook"),
    ("{{ lookup('pipe', 'id') }}", "playbook"),
]


async def test_action_is_the_playbooks_name(service: Service) -> None:
    for number, (playbook, action) in enumerate(PLAYBOOKS):
        job = await begin(service, runId=f"run-number-{number}", playbook=playbook)
        assert (job["action"], job["playbook"]) == (action, playbook)


ODD_RUNS: list[dict[str, Any]] = [
    {},
    {**BEGIN, "runId": "short"},
    {**BEGIN, "runId": "../../../etc/passwd"},
    {**BEGIN, "playbook": ""},
    {**BEGIN, "playbook": "x" * 256},
    {**BEGIN, "user": "a\nb"},
    {**BEGIN, "user": "\x00"},
    {**BEGIN, "command": "x" * 4097},
    {**BEGIN, "dryRun": "yes"},
    {**BEGIN, "vmId": "vm-001"},
]


async def test_odd_runs_are_refused(service: Service) -> None:
    for body in ODD_RUNS:
        assert code(await service.post("/jobs", body)) == (400, "VALIDATION_ERROR"), body
    assert await Job.all().count() == 0


ODD_BATCHES: list[dict[str, Any]] = [
    {},
    {"first": 0},
    {"first": True},
    {"first": 2**31},
    {"first": 1, "events": [{"event": "output"}] * 501},
    {"first": 1, "events": [{"event": "rm -rf"}]},
    {"first": 1, "events": [{"event": "output", "text": "x" * 20_001}]},
    {"first": 1, "events": [{"event": "output", "text": "\x00"}]},
    {"first": 1, "events": [{"event": "output", "percent": 101}]},
    {"first": 1, "events": [{"event": "output", "res": {"password": "x"}}]},
    {"first": 1, "events": [{"event": "output", "res": {"code": "no code"}}]},
    {"first": 1, "domains": [{"uuid": "x"}]},
    {"first": 1, "domains": [{}] * 1001},
    {"first": 1, "hosts": [""]},
    {"first": 1, "hosts": ["x"] * 1001},
    {"first": 1, "outcome": "lost"},
    {"first": 1, "error": {"code": "X"}},
]


async def test_odd_batches_are_refused(service: Service) -> None:
    job = (await begin(service))["id"]
    for body in ODD_BATCHES:
        refused = await service.post(f"/jobs/{job}/events", body)
        assert code(refused) == (400, "VALIDATION_ERROR"), body
    assert (await service.get(f"/jobs/{job}"))["status"] == "running"
    assert await JobEvent.all().count() == 0


async def test_text_is_kept_as_it_is(service: Service) -> None:
    job = (await begin(service))["id"]
    text = "{{ 7*7 }} $(id) <b>\u202e'; DROP TABLE job; -- 🐧\x1b[0m"
    found = await told(
        service, job, events=[{"event": "playbook_on_task_start", "task": text, "text": text}]
    )
    assert found["step"] == text
    assert (await service.client.get(f"/api/v1/jobs/{job}/log")).text == text + "\n"


async def test_run_that_falls_silent_is_lost_and_says_nothing_more(service: Service) -> None:
    job = (await begin(service))["id"]
    talking = (await begin(service, runId="another-run"))["id"]
    long_ago = datetime.now(UTC) - LEASE - timedelta(seconds=1)
    await ReportedRun.filter(job_id=number_of(job)).update(reported_at=long_ago)
    before = counted("lost")
    await give_up_silent(datetime.now(UTC) - LEASE)
    lost = await service.get(f"/jobs/{job}")
    assert (lost["status"], lost["error"]["code"]) == ("lost", "RUN_LOST")
    assert "the run has not reported for 60 s" in lost["error"]["message"]
    assert (await service.get(f"/jobs/{talking}"))["status"] == "running"
    assert counted("lost") == before + 1
    assert code(await tell(service, job, outcome="succeeded")) == (409, "JOB_FINISHED")


async def test_batch_of_nothing_keeps_a_run_alive(service: Service) -> None:
    job = (await begin(service))["id"]
    long_ago = datetime.now(UTC) - LEASE * 2
    await ReportedRun.filter(job_id=number_of(job)).update(reported_at=long_ago)
    _ = await told(service, job)
    await give_up_silent(datetime.now(UTC) - LEASE)
    assert (await service.get(f"/jobs/{job}"))["status"] == "running"


async def test_service_never_runs_repeats_or_reckons_with_a_reported_job(service: Service) -> None:
    vm = await put_vm()
    job = (await begin(service, playbook="playbooks/vm_delete.yml"))["id"]
    _ = await told(service, job, domains=[{"uuid": str(vm.uuid)}])
    assert await recover(service.settings) == []
    assert (await service.get(f"/jobs/{job}"))["status"] == "running"
    assert service.app.ctx.services.dispatcher.enqueued == []
    assert await store.queue_state() == (0, 0.0)
    assert await store.busy_vms([vm.id]) == set()
    _ = await told(service, job, outcome="succeeded")
    assert await store.deleted_since(datetime.now(UTC) - timedelta(hours=1)) == set()
    assert await store.usual_seconds("vm_delete") is None
    assert await Vm.get_or_none(id=vm.id) is not None


async def test_reported_jobs_go_with_their_events_when_they_are_old(service: Service) -> None:
    job = (await begin(service))["id"]
    _ = await told(service, job, events=[TASK], outcome="succeeded")
    await Job.filter(ref=job).update(finished_at=datetime.now(UTC) - timedelta(days=2))
    assert await store.forget_jobs(timedelta(days=1)) == 1
    for model in (Job, JobEvent, ReportedRun):
        assert await model.all().count() == 0


async def test_index_lets_no_run_be_two_jobs(database: str) -> None:
    values: dict[str, Any] = {
        **{"action": "x", "requested_by": "x", "request_id": "x", "run_id": "one"},
        **{"playbook": "x.yml", "run_by": "alice@admin"},
    }

    async def create(token_id: int) -> None:
        async with transaction():
            _ = await create_run(token_id=token_id, **values)

    await create(1)
    with pytest.raises(IntegrityError):
        await create(1)
    await create(2)
    jobs = await Job.all()
    assert len(jobs) == await ReportedRun.all().count() == 2
    for job in jobs:
        assert (job.origin, job.status, job.locks) == (JobOrigin.SHELL, JobStatus.RUNNING, False)


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
async def earlier_url(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[str]:
    """A database of the release before reported runs had a table, open for SQL."""
    EXECUTOR_CACHE.clear()
    url, cluster = f"sqlite://{tmp_path}/earlier.sqlite3", None
    if request.param == "postgres":
        cluster = cast("Cluster", request.getfixturevalue("postgres"))
        await _execute(cluster, "CREATE DATABASE earlier")
        url = cluster.url("earlier")
    await migrate(config=tortoise_config(url), target="virtplay.0006_jobs_of_several_vms")
    await Tortoise.init(config=tortoise_config(url))
    yield url
    await close_database()
    if cluster is not None:
        await _execute(cluster, "DROP DATABASE earlier WITH (FORCE)")


async def put_earlier_job(ref: str, **values: str) -> None:
    """Insert a job into that database; values are SQL."""
    columns = {
        **{"action": "'vm_start'", "host": "'kvm1'", "status": "'running'", "progress": "7"},
        **{"step": "'Start the VM'", "dry_run": "'0'", "requested_by": "'ci'", "locks": "'0'"},
        **{"request_id": "'r'", "command": "'c'", "variables": "'{}'", "attempt": "1"},
        **{"generation": "4", "leased_by": "''", "ref": f"'{ref}'"},
        **{"created_at": "'2026-11-01 00:00:00+00:00'", **values},
    }
    await Tortoise.get_connection("default").execute_script(
        f"INSERT INTO job ({', '.join(columns)}) VALUES ({', '.join(columns.values())})"
    )


@pytest.mark.slow
async def test_migration_moves_the_reported_runs_and_keeps_the_jobs(earlier_url: str) -> None:
    run = {
        **{"origin": "'cli'", "token_id": "3", "run_by": "'alice@admin'", "hosts": "'[\"kvm1\"]'"},
        **{"playbook": "'x.yml'", "heard_at": "'2026-11-02 03:04:05.678901+00:00'"},
    }
    ended = "'2026-11-01 00:00:09+00:00'"
    domains = """'[{"uuid": null, "name": "db", "host": "kvm1"}]'"""
    creates = {"vm_id": "1", "vm_ref": "'vm-001'", "locks": "'1'", "action": "'vm_create'"}
    await put_earlier_job("job-000001", **creates)
    await put_earlier_job("job-000002", **{**creates, "status": "'queued'", "after_id": "1"})
    await put_earlier_job(
        "job-000003", **run, run_id="'one-vm'", vm_ref="'vm-001'", domains=domains
    )
    await put_earlier_job(
        "job-000004",
        **{**run, "hosts": """'["kvm1", "kvm2"]'""", "host": "NULL", "status": "'lost'"},
        **{"run_id": "'two-vms'", "vm_refs": "' vm-001 vm-002 '", "finished_at": ended},
        error="""'{"code": "RUN_LOST", "message": "m", "task": "t", "host": ""}'""",
    )
    await put_earlier_job("job-000005", **{**run, "hosts": "'[]'"}, run_id="'no-vm'", step="'?;'")
    await put_earlier_job(
        "job-000006", **{**creates, "status": "'failed'", "finished_at": ended}, variables="'[1]'"
    )
    await put_earlier_job("job-000007", **{**run, "run_id": "'deleted'"})
    connection = Tortoise.get_connection("default")
    await connection.execute_script("DELETE FROM job WHERE id = 7")
    [first, *_] = await connection.execute_query_dict("SELECT * FROM job")
    kept = ", ".join(Job._meta.db_fields & dict(first).keys())
    rows = f"SELECT {kept} FROM job ORDER BY id"
    before = [dict(row) for row in await connection.execute_query_dict(rows)]
    await close_database()
    await open_database(earlier_url)
    await check_schema()
    connection = Tortoise.get_connection("default")
    for row in before:
        row["origin"] = "shell" if row["origin"] == "cli" else row["origin"]
    assert [dict(row) for row in await connection.execute_query_dict(rows)] == before
    runs = await ReportedRun.all().order_by("job_id")
    assert [(r.job_id, r.run_id, r.hosts, r.domains, r.vm_refs) for r in runs] == [
        (3, "one-vm", ["kvm1"], [{"uuid": None, "name": "db", "host": "kvm1"}], " vm-001 "),
        (4, "two-vms", ["kvm1", "kvm2"], [], " vm-001 vm-002 "),
        (5, "no-vm", [], [], ""),
    ]
    moment = datetime(2026, 11, 2, 3, 4, 5, 678901, tzinfo=UTC)
    assert {(r.token_id, r.playbook, r.run_by, r.reported_at) for r in runs} == {
        (3, "x.yml", "alice@admin", moment)
    }
    # The locks bite, a run is one job still, and no number is given out again.
    holder = {"vm_id": 1, "vm_ref": "vm-001", "requested_by": "x", "request_id": "x"}
    for after in (None, 1):
        with pytest.raises(OperationInProgress):
            _ = await store.create_job(action="vm_stop", after_id=after, **holder)
    found = await find_run(3, "two-vms")
    assert found is not None
    assert (found[0].ref, found[0].status, found[1].job_id) == ("job-000004", "lost", 4)
    begun = {"playbook": "x.yml", "run_by": "", "action": "x"}
    more = {**begun, "requested_by": "x", "request_id": "x"}
    with pytest.raises(IntegrityError):
        async with transaction():
            _ = await create_run(token_id=3, run_id="one-vm", **more)
    async with transaction():
        job, _ = await create_run(token_id=3, run_id="deleted", **more)
    assert job.id > 7
    jobs, total = await store.page_jobs(
        page=1, limit=9, vm="vm-001", status=None, action=None, origin=None
    )
    assert ([job.id for job in jobs], total) == ([6, 4, 3, 2, 1], 5)
    assert [job.id for job in await silent_jobs(datetime.now(UTC) - LEASE)] == [3, 5]


@pytest.mark.slow
async def test_jobs_of_an_earlier_release_get_their_origin(tmp_path: Path) -> None:
    EXECUTOR_CACHE.clear()
    url = f"sqlite://{tmp_path}/old.sqlite3"
    await migrate(config=tortoise_config(url), target="virtplay.0004_samples")
    await Tortoise.init(config=tortoise_config(url))
    for action, caller in (
        ("vm_stop", "bootstrap"), ("host_observe", "observation"),
        ("snapshot_create", "snapshot schedule"),
    ):  # fmt: skip
        await Tortoise.get_connection("default").execute_script(
            "INSERT INTO job (ref, action, host, status, progress, step, dry_run, requested_by,"
            " request_id, command, variables, attempt, generation, leased_by, created_at)"
            f" VALUES ('{action}', '{action}', 'kvm1', 'failed', 0, '', '0', '{caller}', 'x', '',"
            " '{}', 1, 4, '', '2026-11-01 00:00:00+00:00')"
        )
    await close_database()
    await open_database(url)
    try:
        origins = [job.origin for job in await Job.all().order_by("id")]
        assert origins == [JobOrigin.API, JobOrigin.OBSERVATION, JobOrigin.SCHEDULE]
    finally:
        await close_database()
