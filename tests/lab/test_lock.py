"""Lab tests: one VM changed by hand and by a job at once, and what a run that died has left."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.guests import agent, booted, in_guest
from tests.lab import Host, Lab
from tests.lab.plays import run_play

pytestmark = pytest.mark.lab

LOCKS = "/run/virtplay"
BY_HAND: dict[str, Any] = {}
JOB = {"job": "job-000007", "generation": 7}


@pytest.mark.parametrize(
    ("first", "second", "holder"),
    [(JOB, BY_HAND, "job-000007"), (BY_HAND, JOB, "a run by root from ")],
    ids=["by hand while a job is at it", "a job while somebody is at it by hand"],
)
def test_later_one_waits_or_fails_with_who_holds_the_vm(
    lab: Lab,
    host: Host,
    identity: str,
    tmp_path: Path,
    first: dict[str, Any],
    second: dict[str, Any],
    holder: str,
) -> None:
    name = f"vm-{identity[:8]}"

    def play(number: int, action: str, **values: Any) -> dict[str, Any]:
        path = tmp_path / f"{number}.json"
        return run_play(lab, host, path, action, (), {"uuid": identity, **values})

    # So little memory that it never gets as far as to hear that it shall go down.
    small = {"template": "micro", "vcpus": 1, "memory": 32, "disk": 1, "state": "running"}
    play(0, "vm_create", name=name, **small)
    with ThreadPoolExecutor() as pool:
        stop = pool.submit(play, 1, "vm_stop", timeout=7, **first)
        signed = f"until grep -q pid {LOCKS}/{identity}.lock 2>/dev/null; do sleep 0.1; done"
        host.run("sh", "-c", signed)
        late = pool.submit(play, 2, "vm_pause", lock_timeout=1, **second)
        patient = pool.submit(play, 3, "vm_pause", lock_timeout=60, **second)
        refused, waited, stopped = late.result(), patient.result(), stop.result()
    assert refused["code"] == "OPERATION_IN_PROGRESS"
    assert refused["msg"].startswith(f"cannot pause {name}: {holder}")
    assert f"(stop {name}, process " in refused["msg"]
    assert refused["msg"].endswith(" UTC) holds it; waited 1 s")
    # The one at work was not disturbed, and the one that waited found what that had left.
    assert stopped["code"] == "GUEST_NOT_RESPONDING"
    assert waited["domain"]["state"] == "paused"
    assert waited["waited_seconds"] > 1
    assert waited["waited_for"].startswith(holder)
    assert host.run("cat", f"{LOCKS}/{identity}.lock").stdout == ""


def test_guest_that_a_dead_run_left_frozen_is_thawed_by_whatever_comes_next(
    lab: Lab, host: Host, identity: str, tmp_path: Path
) -> None:
    def play(action: str, **values: Any) -> dict[str, Any]:
        path = tmp_path / "variables.json"
        return run_play(lab, host, path, action, (), {"uuid": identity, **values})

    small = {"template": "micro", "vcpus": 1, "memory": 96, "disk": 1, "state": "running"}
    made = play("vm_create", name=f"vm-{identity[:8]}", **small)
    booted(host, identity)
    make = "mke2fs /dev/vda 8192; mkdir -p /mnt; mount -t ext4 /dev/vda /mnt"
    said = in_guest(host, identity, "/bin/sh", "-c", make)
    assert agent(host, identity, "guest-fsfreeze-freeze") == 1, said
    assert agent(host, identity, "guest-fsfreeze-status") == "frozen"
    note = json.dumps({"frozen_since": made["domain"]["started_at"], "snapshot": {"name": "half"}})
    host.run("sh", "-c", f"cat > /var/lib/virtplay/fence/{identity}.json", stdin=note)
    play("vm_update", title="Thawed")
    assert agent(host, identity, "guest-fsfreeze-status") == "thawed"
    assert play("vm_stop", timeout=60)["domain"]["state"] == "stopped"
