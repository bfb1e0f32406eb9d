# Copyright: Virtplay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Collection layer: what values may be of the roles and of what runs on the controller; pure.

Each role's table is made of those of the modules that it runs, in `value_rules`: hosts are sent
only these, as every line costs each power action some time there.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from typing import Any

from ..module_utils.values import (
    ABSOLUTE,
    ADDRESS,
    CHECKSUM,
    CONSOLE,
    DISK_SIZE,
    DOMAIN,
    HOST_INFO,
    HTTP_URL,
    KNOWN_NAME,
    KNOWN_SNAPSHOT_NAME,
    LOCK_SECONDS,
    MIRROR,
    NEW_DOMAIN,
    NEW_SNAPSHOT_NAME,
    ONE_LINE,
    SECONDS,
    SNAPSHOT,
    SOME_LINE,
    TEMPLATE,
    URI,
    Entries,
    Relation,
    Rule,
    Table,
    between,
    distinct,
    given,
    is_printable,
    matching,
    text,
)

# --- texts ------------------------------------------------------------------------------------


def is_interface(text: str) -> bool:
    """Tell whether a text is an IP address with a prefix length."""
    try:
        ipaddress.ip_interface(text)
    except ValueError:
        return False
    return "/" in text


def is_cidr(text: str) -> bool:
    """Tell whether a text is a network."""
    try:
        ipaddress.ip_network(text)
    except ValueError:
        return False
    return True


def is_network(text: str) -> bool:
    """Tell whether a text is a network that has room for a host and a guest."""
    return is_cidr(text) and ipaddress.ip_network(text).num_addresses >= 4


def is_inside(address: str, network: str) -> bool:
    """Tell whether an address is of a network; so is what is no address or no network at all."""
    try:
        return ipaddress.ip_address(address) in ipaddress.ip_network(network)
    except ValueError:
        return True


def is_serial(value: Any) -> bool:
    """Tell whether a value is one that a play's serial takes: a number, or a part in %."""
    percent = re.fullmatch(r"([0-9]{1,3})%", str(value))
    if percent:
        return 1 <= int(percent[1]) <= 100
    return not isinstance(value, bool) and re.fullmatch(r"[1-9][0-9]{0,6}", str(value)) is not None


def _need_each_other(key: str, other: str) -> Relation:
    def holds(values: Mapping[str, Any]) -> bool:
        return bool(values.get(key)) == bool(values.get(other))

    return Relation(key, holds, f"and {{{other}}} need each other")


def _in_cidr(key: str) -> Relation:
    def holds(values: Mapping[str, Any]) -> bool:
        return not given(values, key, "cidr") or is_inside(values[key], values["cidr"])

    return Relation(key, holds, "must be in {cidr}")


# --- domains and snapshots --------------------------------------------------------------------

_FLEET = Table(
    {
        "uri": URI,
        "vms": Table(NEW_DOMAIN.keys, NEW_DOMAIN.relations, noun="VM", defaults="vms_defaults"),
        "vms_defaults": Table(NEW_DOMAIN.keys),
        "vms_batch": between(1, 1000),
        "vms_serial": Rule(
            is_serial, "must be a number of hosts from 1 on, a part such as 25%, or a list of such"
        ),
        "job": ONE_LINE,
        "lock_timeout": LOCK_SECONDS,
    }
)

_GUARDED = Relation(
    "guard",
    lambda values: not given(values, "guard") or values["guard"] != values.get("name"),
    "must be another name than {name}",
)
_KNOWN_SNAPSHOT = Table(
    {**SNAPSHOT.keys, "domain": KNOWN_NAME, "name": KNOWN_SNAPSHOT_NAME}, (_GUARDED,)
)
_NEW_SNAPSHOT = Table({**SNAPSHOT.keys, "domain": KNOWN_NAME, "name": NEW_SNAPSHOT_NAME})

# --- observations and inventories -------------------------------------------------------------

_OBSERVATION = Table(
    {
        **HOST_INFO.keys,
        "rounds": between(1, 1_000_000),
        "interval": between(0, 86_400, "seconds"),
        "filesystems_every": between(0, 1_000_000),
        "limit": between(1, 86_400, "seconds"),
    }
)

INVENTORY = Table(
    {
        "inventory": SOME_LINE,
        "hypervisors": SOME_LINE,
        "uri": URI,
        "forks": between(1, 1000),
        "timeout": between(1, 3600, "seconds"),
        "guest_timeout": between(0.5, 600, "seconds"),
        "address_networks": text(is_cidr, "must be a network such as 192.0.2.0/24"),
    },
    (
        Relation(
            "inventory",
            lambda options: bool(options.get("inventory")),
            "must name a source of the inventory that has the hypervisors",
        ),
    ),
)

# --- images -----------------------------------------------------------------------------------

_SOURCES = ("url", "path", "micro")
_CATALOGUE = Entries(
    TEMPLATE,
    Table(
        {
            "os": SOME_LINE,
            "url": HTTP_URL,
            "path": ABSOLUTE,
            "checksum": CHECKSUM,
            "format": matching("auto|qcow2|raw", "must be one of auto, qcow2, raw"),
            "mirror": MIRROR,
            "micro": Rule(lambda value: isinstance(value, bool), "must be true or false"),
        },
        (
            Relation(
                "url",
                lambda entry: sum(bool(entry.get(key)) for key in _SOURCES) == 1,
                "must be the one source of the image, or else path or micro",
            ),
            Relation(
                "checksum",
                lambda entry: not entry.get("url") or bool(entry.get("checksum")),
                "is needed with url",
            ),
        ),
        closed=True,
    ),
)
_IMAGE = Table(
    {
        "name": Rule(
            lambda value: isinstance(value, str) and TEMPLATE.allows(value),
            f"must be a template's name or a list of them; a name {TEMPLATE.sentence}",
        ),
        "catalogue": _CATALOGUE,
        "catalogue_extra": _CATALOGUE,
        "mirror": MIRROR,
        "templates_path": ABSOLUTE,
        "cache_path": ABSOLUTE,
        "max_virtual_size": DISK_SIZE,
        "timeout": between(1, 86_400, "seconds"),
    }
)

