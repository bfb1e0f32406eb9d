"""Reads Ansible's inventory with its image catalogue, and Ansible's own settings of connections."""

import asyncio
import json
import math
import os
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from virtplay.errors import CannotStart, TemplateNotFound
from virtplay.hosts.placement import Overcommit
from virtplay.settings import Settings
from virtplay.texts import did_you_mean

GROUP = "hypervisors"
CATALOGUE = "libvirt_image_catalogue"
EXTRA = "libvirt_image_catalogue_extra"
CONNECTION = "ansible_"
URI = "libvirt_console_uri"
SETTINGS = {
    "DEFAULT_BECOME": "ansible_become",
    "DEFAULT_BECOME_METHOD": "ansible_become_method",
    "DEFAULT_BECOME_USER": "ansible_become_user",
    "DEFAULT_TRANSPORT": "ansible_connection",
    "INTERPRETER_PYTHON": "ansible_python_interpreter",
    "port": "ansible_port",
    "private_key_file": "ansible_ssh_private_key_file",
    "remote_user": "ansible_user",
    "ssh_args": "ansible_ssh_args",
    "ssh_common_args": "ansible_ssh_common_args",
    "ssh_extra_args": "ansible_ssh_extra_args",
}
"""A setting of Ansible or of its connection plugin ssh → the host variable that overrides it."""


@dataclass(frozen=True)
class HostConfig:
    """The settings of one host in the inventory that the service uses."""

    name: str
    overcommit: Overcommit
    catalogue: dict[str, dict[str, Any]]
    """Template name → its entry; entries of this host replace the defaults."""
    variables: dict[str, Any] = field(default_factory=dict, repr=False)
    """All variables of the host (may contain a password)."""

    @property
    def connection(self) -> dict[str, Any]:
        """The variables for Ansible's connection to the host."""
        return {
            key: value
            for key, value in self.variables.items()
            if key.startswith(CONNECTION) or key == URI
        }

    @property
    def login(self) -> dict[str, Any]:
        """What people need for SSH to the host: type, address, port and user.

        A value that is a template, or not set, is None; the address is then the host's name.
        """

        def plain(*keys: str) -> Any:
            found = next((self.variables[key] for key in keys if key in self.variables), None)
            return None if found in (None, "") or "{{" in str(found) else found

        port = str(plain("ansible_port", "ansible_ssh_port") or "")
        kind = str(plain("ansible_connection") or "ssh").removeprefix("ansible.builtin.")
        local = kind == "local"
        named = "ansible_host" in self.variables or "ansible_ssh_host" in self.variables
        address = plain("ansible_host", "ansible_ssh_host") if named else self.name
        user = plain("ansible_user", "ansible_ssh_user")
        return {
            "type": kind,
            "address": None if local or address is None else str(address),
            "port": int(port) if port.isdecimal() else None,
            "user": str(user) if user and not local else None,
        }


@dataclass(frozen=True)
class Inventory:
    """The hosts of the inventory."""

    hosts: dict[str, HostConfig]

    def login(self, host: str) -> dict[str, Any]:
        """Return `login` of a host, also of one that has left the inventory since."""
        config = self.hosts.get(host) or HostConfig(host, Overcommit(), {})
        return config.login

    def template_os(self, name: str) -> str:
        """The `os` of a template in the catalogue; TemplateNotFound if no host knows it."""
        for host in self.hosts.values():
            if name in host.catalogue:
                return str(host.catalogue[name].get("os", name))
        known = self.templates()
        raise TemplateNotFound(
            f"cannot find template {name}: the image catalogue has no such entry"
            f"{did_you_mean(name, known) or ';'} it has {', '.join(sorted(known))}"
        )

    def templates(self) -> dict[str, dict[str, Any]]:
        """Return template name → entry, over the catalogues of all hosts."""
        merged: dict[str, dict[str, Any]] = {}
        for host in self.hosts.values():
            for name, entry in host.catalogue.items():
                merged.setdefault(name, entry)
        return merged


async def load_inventory(settings: Settings) -> Inventory:
    """Read the inventory; CannotStart when a source is broken, or none contains a host."""
    for source in settings.inventory_sources:
        if not await asyncio.to_thread(Path(source).exists):
            raise CannotStart(
                f"cannot read the inventory {settings.inventory}: no such file: {source}"
            )
    words = ["--list"]
    for source in settings.inventory_sources:
        words += ["-i", source]
    # Otherwise a broken source is only a warning, and its hosts are missing.
    strict = {"ANSIBLE_INVENTORY_ANY_UNPARSED_IS_FAILED": "true"}
    try:
        listing = await _run(settings.project_dir, "ansible-inventory", *words, environment=strict)
    except CannotStart as error:
        raise CannotStart(f"cannot read the inventory {settings.inventory}: {error}") from error
    defaults = await asyncio.to_thread(_default_catalogue, settings.project_dir)
    try:
        return parse_inventory(listing, defaults)
    except CannotStart as error:
        raise CannotStart(f"{error} ({settings.inventory})") from error


