# Copyright: Virtplay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What one domain is like, for the module `domain` and for each of a list in `domains`."""

from __future__ import annotations

from textwrap import indent

_OPTIONS = """
uuid:
  description:
    - UUID of the domain. The domain is looked up by it when it is given.
    - For a new domain without one it is derived from the name of the host and of the domain.
  type: str
title:
  description: Name for people, any text without a line break.
  type: str
description:
  description: Longer text for people.
  type: str
vcpus:
  description: Number of virtual CPUs, 1 to 512.
  type: int
vcpus_max:
  description:
    - Number of virtual CPUs that can be reached without a reboot.
    - Twice O(vcpus), at least 8, for a new domain.
  type: int
memory:
  description: Memory in MiB, 32 to 16777216.
  type: int
memory_max:
  description:
    - Memory in MiB that can be reached without a reboot. O(memory) for a new domain.
  type: int
virt_type:
  description:
    - Hardware virtualisation (V(kvm)) or emulation (V(qemu)) for a new domain.
    - V(auto) takes what the role libvirt_host has found out, else what libvirt says.
  type: str
  choices: [auto, kvm, qemu]
  default: auto
firmware:
  description: Firmware of a new domain, V(bios) unless set. It cannot be changed later.
  type: str
  choices: [bios, efi]
disks:
  description:
    - Disks by their target. Missing ones are made, smaller ones are grown, others left alone.
  type: list
  elements: dict
  suboptions:
    target:
      description: Name of the disk in the guest, V(vda), V(vdb) and so on.
      type: str
      required: true
    size:
      description: Size in GiB, 1 to 65536, the template's unless set. A disk never shrinks.
      type: int
    template:
      description: Name of the template that a new disk stands on. An empty disk without.
      type: str
    clone:
      description: A new disk is an overlay on its template (V(linked)) or a V(full) copy.
      type: str
      choices: [linked, full]
      default: linked
    pool:
      description: Storage pool of a new disk.
      type: str
      default: default
interfaces:
  description:
    - Network interfaces, found by their MAC address, else by their position. Missing ones are
      made, others are left alone.
    - A new domain without this argument has one interface on the network V(default).
  type: list
  elements: dict
  suboptions:
    type:
      description: A libvirt network or a bridge of the host. V(network) for a new interface.
      type: str
      choices: [network, bridge]
    source:
      description: Name of the network (V(default) unless set) or the bridge.
      type: str
    model:
      description: Model of the card, V(virtio) for a new interface.
      type: str
      choices: [virtio, e1000e, e1000, rtl8139]
    mac:
      description: MAC address, derived from the UUID unless set.
      type: str
    ip:
      description:
        - Fixed address. On a network it becomes a DHCP reservation there.
        - On a bridge it needs a prefix length, and is told to a new guest through its seed.
      type: str
    gateway:
      description: Router of a fixed address on a bridge.
      type: str
    nameservers:
      description: Name servers of a fixed address on a bridge.
      type: list
      elements: str
autostart:
  description: Start the domain together with the host.
  type: bool
seed:
  description: What cloud-init in a new guest is told (NoCloud).
  type: dict
  suboptions:
    hostname:
      description: Host name without a domain, made of O(title) or O(name) unless set.
      type: str
    ssh_keys:
      description: Public keys, one line each.
      type: list
      elements: str
    user_data:
      description: User-data with one of cloud-init's headers, handed over as it is.
      type: str
    network_config:
      description: Network configuration in place of the one made from O(interfaces).
      type: dict
metadata:
  description: What the domain's metadata says of it.
  type: dict
  suboptions:
    id:
      description: Id of the virtual machine, O(name) unless set.
      type: str
    template:
      description: Name of the template, that of the first disk unless set.
      type: str
    os:
      description: Operating system, that of the template unless set.
      type: str
    labels:
      description: All labels of the domain, names and values, at most 64.
      type: dict
force:
  description:
    - Switch a guest off without asking it, and delete one that runs or has snapshots.
  type: bool
  default: false
keep_disks:
  description: Leave the disks of a deleted domain on the host.
  type: bool
  default: false
timeout:
  description: Seconds that a guest may take to shut down, 1 to 3600.
  type: int
  default: 90
"""

_DECLARED = """
name:
  description:
    - Name of the domain, 1 to 64 letters, digits and C(._-). The domain is looked up by it
      when O(domains[].uuid) is not given.
  type: str
  required: true
state:
  description:
    - V(present) makes or changes the domain and leaves its power alone.
    - V(running) and V(stopped) do so too, and see to its power. A guest that is to stop is
      asked to shut down, or with O(domains[].force) switched off.
    - V(absent) removes the domain, its disks and its address reservations.
  type: str
  choices: [present, absent, running, stopped]
  default: present
"""


class ModuleDocFragment:
    """The options of a domain, which the modules' own name and state stand beside."""

    # Annotated: the sanity test yamllint crashes at an assignment of anything but a literal.
    DOCUMENTATION: str = f"""
requirements:
  - python3-pycdlib (for a seed)
options:
{indent(_OPTIONS, "  ")}
"""
    LIST: str = f"""
requirements:
  - python3-pycdlib (for a seed)
options:
  domains:
    suboptions:
{indent(_DECLARED + _OPTIONS.replace("O(", "O(domains[]."), "      ")}
"""
