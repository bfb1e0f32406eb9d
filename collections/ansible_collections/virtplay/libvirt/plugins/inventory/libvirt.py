# Copyright: Virtplay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Lists the VMs of all hypervisors as an inventory (inventory plugin `libvirt`)."""

from __future__ import annotations

DOCUMENTATION = r"""
name: libvirt
short_description: The VMs of all your hypervisors as an inventory
version_added: 0.1.0
author:
  - Virtplay contributors (@virtplay)
description:
  - Asks all hypervisors at once what they run, and lists every VM as a host, so that the next
    play goes straight into the guests.
  - It runs the module M(virtplay.libvirt.host_info) on the hypervisors, in an C(ansible) of its own
    and with the inventory that names them. So whatever reaches your hypervisors is used here
    too, with their users, keys, jump hosts, become and vault. Nothing but Ansible is needed on the
    controller.
  - The configuration is a file whose name ends in C(libvirt.yml) or C(libvirt.yaml).
  - An option that there is not, or a value that cannot be, is a failure before any host is asked.
  - Secrets of the guests, such as C(ansible_password), belong into the C(group_vars) of
    C(libvirt_vms), encrypted with C(ansible-vault) if you like. Of the options only
    O(cache_connection) may hold one, and may be a C(!vault) value.
  - A hypervisor that does not answer is a warning, and its VMs are not listed. When none answers,
    the inventory fails.
  - All VMs are in the group C(libvirt_vms). The groups in it are C(status_STATE), C(host_NAME) of
    the hypervisor, C(template_NAME), and C(label_KEY_VALUE) for each label. Characters that a group
    may not have become underscores.
  - A VM's variables are C(ansible_host), its address, and C(libvirt_name), C(libvirt_uuid),
    C(libvirt_title), C(libvirt_description), C(libvirt_status), C(libvirt_host) (the hypervisor's
    name in its inventory), C(libvirt_vcpus), C(libvirt_memory) (MiB), C(libvirt_firmware),
    C(libvirt_autostart), C(libvirt_started_at), C(libvirt_stuck), C(libvirt_disks),
    C(libvirt_interfaces), C(libvirt_addresses), C(libvirt_labels); and C(libvirt_id),
    C(libvirt_template) and C(libvirt_os) of VMs that Virtplay made. They are what
    M(virtplay.libvirt.host_info) returns. None is ever evaluated as a template.
  - A VM without an address has no C(ansible_host). See O(require_address).
  - Two VMs of one name are both listed, as C(name@hypervisor), with a warning. So is a VM that is
    named like a hypervisor, or like another host or group of the inventory.
extends_documentation_fragment:
  - constructed
  - inventory_cache
options:
  plugin:
    description: The name of this plugin.
    type: str
    required: true
    choices: [virtplay.libvirt.libvirt]
  inventory:
    description:
      - The sources of the inventory that has the hypervisors, files relative to this one.
      - Not this file itself, nor a directory that it is in.
    type: list
    elements: str
    required: true
  hypervisors:
    description: Which hosts of that inventory to ask, a pattern as for C(ansible).
    type: str
    default: hypervisors
  uri:
    description: The libvirt to look at, on each hypervisor.
    type: str
    default: qemu:///system
  forks:
    description: Hypervisors to ask at once.
    type: int
    default: 50
  timeout:
    description:
      - Seconds after which a hypervisor that has not answered is given up.
      - Reaching it at all is limited by Ansible's own C(timeout).
    type: int
    default: 30
  guest_timeout:
    description: Seconds to wait on a hypervisor for its guests, which are asked for addresses.
    type: float
    default: 5
  strict_hosts:
    description: Fail when any hypervisor does not answer, in place of the warning.
    type: bool
    default: false
  names:
    description:
      - What to call the VMs.
      - With V(title), a VM without one is called by its libvirt name.
      - Characters with a meaning in host patterns become underscores.
    type: str
    choices: [name, title]
    default: name
  default_groups:
    description: Make the groups by status, host, template and label.
    type: bool
    default: true
  require_address:
    description: Leave out VMs without an address, such as those that do not run.
    type: bool
    default: false
  address_family:
    description: What C(ansible_host) may be. V(any) takes IPv4 first.
    type: str
    choices: [any, ipv4, ipv6]
    default: any
  address_sources:
    description:
      - Whose word is taken for C(ansible_host), a DHCP lease of the hypervisor's, the guest's own
        agent, or the hypervisor's neighbour table.
      - Without V(agent), no guest can say that it is somewhere else.
    type: list
    elements: str
    choices: [lease, agent, neighbour]
    default: [lease, agent, neighbour]
  address_networks:
    description: Networks that C(ansible_host) has to be in, as CIDR. Empty means any.
    type: list
    elements: str
    default: []
requirements:
  - ansible.posix (the collection)
"""

