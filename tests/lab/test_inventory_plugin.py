"""The built collection on real hosts: a VM made with its playbook, listed by its inventory."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from lab import Host, Lab
from tests.acceptance.guests import agent, booted, in_guest
from tests.unit.collection.elsewhere import Elsewhere, install_collection

VM = "vp-inventory"
TOUCHED = "/tmp/vp-inventory-touched"
EVIL = f"{{{{ lookup('pipe', 'touch {TOUCHED}') }}}}"
# Somebody else's, of the same name as ours, and called as only an attacker would.
OTHER = f"""<domain type='qemu'><name>{VM}</name><title>{EVIL}</title><memory>65536</memory>
<metadata><vp:vm xmlns:vp='urn:virtplay:vm:1' id='x'><vp:label name='a'>{EVIL}</vp:label></vp:vm>
</metadata><os><type>hvm</type></os></domain>"""


VICTIM_MAC = "52:54:00:16:16:16"
CLAIM = f"""set -e; ip link set eth0 down; ip link set eth0 address {VICTIM_MAC}
ip link set eth0 up; ip addr add 203.0.113.240/24 dev eth0"""


@pytest.fixture
def other(lab: Lab) -> Iterator[Host]:
    host = lab.hosts[1]
    host.run("virsh", "-q", "define", "/dev/stdin", stdin=OTHER)
    yield host
    host.run("virsh", "undefine", VM, check=False)


@pytest.fixture
def victim(host: Host) -> Iterator[str]:
    """A running VM without a guest, and so without an address, on the host of ours."""
    name = "vp-victim"
    devices = f"""<devices><interface type='network'><mac address='{VICTIM_MAC}'/>
    <source network='default'/></interface></devices>"""
    xml = f"""<domain type='qemu'><name>{name}</name><memory>65536</memory>
    <os><type machine='q35'>hvm</type></os>{devices}</domain>"""
    host.run("virsh", "-q", "create", "--paused", "/dev/stdin", stdin=xml)
    yield name
    host.run("virsh", "destroy", name)


def listed(user: Elsewhere) -> tuple[dict[str, Any], str]:
    """The inventory as ansible-inventory prints it, and its warnings."""
    done = user.run("ansible-inventory", "-i", "libvirt.yml", "--list")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout), " ".join(done.stderr.split())


def test_vm_of_the_built_collection_is_in_its_inventory(
    lab: Lab, host: Host, other: Host, victim: str, identity: str, tmp_path: Path
) -> None:
    (tmp_path / "home").mkdir()
    user = install_collection(tmp_path / "home", tmp_path)
    values = {
        "name": VM,
        "uuid": identity,
        "template": "micro",
        "vcpus": 1,
        "memory": 128,
        "disk": 1,
        "state": "running",
    }
    extra = json.dumps({f"libvirt_domain_{key}": value for key, value in values.items()})
    made = user.run(
        *("ansible-playbook", "virtplay.libvirt.vm_create", "-i", str(lab.inventory)),
        *("--limit", host.name, "-e", extra),
    )
    assert made.returncode == 0, made.stdout

    gone = {"ansible_host": "127.0.0.1", "ansible_port": 1, "ansible_user": "root"}
    (user.home / "gone.yml").write_text(yaml.safe_dump({"hypervisors": {"hosts": {"gone": gone}}}))
    config = {
        "plugin": "virtplay.libvirt.libvirt",
        "inventory": [str(lab.inventory), "gone.yml"],
        "compose": {"shown": "libvirt_title | default('', true)"},
    }
    (user.home / "libvirt.yml").write_text(yaml.safe_dump(config))
    ours, theirs = f"{VM}@{host.name}", f"{VM}@{other.name}"
    deadline = time.monotonic() + 120
    while True:
        inventory, warnings = listed(user)
        variables = inventory["_meta"]["hostvars"]
        if "ansible_host" in variables[ours] or time.monotonic() > deadline:
            break
    assert variables[ours]["ansible_host"]["__ansible_unsafe"].startswith("203.0.113.")
    assert "ansible_host" not in variables[theirs]
    for group, name in {
        f"host_{host.name.replace('-', '_')}": ours,
        "status_running": ours,
        "template_micro": ours,
        "status_stopped": theirs,
        "libvirt_vms": theirs,
    }.items():
        assert name in inventory[group]["hosts"], group
    assert f"{VM} on {other.name} is listed as {theirs}" in warnings
    assert "the VMs of these hypervisors are not listed: gone (" in warnings

    said = user.run("ansible", theirs, "-i", "libvirt.yml", "-m", "debug", "-a", "var=shown")
    assert "lookup('pipe'" in said.stdout
    assert not Path(TOUCHED).exists()

    # A guest whose agent claims the card of another VM gives that VM no address.
    booted(host, identity)
    # Its agent is asked: a second card has no lease.
    card = ("network", "default", "--model", "virtio", "--live")
    host.run("virsh", "-q", "attach-interface", identity, *card)
    in_guest(host, identity, "/bin/sh", "-c", CLAIM)
    assert VICTIM_MAC in json.dumps(agent(host, identity, "guest-network-get-interfaces"))
    variables = listed(user)[0]["_meta"]["hostvars"]
    assert variables[ours]["ansible_host"]["__ansible_unsafe"].startswith("203.0.113.")
    assert "ansible_host" not in variables[victim]
    assert variables[victim]["libvirt_addresses"] == []
