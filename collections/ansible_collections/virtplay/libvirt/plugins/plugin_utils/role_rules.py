# Copyright: Virtplay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Defines which values are valid in role variables and in the controller's plugins; pure.

A role's table extends those of the modules that it runs. Hosts receive only the modules' tables,
since every line adds to the time of each power action.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from typing import Any

from ..module_utils import values
from ..module_utils.declared import ALIASES
from ..module_utils.values import (
    Entries,
    Relation,
    Rule,
    Table,
    between,
    is_printable,
    required,
    starting_alphanumeric,
    text,
)

# --- VMs and snapshots ------------------------------------------------------------------------


def _is_serial(value: Any) -> bool:
    percent = re.fullmatch(r"([0-9]{1,3})%", str(value))
    if percent:
        return 1 <= int(percent[1]) <= 100
    return not isinstance(value, bool) and re.fullmatch(r"[1-9][0-9]{0,6}", str(value)) is not None


# The role has the keys of the module's mappings seed and metadata at the top.
_VM = Table(
    {
        **values.DOMAIN.keys,
        **values.SEED,
        **values.METADATA,
    },
    values.DOMAIN.relations,
)
_NEW_VM = Table({**_VM.keys, "name": values.NEW_NAME}, _VM.relations, noun="VM")
_ALIASES = {alias: _VM.keys[name] for alias, name in ALIASES.items() if name in _VM.keys}
_VMS = Table(
    {
        **values.COMMON,
        "vms": Table({**_NEW_VM.keys, **_ALIASES}, _NEW_VM.relations, noun="VM"),
        "vms_defaults": Table({**_VM.keys, **_ALIASES}),
        "vms_batch": between(1, 1000),
        "vms_serial": Rule(
            _is_serial,
            "must be a number of hosts of at least 1, a percentage such as 25%, or a list of these",
        ),
    }
)
_POWER_VM = Table(
    values.POWER_DOMAIN,
    (
        Relation("state", lambda vm: bool(vm.get("state")), "is required"),
        Relation("name", lambda vm: bool(vm.get("name") or vm.get("uuid")), "or uuid is required"),
    ),
    noun="VM",
    closed=True,
)
_POWER = Table(
    {
        **values.COMMON,
        "power": Entries(values.SOME_LINE, _POWER_VM, several=True),
        "at_once": values.POWER.keys["at_once"],
        "time_limit": values.POWER.keys["time_limit"],
    }
)
_SNAPSHOT = Table(
    {**values.SNAPSHOT.keys, "domain": values.KNOWN_NAME, "name": values.KNOWN_SNAPSHOT_NAME},
    (
        Relation(
            "guard",
            lambda snapshot: not snapshot.get("guard") or snapshot["guard"] != snapshot.get("name"),
            "must differ from {0}name",
        ),
    ),
)
_NEW_SNAPSHOT = Table({**_SNAPSHOT.keys, "name": values.NEW_SNAPSHOT_NAME})
_CONSOLE = Table(
    {**values.CONSOLE.keys, "domain": values.KNOWN_NAME},
    (
        *values.CONSOLE.relations,
        Relation(
            "name",
            lambda console: not (console.get("name") and console.get("domain")),
            "means the same as {0}domain, which is set too",
        ),
    ),
)

# --- observations and inventories -------------------------------------------------------------

_OBSERVATION = Table(
    {
        **values.HOST_INFO.keys,
        "rounds": between(1, 1_000_000),
        "interval": between(0, 86_400, "seconds"),
        "filesystems_every": between(0, 1_000_000),
        "limit": values.LONG_SECONDS,
    }
)
INVENTORY = Table(
    {
        "inventory": values.SOME_LINE,
        "hypervisors": values.SOME_LINE,
        "uri": values.COMMON["uri"],
        "forks": between(1, 1000),
        "timeout": values.SECONDS,
        "guest_timeout": values.HOST_INFO.keys["timeout"],
        "address_networks": text("must be a network such as 192.0.2.0/24", ipaddress.ip_network),
    },
    (Relation("inventory", lambda options: bool(options.get("inventory")), "is required"),),
)

# --- images -----------------------------------------------------------------------------------

_CATALOGUE = Entries(
    values.TEMPLATE,
    Table(
        {
            **values.SOURCE,
            "format": text("must be one of auto, qcow2, raw", pattern="auto|qcow2|raw"),
            "micro": Rule(lambda value: isinstance(value, bool), "must be true or false"),
        },
        (
            Relation(
                "url",
                lambda entry: sum(bool(entry.get(key)) for key in ("url", "path", "micro")) == 1,
                "is required, or else path or micro, but only one of them",
            ),
            required("checksum", "url"),
            values.LOCAL_CHECKSUM,
        ),
        closed=True,
    ),
)
_IMAGE = Table(
    {
        **values.IMAGE.keys,
        "name": Rule(
            lambda value: isinstance(value, str) and values.TEMPLATE.allows(value),
            f"must be a template's name or a list of them; a name {values.TEMPLATE.sentence}",
        ),
        "catalogue": _CATALOGUE,
        "catalogue_extra": _CATALOGUE,
        "cache_path": values.ABSOLUTE,
    }
)

# --- hosts ------------------------------------------------------------------------------------


