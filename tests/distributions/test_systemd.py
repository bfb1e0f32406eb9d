"""Distributions: host_prepare on a bare machine of the release, with systemd."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
import yaml

from lab import Lab
from lab.directory import GUEST_NETWORK
from tests.distributions.plays import play
from tests.distributions.report import Row
from tests.installation.machine import Machine, MachineError, find_cgroups

NETWORK = {"name": "default", "cidr": GUEST_NETWORK, "bridge": "virbr0", "forward": "nat"}


@pytest.mark.usefixtures("lab_machine")
def test_bare_machine_with_systemd_becomes_a_hypervisor(
    release: str, row: Row, tmp_path: Path
) -> None:
    try:
        find_cgroups()
    except MachineError as error:
        pytest.fail(str(error), pytrace=False)
    with (
        Lab(hosts=1, prepare=False) as lab,  # its network
        Machine(tmp_path / "machine", lab.hosts[0].address, "hypervisor", release) as machine,
        row("`host_prepare` with systemd: check on a bare host, run, again, check; no failed unit"),
    ):
        inventory = tmp_path / "hosts.yml"
        host = {
            "ansible_host": machine.address,
            "ansible_user": "root",
            "ansible_python_interpreter": "/usr/bin/python3",
            "ansible_ssh_common_args": shlex.join(machine.ssh_options),
            "libvirt_host_networks": [NETWORK],
        }
        inventory.write_text(yaml.safe_dump({"hypervisors": {"hosts": {"kvm1": host}}}))
        assert f"VERSION_CODENAME={release}" in machine.run("cat", "/etc/os-release")
        assert machine.run("sh", "-c", "command -v virsh", check=False) == ""
        assert play(inventory, "kvm1", "host_prepare", "--check").changed > 0
        assert machine.run("sh", "-c", "command -v virsh", check=False) == ""
        assert play(inventory, "kvm1", "host_prepare").changed > 0
        assert play(inventory, "kvm1", "host_prepare").changed == 0
        assert play(inventory, "kvm1", "host_prepare", "--check").changed == 0
        assert machine.run("virsh", "net-list", "--name").split() == ["default"]
        assert sorted(machine.run("virsh", "pool-list", "--name").split()) == [
            "default",
            "templates",
        ]
        failed = machine.run("systemctl", "--failed", "--plain", "--no-legend")
        assert failed == ""
        assert machine.run("systemctl", "is-system-running").strip() == "running"
