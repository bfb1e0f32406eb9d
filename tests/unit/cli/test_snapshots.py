"""Unit tests: virtplay snapshot."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from virtplay.api.schemas.snapshots import AcceptedSnapshotOut, ScheduleOut, SnapshotOut
from virtplay.cli.snapshots import grow
from virtplay.errors import ScheduleNotFound, VmAlreadyRunning

from tests.unit.cli.conftest import Run
from tests.unit.cli.service import FakeService, make_failed, make_succeeded

MIB = 1024**2
VM = "/vms/vm-001"


def make_snapshot(number: int = 1, **given: Any) -> dict[str, Any]:
    """A snapshot as the API shows one."""
    values: dict[str, Any] = {
        "id": f"snap-{number:03d}",
        "name": f"name-{number}",
        "description": "",
        "status": "ready",
        "parent": None,
        "current": False,
        "hasMemory": True,
        "size": 30 * MIB,
        "createdAt": "2026-01-01T12:00:00Z",
        "expiresAt": None,
        "origin": "manual",
        "restoresTo": "running",
        "frozen": True,
        "error": None,
    }
    return SnapshotOut.model_validate({**values, **given}).model_dump(mode="json")


def make_schedule(**given: Any) -> dict[str, Any]:
    """A schedule as the API shows one."""
    values: dict[str, Any] = {
        "vmId": "vm-001",
        "cron": ["0 * * * *", "30 4 * * sun"],
        "timezone": "Europe/Berlin",
        "keep": {"hourly": 24, "daily": 0, "weekly": 4, "monthly": 0},
        "enabled": True,
        "nextAt": "2026-01-01T13:00:00Z",
        "lastAt": "2026-01-01T12:00:00Z",
        "lastJobId": "job-000012",
        "skipped": {"at": "2026-01-01T11:00:00Z", "reason": "cannot change VM vm-001"},
    }
    return ScheduleOut.model_validate({**values, **given}).model_dump(mode="json")


def reply_snapshots(service: FakeService, *snapshots: dict[str, Any]) -> None:
    """Answer with these snapshots of vm-001, and accept every change of them."""
    service.reply("GET", f"{VM}/snapshots", {"snapshots": list(snapshots)})
    for one in snapshots:
        service.reply("GET", f"{VM}/snapshots/{one['id']}", one)
        for method, path in (("DELETE", ""), ("POST", "/restore")):
            service.reply(method, f"{VM}/snapshots/{one['id']}{path}", accepted(one))
    service.reply("POST", f"{VM}/snapshots", accepted(make_snapshot(7)))
    service.reply_job(make_succeeded())


def accepted(one: dict[str, Any]) -> dict[str, Any]:
    """The data of a 202."""
    values = {"id": one["id"], "vmId": "vm-001", "name": one["name"], "status": "creating"}
    made = AcceptedSnapshotOut.model_validate({**values, "progress": 0, "jobId": "job-000012"})
    return made.model_dump(mode="json")


def test_list_is_a_tree_with_the_current_one_marked(service: FakeService, run: Run) -> None:
    reply_snapshots(
        service,
        make_snapshot(1, name="root"),
        make_snapshot(2, name="left", parent="snap-001", hasMemory=False, size=0),
        make_snapshot(3, name="right 🚀", parent="snap-001", expiresAt="2030-01-01T00:00:00Z"),
        make_snapshot(4, name="leaf", parent="snap-002", current=True, origin="schedule"),
        make_snapshot(5, name="alone", origin="found", size=None, restoresTo=None),
    )
    result = run("snapshot", "list", "vm-001")
    assert result.status == 0
    assert [line.split("  ready", maxsplit=1)[0].rstrip() for line in result.out.splitlines()] == [
        result.out.splitlines()[0],
        "snap-001  root",
        "snap-002  ├─ left",
        "snap-004  │  ↳ leaf",
        "snap-003  └─ right 🚀",
        "snap-005  alone",
    ]
    lines = result.out.splitlines()
    assert [line.split()[0] for line in lines if " * " in line] == ["snap-004"]
    assert "30 MiB" in lines[1]
    assert "2030-01-01" in lines[4]
    starts = {line.index("ready") for line in lines[1:] if "🚀" not in line}
    assert len(starts) == 1, "the columns are aligned"


def test_a_long_chain_stays_on_the_screen() -> None:
    chain = [make_snapshot(n, parent=f"snap-{n - 1:03d}" if n > 1 else None) for n in range(1, 999)]
    assert [(branch, one["id"]) for branch, one in grow(chain)][-2:] == [
        ("↳ ", "snap-997"), ("↳ ", "snap-998"),
    ]  # fmt: skip
    lost = make_snapshot(1, parent="snap-777")
    assert [(branch, one["id"]) for branch, one in grow([lost])] == [("", "snap-001")]


def test_no_snapshots_is_said_beside_the_output(service: FakeService, run: Run) -> None:
    reply_snapshots(service)
    result = run("snapshot", "list", "vm-001")
    assert (result.status, result.out, result.err) == (0, "", "no snapshots\n")
    assert json.loads(run("snapshot", "list", "vm-001", "--json").out) == {"snapshots": []}


def test_show(service: FakeService, run: Run) -> None:
    error = {"code": "LIBVIRT_ERROR", "message": "cannot \x1b[2J", "jobId": "job-000002"}
    reply_snapshots(service, make_snapshot(name="a/b 🚀", error=error, frozen=None))
    out = run("snapshot", "show", "vm-001", "a/b 🚀").out
    assert "name:        a/b 🚀\n" in out
    assert "error:       cannot \\x1b[2J (LIBVIRT_ERROR, job-000002)\n" in out
    assert "memory:      30 MiB\n" in out
    assert "frozen" not in out
    asked = [(method, path) for method, path, *_ in service.requests]
    assert asked == [("GET", f"{VM}/snapshots")], "the list has all that is shown"
    shown = json.loads(run("snapshot", "show", "vm-001", "snap-001", "--json").out)
    assert shown["name"] == "a/b 🚀"


def test_create(service: FakeService, run: Run) -> None:
    reply_snapshots(service)
    result = run(
        "snapshot", "create", "vm-001", "before/after 🚀", "--description", "why", "--no-freeze",
        "--expires", "2030-01-31T12:00:00Z",
    )  # fmt: skip
    assert result.status == 0
    assert result.out.splitlines()[0] == "job-000012: snapshot_create of snap-007 (name-7)"
    assert " name-7 (snap-007) of vm-001 on kvm1 in " in result.out
    [(path, _, body)] = service.asked("POST")
    assert path == f"{VM}/snapshots"
    assert body == {
        "name": "before/after 🚀",
        "description": "why",
        "expiresAt": "2030-01-31T12:00:00Z",
        "freeze": False,
    }


def test_create_with_an_expiry_in_days(service: FakeService, run: Run) -> None:
    reply_snapshots(service)
    assert run("snapshot", "create", "vm-001", "x", "--expires-days", "7", "--no-wait").status == 0
    body = service.asked("POST")[0][2]
    left = datetime.fromisoformat(body["expiresAt"]) - datetime.now(UTC)
    assert timedelta(days=6.9) < left < timedelta(days=7.1)
    for wrong in ("1e300", "nan", "9999999"):
        assert run("snapshot", "create", "vm-001", "x", "--expires-days", wrong).status == 2
    both = ("--expires", "2030-01-31T12:00:00Z", "--expires-days", "1")
    assert run("snapshot", "create", "vm-001", "x", *both).status == 2
    assert len(service.asked("POST")) == 1


def test_restore_by_name_and_by_id(service: FakeService, run: Run) -> None:
    reply_snapshots(
        service,
        make_snapshot(1, name="snap-002"),
        make_snapshot(2, name="twice"),
        make_snapshot(3, name="twice", status="error", createdAt="2026-01-02T12:00:00Z"),
        make_snapshot(4, name="../once"),
    )
    assert run("snapshot", "restore", "vm-001", "../once", "--force", "--guard").status == 0
    assert run("snapshot", "restore", "vm-001", "snap-002").status == 0, "an id comes first"
    assert service.asked("POST") == [
        (f"{VM}/snapshots/snap-004/restore", {}, {"force": True, "guard": True}),
        (f"{VM}/snapshots/snap-002/restore", {}, {"force": False, "guard": False}),
    ]
    result = run("snapshot", "restore", "vm-001", "twice")
    assert result.status == 1
    assert result.err.splitlines()[1:] == [
        "  snap-002, ready, created 2026-01-01",
        "  snap-003, error, created 2026-01-02",
    ]
    result = run("snapshot", "restore", "vm-001", "gone\x1b[2J")
    assert result.status == 1
    assert result.err.startswith("virtplay: cannot find snapshot gone\\x1b[2J: VM vm-001 has no")


def test_refusals_and_failures(service: FakeService, run: Run) -> None:
    reply_snapshots(service, make_snapshot())
    refusal = VmAlreadyRunning("cannot restore VM vm-001 to snap-001: it is running")
    service.reply("POST", f"{VM}/snapshots/snap-001/restore", refusal)
    result = run("snapshot", "restore", "vm-001", "snap-001")
    assert (result.status, result.out) == (1, "")
    assert "it is running (VM_ALREADY_RUNNING)" in result.err
    service.reply_job(make_failed(action="snapshot_delete"))
    assert run("snapshot", "delete", "vm-001", "snap-001", "--yes").status == 3


def test_delete(service: FakeService, run: Run) -> None:
    reply_snapshots(service, make_snapshot())
    result = run("snapshot", "delete", "vm-001", "name-1", "--no-wait")
    assert (result.status, service.asked("DELETE")) == (2, [])
    assert result.err.startswith(
        "virtplay: cannot ask whether to delete snapshot snap-001 (name-1)"
    )
    assert result.err.endswith(" of VM vm-001: no terminal; use --yes\n")
    result = run("snapshot", "delete", "vm-001", "name-1", "--no-wait", "--yes")
    assert (result.status, result.out) == (0, "job-000012: snapshot_delete of snap-001 (name-1)\n")
    assert [path for path, _, _ in service.asked("DELETE")] == [f"{VM}/snapshots/snap-001"]


def test_schedule_is_shown(service: FakeService, run: Run) -> None:
    path = f"{VM}/snapshot-schedule"
    service.reply("GET", path, make_schedule())
    out = run("snapshot", "schedule", "vm-001").out
    assert out.splitlines() == [
        "vm:       vm-001",
        "cron:     0 * * * *",
        "          30 4 * * sun",
        "timezone: Europe/Berlin",
        "keeps:    24 hourly, 4 weekly",
        "enabled:  yes",
        "next:     2026-01-01 14:00:00 CET",
        "last:     2026-01-01 13:00:00 CET (job-000012)",
        "skipped:  2026-01-01 12:00:00 CET: cannot change VM vm-001",
    ]
    assert json.loads(run("snapshot", "schedule", "vm-001", "--json").out) == make_schedule()
    service.reply("GET", path, ScheduleNotFound("cannot find a snapshot schedule of VM vm-001"))
    result = run("snapshot", "schedule", "vm-001")
    assert (result.status, result.out, result.err) == (0, "no snapshot schedule\n", "")
    assert json.loads(run("snapshot", "schedule", "vm-001", "--json").out) is None
    assert run("snapshot", "schedule", "vm-001", "--off").status == 1


def test_schedule_is_set_and_ended(service: FakeService, run: Run) -> None:
    path = f"{VM}/snapshot-schedule"
    fresh = make_schedule(lastAt=None, lastJobId=None, skipped=None)
    service.reply("PUT", path, fresh)
    service.reply("DELETE", path, {"vmId": "vm-001"})
    result = run(
        "snapshot", "schedule", "vm-001", "--cron", "0 * * * *", "--cron", "30 4 * * sun",
        "--keep-hourly", "24", "--keep-weekly", "4", "--timezone", "Europe/Berlin",
    )  # fmt: skip
    assert result.status == 0
    assert "next:     2026-01-01 14:00:00 CET" in result.out
    assert "last:     -\n" in result.out
    assert "skipped" not in result.out
    assert service.asked("PUT") == [
        (
            path,
            {},
            {
                "cron": ["0 * * * *", "30 4 * * sun"],
                "keep": {"hourly": 24, "weekly": 4},
                "timezone": "Europe/Berlin",
            },
        )
    ]
    result = run("snapshot", "schedule", "vm-001", "--off")
    assert (result.status, result.out) == (0, "vm-001: snapshot schedule deleted\n")


@pytest.mark.parametrize(
    "options",
    [
        ("--cron", "0 * * * *"),
        ("--keep-daily", "1"),
        ("--timezone", "UTC"),
        ("--off", "--cron", "0 * * * *", "--keep-daily", "1"),
        ("--cron", "0 * * * *", "--keep-daily", "-1"),
        ("--cron", "0 * * * *", "--keep-daily", "many"),
    ],
)
def test_half_a_schedule_asks_nothing(
    service: FakeService, run: Run, options: tuple[str, ...]
) -> None:
    assert run("snapshot", "schedule", "vm-001", *options).status == 2
    assert service.requests == []


def test_a_fault_of_a_schedule_names_the_field(service: FakeService, run: Run) -> None:
    result = run(
        "snapshot", "schedule", "vm-001", "--cron", "61 * * * *", "--keep-daily", "1"
    )  # fmt: skip
    assert result.status == 2
    assert result.err.startswith("virtplay: --cron '61 * * * *' is not a cron expression: ")
