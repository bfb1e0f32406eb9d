"""Acceptance tests: what a guest refuses is said; by hand it is the same as by API."""

from __future__ import annotations

import time

from lab import Lab
from lab.lab import Host
from tests.acceptance.guests import booted, in_guest, power
from tests.acceptance.service import STOP_TIMEOUT, Api
from tests.acceptance.shell import run_line
from tests.lab.locks import halted


def test_command_of_a_job_runs_as_it_is_written_and_the_list_follows(
    lab: Lab, api: Api, one: Host
) -> None:
    vm = api.create(
        host=one.name, name="{{ 7 * 7 }} 'quoted' \"twice\" $(id)", labels={"k": "{{ 1 + 1 }}"}
    )
    ref = vm["domain"]
    jobs = api.get(f"/jobs?vm={ref}")["jobs"]
    api.run("DELETE", f"/vms/{ref}")
    run_line(next(job["command"] for job in jobs if job["action"] == "vm_create"))
    # Found on the host, it is the machine that it was, down to its id.
    shown = api.shows(ref, name=vm["name"], labels=vm["labels"], status="stopped")
    assert shown["uuid"] == vm["uuid"]
    start = api.run("POST", f"/vms/{ref}/start")
    booted(one, ref)
    # And what nobody but a person has thought of.
    stop = f"ansible-playbook playbooks/vm_stop.yml -i {lab.inventory} --limit {one.name}"
    assert "changed=1" in run_line(f"{stop} -e libvirt_domain_name={ref}").stdout
    assert api.shows(ref, status="stopped")["ip"] is None
    assert "changed=0" in run_line(f"{stop} -e libvirt_domain_name={ref}").stdout
    assert "changed=1" in run_line(start["command"]).stdout
    api.shows(ref, status="running")


def test_guest_that_ignores_the_power_button_is_not_killed(api: Api, one: Host) -> None:
    vm = api.create(host=one.name, autoStart=True)
    booted(one, vm["domain"])
    # It still hears the button, but does nothing about it.
    deafen = 'for button in /etc/acpi/PWRF/*; do ln -sf /bin/true "$button"; done'
    in_guest(one, vm["domain"], "/bin/sh", "-c", deafen)
    began = time.monotonic()
    stop = api.send("POST", f"/vms/{vm['id']}/stop")
    job = api.failed(stop["jobId"], "GUEST_NOT_RESPONDING")
    assert time.monotonic() - began >= STOP_TIMEOUT
    assert "still running" in job["error"]["message"]
    assert power(one, vm["domain"]) == "running"
    assert api.vm(vm["id"])["status"] == "running"
    # Force does not wait until a restart gives up, nor does that start the guest again.
    restart = api.send("POST", f"/vms/{vm['id']}/restart")["jobId"]
    with halted(one, restart):
        pass  # it holds the VM's lock on the host, and waits for the guest
    api.run("POST", f"/vms/{vm['id']}/stop", {"force": True})
    assert power(one, vm["domain"]) == "shut off"
    job = api.job(restart)
    assert (job["status"], job["error"]["code"]) == ("cancelled", "SUPERSEDED")
    assert api.vm(vm["id"])["status"] == "stopped"
