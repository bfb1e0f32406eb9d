#!/usr/bin/python
# Copyright: Virtplay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Observe one host and all its domains in one call (module `host_info`)."""

from __future__ import annotations

DOCUMENTATION = r"""
module: host_info
short_description: Observe a hypervisor and all its domains in one call
version_added: 0.1.0
author:
  - Virtplay contributors (@virtplay)
description:
  - Returns capacity, versions, storage pools, networks, bridges and templates of a host, and all
    its domains with state, addresses and statistics.
  - A domain whose QEMU process does not respond never blocks the call. It is listed with
    O(ignore:stuck) set and with the values that libvirt has without QEMU. All other domains are
    complete.
  - Addresses come from the DHCP leases of libvirt's networks, or else from the guest agent, or else
    from the host's neighbour table. An agent is believed only for the interfaces of its own domain,
    leases and neighbours only for interfaces on the device of the host where they were observed. In
    the first two minutes after a boot, a lease or neighbour of before the boot is not believed.
  - Makes no changes. Check mode returns the same result.
options:
  uri:
    description: libvirt connection URI. libvirt must run on the host on which the module runs.
    type: str
    default: qemu:///system
  timeout:
    description:
      - Time limit in seconds for queries of QEMU monitors and guest agents.
      - The whole call ends at most two seconds later, plus O(startup_timeout) and O(wait).
    type: float
    default: 5
  startup_timeout:
    description:
      - Time limit in seconds, in addition to O(timeout), for libvirt itself to respond. After its
        own start libvirt probes QEMU first, which takes minutes where C(/dev/kvm) does not work.
    type: float
    default: 0
  templates_path:
    description: Directory of the templates and their manifests.
    type: path
    default: /var/lib/libvirt/templates
  filesystems:
    description:
      - Query the guest agents of running domains for the usage of their file systems. This costs
        one query per guest, so frequent observations can leave it out most of the time.
    type: bool
    default: true
  compressed:
    description:
      - Return RV(host_info_compressed) in place of RV(host_info). Ansible copies and converts each
        value of a result several times, so a host with hundreds of domains costs the controller
        much less as one text.
    type: bool
    default: false
  awaited:
    description: UUIDs of domains that have been started, for O(wait).
    type: list
    elements: str
    default: []
  wait:
    description:
      - Time in seconds that the module waits, before it observes the host, until one of the
        domains in O(awaited) has an IP address, or another running domain gets one.
      - It waits no longer if none of these domains can get one, because they are stopped or have no
        network card.
    type: float
    default: 0
requirements:
  - python >= 3.9
  - python3-libvirt
  - python3-lxml
attributes:
  check_mode:
    description: Makes no changes and returns the same result in check mode.
    support: full
  diff_mode:
    description: Makes no changes, so there is no diff.
    support: none
"""

EXAMPLES = r"""
- name: Observe the host and all its domains
  virtplay.libvirt.host_info:
  register: observed

- name: Show the domains whose QEMU process does not respond
  ansible.builtin.debug:
    msg: "{{ observed.host_info.domains | selectattr('stuck') | map(attribute='name') }}"

- name: Wait at most two seconds for guests that do not respond
  virtplay.libvirt.host_info:
    timeout: 2

- name: Observe the host as soon as a guest that was started has an address
  virtplay.libvirt.host_info:
    awaited: [0157c680-d8f0-4d2a-855a-94a165065017]
    wait: 60

- name: Observe a host with hundreds of domains as one text, for a program that reads it
  virtplay.libvirt.host_info:
    compressed: true
"""

