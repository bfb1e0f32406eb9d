# Copyright: Virtplay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""List the VMs of all hypervisors as an inventory (inventory plugin `libvirt`)."""

from __future__ import annotations

DOCUMENTATION = r"""
name: libvirt
short_description: Use the VMs of all your hypervisors as an inventory
version_added: 0.1.0
author:
  - Virtplay contributors (@virtplay)
description:
  - Observes all hypervisors in parallel and lists every VM as a host, so that plays can run
    directly in the guests.
  - Runs the module M(virtplay.libvirt.host_info) on the hypervisors, in a separate C(ansible)
    command and with the inventory that contains them. The connection settings of your
    hypervisors, such as users, keys, jump hosts, become and vault, therefore apply here too. The
    controller requires only Ansible.
  - The configuration is any file with the O(plugin) of this name. Ansible's plugin
    P(ansible.builtin.auto#inventory), which is enabled by default, accepts only names that end in
    C(.yml) or C(.yaml); for others add C(virtplay.libvirt.libvirt) to C(enable_plugins) in
    C(ansible.cfg). The file may be encrypted as a whole with C(ansible-vault).
  - An unknown option or an invalid value is an error before any host is contacted.
  - Store secrets of the guests, such as C(ansible_password), in the C(group_vars) of
    C(libvirt_vms), encrypted with C(ansible-vault) if you like. The only option that may contain
    a secret is O(cache_connection), which may be a C(!vault) value.
  - If a hypervisor does not respond, a warning is shown and its VMs are not listed. If no
    hypervisor responds, the inventory fails.
  - All VMs are in the group C(libvirt_vms). Its child groups are C(status_STATE), C(host_NAME) of
    the hypervisor, C(template_NAME), and C(label_KEY_VALUE) for each label. Characters that are not
    allowed in group names are replaced by underscores.
  - The variables of a VM are C(ansible_host) (its address), C(libvirt_name), C(libvirt_uuid),
    C(libvirt_title), C(libvirt_description), C(libvirt_status), C(libvirt_host) (the hypervisor's
    name in its inventory), C(libvirt_vcpus), C(libvirt_memory) (MiB), C(libvirt_firmware),
    C(libvirt_autostart), C(libvirt_started_at), C(libvirt_stuck), C(libvirt_disks),
    C(libvirt_interfaces), C(libvirt_addresses) and C(libvirt_labels). VMs that Virtplay created
    also have C(libvirt_id), C(libvirt_template) and C(libvirt_os). The values come from
    M(virtplay.libvirt.host_info) and are never evaluated as templates.
  - A VM without an address has no C(ansible_host). See O(require_address).
  - If two VMs have the same name, both are listed as C(name@hypervisor), with a warning. The same
    applies to a VM that has the name of a hypervisor, or of another host or group of the inventory.
extends_documentation_fragment:
  - constructed
  - inventory_cache
options:
  plugin:
    description: Name of this plugin.
    type: str
    required: true
    choices: [virtplay.libvirt.libvirt]
  inventory:
    description:
      - Sources of the inventory that contains the hypervisors. File paths are relative to this
        file.
      - This file itself and the directories that contain it are not allowed.
    type: list
    elements: str
    required: true
  hypervisors:
    description: Hosts of that inventory to observe, as a host pattern.
    type: str
    default: hypervisors
  uri:
    description: libvirt connection URI, opened on each hypervisor.
    type: str
    default: qemu:///system
  forks:
    description: Number of hypervisors to observe in parallel.
    type: int
    default: 50
  timeout:
    description:
      - Time limit in seconds for the observation of a hypervisor.
      - The time to connect to it is limited by Ansible's own C(timeout).
    type: int
    default: 30
  guest_timeout:
    description: Time limit in seconds for querying the guests of a hypervisor for their addresses.
    type: float
    default: 5
  strict_hosts:
    description: Fail if any hypervisor does not respond, instead of showing a warning.
    type: bool
    default: false
  names:
    description:
      - Which names the VMs have in the inventory.
      - With V(title), a VM without a title has its libvirt name.
      - Characters with a meaning in host patterns are replaced by underscores.
    type: str
    choices: [name, title]
    default: name
  default_groups:
    description: Create the groups by status, host, template and label.
    type: bool
    default: true
  require_address:
    description: Omit VMs without an address, for example stopped VMs.
    type: bool
    default: false
  address_family:
    description: Address family of C(ansible_host). V(any) prefers IPv4.
    type: str
    choices: [any, ipv4, ipv6]
    default: any
  address_sources:
    description:
      - Sources that are trusted for C(ansible_host), which are the DHCP leases of the hypervisor,
        the guest agent, and the hypervisor's neighbour table (V(arp)).
      - A guest agent can report any address for the interfaces of its own VM. Omit V(agent) if you
        do not trust the guests.
    type: list
    elements: str
    choices: [lease, agent, arp]
    default: [lease, agent, arp]
  address_networks:
    description: Networks in CIDR notation that must contain C(ansible_host). Empty means any.
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
# Only VMs with an address on the management network, with the user of their image. Values from a
# guest or its owner are never evaluated as templates; the expressions in this file are.
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
# Guests behind NAT, reached through their hypervisors.
plugin: virtplay.libvirt.libvirt
inventory: [hosts.yml]
compose:
  ansible_ssh_common_args: "'-J root@' ~ libvirt_host"

---
# Many hypervisors, observed at most every ten minutes.
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
import re
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
_LONGEST = 1024 * 1024  # no configuration is longer, but a source may be any file
_PLUGIN = re.compile(
    # A key of the whole file, which may be one mapping in braces.
    r"^(?:\{(?:[^{}]*,)?\s*)?[\"']?plugin[\"']?\s*:\s*[\"']?"
    + re.escape(f"{MODULE.rpartition('.')[0]}."),
    re.M,
)
_VAULT = "$ANSIBLE_VAULT"
# The directory that contains the ansible_collections of this file.
COLLECTIONS = Path(__file__).resolve().parents[5]


class InventoryModule(BaseInventoryPlugin, Constructable, Cacheable):
    """Observes the hypervisors, or reads the cache, and adds the VMs, variables and groups."""

    NAME = "virtplay.libvirt.libvirt"

    def verify_file(self, path: str) -> bool:
        """Return whether a file is a configuration of this plugin, or is encrypted as a whole.

        What an encrypted file is, `parse` finds out: Ansible decrypts it only there.
        """
        if not super().verify_file(path) or not Path(path).is_file():
            return False
        with Path(path).open(encoding="utf-8", errors="replace") as file:
            text = file.read(_LONGEST)
        return text.startswith(_VAULT) or _PLUGIN.search(text) is not None

    def parse(self, inventory: Any, loader: Any, path: str, cache: bool = True) -> None:
        """Add the VMs to the inventory; raise AnsibleParserError."""
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

    def _sources(self, path: str) -> list[str]:
        """Return the sources of the hypervisors' inventory, which must exist."""
        sources = []
        for source in self.get_option("inventory"):
            found = source if "," in source else str(Path(path).parent / source)
            if "," not in source and not Path(found).exists():
                raise AnsibleParserError(
                    f"cannot find {found}, the inventory of the hypervisors: option inventory of "
                    f"{path} names {source}, relative to its own directory"
                )
            sources.append(found)
        return sources

    def _check_options(self, given: Mapping[str, Any]) -> None:
        """Raise AnsibleParserError for unknown options and invalid values."""
        definitions = self.option_definitions
        known = {*definitions, *(a for its in definitions.values() for a in its.get("aliases", ()))}
        faults = unknown_keys(given, known, noun="option")
        # ansible-core 2.19 reads every text that does not mean true as false.
        switches = {
            option: {**its, "type": "bool"}
            for option, its in definitions.items()
            if its.get("type") in ("bool", "boolean")
        }
        faults += check_options(switches, given)[0]
        for option in ("compose", "groups"):
            # A vault value is not a str, and ansible-core 2.19 would ignore it silently.
            faults += [
                f"cannot use {option}.{name}: it must be the text of an expression; put secrets "
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
        """Return {hypervisor: its domains}, from the cache if it is enabled and not expired."""
        key = self.get_cache_key(path)
        caching = self.get_option("cache")
        if caching and cache:
            try:
                return dict(self._cache[key])
            except KeyError:
                pass  # not cached, or expired
        domains, failures = self._observe(path)
        if failures:
            words = "; ".join(failures)
            if self.get_option("strict_hosts") or not domains:
                raise AnsibleParserError(f"cannot list the VMs of every hypervisor: {words}")
            self.display.warning(f"the VMs of these hypervisors are not listed: {words}")
        elif caching:
            # Do not cache an incomplete result: its gaps would stay until the cache expires.
            self._cache[key] = domains
        return domains

    def _observe(self, path: str) -> tuple[dict[str, list[dict[str, Any]]], list[str]]:
        """Observe all hypervisors; return {host: domains} and a message per failed host."""
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
        for source in self._sources(path):
            command += ["-i", source]
        # Pass on all sources of vault passwords except a prompt, which cannot be repeated.
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
        return _read_results(done)

    def _address_choice(self) -> AddressChoice:
        networks = [ipaddress.ip_network(text) for text in self.get_option("address_networks")]
        return AddressChoice(
            self.get_option("address_family"), self.get_option("address_sources"), networks
        )


def _environment() -> dict[str, str]:
    """Return the environment of the ansible command: its callbacks, and this collection's path."""
    paths = [str(COLLECTIONS), *constants.COLLECTIONS_PATHS]
    return os.environ | {
        "ANSIBLE_STDOUT_CALLBACK": "ansible.posix.json",
        "ANSIBLE_LOAD_CALLBACK_PLUGINS": "true",
        # No further callback: the list must not be empty, and ansible-core 2.19 skips a second
        # callback for standard output.
        "ANSIBLE_CALLBACKS_ENABLED": "ansible.builtin.minimal",
        "ANSIBLE_NOCOLOR": "true",
        "ANSIBLE_FORCE_COLOR": "false",
        "ANSIBLE_VERBOSITY": "0",
        "ANSIBLE_COLLECTIONS_PATH": os.pathsep.join(dict.fromkeys(paths)),
    }


def _read_results(
    done: subprocess.CompletedProcess[str],
) -> tuple[dict[str, list[dict[str, Any]]], list[str]]:
    """Return {host: domains} and a message per failed host from the output of ansible."""
    try:
        tasks = json.loads(done.stdout)["plays"][0]["tasks"]
        results = tasks[0]["hosts"] if tasks else {}
    except (ValueError, LookupError, TypeError):
        results = {}
    if not results:
        reason = " ".join(done.stderr.split()) or "no host matches"
        raise AnsibleParserError(f"cannot observe any hypervisor: {reason}")
    domains, failures = {}, []
    for host, result in sorted(results.items()):
        if "host_info" in result:
            domains[host] = result["host_info"]["domains"]
        else:
            failures.append(f"{host} ({' '.join(str(result.get('msg')).split())})")
    return domains, failures
