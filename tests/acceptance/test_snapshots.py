"""Acceptance tests: snapshots of real guests over the API; what comes back is read in the guest."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from datetime import UTC, datetime, timedelta

from lab.lab import Host
from tests.acceptance.guests import agent, booted, power
from tests.acceptance.service import TWO_INTERVALS, Api, Json, Service, wait_for
from tests.lab.snapshots import read_marks, write_mark

SCHEDULER_SECONDS = 30
"""Until the scheduler has looked and its job has ended."""


def snapshots(api: Api, vm: str) -> dict[str, Json]:
    """A VM's snapshots by id."""
    return {s["id"]: s for s in api.get(f"/vms/{vm}/snapshots")["snapshots"]}


def on_host(host: Host, vm: str) -> set[str]:
    """The names of a VM's snapshots as libvirt knows them."""
    return set(host.run("virsh", "-q", "snapshot-list", vm, "--name").stdout.split())


def running_guest(api: Api, host: Host) -> str:
    """Make a VM that has booted; its id."""
    vm = api.create(host=host.name, autoStart=True)
    booted(host, vm["domain"])
    return str(vm["domain"])


def test_a_guest_goes_back_to_what_it_was(api: Api, one: Host) -> None:
    vm = running_guest(api, one)
    write_mark(one, vm, "first")
    name = "../vor/dem Upgrade 🚀 {{ 7*7 }}"
    first = api.send("POST", f"/vms/{vm}/snapshots", {"name": name, "description": "a/b\\c"})
    api.succeeded(first["jobId"])
    found = snapshots(api, vm)[first["id"]]
    assert (found["name"], found["description"], found["status"]) == (name, "a/b\\c", "ready")
    assert (found["hasMemory"], found["restoresTo"], found["frozen"]) == (True, "running", True)
    assert found["current"]
    assert found["size"] > 10_000_000
    assert on_host(one, vm) == {first["id"]}
    assert api.vm(vm)["status"] == "running"
    write_mark(one, vm, "second")

    restore = f"/vms/{vm}/snapshots/{first['id']}/restore"
    api.refused(400, "VM_ALREADY_RUNNING", "POST", restore)
    api.refused(404, "SNAPSHOT_NOT_FOUND", "POST", f"/vms/{vm}/snapshots/snap-99999/restore")
    assert read_marks(one, vm) == ("second", "second")
    api.run("POST", restore, {"force": True, "guard": True})
    assert read_marks(one, vm) == ("first", "first")
    assert agent(one, vm, "guest-fsfreeze-status") == "thawed"
    assert api.vm(vm)["status"] == "running"
    tree = {s["origin"]: s for s in snapshots(api, vm).values()}
    assert tree["guard"]["parent"] == tree["manual"]["id"] == first["id"]
    assert (tree["manual"]["current"], tree["guard"]["current"]) == (True, False)

    api.run("POST", f"/vms/{vm}/snapshots/{tree['guard']['id']}/restore", {"force": True})
    assert read_marks(one, vm) == ("second", "second")
    api.run("DELETE", f"/vms/{vm}/snapshots/{first['id']}")
    [left] = snapshots(api, vm).values()
    assert (left["id"], left["parent"]) == (tree["guard"]["id"], None)

    one.run("virsh", "snapshot-create-as", vm, "by-hand")

    def by_hand() -> Json | None:
        # While it is being made libvirt lists it already, but not as the current one.
        found = snapshots(api, vm).values()
        return next((s for s in found if s["name"] == "by-hand" and s["current"]), None)

    shown = wait_for("the one of virsh", by_hand, TWO_INTERVALS)
    assert (shown["origin"], shown["parent"]) == ("found", left["id"])
    api.run("POST", f"/vms/{vm}/stop", {"force": True})
    error = api.refused(409, "VM_HAS_SNAPSHOTS", "DELETE", f"/vms/{vm}")
    assert error["details"] == {"snapshots": 2}
    api.run("POST", f"/vms/{vm}/snapshots/{shown['id']}/restore")
    assert power(one, vm) == "running"
    one.run("virsh", "snapshot-delete", vm, "by-hand")
    wait_for("its end", lambda: shown["id"] not in snapshots(api, vm), TWO_INTERVALS)


def test_a_schedule_makes_and_prunes(service: Service, api: Api, one: Host) -> None:
    vm = api.create(host=one.name)["domain"]
    api.run("POST", f"/vms/{vm}/snapshots", {"name": "by hand"})
    [kept] = snapshots(api, vm)
    body = {"cron": ["0 0 1 1 *"], "keep": {"monthly": 1}, "timezone": "Asia/Shanghai"}
    assert api.ask("PUT", f"/vms/{vm}/snapshot-schedule", body).status_code == 200

    def turn() -> str:
        """Let the schedule's turn come now; the id of the snapshot that it makes."""
        before = set(snapshots(api, vm))
        moment = (datetime.now(UTC) - timedelta(seconds=1)).isoformat(sep=" ")
        with closing(sqlite3.connect(service.state / "virtplay.sqlite3", timeout=30)) as database:
            database.execute("UPDATE snapshot_schedule SET next_at = ?", (moment,))
            database.commit()

        def made() -> str | None:
            found = snapshots(api, vm)
            return next(
                (i for i, s in found.items() if i not in before and s["status"] == "ready"), None
            )

        return wait_for("the turn", made, SCHEDULER_SECONDS)

    first = turn()
    second = turn()
    schedule = api.get(f"/vms/{vm}/snapshot-schedule")
    assert schedule["skipped"] is None
    assert api.job(schedule["lastJobId"])["requestedBy"] == "snapshot schedule"
    # Pruning looks once a minute, at one snapshot of a VM.
    wait_for(
        "the pruning of what is one too many",
        lambda: set(snapshots(api, vm)) == {kept, second},
        SCHEDULER_SECONDS,
    )
    assert on_host(one, vm) == {kept, second}
    assert first not in snapshots(api, vm)


def test_killed_service_in_the_middle_of_snapshots(service: Service, api: Api, one: Host) -> None:
    vm = running_guest(api, one)
    write_mark(one, vm, "first")
    made = api.send("POST", f"/vms/{vm}/snapshots", {"name": "survivor"})
    wait_for("the play", lambda: api.job(made["jobId"])["progress"] > 0, 30)
    service.kill()
    service.start()
    assert api.succeeded(made["jobId"])["attempt"] == 2
    assert {s["id"]: s["status"] for s in snapshots(api, vm).values()} == {made["id"]: "ready"}
    assert on_host(one, vm) == {made["id"]}

    write_mark(one, vm, "second")
    back = api.send(
        "POST", f"/vms/{vm}/snapshots/{made['id']}/restore", {"force": True, "guard": True}
    )
    wait_for("the play", lambda: api.job(back["jobId"])["progress"] > 0, 30)
    service.kill()
    service.start()
    assert api.succeeded(back["jobId"])["attempt"] == 2
    assert read_marks(one, vm) == ("first", "first")
    found = snapshots(api, vm)
    assert {s["origin"]: s["status"] for s in found.values()} == {
        "manual": "ready", "guard": "ready",
    }  # fmt: skip
    assert on_host(one, vm) == set(found)
    assert api.vm(vm)["status"] == "running"
