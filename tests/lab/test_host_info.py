"""Lab tests: an observation ends in time and is complete, whoever does not answer."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from lab import Host, Lab
from tests.lab.conftest import Make
from tests.lab.modules import run_module

pytestmark = [pytest.mark.lab, pytest.mark.usefixtures("lab_machine")]

REPOSITORY = Path(__file__).resolve().parents[2]
# What hangs here never answers, so that an observation which ends has kept to it.
TIMEOUT = 8
DOMAIN = """<domain type='qemu'><name>{name}</name><memory unit='MiB'>32</memory><vcpu>1</vcpu>
<os><type arch='x86_64' machine='q35'>hvm</type></os><devices>
<disk type='file' device='disk'><driver name='qemu' type='qcow2'/>
<source file='/var/lib/libvirt/images/{name}.qcow2'/><target dev='vda' bus='virtio'/></disk>
</devices></domain>"""
NOTE = "/run/virtplay/silent.json"
NAMES = ("one", "two", "three", "off")


@dataclass
class Observation:
    """What one run of the playbook gave: the task's result."""

    result: dict[str, Any]

    def domains(self) -> dict[str, dict[str, Any]]:
        return {domain["name"]: domain for domain in self.result["host_info"]["domains"]}

    def pool(self, name: str) -> dict[str, Any]:
        pools = {pool["name"]: pool for pool in self.result["host_info"]["pools"]}
        return dict(pools[name])

    def stuck(self) -> set[str]:
        return {name for name, domain in self.domains().items() if domain["stuck"]}

    def complete(self) -> set[str]:
        """Return the domains whose QEMU has answered for memory, CPU and disk."""
        return {
            name
            for name, domain in self.domains().items()
            if "rss_bytes" in domain["stats"]["balloon"]
            and domain["stats"]["vcpu"]
            and "read_requests" in domain["stats"]["block"][0]
        }


@pytest.fixture(scope="module")
def small_lab() -> Iterator[Lab]:
    with Lab(hosts=1, prepare=False) as running:
        host = running.hosts[0]
        for name in NAMES:
            image = f"/var/lib/libvirt/images/{name}.qcow2"
            host.run("qemu-img", "create", "-q", "-f", "qcow2", image, "10M")
            host.run("virsh", "-q", "define", "/dev/stdin", stdin=DOMAIN.format(name=name))
            if name != "off":
                host.run("virsh", "-q", "start", "--paused", name)
        yield running


def observe(lab: Lab, *arguments: str) -> Observation:
    """Run the playbook as a person would, over SSH."""
    done = subprocess.run(
        [
            str(Path(sys.executable).with_name("ansible-playbook")),
            "playbooks/host_observe.yml",
            *("-i", str(lab.inventory), "-e", f"libvirt_observe_timeout={TIMEOUT}", *arguments),
        ],
        cwd=REPOSITORY,
        env=os.environ | {"ANSIBLE_STDOUT_CALLBACK": "ansible.posix.json"},
        capture_output=True,
        text=True,
        check=False,
    )
    tasks = json.loads(done.stdout)["plays"][0]["tasks"]
    # A last task, for several rounds, is skipped.
    *_, result = (r for task in tasks for r in task["hosts"].values() if not r.get("skipped"))
    return Observation(result)


def test_all_domains_are_complete_and_off_ones_have_sizes(small_lab: Lab) -> None:
    # As a person would give it, the number is a text.
    seen = observe(small_lab, "--check", "-e", "libvirt_observe_filesystems_every=0")
    assert not seen.result["changed"]
    assert set(seen.domains()) == set(NAMES)
    assert seen.complete() == {"one", "two", "three"}
    off = seen.domains()["off"]
    assert (off["state"], off["started_at"], off["disks"][0]["capacity_bytes"]) == (
        "stopped",
        None,
        10 << 20,
    )
    assert seen.domains()["one"]["started_at"].endswith("Z")
    assert seen.result["host_info"]["host"]["uuid"] == small_lab.hosts[0].uuid


@pytest.fixture
def frozen(small_lab: Lab) -> Iterator[Host]:
    """Freeze QEMU "two" for the time of a test."""
    host = small_lab.hosts[0]
    host.freeze("two")
    yield host
    host.thaw("two")


def test_stuck_qemu_is_listed_and_blocks_nobody(small_lab: Lab, frozen: Host) -> None:
    for _ in ("asked for the first time", "known to be stuck"):
        seen = observe(small_lab)
        assert seen.stuck() == {"two"}
        assert seen.complete() == {"one", "three"}
        two = seen.domains()["two"]
        assert (two["state"], two["memory"]) == ("paused", 32)
        assert two["disks"][0]["capacity_bytes"] == 10 << 20
    frozen.thaw("two")
    while (seen := observe(small_lab)).stuck():
        pass
    assert seen.complete() == {"one", "two", "three"}


def test_qemu_that_hangs_without_looking_stopped_blocks_nobody(
    small_lab: Lab, frozen: Host
) -> None:
    # Without the process's number nothing warns the module, as with a QEMU caught in a loop.
    process = "/run/libvirt/qemu/two.pid"
    frozen.run("mv", process, f"{process}.hidden")
    try:
        seen = observe(small_lab)
    finally:
        frozen.run("mv", f"{process}.hidden", process)
    assert seen.stuck() == {"two"}
    assert seen.complete() == {"one", "three"}