RETURN = r"""
host_info_compressed:
  description: RV(host_info) as JSON in UTF-8, compressed by zlib (RFC 1950), in base64.
  returned: when O(compressed) is true
  type: str
  sample: eJyrVsrILy5RslKoVqiurQUAGV8EFA==
host_info:
  description:
    - The host, its resources and its domains. Values that libvirt does not report are absent.
  returned: when O(compressed) is false
  type: dict
  contains:
    host:
      description:
        - Identity, capacity and versions. Times are RFC 3339 in UTC. O(ignore:took_seconds) is the
          duration of the observation.
      type: dict
      returned: always
      sample:
        hostname: kvm1
        uuid: 0157c680-d8f0-4d2a-855a-94a165065017
        uri: qemu:///system
        arch: x86_64
        virt_type: kvm
        virt_reason: a guest ran under KVM
        cpus: 16
        cpu_model: AMD EPYC
        memory_bytes: 25276510208
        memory_free_bytes: 24575574016
        kernel: 6.1.0-25-amd64
        os: Debian GNU/Linux 12 (bookworm)
        libvirt_version: 9.0.0
        qemu_version: 7.2.22
        booted_at: "2026-11-22T13:21:00.000Z"
        uptime_seconds: 1141.25
        observed_at: "2026-11-22T13:40:01.250Z"
        took_seconds: 0.043
    pools:
      description:
        - Storage pools. The size of a directory pool is measured during the call.
        - A pool that cannot be measured has no sizes, but O(ignore:error), the reason.
      type: list
      elements: dict
      returned: always
      sample:
        - name: default
          type: dir
          path: /var/lib/libvirt/images
          active: true
          autostart: true
          capacity_bytes: 270553174016
          allocation_bytes: 25073971200
          available_bytes: 245479202816
    networks:
      description: Virtual networks. O(ignore:forward) is libvirt's mode, or V(isolated).
      type: list
      elements: dict
      returned: always
      sample:
        - name: default
          bridge: virbr0
          active: true
          autostart: true
          forward: nat
    bridges:
      description: Bridges of the host, without the bridges of libvirt's networks.
      type: list
      elements: str
      returned: always
      sample: [br0]
    templates:
      description: Templates that are ready to use.
      type: list
      elements: dict
      returned: always
      sample:
        - name: debian12
          file: debian12-0123456789ab.qcow2
          sha256: 0123456789ab0123456789ab0123456789ab0123456789ab0123456789ab0123
          os: debian12
          virtual_size_bytes: 2147483648
          created_at: "2026-11-22T13:30:00Z"
    warnings:
      description:
        - What could not be read, and is missing in the lists, and why; and that KVM has failed
          domains since it was tried.
      type: list
      elements: str
      returned: always
      sample: ["cannot read network lab: internal error"]
    domains:
      description:
        - All domains, each with the values that the module P(virtplay.libvirt.domain#module)
          returns. Domains that Virtplay did not create have no O(ignore:metadata).
        - C(pool) of a disk is the active storage pool whose directory contains it.
        - O(ignore:stats) of a stopped domain contains only the sizes of its disks.
        - O(ignore:disk_errors) has the disks whose errors made QEMU pause the guest, as target and
          error, if there are any.
        - O(ignore:restart_job) is the last job that has restarted the domain, null if the host
          remembers none.
        - O(ignore:stuck) is true if the QEMU process did not respond. O(ignore:unreadable) is the
          reason why the definition of a domain that Virtplay did not create could not be read.
        - O(ignore:interfaces) lists cards of all of libvirt's types. O(ignore:source) is a network,
          bridge, device or path, or null. O(ignore:virtual_port) is there for a card with one.
        - O(ignore:filesystems) lists the guest's writable file systems if its agent responded.
        - O(ignore:snapshots) lists the snapshots as the module
          P(virtplay.libvirt.snapshot#module) returns them, parents first.
      type: list
      elements: dict
      returned: always
      sample:
        - name: web-1
          uuid: 00001234-5000-0000-0000-000000000001
          title: web server
          description: null
          state: running
          state_reason: booted
          has_managed_save: false
          persistent: true
          stuck: false
          generation: 3
          restart_job: job-000001
          pending:
            memory: 1024
          autostart: true
          started_at: "2026-11-22T13:36:51.250Z"
          vcpus: 1
          vcpus_max: 8
          memory: 512
          memory_max: 1024
          firmware: bios
          virt_type: kvm
          machine: pc-q35-7.2
          snapshots:
            - name: before-upgrade
              title: Before the upgrade
              description: null
              origin: manual
              expires_at: null
              job: job-000007
              parent: null
              current: true
              has_memory: true
              state: running
              kind: internal
              size_bytes: 89478485
              frozen: true
              created_at: "2026-11-22T13:40:01Z"
          disks:
            - target: vda
              type: file
              device: disk
              format: qcow2
              read_only: false
              shareable: false
              source: null
              pool: default
              path: /var/lib/libvirt/images/00001234-5000-0000-0000-000000000001-vda.qcow2
              backing: /var/lib/libvirt/templates/debian12-0123456789ab.qcow2
              size: 20.0
              capacity_bytes: 21474836480
              allocation_bytes: 200704
          interfaces:
            - mac: "52:54:00:e4:4e:35"
              type: network
              source: default
              model: virtio
              target: vnet0
          addresses:
            - mac: "52:54:00:e4:4e:35"
              ip: 203.0.113.50
              source: lease
          filesystems:
            - device: vda1
              mountpoint: /
              type: ext4
              total_bytes: 20957446144
              used_bytes: 1503238553
          graphics:
            type: vnc
            host: 127.0.0.1
            port: 5900
          metadata:
            id: vm-001
            job: job-000001
            generation: 3
            template: debian12
            os: debian12
            labels:
              tier: web
          stats:
            cpu_time_ns: 710000000
            vcpu:
              - vcpu: 0
                state: 1
                time_ns: 400000000
                wait_ns: 0
                delay_ns: 37925747
            balloon:
              actual_bytes: 536870912
              maximum_bytes: 1073741824
              available_bytes: 507572224
              usable_bytes: 401604608
              unused_bytes: 390070272
              rss_bytes: 350224384
              swap_in_bytes: 0
              swap_out_bytes: 0
              major_fault: 212
              minor_fault: 98231
            block:
              - target: vda
                read_bytes: 512
                read_requests: 1
                read_time_ns: 3965705
                write_bytes: 0
                write_requests: 0
                write_time_ns: 0
                flush_requests: 0
                flush_time_ns: 0
                capacity_bytes: 21474836480
                allocation_bytes: 200704
                physical_bytes: 196616
            interface:
              - target: vnet0
                mac: "52:54:00:e4:4e:35"
                rx_bytes: 90
                rx_packets: 1
                rx_errs: 0
                rx_drop: 0
                tx_bytes: 0
                tx_packets: 0
                tx_errs: 0
                tx_drop: 0
"""

