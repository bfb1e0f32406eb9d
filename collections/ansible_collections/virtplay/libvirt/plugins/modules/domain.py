#!/usr/bin/python
# Copyright: Virtplay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Bring one libvirt domain to the requested state (module `domain`)."""

from __future__ import annotations

DOCUMENTATION = r"""
module: domain
short_description: Create, update, start, stop and delete one libvirt domain
version_added: "0.1.0"
description:
  - Brings one domain of a KVM or QEMU host to the requested state.
  - Compares only the options that are set. A domain is updated in place and never recreated, so
    it keeps its UUID, MAC addresses and disks.
  - CPUs, memory, disk size, labels and the network of an interface change while the domain is
    running, if libvirt supports it. All other changes take effect at the next boot. The result
    shows which is the case.
  - If the creation of a domain fails, it is undone.
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
      - Name of the domain. It identifies the domain if O(uuid) is not set.
      - The name of a new domain consists of 1 to 64 letters, digits and C(._-).
    type: str
  new_name:
    description:
      - The name that the domain is to have, 1 to 64 letters, digits and C(._-). A new domain is
        created with it.
      - libvirt renames stopped domains only, and none with snapshots, checkpoints, saved memory, or
        UEFI variables in a file of the old name. Such a domain keeps its name, with a warning.
      - The domain keeps its UUID, disks and seed. Its DHCP reservations get the new name.
    type: str
  templates:
    description:
      - Template → the C(spec_hash) that M(virtplay.libvirt.image) has stored if the template
        is the requested one. Only the creation of a domain from one of them compares.
      - If the host lacks a template of a new domain, or has another version of it, the module
        fails with C(TEMPLATE_NOT_FOUND) before it changes anything.
    type: dict
  state:
    description:
      - V(present) creates or updates the domain. It does not start or stop it.
      - V(absent) deletes the domain, its disks and its address reservations. A disk that another
        domain uses or is based on stays, with a warning.
      - V(running) starts a stopped domain or resumes a paused one. The domain is created or updated
        first if options for that are set. A domain whose memory libvirt has saved continues there.
      - V(stopped) shuts the guest down, or powers the domain off if O(force) is set. A domain that
        does not exist is created and not started if options for that are set.
      - V(restarted) stops and starts the domain, so that pending changes take effect. A transient
        domain, of which libvirt would keep nothing, is reset instead, which requires O(force). With
        the O(job) of an earlier run that died in the middle, only what is left is done.
      - V(paused) suspends the domain's CPUs, and V(resumed) resumes them.
    type: str
    choices: [present, absent, running, stopped, restarted, paused, resumed]
    default: present
attributes:
  diff_mode:
    description:
      - The diff describes every change, when it takes effect (live, at the next boot, or
        immediately for a stopped domain) and what data it destroys. For a new domain it lists all
        declared fields. The contents of O(seed) are never shown.
      - With C(-vv), the domain XML for the next boot follows if it differs.
    support: full
"""

EXAMPLES = r"""
- name: Create a domain from a template and start it
  virtplay.libvirt.domain:
    name: web-1
    title: Web server
    state: running
    vcpus: 2
    memory: 2048
    template: debian12
    disk: 20
    network:
      network: default
    labels:
      tier: web
    seed:
      ssh_keys:
        - ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ0 admin@example.org

- name: Create a domain with two disks and two interfaces, and do not start it
  virtplay.libvirt.domain:
    name: web-2
    state: present
    vcpus: 1
    memory: 512
    disks:
      - target: vda
        template: micro
      - target: vdb
        size: 100
    interfaces:
      - source: default
      - type: bridge
        source: br0

- name: Increase CPUs and memory of a domain, live if possible
  virtplay.libvirt.domain:
    name: web-1
    state: present
    vcpus: 4
    memory: 4096

- name: Rename a stopped domain
  virtplay.libvirt.domain:
    name: web-1
    new_name: shop-1
    title: Shop

- name: Shut down a domain within two minutes
  virtplay.libvirt.domain:
    name: web-1
    state: stopped
    timeout: 120

- name: Restart a domain whose guest does not respond
  virtplay.libvirt.domain:
    name: web-1
    state: restarted
    force: true

- name: Pause a domain
  virtplay.libvirt.domain:
    name: web-1
    state: paused

- name: Resume a domain
  virtplay.libvirt.domain:
    name: web-1
    state: resumed

- name: Delete a domain and keep its disks
  virtplay.libvirt.domain:
    name: web-1
    state: absent
    force: true
    keep_disks: true
"""

