"""Benchmarks: playbooks/vms.yml beside community.libvirt's modules.

A hundred stopped VMs with linked disks, once created and once left as they are. The other playbook
does the same with one call of virt_volume and one of virt for each VM.
"""

import re
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from benchmarks.measuring import Figure, play
from lab.lab import Host, Lab

VMS = 100
HOSTS = (4, 10)
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
        # Else each run gives the card another address:
        # https://github.com/ansible-collections/community.libvirt/issues/186
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


def bench(*, quick: bool) -> Iterator[Figure]:
    """Seconds of the first and the second run each way, and what ran on hosts for each VM."""
    vms = 4 if quick else VMS
    for hosts in (1,) if quick else HOSTS:
        with (
            Lab(hosts=hosts) as lab,
            tempfile.TemporaryDirectory(prefix="virtplay-vms-") as place,
        ):
            declared, community = Path(place) / "vms.yml", Path(place) / "community.yml"
            declared.write_text(yaml.safe_dump(declare(lab.hosts, vms)))
            community.write_text(COMMUNITY)
            ours = measure(lab, "vms", declared, vms)
            theirs = measure(lab, community, declared, vms)
        for run, seconds, tasks in ours:
            _, their_seconds, their_tasks = theirs.pop(0)
            yield {
                "bench": f"vms over {hosts} hosts, {run} run",
                "vms": vms,
                "vms_yml_s": seconds,
                "vms_yml_tasks_per_vm": tasks,
                "community_s": their_seconds,
                "community_tasks_per_vm": their_tasks,
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


def measure(
    lab: Lab, playbook: Path | str, declared: Path, vms: int
) -> list[tuple[str, float, float]]:
    """Create the VMs, do it again, and delete them: of each run name, seconds, tasks per VM."""
    figures = []
    for run in ("first", "second"):
        began = time.monotonic()
        output = play(playbook, "-i", str(lab.inventory), "-i", str(declared))
        seconds = time.monotonic() - began
        figures.append((run, round(seconds, 2), round(len(EXECUTED.findall(output)) / vms, 2)))
        changed = sum(map(int, re.findall(r"changed=(\d+)", output)))
        if (run == "first") != bool(changed):
            raise RuntimeError(f"{playbook}, {run} run: {changed} tasks changed something")
    made = 0
    for host in lab.hosts:
        made += len(host.run("virsh", "-q", "list", "--all", "--name").stdout.split())
        host.run("sh", "-c", EMPTY)
    if made != vms:
        raise RuntimeError(f"{playbook} has created {made} VMs of {vms}")
    return figures
