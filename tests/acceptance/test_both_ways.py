"""Acceptance: a VM that is changed by hand and by the service at once, and who sees what."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from lab import Lab
from lab.lab import Host
from tests.acceptance.service import TOKEN, Api, Service, wait_for
from tests.lab.locks import halted, wait_for_force
from tests.lab.modules import kill_with_descendants
from tests.lab.plays import REPOSITORY


class Shell:
    """A person's shell beside the service, with the callback plugin switched on."""

    def __init__(self, lab: Lab, host: Host, service: Service) -> None:
        self._line = ("-i", str(lab.inventory), "--limit", host.name)
        self._environment = {
            **os.environ,
            "ANSIBLE_CALLBACKS_ENABLED": "virtplay.libvirt.report",
            "VIRTPLAY_URL": f"http://127.0.0.1:{service.port}",
            "VIRTPLAY_TOKEN": TOKEN,
        }

    @contextmanager
    def running(self, action: str, **variables: Any) -> Iterator[subprocess.Popen[str]]:
        """The playbook of an action, with the variables of its role; killed at the block's end."""
        given = [f"-elibvirt_domain_{name}={value}" for name, value in variables.items()]
        with subprocess.Popen(
            [
                str(Path(sys.executable).with_name("ansible-playbook")),
                f"playbooks/{action}.yml",
                *self._line,
                *given,
            ],
            cwd=REPOSITORY,
            env=self._environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        ) as process:
            try:
                yield process
            finally:
                if process.poll() is None:
                    kill_with_descendants(psutil.Process(process.pid))

    def run(self, action: str, **variables: Any) -> tuple[int, str]:
        """Its exit code and what it printed."""
        with self.running(action, **variables) as process:
            said, _ = process.communicate(timeout=300)
        return process.returncode, said


def reported(api: Api, action: str) -> dict[str, Any]:
    """The newest run from a shell of that action."""
    found: dict[str, Any] = api.get(f"/jobs?origin=shell&action={action}&limit=1")["jobs"][0]
    return found


def test_run_from_a_shell_is_a_job_and_meets_those_of_the_service(
    api: Api, service: Service, lab: Lab, one: Host
) -> None:
    shell = Shell(lab, one, service)
    # So little memory that it never gets as far as to hear that it shall go down.
    made = api.create(host=one.name, memory=32)
    ref, vm = made["id"], made["domain"]
    code, said = shell.run("vm_start", name=vm)
    assert code == 0, said
    job = reported(api, "vm_start")
    wanted = {
        **{"origin": "shell", "status": "succeeded", "progress": 100, "changed": True},
        **{"vmId": ref, "host": one.name, "hosts": [one.name], "requestedBy": "bootstrap"},
        **{"playbook": "playbooks/vm_start.yml", "appliesAt": "now", "error": None},
    }
    assert {key: job[key] for key in wanted} == wanted
    assert job["command"].endswith(f"--limit {one.name} -e libvirt_domain_name={vm}")
    assert [change["field"] for change in job["changes"]] == ["state"]
    log = api.log(job["id"])
    assert "TASK [libvirt_domain : Start the VM]" in log
    assert f"changed: [{one.name}]" in log
    api.shows(vm, status="running")

    # The service is at it: who comes by hand is told so, and the service's list has that run too.
    stop = api.send("POST", f"/vms/{vm}/stop")["jobId"]
    with halted(one, stop):
        code, said = shell.run("vm_pause", name=vm, lock_timeout=1)
    assert code == 2, said
    assert f"cannot pause {vm}: {stop} (stop {vm}, process " in said
    job = reported(api, "vm_pause")
    assert (job["status"], job["vmId"]) == ("failed", ref)
    assert job["error"]["code"] == "OPERATION_IN_PROGRESS"
    api.failed(stop, "GUEST_NOT_RESPONDING")

    # Somebody waits for the guest by hand, and would for an hour: who cuts the power does not.
    with shell.running("vm_stop", name=vm, timeout=3600) as by_hand:
        with halted(one, "a run by"):
            wait_for("the run's step", lambda: reported(api, "vm_stop")["step"] == "Stopping", 60)
            half = reported(api, "vm_stop")
            off = api.send("POST", f"/vms/{vm}/stop", {"force": True})["jobId"]
            wait_for("the job", lambda: api.job(off)["step"] == "Cutting the power", 60)
            wait_for_force(one, off)
        assert (half["status"], half["step"]) == ("running", "Stopping")
        assert 0 < half["progress"] < 100
        said, _ = by_hand.communicate(timeout=300)
    assert f"cannot stop {vm}: {off} (stop {vm}, process " in said
    assert reported(api, "vm_stop")["error"]["code"] == "SUPERSEDED"
    assert api.succeeded(off)["changed"] is True
    api.shows(vm, status="stopped")