RETURN = r"""
domain:
  description:
    - The domain after the task, or in check mode as it would be. Null if it does not exist.
    - C(domain.disks) lists disks, without CD-ROMs and floppies. C(path) is the file or block device
      on the host. It is null for every other kind, and C(source) then describes the disk.
    - A size that is not known is absent. A block device has no C(allocation_bytes).
    - C(domain.pending) contains the values that take effect at the next boot. It is absent if
      there are none.
    - C(domain.state_reason) is the reason that libvirt gives for the state, for example V(user),
      V(io_error), V(shutdown), V(destroyed), V(crashed), V(saved) or V(unknown).
    - If C(domain.has_managed_save) is true, libvirt has saved the guest's memory (C(virsh
      managedsave)). The next start continues there, with the definition that was saved with it,
      which is the one shown. C(domain.persistent) is false for a transient domain.
  returned: success
  type: dict
  sample:
    uuid: 5f3c1a52-8d1e-8c3b-9c1a-0e6a9d2b7f10
    name: web-1
    title: Web server
    description: null
    state: running
    state_reason: booted
    has_managed_save: false
    persistent: true
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
        type: file
        device: disk
        format: qcow2
        read_only: false
        shareable: false
        source: null
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
    started_at: "2026-11-22T13:30:00.000Z"
changes:
  description: Every field that differs, with its values and when the change takes effect.
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
  description: When all changes are in effect, V(now) or V(next_boot). Null if nothing changes.
  returned: success
  type: str
  sample: now
waited_seconds:
  description: Time in seconds that this task waited for the domain's lock.
  returned: success, not in check mode
  type: float
  sample: 2.4
waited_for:
  description: The task that held the domain's lock. Null if this task did not wait.
  returned: success, not in check mode
  type: str
  sample: job-000007 (stop vm-001, process 4711, since 12:00:03 UTC)
code:
  description: Error code.
  returned: failure
  type: str
  sample: VM_ALREADY_STOPPED
missing_templates:
  description:
    - The templates of a new domain that the host lacks, or has in another version than
      O(templates).
  returned: failure with code TEMPLATE_NOT_FOUND; in check mode, if there are some
  type: list
  elements: str
  sample: [debian12]
seen_generation:
  description: The generation that the host has seen, which is later than O(generation).
  returned: failure with code STALE_GENERATION
  type: int
  sample: 7
"""

from functools import partial
from typing import Any

from ansible_collections.virtplay.libvirt.plugins.module_utils.domain.arguments import (
    ARGUMENTS,
    EITHER,
)
from ansible_collections.virtplay.libvirt.plugins.module_utils.domain.module import SeedModule
from ansible_collections.virtplay.libvirt.plugins.module_utils.domain.task import DomainTask
from ansible_collections.virtplay.libvirt.plugins.module_utils.failure import run_module
from ansible_collections.virtplay.libvirt.plugins.module_utils.host.failures import failure_of
from ansible_collections.virtplay.libvirt.plugins.module_utils.host.python import (
    require_libraries,
)


def main() -> None:
    """Run the module."""
    module = SeedModule(
        "seed",
        # Not of the module `domains`: its purge goes by the names of its list.
        argument_spec={**ARGUMENTS, "new_name": {"type": "str"}, "templates": {"type": "dict"}},
        required_one_of=[["uuid", "name"]],
        mutually_exclusive=EITHER,
    )
    require_libraries(module)
    label = module.params["name"] or module.params["uuid"]
    prefix = f"cannot bring {label} to state {module.params['state']}"
    run_module(module, lambda: run(module), partial(failure_of, prefix=prefix))


def run(module: SeedModule) -> dict[str, Any]:
    """Return the module's result."""
    task = DomainTask(
        module.params,
        check_mode=module.check_mode,
        diff=module._diff,
        warn=module.warn,
        verbosity=module._verbosity,
    )
    return task.run()


if __name__ == "__main__":
    main()
