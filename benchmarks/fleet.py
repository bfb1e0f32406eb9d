"""Measures playbooks/vms.yml beside community.libvirt's modules: `python -m benchmarks_fleet`.

A hundred stopped VMs with linked disks over four hosts (`--vms`, `--hosts`), once made and once
left as they are. The other playbook makes the same with one call of virt_volume and one of virt for
each VM.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import yaml

from lab.lab import Host, Lab

ROOT = Path(__file__).parents[1]
VMS = 100
HOSTS = 4
MEMORY_MEBIBYTES = 128
DISK_GIBIBYTES = 1
EXECUTED = re.compile(r"^(ok|changed|failed|fatal): \[", re.M)
"""A line of Ansible's for each task, or item of a loop, that ran on a host."""

COMMUNITY = f"""
- name: Make VMs with the modules of community.libvirt
  hosts: hypervisors
  gather_facts: false
  tasks:
    - name: Make the disks
      community.libvirt.virt_volume:
        state: present
        pool: default
        xml: |
          <volume>
            <name>{{{{ vm.name }}}}.qcow2</name>
            <capacity unit='GiB'>{DISK_GIBIBYTES}</capacity>
            <target><format type='qcow2'/></target>
            <backingStore><path>{{{{ template }}}}</path><format type='qcow2'/></backingStore>
          </volume>
      loop: "{{{{ libvirt_domain_vms }}}}"
      loop_control: {{loop_var: vm, label: "{{{{ vm.name }}}}"}}
    - name: Define the VMs
      community.libvirt.virt:
        command: define
        # Without it each run gives the card another address.
        mutate_flags: [ADD_UUID, ADD_MAC_ADDRESSES_FUZZY]
        xml: |
          <domain type='qemu'>
            <name>{{{{ vm.name }}}}</name>
            <memory unit='MiB'>{MEMORY_MEBIBYTES}</memory>
            <vcpu>1</vcpu>
            <os><type arch='x86_64' machine='q35'>hvm</type></os>
            <features><acpi/><apic/></features>
            <devices>
              <disk type='file' device='disk'>
                <driver name='qemu' type='qcow2'/>
                <source file='/var/lib/libvirt/images/{{{{ vm.name }}}}.qcow2'/>
                <target dev='vda' bus='virtio'/>
              </disk>
              <interface type='network'>
                <source network='default'/><model type='virtio'/>
              </interface>
              <serial type='pty'/>
              <graphics type='vnc' autoport='yes' listen='127.0.0.1'/>
            </devices>
          </domain>
      loop: "{{{{ libvirt_domain_vms }}}}"
      loop_control: {{loop_var: vm, label: "{{{{ vm.name }}}}"}}
"""

# What a way has made, so that the other one finds an empty host.
EMPTY = """
for name in $(virsh -q list --all --name); do virsh -q undefine "$name"; done
for path in $(virsh -q vol-list default | awk '{print $2}'); do virsh -q vol-delete "$path"; done
"""


def main() -> int:
    """Print the figures of one comparison."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--vms", type=int, default=VMS, help=f"default {VMS}")
    parser.add_argument("--hosts", type=int, default=HOSTS, help=f"default {HOSTS}")
    asked = parser.parse_args()
    print(json.dumps(bench_fleet(asked.vms, asked.hosts)))
    return 0


def bench_fleet(vms: int = VMS, hosts: int = HOSTS) -> dict[str, Any]:
    """Seconds of the first and the second run each way, and what ran on hosts for each VM."""
    with Lab(hosts=hosts) as lab, tempfile.TemporaryDirectory(prefix="virtplay-fleet-") as place:
        declared, community = Path(place) / "vms.yml", Path(place) / "community.yml"
        declared.write_text(yaml.safe_dump(declare(lab.hosts, vms)))
        community.write_text(COMMUNITY)
        ours = measure(lab, ROOT / "playbooks/vms.yml", declared, vms)
        theirs = measure(lab, community, declared, vms)
    return {
        "bench": "fleet",
        "vms": vms,
        "hosts": hosts,
        **{f"vms_yml_{key}": value for key, value in ours.items()},
        **{f"community_{key}": value for key, value in theirs.items()},
        "first_ratio": round(ours["first_s"] / theirs["first_s"], 3),
        "second_ratio": round(ours["second_s"] / theirs["second_s"], 3),
    }


def declare(hosts: list[Host], vms: int) -> dict[str, Any]:
    """The inventory that declares so many VMs, spread evenly over the hosts."""
    template = hosts[0].run("sh", "-c", "ls /var/lib/libvirt/templates/micro-*.qcow2").stdout
    defaults = {
        "state": "stopped",
        "template": "micro",
        "vcpus": 1,
        "memory": MEMORY_MEBIBYTES,
        "disk": DISK_GIBIBYTES,
    }
    lists = {
        host.name: {
            "libvirt_domain_vms": [
                {"name": f"vm-{number:03}"} for number in range(vms) if number % len(hosts) == place
            ]
        }
        for place, host in enumerate(hosts)
    }
    variables = {"libvirt_domain_vms_defaults": defaults, "template": template.split()[0]}
    return {"hypervisors": {"vars": variables, "hosts": lists}}


def measure(lab: Lab, playbook: Path, declared: Path, vms: int) -> dict[str, float]:
    """Make the VMs, do it again, and take them away."""
    figures: dict[str, float] = {}
    for turn in ("first", "second"):
        started = time.monotonic()
        output = play(lab, playbook, declared)
        figures[f"{turn}_s"] = round(time.monotonic() - started, 2)
        figures[f"{turn}_tasks_per_vm"] = round(len(EXECUTED.findall(output)) / vms, 2)
        changed = sum(map(int, re.findall(r"changed=(\d+)", output)))
        if (turn == "first") != bool(changed):
            raise RuntimeError(f"{playbook.name}, {turn} run: {changed} tasks changed something")
    made = 0
    for host in lab.hosts:
        made += len(host.run("virsh", "-q", "list", "--all", "--name").stdout.split())
        host.run("sh", "-c", EMPTY)
    if made != vms:
        raise RuntimeError(f"{playbook.name} has made {made} VMs of {vms}")
    return figures


def play(lab: Lab, playbook: Path, declared: Path) -> str:
    """Run a playbook on all hosts of the lab and return what it says."""
    program = str(Path(sys.executable).with_name("ansible-playbook"))
    done = subprocess.run(
        [program, str(playbook), "-i", str(lab.inventory), "-i", str(declared)],
        cwd=ROOT,
        env=os.environ | {"ANSIBLE_NOCOLOR": "1", "ANSIBLE_DISPLAY_SKIPPED_HOSTS": "0"},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"{playbook.name} failed: {done.stdout[-2000:]}{done.stderr[-500:]}")
    return done.stdout


if __name__ == "__main__":
    sys.exit(main())
