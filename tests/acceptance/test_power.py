"""Acceptance tests: power actions are one task; what a guest or QEMU refuses is said."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.acceptance.guests import booted, in_guest, power
from tests.acceptance.service import STOP_TIMEOUT, Api
from tests.acceptance.shell import run_line
from tests.lab import Lab
from tests.lab.lab import Host

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.mark.timeout(180)
def test_every_power_action_is_one_task_on_the_host(lab: Lab, api: Api, one: Host) -> None:
    vm = api.create(host=one.name)
    for action in ("start", "pause", "resume", "restart", "stop"):
        if action in {"restart", "stop"}:
            booted(one, vm["id"])
        job = api.run("POST", f"/vms/{vm['id']}/{action}")
        log = api.log(job["id"])
        assert "Gathering Facts" not in log
        assert "setup" not in re.findall(r"TASK \[([^\]]*)\]", log)
        # Beside the one module there is only the check of the variables, on this machine.
        ran = [name for name in re.findall(r"TASK \[([^\]]*)\]", log) if "Validating" not in name]
        assert len(ran) == 1, ran
        assert sum(map(int, re.findall(r"changed=(\d+)", log))) == 1


@pytest.mark.timeout(180)
def test_by_hand_is_the_same_as_by_api(lab: Lab, service: object, api: Api, one: Host) -> None:
    vm = api.create(host=one.name, autoStart=True)
    booted(one, vm["id"])
    stop = by_hand(lab, "vm_stop", one, {"libvirt_domain_name": vm["id"]})
    assert "changed=1" in stop.stdout
    assert api.shows(vm["id"], status="stopped")["ip"] is None
    again = by_hand(lab, "vm_stop", one, {"libvirt_domain_name": vm["id"]})
    assert "changed=0" in again.stdout
    by_hand(lab, "vm_start", one, {"libvirt_domain_name": vm["id"]})
    api.shows(vm["id"], status="running")
    by_hand(lab, "vm_pause", one, {"libvirt_domain_name": vm["id"]})
    api.shows(vm["id"], status="paused")
    by_hand(lab, "vm_delete", one, {"libvirt_domain_name": vm["id"], "libvirt_domain_force": True})
    api.gone(vm["id"], seconds=15)


@pytest.mark.timeout(120)
def test_command_of_a_job_runs_as_it_is_written(api: Api, one: Host) -> None:
    vm = api.create(
        host=one.name, name="{{ 7 * 7 }} 'quoted' \"twice\" $(id)", labels={"k": "{{ 1 + 1 }}"}
    )
    commands = {job["action"]: job["command"] for job in api.get(f"/jobs?vm={vm['id']}")["jobs"]}
    api.run("DELETE", f"/vms/{vm['id']}")
    run_line(commands["vm_create"])
    # Found on the host, it is the machine that it was, down to its id.
    shown = api.shows(vm["id"], name=vm["name"], labels=vm["labels"], status="stopped")
    assert shown["uuid"] == vm["uuid"]
    start = api.run("POST", f"/vms/{vm['id']}/start")
    pause = run_line(start["command"].replace("vm_start", "vm_pause"))
    assert "changed=1" in pause.stdout
    api.shows(vm["id"], status="paused")


@pytest.mark.timeout(180)
def test_guest_that_ignores_the_power_button_is_not_killed(api: Api, one: Host) -> None:
    vm = api.create(host=one.name, autoStart=True)
    booted(one, vm["id"])
    # It still hears the button, but does nothing about it.
    deafen = 'for button in /etc/acpi/PWRF/*; do ln -sf /bin/true "$button"; done'
    in_guest(one, vm["id"], "/bin/sh", "-c", deafen)
    began = time.monotonic()
    stop = api.send("POST", f"/vms/{vm['id']}/stop")
    job = api.failed(stop["jobId"], "GUEST_NOT_RESPONDING")
    assert STOP_TIMEOUT <= time.monotonic() - began < STOP_TIMEOUT + 20
    assert "still runs" in job["error"]["message"]
    assert power(one, vm["id"]) == "running"
    assert api.vm(vm["id"])["status"] == "running"
    api.run("POST", f"/vms/{vm['id']}/stop", {"force": True})
    assert power(one, vm["id"]) == "shut off"


def by_hand(
    lab: Lab, playbook: str, host: Host, variables: dict[str, object]
) -> subprocess.CompletedProcess[str]:
    """Run a playbook as a person would, from a shell in the repository."""
    command = [
        str(Path(sys.executable).with_name("ansible-playbook")),
        f"playbooks/{playbook}.yml",
        *("-i", str(lab.inventory), "--limit", host.name, "-e", json.dumps(variables)),
    ]
    done = subprocess.run(
        command, cwd=REPOSITORY, capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done