async def load_connection_defaults(project: Path) -> dict[str, Any]:
    """Read the settings of ansible.cfg and ANSIBLE_* variables, by the names of host variables.

    CannotStart when Ansible cannot read its configuration. Takes a second of CPU.
    """
    try:
        settings = await _run(project, "ansible-config", "dump", "--type=all", "--format=json")
    except CannotStart as error:
        raise CannotStart(f"cannot read the configuration of Ansible: {error}") from error
    [plugins] = [entry["CONNECTION_PLUGINS"] for entry in settings if "CONNECTION_PLUGINS" in entry]
    [ssh] = [plugin["ssh"] for plugin in plugins if "ssh" in plugin]
    return {
        SETTINGS[setting["name"]]: setting["value"]
        for setting in (*settings, *ssh)
        if setting.get("name") in SETTINGS and setting["origin"] != "default"
    }


async def _run(
    project: Path, program: str, *words: str, environment: Mapping[str, str] | None = None
) -> Any:
    """Return the JSON output of a program of Ansible; CannotStart with its errors if it fails."""
    process = await asyncio.create_subprocess_exec(
        str(Path(sys.executable).with_name(program)),
        *words,
        cwd=project,
        env={
            **(environment or {}),
            **os.environ,
            "ANSIBLE_CONFIG": str(project / "ansible.cfg"),
        },
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        output, errors = await process.communicate()
    finally:
        if process.returncode is None:  # cancelled
            process.kill()
            await process.wait()
    if process.returncode:
        raise CannotStart(_faults(errors.decode(errors="replace")))
    return json.loads(output)


def _faults(errors: str) -> str:
    """Return the errors of a program of Ansible as one line; it prints most of them twice."""
    marked = re.findall(r"^(?:\[(?:WARNING|ERROR)\]: )(.+)|^(Origin: .+)", errors, re.MULTILINE)
    faults = dict.fromkeys((fault or origin).strip(" .") for fault, origin in marked)
    return "; ".join(faults) or errors.strip()


def parse_inventory(listing: Mapping[str, Any], defaults: Mapping[str, Any]) -> Inventory:
    """Build the inventory from `ansible-inventory --list` and the default catalogue."""
    names = sorted(_members(listing, GROUP))
    if not names:
        raise CannotStart(f"cannot find any host in group {GROUP} of the inventory")
    variables = listing.get("_meta", {}).get("hostvars", {})
    return Inventory({name: _host(name, variables.get(name, {}), defaults) for name in names})


def _members(listing: Mapping[str, Any], group: str) -> set[str]:
    entry = listing.get(group, {})
    found = set(entry.get("hosts", []))
    for child in entry.get("children", []):
        found |= _members(listing, child)
    return found


def _host(name: str, variables: Mapping[str, Any], defaults: Mapping[str, Any]) -> HostConfig:
    standard = Overcommit()
    try:
        overcommit = Overcommit(
            cpu=float(variables.get("virtplay_overcommit_cpu", standard.cpu)),
            memory=float(variables.get("virtplay_overcommit_memory", standard.memory)),
            disk=float(variables.get("virtplay_overcommit_disk", standard.disk)),
            reserved_memory=int(
                variables.get("virtplay_reserved_memory", standard.reserved_memory)
            ),
        )
        _refuse_odd_overcommit(overcommit)
        merged = {**dict(variables.get(CATALOGUE, defaults)), **dict(variables.get(EXTRA, {}))}
        catalogue = {str(key): dict(entry) for key, entry in merged.items()}
    except (TypeError, ValueError) as error:
        raise CannotStart(f"cannot use the variables of host {name}: {error}") from error
    return HostConfig(name, overcommit, catalogue, dict(variables))


def _refuse_odd_overcommit(overcommit: Overcommit) -> None:
    for name, value in vars(overcommit).items():
        if not (math.isfinite(value) and value >= 0):
            raise ValueError(f"{name} must be a number from 0 on, not {value}")


def _default_catalogue(project: Path) -> dict[str, Any]:
    path = project / "roles/libvirt_image/defaults/main.yml"
    try:
        return dict(yaml.safe_load(path.read_text())[CATALOGUE])
    except (OSError, KeyError, TypeError, yaml.YAMLError) as error:
        raise CannotStart(f"cannot read the image catalogue in {path}: {error}") from error