EXAMPLES = r"""
# inventory/libvirt.yml, beside the inventory of the hypervisors:
plugin: virtplay.libvirt.libvirt
inventory:
  - hosts.yml

---
# Only guests that can be reached, on the management network, as the user of their image. What a
# guest or its owner says can't be a template; what stands here can.
plugin: virtplay.libvirt.libvirt
inventory: [hosts.yml]
require_address: true
address_networks: [198.51.100.0/24]
compose:
  ansible_user: "'debian' if libvirt_os is match('debian') else 'rocky'"
groups:
  big: libvirt_memory >= 16384
keyed_groups:
  - key: libvirt_os
    prefix: os

---
# Through the hypervisors, for guests behind NAT.
plugin: virtplay.libvirt.libvirt
inventory: [hosts.yml]
compose:
  ansible_ssh_common_args: "'-J root@' ~ libvirt_host"

---
# Many hypervisors, asked at most every ten minutes.
plugin: virtplay.libvirt.libvirt
inventory: [hosts.yml]
cache: true
cache_plugin: ansible.builtin.jsonfile
cache_connection: ~/.cache/ansible-libvirt
cache_timeout: 600
"""

import ipaddress
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ansible import constants, context
from ansible.errors import AnsibleParserError
from ansible.plugins.inventory import BaseInventoryPlugin, Cacheable, Constructable
from ansible_collections.virtplay.libvirt.plugins.module_utils.values import unknown_keys
from ansible_collections.virtplay.libvirt.plugins.plugin_utils.role_rules import INVENTORY
from ansible_collections.virtplay.libvirt.plugins.plugin_utils.role_variables import check_options
from ansible_collections.virtplay.libvirt.plugins.plugin_utils.vm_inventory import (
    AddressChoice,
    list_vms,
)

ALL_VMS = "libvirt_vms"
MODULE = "virtplay.libvirt.host_info"
_VAULT_OPTIONS = (("vault_ids", "--vault-id"), ("vault_password_files", "--vault-password-file"))
# The directory that holds ansible_collections, wherever this copy was found.
COLLECTIONS = Path(__file__).resolve().parents[5]


