# Copyright: Virtplay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Lists the arguments that describe a domain to the modules domain and domains; pure, no I/O."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ..states import TextEnum
from ..values import DEFAULT_URI


class Wanted(TextEnum):
    """The states that a caller may request (the module's `state`)."""

    PRESENT = "present"
    ABSENT = "absent"
    RUNNING = "running"
    STOPPED = "stopped"
    RESTARTED = "restarted"
    PAUSED = "paused"
    RESUMED = "resumed"


_CARD: dict[str, Any] = {
    "type": {"type": "str", "choices": ["network", "bridge"]},
    "source": {"type": "str"},
    "model": {"type": "str", "choices": ["virtio", "e1000e", "e1000", "rtl8139"]},
    "mac": {"type": "str"},
    "ip": {"type": "str"},
    "gateway": {"type": "str"},
    "nameservers": {"type": "list", "elements": "str"},
}
# The arguments that describe a domain, except its power state.
DEFINITION: dict[str, Any] = {
    "title": {"type": "str"},
    "description": {"type": "str"},
    "vcpus": {"type": "int", "aliases": ["cpu"]},
    "vcpus_max": {"type": "int"},
    "memory": {"type": "int"},
    "memory_max": {"type": "int"},
    "firmware": {"type": "str", "choices": ["bios", "efi"]},
    "disks": {
        "type": "list",
        "elements": "dict",
        "options": {
            "target": {"type": "str"},
            "size": {"type": "int"},
            "template": {"type": "str"},
            "clone": {"type": "str", "choices": ["linked", "full"], "default": "linked"},
            "pool": {"type": "str", "default": "default"},
        },
    },
    "interfaces": {
        "type": "list",
        "elements": "dict",
        "options": _CARD,
    },
    "autostart": {"type": "bool", "aliases": ["auto_start", "autoStart"]},
    "metadata": {
        "type": "dict",
        "options": {
            "id": {"type": "str"},
            "template": {"type": "str"},
            "os": {"type": "str"},
            "labels": {"type": "dict"},
        },
    },
}
# The short form of one disk, one interface and the labels, as the role libvirt_domain has them.
SIMPLE: dict[str, Any] = {
    "disk": {"type": "int"},
    "template": {"type": "str"},
    "clone": {"type": "str", "choices": ["linked", "full"]},
    "network": {
        "type": "dict",
        "options": {
            **{key: it for key, it in _CARD.items() if key != "source"},
            "network": {"type": "str"},
            "bridge": {"type": "str"},
        },
    },
    "labels": {"type": "dict"},
}
EITHER = [("disks", "disk"), ("disks", "template"), ("disks", "clone"), ("interfaces", "network")]
ARGUMENTS: dict[str, Any] = {
    "uri": {"type": "str", "default": DEFAULT_URI},
    "uuid": {"type": "str"},
    "name": {"type": "str"},
    "state": {"type": "str", "choices": [str(w) for w in Wanted], "default": "present"},
    **DEFINITION,
    **SIMPLE,
    "virt_type": {"type": "str", "choices": ["auto", "kvm", "qemu"], "default": "auto"},
    "seed": {
        "type": "dict",
        "options": {
            "hostname": {"type": "str"},
            "ssh_keys": {
                "type": "list",
                "elements": "str",
                "no_log": False,
                "aliases": ["sshKeys"],
            },
            "user_data": {"type": "str", "no_log": True, "aliases": ["userData"]},
            "network_config": {"type": "dict"},
        },
    },
    "job": {"type": "str"},
    "generation": {"type": "int"},
    "force": {"type": "bool", "default": False},
    "keep_disks": {"type": "bool", "default": False},
    "timeout": {"type": "int", "default": 90},
    "lock_timeout": {"type": "int", "default": 120},
}
# Arguments of DEFINITION that change live, and those that may have to wait for the next boot.
LIVE = ("title", "description", "autostart", "metadata")
WAITING = ("vcpus", "vcpus_max", "memory", "memory_max")
# Arguments that all domains of a task share: the connection and who changes the domain.
BOOKKEEPING = ("uri", "job", "generation", "lock_timeout")


def given_values(values: Mapping[str, Any], keys: Iterable[str] | None = None) -> dict[str, Any]:
    """Return the values, or those of some keys, that are set; null counts as not set."""
    return {key: values[key] for key in keys or values if values.get(key) is not None}


def simple_devices(vm: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments disks and interfaces for a VM with one disk and one interface.

    The disk has no target: it is the first one, whatever its target in an existing VM.
    vm has disk (GiB), template, clone and network, as in the role libvirt_domain; unset options
    are left out.
    """
    devices: dict[str, Any] = {}
    disk = {"size": vm.get("disk"), **given_values(vm, ("template", "clone"))}
    if disk["size"] is not None or "template" in disk:
        devices["disks"] = [given_values(disk)]
    network = vm.get("network")
    if network:
        card = given_values(network, _CARD)
        source = network.get("network") or network.get("bridge")
        devices["interfaces"] = [{**card, **({"source": source} if source else {})}]
    return devices


def to_long_form(params: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments with disks, interfaces and metadata in place of the short form."""
    long = {key: value for key, value in params.items() if key not in SIMPLE}
    for key, (device,) in simple_devices(params).items():
        long[key] = [{**_unset(DEFINITION[key]["options"]), **device}]
    if params.get("labels") is not None:
        metadata = long.get("metadata") or _unset(DEFINITION["metadata"]["options"])
        long["metadata"] = {**metadata, "labels": params["labels"]}
    return long


def _unset(options: Mapping[str, Any]) -> dict[str, Any]:
    return {name: option.get("default") for name, option in options.items()}
