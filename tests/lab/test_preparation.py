"""Lab tests: the role libvirt_host on hosts with odd networks and odd KVM."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from lab import Host, Lab
from tests.kvm import install_qemu
from tests.lab.plays import REPOSITORY
from tests.warm.hosts import warm_hosts

pytestmark = [pytest.mark.usefixtures("lab_machine"), pytest.mark.xdist_group("preparation")]

AUTO = {"name": "default", "cidr": "auto", "bridge": "virbr0", "forward": "nat"}
# As the distribution's package defines it: inactive.
PACKAGED = """<network><name>default</name><forward mode='nat'/><bridge name='virbr0'/>
<ip address='192.168.122.1' prefix='24'><dhcp><range start='192.168.122.2' end='192.168.122.254'/>
</dhcp></ip></network>"""


@pytest.fixture(scope="module")
def bare() -> Iterator[Lab]:
    with Lab(hosts=1, prepare=False) as running, warm_hosts(running):
        yield running


@dataclass
class Prepared:
    """What a run of host_prepare did and said."""

    code: int
    changed: int
    texts: list[str]

    def says(self, text: str) -> bool:
        """Whether a task printed this, as a message or as its failure."""
        return any(text in said for said in self.texts)


def prepare(lab: Lab, tags: str, **variables: Any) -> Prepared:
    """Run a part of playbooks/host_prepare.yml on the host."""
    done = subprocess.run(
        [
            str(Path(sys.executable).with_name("ansible-playbook")),
            *("playbooks/host_prepare.yml", "-i", str(lab.inventory), "--tags", tags),
            *("-e", json.dumps({f"libvirt_host_{key}": v for key, v in variables.items()})),
        ],
        cwd=REPOSITORY,
        env=os.environ | {"ANSIBLE_STDOUT_CALLBACK": "ansible.posix.json"},
        capture_output=True,
        text=True,
        check=False,
    )
    said = json.loads(done.stdout)
    results = [r for t in said["plays"][0]["tasks"] for r in t["hosts"].values()]
    texts = [str(result.get("msg", "")) for result in results]
    return Prepared(done.returncode, said["stats"]["lab-1"]["changed"], texts)


def address(host: Host) -> str:
    """The address of the network default, "" if it is not active."""
    active = host.run("virsh", "-q", "net-list", "--name").stdout.split()
    xml = host.run("virsh", "net-dumpxml", "default").stdout if "default" in active else ""
    return xml.partition("<ip address='")[2].partition("'")[0]


def test_default_network_moves_where_the_uplink_has_its_range(bare: Lab) -> None:
    host = bare.hosts[0]
    host.run("virsh", "-q", "net-define", "/dev/stdin", stdin=PACKAGED)
    host.run("ip", "address", "add", "192.168.122.77/24", "dev", "eth0")
    done = prepare(bare, "networks", networks=[AUTO])
    assert done.code == 0, done.texts
    assert done.says(
        "network default is 192.168.123.0/24, because 192.168.122.0/24 contains address"
        " 192.168.122.77/24 of eth0"
    )
    assert address(host) == "192.168.123.1"
    # Once active it stays, whatever the host gets: it is only said.
    host.run("ip", "address", "add", "192.168.123.77/24", "dev", "eth0")
    again = prepare(bare, "networks", networks=[AUTO])
    assert (again.code, again.changed) == (0, 0), again.texts
    assert again.says("network default hides what this host needs: 192.168.123.0/24 contains")
    assert address(host) == "192.168.123.1"
    refused = prepare(bare, "networks", networks=[AUTO | {"cidr": "192.168.122.0/24"}])
    assert refused.code == 2
    assert refused.says("cannot create network default: its range 192.168.122.0/24 contains")
    assert address(host) == "192.168.123.1"


def test_kvm_that_half_works_is_not_believed(bare: Lab, tmp_path: Path) -> None:
    host = bare.hosts[0]
    install_qemu(tmp_path, "half")
    program = (tmp_path / "qemu-system-x86_64").read_text()
    host.run("mount", "-t", "tmpfs", "tmpfs", "/usr/local/bin")
    host.run("sh", "-c", "cat > /usr/local/bin/qemu-system-x86_64", stdin=program)
    host.run("chmod", "755", "/usr/local/bin/qemu-system-x86_64")
    host.run("sh", "-c", "mkdir -p /etc/virtplay; touch /dev/kvm")
    try:
        done = prepare(bare, "acceleration")
    finally:
        host.run("umount", "/usr/local/bin")
        host.run("rm", "/dev/kvm")
    assert done.code == 0, done.texts
    noted = json.loads(host.run("cat", "/etc/virtplay/host.json").stdout)
    assert noted["virt_type"] == "qemu"
    if "was not tried" not in noted["reason"]:  # this machine has a kernel for a guest
        assert "KVM internal error. Suberror: 1" in noted["reason"]
    assert done.says(f"QEMU without KVM, slow: {noted['reason']}")
    assert host.run("pgrep", "-f", "virtplay-trial", check=False).stdout == ""
