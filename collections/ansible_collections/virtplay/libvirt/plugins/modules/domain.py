#!/usr/bin/python
# Copyright: Virtplay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Brings one libvirt domain to the state asked for (module `domain`)."""

from __future__ import annotations

DOCUMENTATION = r"""
module: domain
short_description: Make, change, start, stop and remove one libvirt domain
version_added: "0.1.0"
description:
  - Brings one domain of a KVM or QEMU host to the state asked for.
  - Only what is set is compared. A domain is changed in place and never made anew, so that its
    UUID, MAC addresses and disks survive every change.
  - CPUs, memory, disk size, labels and the network of an interface change while the guest runs
    where libvirt can do so, everything else at the next boot. The result says which.
  - A creation that fails is undone.
author:
  - Virtplay contributors (@virtplay)
extends_documentation_fragment:
  - virtplay.libvirt.connection
  - virtplay.libvirt.domain
  - virtplay.libvirt.lock
  - virtplay.libvirt.lock.generation
options:
  name:
    description:
      - Name of the domain. The domain is looked up by it when O(uuid) is not given.
      - The name of a new domain is 1 to 64 letters, digits and C(._-).
    type: str
  state:
    description:
      - V(present) makes or changes the domain and leaves its power alone.
      - V(absent) removes the domain, its disks and its address reservations.
      - V(running) makes it run (from V(stopped) or V(paused)), after making or changing it when
        the arguments for that are given.
      - V(stopped) asks the guest to shut down, or with O(force) switches it off. A domain that is
        not there is made and not started, when the arguments for that are given.
      - V(restarted) stops and starts it, so that changes waiting for the next boot take effect.
      - V(paused) and V(resumed) stop and go on with the guest's CPUs.
    type: str
    choices: [present, absent, running, stopped, restarted, paused, resumed]
    default: present
attributes:
  diff_mode:
    description:
      - The diff lists every change in words, with when it takes effect (live, at next boot, at
        once for what does not run) and what it destroys. The domain XML for the next boot follows
        where it differs. What a new guest is told through O(seed) is never shown.
    support: full
"""

EXAMPLES = r"""
- name: Make a domain from a template and start it
  virtplay.libvirt.domain:
    name: vm-001
    title: Web server
    state: running
    vcpus: 2
    memory: 2048
    disks:
      - target: vda
        size: 20
        template: debian12
    interfaces:
      - type: network
        source: default
    seed:
      ssh_keys:
        - ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ0 admin@example.org

- name: Make a domain and leave it stopped
  virtplay.libvirt.domain:
    name: vm-002
    state: present
    vcpus: 1
    memory: 512
    disks:
      - target: vda
        template: micro

- name: Grow a domain, live where that works
  virtplay.libvirt.domain:
    name: vm-001
    state: present
    vcpus: 4
    memory: 4096

- name: Shut a guest down, within two minutes
  virtplay.libvirt.domain:
    name: vm-001
    state: stopped
    timeout: 120

- name: Restart a guest that does not answer
  virtplay.libvirt.domain:
    name: vm-001
    state: restarted
    force: true

- name: Pause a guest
  virtplay.libvirt.domain:
    name: vm-001
    state: paused

- name: Let it go on
  virtplay.libvirt.domain:
    name: vm-001
    state: resumed

- name: Remove a domain and keep its disks
  virtplay.libvirt.domain:
    name: vm-001
    state: absent
    force: true
    keep_disks: true
"""

RETURN = r"""
domain:
  description:
    - The domain as it is now, in check mode as it would be. Null when it is gone.
    - RV(domain.pending) has the values that the next boot brings, and is there only with such.
  returned: success
  type: dict
  sample:
    uuid: 5f3c1a52-8d1e-8c3b-9c1a-0e6a9d2b7f10
    name: vm-001
    title: Web server
    description: null
    state: running
    vcpus: 2
    vcpus_max: 8
    memory: 2048
    memory_max: 2048
    pending: {memory: 4096, memory_max: 4096}
    autostart: false
    firmware: bios
    virt_type: kvm
    machine: pc-q35-7.2
    disks:
      - target: vda
        path: /var/lib/libvirt/images/5f3c1a52-8d1e-8c3b-9c1a-0e6a9d2b7f10-vda.qcow2
        size: 20.0
        capacity_bytes: 21474836480
        allocation_bytes: 200704
        backing: /var/lib/libvirt/templates/debian12-0123456789ab.qcow2
    interfaces:
      - mac: 52:9a:3f:00:1b:c4
        type: network
        source: default
        model: virtio
        target: vnet0
    graphics: {type: vnc, host: 127.0.0.1, port: 5900}
    metadata:
      id: vm-001
      job: job-000001
      generation: 1
      template: debian12
      os: debian12
      labels: {}
    started_at: "2026-11-22T13:30:00.000000Z"
changes:
  description: Every field that differs, and when and how it changes.
  returned: success
  type: list
  elements: dict
  sample:
    - field: vcpus
      before: 2
      after: 4
      applies: live
      destroys: false
applies_at:
  description: When all changes are in effect, V(now) or V(next_boot). Null without a change.
  returned: success
  type: str
  sample: now
waited_seconds:
  description: How long another run held the domain's lock, in seconds.
  returned: success, not in check mode
  type: float
  sample: 2.4
waited_for:
  description: Who held it, null when nobody did.
  returned: success, not in check mode
  type: str
  sample: job-000007 (stop vm-001, process 4711, since 12:00:03 UTC)
code:
  description: What kind of failure it was.
  returned: failure
  type: str
  sample: VM_ALREADY_STOPPED
"""

from functools import partial
from typing import Any

from ansible_collections.virtplay.libvirt.plugins.module_utils.domain.arguments import ARGUMENTS
from ansible_collections.virtplay.libvirt.plugins.module_utils.domain.module import SeedModule
from ansible_collections.virtplay.libvirt.plugins.module_utils.domain.task import DomainTask
from ansible_collections.virtplay.libvirt.plugins.module_utils.failure import run_module
from ansible_collections.virtplay.libvirt.plugins.module_utils.host.failures import failure_of


def main() -> None:
    """Run the module."""
    module = SeedModule("seed", argument_spec=ARGUMENTS, required_one_of=[["uuid", "name"]])
    label = module.params["name"] or module.params["uuid"]
    prefix = f"cannot bring {label} to state {module.params['state']}"
    run_module(module, lambda: run(module), partial(failure_of, prefix=prefix))


def run(module: SeedModule) -> dict[str, Any]:
    """Return the module's result."""
    task = DomainTask(
        module.params, check_mode=module.check_mode, diff=module._diff, warn=module.warn
    )
    return task.run()


if __name__ == "__main__":
    main()