class InventoryModule(BaseInventoryPlugin, Constructable, Cacheable):
    """Asks the hypervisors, or the cache, and adds each VM with its variables and groups."""

    NAME = "virtplay.libvirt.libvirt"

    def verify_file(self, path: str) -> bool:
        """Tell whether this file is ours by its name."""
        return bool(super().verify_file(path)) and path.endswith(("libvirt.yml", "libvirt.yaml"))

    def parse(self, inventory: Any, loader: Any, path: str, cache: bool = True) -> None:
        """Add the VMs to the inventory; raises AnsibleParserError."""
        super().parse(inventory, loader, path, cache)
        self._check_options(self._read_config_data(path))
        domains = self._observed(path, cache)
        taken = {*inventory.hosts, *inventory.groups, *domains}
        vms, renamed = list_vms(
            domains, taken, self._address_choice(), use_titles=self.get_option("names") == "title"
        )
        for message in renamed:
            self.display.warning(message)
        inventory.add_group(ALL_VMS)
        for vm in vms:
            if "ansible_host" in vm.variables or not self.get_option("require_address"):
                self._add(vm.name, vm.variables, vm.groups)

    def _check_options(self, given: Mapping[str, Any]) -> None:
        """Raise AnsibleParserError for options that there are not, and values that cannot be."""
        definitions = self.option_definitions
        known = {*definitions, *(a for its in definitions.values() for a in its.get("aliases", ()))}
        faults = unknown_keys(given, known, noun="option")
        # Ansible takes every text that is not true for false.
        switches = {
            option: {**its, "type": "bool"}
            for option, its in definitions.items()
            if its.get("type") in ("bool", "boolean")
        }
        faults += check_options(switches, given)[0]
        for option in ("compose", "groups"):
            # A value from a vault is none: Ansible would leave it out without a word.
            faults += [
                f"cannot use {option}.{name}: it must be the text of an expression; secrets belong "
                f"into the group_vars of {ALL_VMS}"
                for name, value in (self.get_option(option) or {}).items()
                if not isinstance(value, str)
            ]
        values = {option: self.get_option(option) for option in INVENTORY.keys}
        faults += INVENTORY.find_faults(values)
        if faults:
            raise AnsibleParserError("; ".join(faults))

    def _add(self, name: str, variables: dict[str, Any], groups: tuple[str, ...]) -> None:
        self.inventory.add_host(name, group=ALL_VMS)
        for key, value in variables.items():
            self.inventory.set_variable(name, key, value)
        for group in groups if self.get_option("default_groups") else ():
            self.inventory.add_group(group)
            self.inventory.add_child(ALL_VMS, group)
            self.inventory.add_child(group, name)
        strict = self.get_option("strict")
        self._set_composite_vars(self.get_option("compose"), variables, name, strict=strict)
        self._add_host_to_composed_groups(self.get_option("groups"), variables, name, strict=strict)
        self._add_host_to_keyed_groups(
            self.get_option("keyed_groups"), variables, name, strict=strict
        )

    def _observed(self, path: str, cache: bool) -> dict[str, list[dict[str, Any]]]:
        """Return {hypervisor: its domains}, from the cache when it may be used and has it."""
        key = self.get_cache_key(path)
        caching = self.get_option("cache")
        if caching and cache:
            try:
                return dict(self._cache[key])
            except KeyError:
                pass  # nothing there, or too old
        domains, failures = self._look(path)
        if failures:
            words = "; ".join(failures)
            if self.get_option("strict_hosts") or not domains:
                raise AnsibleParserError(f"cannot list the VMs of every hypervisor: {words}")
            self.display.warning(f"the VMs of these hypervisors are not listed: {words}")
        elif caching:
            # Never a picture with holes: they would stay for as long as it is kept.
            self._cache[key] = domains
        return domains

    def _look(self, path: str) -> tuple[dict[str, list[dict[str, Any]]], list[str]]:
        """Ask all hypervisors at once: {host: domains}, and why which one did not answer."""
        arguments = {
            "uri": self.get_option("uri"),
            "timeout": self.get_option("guest_timeout"),
            "filesystems": False,
        }
        command = [
            *(sys.executable, "-m", "ansible.cli.adhoc", self.get_option("hypervisors")),
            *("-m", MODULE, "-a", json.dumps(arguments)),
            *("-f", str(self.get_option("forks"))),
            *("--task-timeout", str(self.get_option("timeout"))),
        ]
        for source in self.get_option("inventory"):
            command += ["-i", source if "," in source else str(Path(path).parent / source)]
        # An interactive question cannot be asked again; all else that unlocks vaults is handed on.
        for option, flag in _VAULT_OPTIONS:
            for value in context.CLIARGS.get(option) or ():
                command += [flag, value]
        done = subprocess.run(
            command,
            env=_environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        return _read_answer(done)

    def _address_choice(self) -> AddressChoice:
        networks = [ipaddress.ip_network(text) for text in self.get_option("address_networks")]
        return AddressChoice(
            self.get_option("address_family"), self.get_option("address_sources"), networks
        )


def _environment() -> dict[str, str]:
    """Return the variables of our own ansible: nobody else's callbacks, and this collection."""
    paths = [str(COLLECTIONS), *constants.COLLECTIONS_PATHS]
    return os.environ | {
        "ANSIBLE_STDOUT_CALLBACK": "ansible.posix.json",
        "ANSIBLE_LOAD_CALLBACK_PLUGINS": "true",
        # None but ours: a second one for standard output is passed over, and no list may be empty.
        "ANSIBLE_CALLBACKS_ENABLED": "ansible.builtin.minimal",
        "ANSIBLE_NOCOLOR": "true",
        "ANSIBLE_FORCE_COLOR": "false",
        "ANSIBLE_VERBOSITY": "0",
        "ANSIBLE_COLLECTIONS_PATH": os.pathsep.join(dict.fromkeys(paths)),
    }


def _read_answer(
    done: subprocess.CompletedProcess[str],
) -> tuple[dict[str, list[dict[str, Any]]], list[str]]:
    """Take the results of all hosts out of what ansible printed."""
    try:
        tasks = json.loads(done.stdout)["plays"][0]["tasks"]
        results = tasks[0]["hosts"] if tasks else {}
    except (ValueError, LookupError, TypeError):
        results = {}
    if not results:
        said = " ".join(done.stderr.split()) or "no host matches"
        raise AnsibleParserError(f"cannot ask any hypervisor: {said}")
    domains, failures = {}, []
    for host, result in sorted(results.items()):
        if "host_info" in result:
            domains[host] = result["host_info"]["domains"]
        else:
            failures.append(f"{host} ({' '.join(str(result.get('msg')).split())})")
    return domains, failures