def _within_cidr(key: str) -> Relation:
    def holds(network: Mapping[str, Any]) -> bool:
        try:
            address = ipaddress.ip_address(network[key])
            return network["cidr"] != "auto" and address in ipaddress.ip_network(network["cidr"])
        except (KeyError, ValueError):
            return True  # not set, or reported by its own rule

    return Relation(key, holds, "must be in cidr")


_HOST_DEVICE = starting_alphanumeric(50)
_INTERFACE_NAME = text(
    "must be an interface name: 1 to 15 letters, digits and . _ -, the first a letter",
    pattern="[A-Za-z][A-Za-z0-9._-]{0,14}",
)
NETWORK = Table(
    {
        "name": _HOST_DEVICE,
        "cidr": text(
            "must be auto or a network of at least 4 addresses, such as 192.0.2.0/24",
            lambda text: text == "auto" or ipaddress.ip_network(text).num_addresses >= 4,
        ),
        "bridge": _INTERFACE_NAME,
        "dhcp_start": values.ADDRESS,
        "dhcp_end": values.ADDRESS,
    },
    (_within_cidr("dhcp_start"), _within_cidr("dhcp_end")),
    noun="network",
    unique="name",
)
POOL = Table(
    {
        "name": _HOST_DEVICE,
        "path": values.ABSOLUTE,
        "mode": text('must be an octal mode such as "0711"', pattern="0?[0-7]{3,4}"),
    },
    noun="pool",
    unique="name",
)
_HOST = Table(
    {
        "packages": text(
            "must be the name of a package", pattern="[A-Za-z0-9@][A-Za-z0-9+._:@/=~^-]*"
        ),
        "pools": POOL,
        "networks": NETWORK,
        "bridges": Table(
            {
                "name": _INTERFACE_NAME,
                "interface": _INTERFACE_NAME,
                "address": text(
                    "must be an IP address with prefix length, such as 192.0.2.1/24",
                    lambda text: "/" in text and ipaddress.ip_interface(text),
                ),
            },
            noun="bridge",
            unique="name",
        ),
        "qemu_conf": Entries(
            text("must be the name of a setting of qemu.conf", pattern="[a-z][a-z0-9_]*"),
            text(
                "must be a value of qemu.conf (the text after =), in one line",
                lambda text: text and is_printable(text, also="\t"),
            ),
        ),
    }
)

# --- the service ------------------------------------------------------------------------------

_PORT = between(1, 65_535)
_OPTIONAL_PATH = text(
    values.ABSOLUTE.sentence, lambda text: not text or values.ABSOLUTE.allows(text)
)
_SERVICE = Table(
    {
        "python": text("must be a program's name or path, without a space", pattern="[!-~]*"),
        "pip_arguments": values.ONE_LINE,
        "releases_kept": between(1, 100),
        "host": text("must be an address or a host's name", pattern="[A-Za-z0-9.:_-]+"),
        "port": _PORT,
        "public_url": text("must be an http or https URL", pattern=f"|{values.HTTP_URL.pattern}"),
        "tls_certificate": _OPTIONAL_PATH,
        "tls_key": _OPTIONAL_PATH,
        "shutdown_grace": between(0, 86_400, "seconds"),
        "settings": Entries(
            text("must be a setting of the service, VIRTPLAY_…", pattern="VIRTPLAY_[A-Z0-9_]+"),
            Rule(
                lambda value: isinstance(value, (str, int, float)) and is_printable(str(value)),
                "must be one line",
                shown=False,
            ),
        ),
        "admin_token": text(
            "must be at least 8 characters without a space", pattern="|[!-~]{8,}", shown=False
        ),
        "known_hosts": text("must be one line", is_printable, shown=False),
        "database_url": text(
            "must be a URL that begins with sqlite:// or postgres://",
            pattern="|(?:sqlite|postgres)://[!-~]+",
            shown=False,
        ),
        "backups_kept": between(1, 1000),
        "ready_timeout": values.SECONDS,
        "nginx_server_name": text("must be a host's name", pattern="[A-Za-z0-9._*-]+"),
        "nginx_port": _PORT,
        "nginx_certificate": _OPTIONAL_PATH,
        "nginx_key": _OPTIONAL_PATH,
    },
    tuple(
        required(f"{server}_{key}", f"{server}_{other}")
        for server in ("tls", "nginx")
        for key, other in (("key", "certificate"), ("certificate", "key"))
    ),
)

# --- roles ------------------------------------------------------------------------------------

# Role → entry point → the rules of its variables, by name without the role's prefix; "" is any
# other entry point.
ROLES: Mapping[str, Mapping[str, Table]] = {
    "libvirt_domain": {"main": _NEW_VM, "create": _NEW_VM, "vms": _VMS, "power": _POWER, "": _VM},
    "libvirt_snapshot": {"main": _NEW_SNAPSHOT, "create": _NEW_SNAPSHOT, "": _SNAPSHOT},
    "libvirt_console": {"": _CONSOLE},
    "libvirt_observe": {"": _OBSERVATION},
    "libvirt_image": {"": _IMAGE},
    "libvirt_host": {"": _HOST},
    "virtplay_service": {"": _SERVICE},
}


def rules_of(role: str, entry: str) -> Table:
    """Return the rules of an entry point's variables; none for a role of another collection."""
    entries = ROLES.get(role.rpartition(".")[2], {})
    return entries.get(entry) or entries.get("") or Table({})
