"""Lab tests: snapshots whose making, restore or deletion crashes after any step are completed."""

from __future__ import annotations

import json
from typing import Any

import pytest

from lab import Host
from tests.acceptance.guests import agent, power
from tests.lab.conftest import Make
from tests.lab.modules import Run, run_modules
from tests.lab.plays import IMAGES, Play
from tests.lab.snapshots import held, known, read_marks, tree, write_mark

pytestmark = pytest.mark.lab


def end_state(host: Host, identity: str, result: dict[str, Any] | None) -> dict[str, Any]:
    """All that a run leaves, but for the moments and sizes that differ each time."""
    assert result is not None
    changing = ("created_at", "size_bytes")
    entries = [
        {key: value for key, value in entry.items() if key not in changing}
        for entry in result["snapshots"]
    ]
    domain = {key: result["domain"][key] for key in ("title", "state", "metadata")}
    fence = host.run("cat", f"/var/lib/virtplay/fence/{identity}.json").stdout
    return {
        "entries": entries,
        "domain": domain,
        "images": sorted(held(host, identity)),
        "fence": {key: value for key, value in json.loads(fence).items() if value},
    }


@pytest.mark.parametrize("state", ["running", "stopped"])
def test_creation_that_crashes_at_any_step_is_completed(
    state: str, host: Host, identity: str, make: Make
) -> None:
    make(state)
    run = {"uuid": identity, "snapshot": "one", "title": "One", "job": "job-1", "generation": 1}
    gone = {"uuid": identity, "snapshot": "one", "state": "absent"}
    expected = end_state(host, identity, *run_modules(host, (run, 0)))
    steps = 0
    while True:
        _, crashed, completed = run_modules(host, (gone, 0), (run, steps + 1), (run, 0))
        assert end_state(host, identity, completed) == expected, steps
        if crashed is not None:
            break
        steps += 1
        if state == "running":
            assert agent(host, identity, "guest-fsfreeze-status") == "thawed", steps
    assert steps >= (5 if state == "running" else 3)


def test_half_made_snapshot_is_deleted_whatever_comes_next(
    host: Host, identity: str, play: Play, make: Make
) -> None:
    make("stopped")
    image = f"{IMAGES}/{identity}-vda.qcow2"
    host.run("qemu-img", "snapshot", "-c", "half", image)
    refused = play("snapshot_create", name="half")
    assert refused["code"] == "SNAPSHOT_EXISTS"  # somebody else's, for all that is known
    fence = f"/var/lib/virtplay/fence/{identity}.json"
    note = json.dumps({"snapshot": {"name": "half", "frozen_since": None}})
    host.run("sh", "-c", f"mkdir -p /var/lib/virtplay/fence; cat > {fence}", stdin=note)
    play("snapshot_create", name="other")
    assert held(host, identity) == ["other"]
    host.run("qemu-img", "snapshot", "-c", "half", image)
    play("vm_start")
    host.run("sh", "-c", f"cat > {fence}", stdin=note)
    play("snapshot_delete", name="none")
    assert (held(host, identity), known(host, identity)) == (["other"], ["other"])
    assert power(host, identity) == "running"


@pytest.mark.parametrize("state", ["running", "stopped"])
def test_restore_that_crashes_at_any_step_is_completed(
    state: str, host: Host, identity: str, play: Play, make: Make
) -> None:
    make("running", title="Then")
    write_mark(host, identity, "first")
    play("snapshot_create", name="one")
    play("vm_update", title="Now")
    write_mark(host, identity, "second")
    if state == "stopped":
        host.run("virsh", "destroy", identity)
    play("snapshot_create", name="base")  # where every turn begins
    vm: dict[str, Any] = {"uuid": identity}
    run: dict[str, Any] = {
        **{"snapshot": "one", "state": "restored", "guard": "guard"},
        **{"job": "job-1", "generation": 1, "force": state == "running"},
    }

    begin: list[Run] = [
        ({**vm, "snapshot": "base", "state": "restored", "force": True}, 0),
        ({**vm, "snapshot": "guard", "state": "absent"}, 0),
    ]

    *_, restored = run_modules(host, *begin, (vm | run, 0))
    expected = end_state(host, identity, restored)
    assert (expected["domain"]["title"], expected["domain"]["state"]) == ("Now", "running")
    steps = 0
    while True:
        host.run("rm", "-f", f"/var/lib/virtplay/fence/{identity}.json")
        *_, crashed, completed = run_modules(host, *begin, (vm | run, steps + 1), (vm | run, 0))
        assert end_state(host, identity, completed) == expected, steps
        assert agent(host, identity, "guest-fsfreeze-status") == "thawed", steps
        assert read_marks(host, identity) == ("first", "first"), steps
        if crashed is not None:
            break
        steps += 1
    assert steps >= 9


def test_deletion_that_crashes_at_any_step_is_completed(
    host: Host, identity: str, make: Make
) -> None:
    make("stopped")
    vm: dict[str, Any] = {"uuid": identity}
    image = f"{IMAGES}/{identity}-vda.qcow2"
    gone = {"snapshot": "one", "state": "absent", "job": "job-1"}
    steps = 0
    while True:
        *_, crashed, after = run_modules(
            host,
            ({**vm, "snapshot": "two", "state": "absent"}, 0),
            ({**vm, "snapshot": "one"}, 0),
            ({**vm, "snapshot": "two"}, 0),
            (vm | gone, steps + 1),
            (vm | gone, 0),
        )
        assert after is not None
        assert (tree(after), held(host, identity)) == ({"two": None}, ["two"]), steps
        if crashed is not None:
            break
        steps += 1
    run_modules(host, ({**vm, "snapshot": "two", "state": "absent"}, 0))
    # Parts that are gone already, and some that are there twice.
    for change in ("-d", "-c"):
        run_modules(host, ({**vm, "snapshot": "one"}, 0))
        host.run("qemu-img", "snapshot", change, "one", image)
        [after] = run_modules(host, (vm | gone, 0))
        assert after is not None
        assert (tree(after), held(host, identity)) == ({}, []), change