import base64
import json
import zlib
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.virtplay.libvirt.plugins.module_utils.failure import (
    Failure,
    check_values,
    run_module,
)
from ansible_collections.virtplay.libvirt.plugins.module_utils.host.child_process import (
    run_in_child,
)
from ansible_collections.virtplay.libvirt.plugins.module_utils.host.python import (
    require_libraries,
)
from ansible_collections.virtplay.libvirt.plugins.module_utils.observe.observation import (
    Observation,
)
from ansible_collections.virtplay.libvirt.plugins.module_utils.values import DEFAULT_URI, HOST_INFO

# Seconds beyond its own deadline that the observation may need to assemble its result.
GRACE = 1.0


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "uri": {"type": "str", "default": DEFAULT_URI},
            "timeout": {"type": "float", "default": 5},
            "startup_timeout": {"type": "float", "default": 0},
            "templates_path": {"type": "path", "default": "/var/lib/libvirt/templates"},
            "filesystems": {"type": "bool", "default": True},
            "compressed": {"type": "bool", "default": False},
            "awaited": {"type": "list", "elements": "str", "default": []},
            "wait": {"type": "float", "default": 0},
        },
        supports_check_mode=True,
    )
    require_libraries(module)
    uri = module.params["uri"]
    limit = sum(module.params[name] for name in ("startup_timeout", "wait", "timeout"))

    def explain(error: Exception) -> Failure | None:
        if isinstance(error, TimeoutError):
            return Failure(
                f"cannot observe the host at {uri}: libvirt did not respond within {limit} s"
            )
        if isinstance(error, RuntimeError):
            return Failure(f"cannot observe the host at {uri}: {error}")
        return None

    run_module(module, lambda: run(module), explain)


def run(module: AnsibleModule) -> dict[str, Any]:
    """Observe in a child process, so that a hanging call cannot block the module."""
    uri, timeout = module.params["uri"], module.params["timeout"]
    check_values(HOST_INFO, module.params)
    templates_path = Path(module.params["templates_path"])
    startup = module.params["startup_timeout"]
    filesystems = module.params["filesystems"]
    wait = module.params["wait"]
    observation = Observation(
        uri,
        timeout,
        templates_path,
        startup=startup,
        filesystems=filesystems,
        awaited=module.params["awaited"],
        wait=wait,
    )
    host_info = run_in_child(
        observation.run,
        startup + wait + timeout + GRACE,
        is_done=observation.is_done,
        finish=observation.finish,
    )
    unreadable = [one["unreadable"] for one in host_info["domains"] if "unreadable" in one]
    for message in (*host_info["warnings"], *unreadable):
        module.warn(message)
    if module.params["compressed"]:
        text = base64.b64encode(zlib.compress(json.dumps(host_info).encode())).decode()
        return {"changed": False, "host_info_compressed": text}
    return {"changed": False, "host_info": host_info}


if __name__ == "__main__":
    main()
