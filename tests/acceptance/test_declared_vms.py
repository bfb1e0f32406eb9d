"""Acceptance: playbooks/vms.yml over several hosts in batches, with what may go wrong there."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from lab import Lab
from lab.lab import Host
from tests.acceptance import guests

ROOT = Path(__file__).parents[2]
SUMMARY = re.compile(r"^SUMMARY[ \w]* \*+\n(.+)", re.M | re.S)
FOREIGN = """
<domain type='qemu'><name>fleet-foreign</name><memory unit='MiB'>64</memory>
<os><type arch='x86_64' machine='q35'>hvm</type></os></domain>
"""
REMOVE = """
for name in $(virsh -q list --all --name | grep ^fleet-); do
  virsh -q undefine "$name" --remove-all-storage
done
rm -f /tmp/foreign.xml
"""
DEFAULTS = {"state": "stopped", "template": "micro", "vcpus": 1, "memory": 64, "disk": 1}
NOWHERE = {"name": "fleet-bad", "network": {"network": "nowhere"}}


@dataclass
class Run:
    """One run of the playbook: its status, all that it says, and the lines of its summary."""

    status: int
    said: str
    summary: list[str] = field(init=False)

    def __post_init__(self) -> None:
        found = SUMMARY.findall(self.said)
        assert len(found) <= 1, "there is more than one summary"
        self.summary = found[0].strip().splitlines() if found else []

    def count(self, key: str) -> int:
        """Add up a number of Ansible's recap over all hosts."""
        return sum(map(int, re.findall(rf"\b{key}=(\d+)", self.said)))


class Fleet:
    """The lab's two hosts, one of which goes by two names, and a host that nobody answers at.

    In batches of two: first both hosts, then the other name and the lost one.
    """

    def __init__(self, lab: Lab, path: Path) -> None:
        self.one, self.two = lab.hosts[:2]
        self.path = path
        inventory = yaml.safe_load(lab.inventory.read_text())["hypervisors"]
        hosts = inventory["hosts"]
        hosts["again"] = dict(hosts[self.two.name])
        hosts["lost"] = {"ansible_host": "192.0.2.1", "ansible_timeout": 1}
        self.inventory = inventory
        self.declare({})

    def declare(self, vms: dict[str, list[dict[str, Any]]]) -> None:
        """Write the inventory anew, with the VMs of each host."""
        hosts = {
            name: {**values, "libvirt_domain_vms": vms.get(name, [])}
            for name, values in self.inventory["hosts"].items()
        }
        variables = {**self.inventory["vars"], "libvirt_domain_vms_defaults": DEFAULTS}
        group = {"hypervisors": {"vars": variables, "hosts": hosts}}
        self.path.write_text(yaml.safe_dump(group, sort_keys=False))

    def run(self, *options: str, callbacks: str | None = None, **values: Any) -> Run:
        """Run the playbook with options and role variables, which lack their prefix here."""
        extra = {f"libvirt_domain_{name}": value for name, value in values.items()}
        done = subprocess.run(
            [
                str(Path(sys.executable).with_name("ansible-playbook")),
                *("playbooks/vms.yml", "-i", str(self.path), "-e", json.dumps(extra), *options),
            ],
            cwd=ROOT,
            env=os.environ
            | {"ANSIBLE_NOCOLOR": "1"}
            | ({} if callbacks is None else {"ANSIBLE_CALLBACKS_ENABLED": callbacks}),
            capture_output=True,
            text=True,
            check=False,
        )
        return Run(done.returncode, done.stdout)

    def domains(self) -> tuple[set[str], set[str]]:
        """The domains of this test on both hosts."""
        found = [
            {name.removeprefix("fleet-") for name in guests.domains(host) if "fleet-" in name}
            for host in (self.one, self.two)
        ]
        return found[0], found[1]


def named(*names: str) -> list[dict[str, Any]]:
    """Declare VMs of these names."""
    return [{"name": f"fleet-{name}"} for name in names]


def define_foreign(host: Host) -> None:
    """Define a domain that is not Virtplay's."""
    host.run("sh", "-c", f'echo "{FOREIGN}" > /tmp/foreign.xml; virsh -q define /tmp/foreign.xml')


@pytest.fixture
def fleet(lab: Lab, tmp_path: Path) -> Iterator[Fleet]:
    """The hosts, which are afterwards as they were before."""
    fleet = Fleet(lab, tmp_path / "hosts.yml")
    before = [guests.traces(host) for host in (fleet.one, fleet.two)]
    yield fleet
    for host in (fleet.one, fleet.two):
        host.run("sh", "-c", REMOVE)  # what a test has left that broke off
    assert [guests.traces(host) for host in (fleet.one, fleet.two)] == before


def test_fleet_converges_in_batches_by_tags_and_limits(fleet: Fleet) -> None:
    one, two = fleet.one.name, fleet.two.name
    vms = {one: named("a", "b", "c"), two: [*named("d"), NOWHERE], "again": named("e")}
    fleet.declare({**vms, "lost": named("f")})

    # Two batches of hosts, calls for two VMs each; one VM fails and one host is lost.
    first = fleet.run(vms_serial=2, vms_batch=2)
    assert first.status
    assert first.said.count("PLAY [Apply the declared state of the VMs]") == 2
    assert "(item=fleet-a, fleet-b)" in first.said
    assert "(item=fleet-c)" in first.said
    assert (first.count("unreachable"), first.count("failed")) == (1, 1)
    assert first.summary == [
        f"{one}: 3 created (fleet-a, fleet-b, fleet-c)",
        f"{two}: 1 created (fleet-d), 1 failed (fleet-bad)",
        "again: 1 created (fleet-e)",
        "all: 5 created, 1 failed",
        "not reached: lost",
    ]
    assert fleet.domains() == ({"a", "b", "c"}, {"d", "e"})

    # What differs is now one VM; with this tag left out it is told of and not done.
    fleet.declare({one: [*named("a", "b"), {"name": "fleet-c", "vcpus": 2}], two: named("d")})
    looked = fleet.run("--limit", f"{one},{two}", "--skip-tags", "domain")
    assert (looked.status, looked.count("changed")) == (0, 0)
    assert looked.summary == [
        f"{one}: 2 unchanged, 1 not done (fleet-c)",
        f"{two}: 1 unchanged",
        "all: 3 unchanged, 1 not done",
    ]
    assert guests.domain_xml(fleet.one, "fleet-c").findtext("vcpu") == "8"
    assert guests.domain_xml(fleet.one, "fleet-c").find("vcpu").get("current") == "1"

    # With other callback plugins in the place of ours a task says it.
    done = fleet.run("--limit", one, "--tags", "domain", callbacks="virtplay.libvirt.report")
    assert (done.status, done.count("changed"), done.summary) == (0, 1, [])
    assert f"{one}: 1 changed (fleet-c), 2 unchanged" in done.said
    assert guests.domain_xml(fleet.one, "fleet-c").find("vcpu").get("current") == "2"

    # Purging takes ours alone, the other name's too.
    define_foreign(fleet.two)
    fleet.declare({})
    purged = fleet.run("--limit", f"{one},{two}", vms_purge=True)
    assert purged.status == 0
    assert purged.summary == [
        f"{one}: 3 removed (fleet-a, fleet-b, fleet-c)",
        f"{two}: 2 removed (fleet-d, fleet-e)",
        "all: 5 removed",
    ]
    assert fleet.domains() == (set(), {"foreign"})
    fleet.two.run("virsh", "-q", "undefine", "fleet-foreign")
