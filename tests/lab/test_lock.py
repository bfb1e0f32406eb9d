"""Lab tests: one VM changed by hand and by a job at once, and what a run that died has left."""

from __future__ import annotations

import json
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from lab import Host, Lab
from tests.acceptance.guests import agent, booted, in_guest
from tests.lab.locks import LOCKS, halted, wait_for_waiting
from tests.lab.plays import run_play

pytestmark = pytest.mark.lab

JOB: dict[str, Any] = {"job": "job-000007", "generation": 7}


def test_who_comes_by_hand_waits_for_a_job_or_fails_with_its_id(
    lab: Lab, host: Host, identity: str, tmp_path: Path
) -> None:
    name = f"vm-{identity[:8]}"

    def play(number: int, action: str, **values: Any) -> dict[str, Any]:
        path = tmp_path / f"{number}.json"
        return run_play(lab, host, path, action, (), {"uuid": identity, **values})

    # So little memory that it never gets as far as to hear that it shall go down.
    small = {"template": "micro", "vcpus": 1, "memory": 32, "disk": 1, "state": "running"}
    play(0, "vm_create", name=name, **small)
    with ThreadPoolExecutor() as pool:
        stop = pool.submit(play, 1, "vm_stop", timeout=10, **JOB)
        with halted(host, JOB["job"]):
            refused = play(2, "vm_pause", lock_timeout=1)
            patient = pool.submit(play, 3, "vm_pause", lock_timeout=120)
            wait_for_waiting(host)
            time.sleep(3)  # far more than lies between the opening of the lock's file and its clock
        waited, stopped = patient.result(), stop.result()
    assert refused["code"] == "OPERATION_IN_PROGRESS"
    assert refused["msg"].startswith(f"cannot pause {name}: job-000007 (stop {name}, process ")
    assert refused["msg"].endswith(" UTC) holds the lock; waited 1 s")
    # The one at work was not disturbed, and the one that waited found what that had left.
    assert stopped["code"] == "GUEST_NOT_RESPONDING"
    assert waited["domain"]["state"] == "paused"
    assert waited["waited_seconds"] >= 0.9
    assert waited["waited_for"].startswith("job-000007 (stop ")
    assert host.run("cat", f"{LOCKS}/{identity}.lock").stdout == ""


def test_guest_that_a_dead_run_left_frozen_is_thawed_by_whatever_comes_next(
    lab: Lab, host: Host, identity: str, tmp_path: Path
) -> None:
    def play(action: str, **values: Any) -> dict[str, Any]:
        path = tmp_path / "variables.json"
        return run_play(lab, host, path, action, (), {"uuid": identity, **values})

    small = {"template": "micro", "vcpus": 1, "memory": 128, "disk": 1, "state": "running"}
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