@pytest.fixture
def dead_storage(small_lab: Lab) -> Iterator[str]:
    """A pool with the image of a stopped domain on a file system that does not respond."""
    host = small_lab.hosts[0]
    directory = "/srv/dead"
    host.run("mkdir", "-p", directory)
    host.run("virsh", "-q", "pool-create-as", "dead", "dir", "--target", directory)
    image = f"{directory}/image.qcow2"
    xml = DOMAIN.format(name="dead").replace("/var/lib/libvirt/images/dead.qcow2", image)
    host.run("virsh", "-q", "define", "/dev/stdin", stdin=xml)
    command = host.command("python3", str(REPOSITORY / "tests/lab/dead_storage.py"), directory)
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as server:
        assert server.stdin is not None
        assert server.stdout is not None
        assert server.stdout.readline() == "mounted\n"
        yield image
        server.stdin.close()
    host.run("virsh", "-q", "undefine", "dead")
    host.run("virsh", "-q", "pool-destroy", "dead")


def test_storage_that_does_not_respond_costs_only_its_own_figures(
    small_lab: Lab, dead_storage: str
) -> None:
    host = small_lab.hosts[0]
    # Storage that is not there any more is forgotten, and that which is there is asked again.
    host.run("mkdir", "-p", str(Path(NOTE).parent))
    host.run("tee", NOTE, stdin=json.dumps({"/srv/gone/image.qcow2": "1 1"}))
    for _ in ("asked for the first time", "known not to respond"):
        seen = observe(small_lab)
        assert seen.complete() == {"one", "two", "three"}
        dead, off = seen.domains()["dead"], seen.domains()["off"]
        assert (dead["state"], dead["disks"][0]["path"]) == ("stopped", dead_storage)
        assert "capacity_bytes" not in dead["disks"][0]
        assert off["disks"][0]["capacity_bytes"] == 10 << 20
        assert seen.pool("dead")["error"] == "its file system does not respond"
        assert "available_bytes" not in seen.pool("dead")
        assert {dead_storage, "/srv/dead"} <= noted(host)
    assert noted(host) == {dead_storage, "/srv/dead"}
    host.run("umount", "--lazy", "--force", "/srv/dead")
    while "error" in observe(small_lab).pool("dead"):
        pass
    # The process of the last observation may still be at work.
    while noted(host):
        pass


def noted(host: Host) -> set[str]:
    """Return what is noted not to respond."""
    return set(json.loads(host.run("cat", NOTE).stdout))


def test_libvirtd_that_hangs_fails_in_time(small_lab: Lab) -> None:
    host = small_lab.hosts[0]
    host.run("sh", "-c", 'kill -STOP "$(cat /run/libvirtd.pid)"')
    try:
        seen = observe(small_lab)
    finally:
        host.run("sh", "-c", 'kill -CONT "$(cat /run/libvirtd.pid)"')
    assert seen.result["code"] == "LIBVIRT_ERROR"
    assert seen.result["msg"].startswith("cannot observe the host at qemu:///system: libvirt did")


def test_libvirtd_that_is_down_is_said(small_lab: Lab) -> None:
    host = small_lab.hosts[0]
    host.kill_libvirtd()
    try:
        seen = observe(small_lab)
    finally:
        host.start_libvirtd()
    assert seen.result["code"] == "LIBVIRT_ERROR"
    assert seen.result["msg"].startswith("cannot connect to libvirt at qemu:///system: ")


def test_an_observation_waits_for_the_address_of_a_guest_that_starts(
    host: Host, identity: str, make: Make
) -> None:
    make("stopped")
    host.run("virsh", "-q", "start", identity)
    (first,) = await_address(host, identity)
    # The lease of a boot is no address of the next one, until the guest has asked for it again.
    host.run("virsh", "-q", "destroy", identity)
    before = expiry_of_leases(host)
    time.sleep(3)  # times of leases are whole seconds
    began = time.monotonic()
    host.run("virsh", "-q", "start", identity)
    for look in (addresses_of, await_address):
        found = look(host, identity)
        assert [address["ip"] for address in found] in ([], [first["ip"]])
        # After two minutes any lease is believed; a guest may take longer on a busy machine.
        believed = time.monotonic() - began < 100 and found and found[0]["source"] == "lease"
        assert not believed or expiry_of_leases(host)[first["ip"]] > before[first["ip"]]


def await_address(host: Host, identity: str) -> list[dict[str, str]]:
    """Observe the host as soon as a guest has its only address, and return that."""
    (address,) = addresses_of(host, identity, awaited=[identity], wait=600.0)
    assert address["ip"].startswith("203.0.113.")
    # The host may have heard from the guest before its lease is written.
    assert address["source"] in ("lease", "arp")
    return [address]


def addresses_of(host: Host, identity: str, **arguments: Any) -> list[dict[str, str]]:
    """Observe the host and return the addresses of a guest."""
    seen = run_module(host, "host_info", **arguments)["host_info"]["domains"]
    (found,) = (domain["addresses"] for domain in seen if domain["uuid"] == identity)
    return list(found)


def expiry_of_leases(host: Host) -> dict[str, int]:
    """Return when each lease of the default network expires, by address."""
    leases = json.loads(host.run("cat", "/var/lib/libvirt/dnsmasq/virbr0.status").stdout)
    return {lease["ip-address"]: lease["expiry-time"] for lease in leases}
