"""Acceptance tests: what someone does on the host with virsh shows up, and is not undone."""

from __future__ import annotations

import json

from lab.lab import Host
from tests.acceptance.guests import POOL, domains, power
from tests.acceptance.service import BLANK, TWO_INTERVALS, Api, Json, wait_for

FOREIGN = """<domain type='qemu'>
  <name>old web server</name><title>{title}</title>
  <memory unit='MiB'>128</memory><vcpu>1</vcpu>
  <os><type arch='x86_64' machine='q35'>hvm</type></os>
  <features><acpi/></features>
  <devices>
    <disk type='file' device='disk'>
      <driver name='qemu' type='qcow2'/><source file='{disk}'/><target dev='vda' bus='virtio'/>
    </disk>
    <interface type='network'><source network='default'/><model type='virtio'/></interface>
  </devices>
</domain>"""


def test_list_follows_virsh(api: Api, one: Host) -> None:
    vm = api.create(host=one.name, **BLANK)
    ref = vm["domain"]

    one.run("virsh", "start", ref)
    shown = api.shows(ref, status="running")
    assert shown["startedAt"] is not None
    one.run("virsh", "suspend", ref)
    api.shows(ref, status="paused")
    one.run("virsh", "resume", ref)
    api.shows(ref, status="running")
    one.run("virsh", "desc", ref, "--title", "--live", "--config", "told by virsh")
    api.shows(ref, name="told by virsh")
    one.run("virsh", "destroy", ref)
    api.shows(ref, status="stopped", startedAt=None, ip=None)
    one.run("virsh", "setvcpus", ref, "2", "--config")
    api.shows(ref, cpu=2)

    # Removed there and defined again: gone from the list, then back as the same machine.
    xml = one.run("virsh", "dumpxml", "--inactive", ref).stdout
    one.run("virsh", "undefine", ref)
    api.gone(ref)
    one.run("virsh", "define", "/dev/stdin", stdin=xml)

    def back() -> Json | None:
        return next((v for v in api.vms().values() if v["uuid"] == vm["uuid"]), None)

    again = wait_for("the VM's return", back, TWO_INTERVALS)
    assert again["id"] == vm["id"]
    assert again["template"] == "blank"
    api.run("POST", f"/vms/{ref}/start")
    assert power(one, ref) == "running"
    # A QEMU that dies is a machine that is off.
    one.run("sh", "-c", f"kill -9 $(cat /run/libvirt/qemu/{ref}.pid)")
    api.shows(ref, status="stopped")


def test_foreign_domain_is_found_led_and_keeps_its_disk(api: Api, one: Host) -> None:
    manifest = json.loads(one.run("cat", "/var/lib/libvirt/templates/micro.json").stdout)
    disk = f"{POOL}/somebody's disk.qcow2"
    one.run("cp", f"/var/lib/libvirt/templates/{manifest['file']}", disk)
    xml = FOREIGN.format(title="Bought &amp; old", disk=disk.replace("'", "&apos;"))
    one.run("virsh", "define", "/dev/stdin", stdin=xml)
    try:

        def found() -> Json | None:
            return next((v for v in api.vms().values() if v["name"] == "Bought & old"), None)

        vm = wait_for("the foreign domain in the list", found, TWO_INTERVALS)
        assert vm["id"].startswith("vm-")
        assert (vm["host"], vm["status"], vm["cpu"], vm["memory"]) == (one.name, "stopped", 1, 128)
        api.run("POST", f"/vms/{vm['id']}/start")
        assert power(one, "old web server") == "running"
        wait_for("its address", lambda: api.vm(vm["id"])["ip"], 60)
        api.run("POST", f"/vms/{vm['id']}/pause")
        api.run("POST", f"/vms/{vm['id']}/resume")
        job = api.run("PUT", f"/vms/{vm['id']}", {"name": "Bought & new", "labels": {"a": "b"}})
        assert job["appliesAt"] == "now"
        shown = api.shows(vm["id"], name="Bought & new", labels={"a": "b"})
        assert shown["uuid"] == vm["uuid"]
        api.run("POST", f"/vms/{vm['id']}/stop")
        assert power(one, "old web server") == "shut off"
        api.run("DELETE", f"/vms/{vm['id']}")
        # A disk that we did not make may be somebody else's, too: it stays.
        assert "old web server" not in domains(one)
        one.run("qemu-img", "check", disk)
    finally:
        one.run("virsh", "destroy", "old web server", check=False)
        one.run("virsh", "undefine", "old web server", check=False)
        one.run("rm", "-f", disk)
        one.run("virsh", "pool-refresh", "default")


def test_host_says_what_it_is_and_when_it_was_seen(api: Api, lab: object) -> None:
    hosts = api.get("/hosts")["hosts"]
    assert [host["name"] for host in hosts] == ["lab-1", "lab-2"]
    for host in hosts:
        assert host["status"] == "ready"
        assert host["virtType"] == "qemu"
        assert host["virtReason"]
        assert host["versions"]["libvirt"].count(".") == 2
        assert host["versions"]["qemu"]
        assert {"default", "templates"} <= {pool["name"] for pool in host["pools"]}
    first = api.host("lab-1")["observedAt"]
    wait_for("another look", lambda: api.host("lab-1")["observedAt"] > first, TWO_INTERVALS)
