# Copyright: Virtplay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Lists the arguments that describe a domain to the modules domain and domains; pure, no I/O."""

from __future__ import annotations

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


# The arguments that describe a domain, except its power state.
DEFINITION: dict[str, Any] = {
    "title": {"type": "str"},
    "description": {"type": "str"},
    "vcpus": {"type": "int"},
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
        "options": {
            "type": {"type": "str", "choices": ["network", "bridge"]},
            "source": {"type": "str"},
            "model": {"type": "str", "choices": ["virtio", "e1000e", "e1000", "rtl8139"]},
            "mac": {"type": "str"},
            "ip": {"type": "str"},
            "gateway": {"type": "str"},
            "nameservers": {"type": "list", "elements": "str"},
        },
    },
    "autostart": {"type": "bool"},
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
ARGUMENTS: dict[str, Any] = {
    "uri": {"type": "str", "default": DEFAULT_URI},
    "uuid": {"type": "str"},
    "name": {"type": "str"},
    "state": {"type": "str", "choices": [str(w) for w in Wanted], "default": "present"},
    **DEFINITION,
    "virt_type": {"type": "str", "choices": ["auto", "kvm", "qemu"], "default": "auto"},
    "seed": {
        "type": "dict",
        "options": {
            "hostname": {"type": "str"},
            "ssh_keys": {"type": "list", "elements": "str", "no_log": False},
            "user_data": {"type": "str", "no_log": True},
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
