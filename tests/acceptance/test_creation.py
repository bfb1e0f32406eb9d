"""Acceptance tests: the ways in which a VM can be asked for."""

from __future__ import annotations

import ipaddress

from lab.lab import Host
from tests.acceptance.conftest import BRIDGE
from tests.acceptance.guests import booted, domain_xml, networked, power, traces
from tests.acceptance.service import BLANK, MICRO, TWO_INTERVALS, Api, wait_for


def test_start_right_behind_create_runs_after_it(api: Api, one: Host) -> None:
    made = api.send("POST", "/vms", {"name": "both", "host": one.name, **BLANK})
    start = api.send("POST", f"/vms/{made['id']}/start")
    error = api.refused(409, "OPERATION_IN_PROGRESS", "POST", f"/vms/{made['id']}/start")
    assert error["details"]["jobId"] == start["jobId"]
    error = api.refused(409, "OPERATION_IN_PROGRESS", "POST", f"/vms/{made['id']}/stop")
    assert error["details"]["jobId"] == made["jobId"]
    first = api.succeeded(made["jobId"])
    second = api.succeeded(start["jobId"])
    assert second["startedAt"] >= first["finishedAt"]
    assert api.vm(made["id"])["status"] == "running"
    assert power(one, api.vm(made["id"])["domain"]) == "running"


def test_fixed_address_on_nat_network_is_what_the_guest_gets(api: Api, one: Host) -> None:
    before = traces(one)
    address = "203.0.113.77"
    vm = api.create(host=one.name, autoStart=True, network={"ip": address})
    wait_for("the address", lambda: api.vm(vm["id"])["ip"] == address, 60)
    networked(one, vm["domain"], address)
    # The same address once more is refused, and leaves nothing.
    again = api.send("POST", "/vms", {"name": "x", "host": one.name, "network": {"ip": address},
                                      **MICRO})  # fmt: skip
    job = api.failed(again["jobId"], "VALIDATION_ERROR")
    assert address in job["error"]["message"]
    api.run("DELETE", f"/vms/{again['id']}")
    api.run("DELETE", f"/vms/{vm['id']}?force=true")
    assert traces(one) == before


def test_full_clone_stands_alone_and_starts_by_itself(api: Api, one: Host) -> None:
    linked, full = api.create_all(
        {"host": one.name, "clone": "linked", **BLANK},
        {"host": one.name, "clone": "full", "autoStart": True, **BLANK},
    )
    backing = {}
    for vm in (linked, full):
        path = domain_xml(one, vm["domain"]).find("devices/disk/source").get("file")
        backing[vm["id"]] = "backing file:" in one.run("qemu-img", "info", "-U", path).stdout
    assert backing == {linked["id"]: True, full["id"]: False}
    assert [vm["status"] for vm in (linked, full)] == ["stopped", "running"]
    for vm, word in ((linked, "disable"), (full, "enable")):
        assert f"Autostart:      {word}" in one.run("virsh", "dominfo", vm["domain"]).stdout


def test_chosen_host_gets_the_vm(api: Api, one: Host, two: Host) -> None:
    hosts = (one, two)
    vms = api.create_all(*({"host": host.name} for host in hosts))
    for vm, host in zip(vms, hosts, strict=True):
        assert vm["host"] == host.name
        assert power(host, vm["domain"]) == "shut off"
    body = {"name": "x", "host": "lab-9", **MICRO}
    error = api.refused(404, "HOST_NOT_FOUND", "POST", "/vms", body)
    assert "lab-9" in error["message"]


def test_bridge_is_found_by_placement_and_carries_the_fixed_address(
    api: Api, two: Host, bridge_network: ipaddress.IPv4Network
) -> None:
    address = f"{bridge_network[9]}/{bridge_network.prefixlen}"
    network = {"type": "bridge", "bridge": BRIDGE, "ip": address}
    vm = api.create(network=network, autoStart=True)
    assert vm["host"] == two.name, "only this host has the bridge"
    networked(two, vm["domain"], address)
    wait_for("the address", lambda: api.vm(vm["id"])["ip"] == str(bridge_network[9]), TWO_INTERVALS)


def test_unknown_bridge_or_network_is_refused_with_its_field(api: Api, one: Host) -> None:
    before = api.vms()
    for kind, name in (("bridge", "br-none"), ("network", "none")):
        body = {"name": "x", **MICRO, "network": {"type": kind, kind: name}}
        error = api.refused(400, "VALIDATION_ERROR", "POST", "/vms", body)
        assert error["details"]["fields"][0]["field"] == f"network.{kind}"
        assert name in error["message"]
        api.refused(400, "VALIDATION_ERROR", "POST", "/vms", {**body, "host": one.name})
    assert api.vms() == before


def test_template_comes_by_url_and_checksum(api: Api, one: Host) -> None:
    vm = api.create(host=one.name, template="downloaded", autoStart=True, seconds=120)
    booted(one, vm["domain"])

    def ready() -> bool:
        listed = {t["id"]: t for t in api.get("/templates")["templates"]}
        assert listed["downloaded"]["source"].endswith("/good.qcow2")
        hosts = {host["host"]: host["ready"] for host in listed["downloaded"]["hosts"]}
        return hosts == {"lab-1": True, "lab-2": False}

    wait_for("the template at its host", ready, TWO_INTERVALS)


def test_nothing_wrong_is_made(api: Api, one: Host) -> None:
    before, listed = traces(one), api.vms()
    body = {"name": "a\nb", "template": "micro", "cpu": "2", "memory": 1.5, "disk": 0, "colour": 1}
    error = api.refused(400, "VALIDATION_ERROR", "POST", "/vms", body)
    fields = {fault["field"] for fault in error["details"]["fields"]}
    assert fields == {"name", "cpu", "memory", "disk", "colour"}
    api.refused(404, "TEMPLATE_NOT_FOUND", "POST", "/vms",
                {"name": "x", **MICRO, "template": "none"})  # fmt: skip
    api.refused(400, "VALIDATION_ERROR", "GET", "/vms?page=0")
    assert api.vms() == listed
    assert traces(one) == before