# --- hosts ------------------------------------------------------------------------------------

HOST_DEVICE = matching(
    r"[A-Za-z0-9][A-Za-z0-9._-]{0,49}",
    "must be 1 to 50 letters, digits and . _ -, the first a letter or digit",
)
MODE = matching(r"0?[0-7]{3,4}", 'must be an octal mode such as "0711"')
INTERFACE_NAME = matching(
    r"[A-Za-z][A-Za-z0-9._-]{0,14}",
    "must be 1 to 15 letters, digits and . _ -, the first a letter, as interfaces have it",
)
NETWORK = Table(
    {
        "name": HOST_DEVICE,
        "cidr": text(is_network, "must be a network of at least 4 addresses, such as 192.0.2.0/24"),
        "bridge": INTERFACE_NAME,
        "dhcp_start": ADDRESS,
        "dhcp_end": ADDRESS,
    },
    (_in_cidr("dhcp_start"), _in_cidr("dhcp_end")),
    noun="network",
)
POOL = Table({"name": HOST_DEVICE, "path": ABSOLUTE, "mode": MODE}, noun="pool")
_HOST = Table(
    {
        "packages": matching(
            r"[A-Za-z0-9@][A-Za-z0-9+._:@/=~^-]*", "must be the name of a package"
        ),
        "pools": POOL,
        "networks": NETWORK,
        "bridges": Table(
            {
                "name": INTERFACE_NAME,
                "interface": INTERFACE_NAME,
                "address": text(
                    is_interface, "must be an IP address with prefix length, such as 192.0.2.1/24"
                ),
            },
            noun="bridge",
        ),
        "qemu_conf": Entries(
            matching(r"[a-z][a-z0-9_]*", "must be the name of a setting of qemu.conf"),
            Rule(
                lambda value: (
                    not isinstance(value, str) or (is_printable(value, also="\t") and bool(value))
                ),
                "must be what qemu.conf has after =, in one line",
            ),
        ),
    },
    (distinct("pools", "name"), distinct("networks", "name"), distinct("bridges", "name")),
)

# --- the service ------------------------------------------------------------------------------

PORT = between(1, 65_535)
OPTIONAL_PATH = text(
    lambda text: not text or ABSOLUTE.allows(text), "must be an absolute path, without .."
)
_SERVICE = Table(
    {
        "python": matching(r"[!-~]*", "must be a program's name or path, without a space"),
        "pip_arguments": ONE_LINE,
        "releases_kept": between(1, 100),
        "host": matching(r"[A-Za-z0-9.:_-]+", "must be an address or a host's name"),
        "port": PORT,
        "public_url": matching(r"|https?://[!-~]+", "must be an http or https URL"),
        "tls_certificate": OPTIONAL_PATH,
        "tls_key": OPTIONAL_PATH,
        "shutdown_grace": between(0, 86_400, "seconds"),
        "settings": Entries(
            matching(r"VIRTPLAY_[A-Z0-9_]+", "must be a setting of the service, VIRTPLAY_…"),
            Rule(
                lambda value: isinstance(value, (str, int, float)) and is_printable(str(value)),
                "must be one line",
                shown=False,
            ),
        ),
        "admin_token": matching(
            r"|[!-~]{8,}", "must be at least 8 characters without a space", shown=False
        ),
        "known_hosts": text(is_printable, "must be one line", shown=False),
        "database_url": matching(
            r"|(?:sqlite|postgres)://[!-~]+",
            "must be a URL that begins with sqlite:// or postgres://",
            shown=False,
        ),
        "backups_kept": between(1, 1000),
        "ready_timeout": SECONDS,
        "nginx_server_name": matching(r"[A-Za-z0-9._*-]+", "must be a host's name"),
        "nginx_port": PORT,
        "nginx_certificate": OPTIONAL_PATH,
        "nginx_key": OPTIONAL_PATH,
    },
    (
        _need_each_other("tls_key", "tls_certificate"),
        _need_each_other("nginx_key", "nginx_certificate"),
    ),
)

# --- roles ------------------------------------------------------------------------------------

# Role → entry point → the rules of its variables without the role's name; "" is any other entry.
ROLES: Mapping[str, Mapping[str, Table]] = {
    "libvirt_domain": {"main": NEW_DOMAIN, "create": NEW_DOMAIN, "vms": _FLEET, "": DOMAIN},
    "libvirt_snapshot": {"main": _NEW_SNAPSHOT, "create": _NEW_SNAPSHOT, "": _KNOWN_SNAPSHOT},
    "libvirt_console": {"": CONSOLE},
    "libvirt_observe": {"": _OBSERVATION},
    "libvirt_image": {"": _IMAGE},
    "libvirt_host": {"": _HOST},
    "virtplay_service": {"": _SERVICE},
}


def rules_of(role: str, entry: str) -> Table:
    """Return the rules of an entry point's variables; none for a role that is not of ours."""
    entries = ROLES.get(role.rpartition(".")[2], {})
    return entries.get(entry) or entries.get("") or Table({})
