# Copyright: Virtplay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Document the options of one domain, for the modules `domain` and `domains`."""

from __future__ import annotations

from textwrap import indent

_OPTIONS = """
uuid:
  description:
    - UUID of the domain. If it is set, it alone identifies the domain.
    - If it is not set, the UUID of a new domain is derived from the names of host and domain.
  type: str
title:
  description: Display name, any text without a line break.
  type: str
description:
  description: Free text that describes the domain.
  type: str
vcpus:
  description: Number of virtual CPUs, 1 to 512.
  type: int
  aliases: [cpu]
vcpus_max:
  description:
    - Largest number of virtual CPUs that can be set without a reboot.
    - The default for a new domain is twice O(vcpus), at least 8.
  type: int
memory:
  description: Memory in MiB, 32 to 16777216.
  type: int
memory_max:
  description:
    - Largest memory in MiB that can be set without a reboot. The default for a new domain is
      O(memory).
  type: int
virt_type:
  description:
    - Hardware virtualisation (V(kvm)) or emulation (V(qemu)) for a new domain.
    - V(auto) uses the result that the role libvirt_host has stored, or else the capabilities that
      libvirt reports.
  type: str
  choices: [auto, kvm, qemu]
  default: auto
firmware:
  description:
    - Firmware of a new domain, by default V(bios). It cannot be changed later.
    - With V(efi) a domain needs 160 MiB of memory at least. On a host that the role libvirt_host
      has prepared, with libvirt 11.3 or later, its variables are in a qcow2 image, so that it can
      have snapshots.
  type: str
  choices: [bios, efi]
template:
  description:
    - Template of the first disk of a new domain. Without a template the disk is empty.
    - Mutually exclusive with O(disks), like O(disk) and O(clone).
  type: str
clone:
  description:
    - Whether the first disk of a new domain is an overlay on its template (V(linked), the default)
      or a V(full) copy.
  type: str
  choices: [linked, full]
disk:
  description:
    - Size of the first disk in GiB, 1 to 65536, by default that of the template. A disk cannot
      shrink.
  type: int
disks:
  description:
    - Several disks, identified by target. A missing disk is created, a smaller disk is grown, and
      disks that are not in the list are not changed.
    - A disk without a target is the first disk of the domain, as libvirt lists them, without
      CD-ROMs and floppies. It is never created in an existing domain.
  type: list
  elements: dict
  suboptions:
    target:
      description:
        - Target name of the disk, V(vda), V(vdb) and so on. A disk that the domain has already may
          have another one, as V(sda).
        - By default the first disk of an existing domain, and V(vda) of a new one.
      type: str
    size:
      description: Size in GiB, 1 to 65536, by default that of the template. A disk cannot shrink.
      type: int
    template:
      description: Template of a new disk. Without a template the disk is empty.
      type: str
    clone:
      description: Whether a new disk is an overlay on its template (V(linked)) or a V(full) copy.
      type: str
      choices: [linked, full]
      default: linked
    pool:
      description: Storage pool of a new disk, of type dir, fs or netfs.
      type: str
      default: default
network:
  description:
    - The first network interface. It is on the network V(default) by default.
    - Mutually exclusive with O(interfaces).
  type: dict
  suboptions:
    type: &type
      description: A libvirt network or a bridge of the host, by default V(network).
      type: str
      choices: [network, bridge]
    network:
      description: Name of the libvirt network.
      type: str
    bridge:
      description: Name of the bridge.
      type: str
    model: &model
      description: Device model, by default V(virtio).
      type: str
      choices: [virtio, e1000e, e1000, rtl8139]
    mac: &mac
      description: MAC address, by default derived from the domain's UUID.
      type: str
    ip: &ip
      description:
        - Static IP address. On a libvirt network it is IPv4 and stored as a DHCP reservation.
        - On a bridge it requires a prefix length, and a new guest receives it through its seed.
      type: str
    gateway: &gateway
      description: Gateway of a static address on a bridge.
      type: str
    nameservers: &nameservers
      description: DNS servers of a static address on a bridge.
      type: list
      elements: str
interfaces:
  description:
    - Several network interfaces, identified by MAC address, or by position if it is not set. A
      missing interface is created, and interfaces that are not in the list are not changed.
    - If this option is not set, a new domain has one interface on the network V(default).
  type: list
  elements: dict
  suboptions:
    type: *type
    source:
      description: Name of the network (by default V(default)) or of the bridge.
      type: str
    model: *model
    mac: *mac
    ip: *ip
    gateway: *gateway
    nameservers: *nameservers
labels:
  description: All labels of the domain as a mapping of name to value, at most 64.
  type: dict
autostart:
  description: Start the domain when the host boots.
  type: bool
  aliases: [auto_start, autoStart]
seed:
  description: Configuration of a new guest for cloud-init, written as a NoCloud seed.
  type: dict
  suboptions:
    hostname:
      description: Host name without a DNS domain, by default derived from O(title) or O(name).
      type: str
    ssh_keys:
      description: Public keys without options, an entry each.
      type: list
      elements: str
      aliases: [sshKeys]
    user_data:
      description:
        - User-data that begins with one of cloud-init's headers, passed on unchanged. These are
          C(#cloud-config), C(#cloud-config-archive), C(#cloud-config-jsonp), C(#cloud-boothook),
          C(#include), C(#include-once), C(#part-handler), C(## template), C(#!), and those of MIME.
      type: str
      aliases: [userData]
    network_config:
      description: Network configuration that replaces the one derived from O(interfaces).
      type: dict
metadata:
  description: Values that are stored in the domain's metadata.
  type: dict
  suboptions:
    id:
      description: Id of the virtual machine, by default O(name).
      type: str
    template:
      description: Name of the template, by default that of the first disk.
      type: str
    os:
      description: Operating system, by default that of the template.
      type: str
    labels:
      description: The same as O(labels).
      type: dict
force:
  description:
    - Power the domain off without shutting the guest down, and delete a domain that is running, has
      snapshots, or whose memory libvirt has saved (C(virsh managedsave)).
    - With O(state=stopped) it also drops that saved memory, so that the next start boots.
    - A task that waits for the guest of the same domain to shut down does not delay a stop or
      restart with force. That task fails with the code V(SUPERSEDED). If its guest has stopped by
      then, the restart starts the domain.
  type: bool
  default: false
keep_disks:
  description: Keep the disks of a deleted domain on the host.
  type: bool
  default: false
timeout:
  description: Time in seconds that a guest may take to shut down, 1 to 3600.
  type: int
  default: 90
"""

_DECLARED = """
name:
  description:
    - Name of the domain, 1 to 64 letters, digits and C(._-). It identifies the domain if
      O(domains[].uuid) is not set.
  type: str
  required: true
state:
  description:
    - V(present) creates or updates the domain. It does not start or stop it.
    - V(running) and V(stopped) also start or stop it. To stop a domain, its guest is shut down,
      or the domain is powered off if O(domains[].force) is set.
    - V(absent) deletes the domain, its disks and its address reservations. A disk that another
      domain uses or is based on stays, with a warning.
  type: str
  choices: [present, absent, running, stopped]
  default: present
"""


class ModuleDocFragment:
    """The options of a domain, except `name` and `state`, which differ between the modules."""

    # Annotated, because the sanity test yamllint crashes at an assignment of a non-literal.
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
