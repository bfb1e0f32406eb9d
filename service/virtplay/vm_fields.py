"""Pure: the table of a VM's fields, and every translation between their names.

The API, the database, the role libvirt_domain and the module `domain` each have their own name for
a field. Each field is one line of the table, which all translations read.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any, Literal

from virtplay.units import GIB

ROLE = "libvirt_domain"
DEFAULT_POOL = "default"
"""The storage pool of the disks that Virtplay creates, which has the capacity of a host."""
CardModel = Literal["virtio", "e1000e", "e1000", "rtl8139"]
"""The models of network cards that can be requested; a VM that was found may have another."""


class Asked(Enum):
    """Which requests may set a field."""

    NEVER = auto()
    """No request; the service sets it."""
    AT_CREATION = auto()
    """Only the request that creates the VM."""
    ALWAYS = auto()
    """The creation, and any later update."""


class Cost(Enum):
    """What a field uses of its host's capacity."""

    NOTHING = auto()
    WHOLE = auto()
    """Its value; to raise it, the host must have room for the whole new value."""
    GROWTH = auto()
    """Its value; to raise it, the host must have room for the difference, as the rest is in use."""
    NETWORK = auto()
    """No amount, but the host must have the network or bridge."""


AMOUNTS = (Cost.WHOLE, Cost.GROWTH)


@dataclass(frozen=True)
class Field:
    """One field of a VM and its names."""

    name: str
    """Its column; for a field that is not stored, its name inside the service."""
    variable: str
    """The role's variable, without the role's name."""
    asked: Asked = Asked.ALWAYS
    api: str = ""
    """Its name in the API, if that is not `name`."""
    stored: bool = True
    """Whether the VM's row stores it."""
    secret: bool = False
    """Whether its value must not enter the database, the log and the command line."""
    key: str = ""
    """The key of a reported domain from which it is read; empty if no host reports it."""
    read: Callable[[Mapping[str, Any]], Any] = lambda domain: None
    """Domain with that key → the column's value; None if the host does not know it."""
    cost: Cost = Cost.NOTHING
    """What it uses of its host's capacity; an amount has the same name in `Need`."""

    @property
    def api_name(self) -> str:
        """Its name in requests and responses of the API."""
        return self.api or self.name

    @property
    def role_variable(self) -> str:
        """The role's variable with the role's name."""
        return f"{ROLE}_{self.variable}"


def _title(domain: Mapping[str, Any]) -> str:
    return str(domain.get("title") or domain["name"])[:255]


def _first_disk(domain: Mapping[str, Any]) -> int | None:
    """Return the size of the first disk in GiB, rounded up."""
    disks = domain.get("disks") or []
    size = disks[0].get("capacity_bytes") if disks else 0
    return None if size is None else math.ceil(size / GIB)


def _first_card(domain: Mapping[str, Any]) -> dict[str, Any] | None:
    card = next(iter(domain.get("interfaces") or []), None)
    if card is None:
        return None
    kind = card["type"]
    return {
        "type": kind,
        kind: card.get("source") or "",
        "mac": card.get("mac"),
        "model": card.get("model"),
    }


def _metadata(domain: Mapping[str, Any]) -> Mapping[str, Any]:
    return domain.get("metadata") or {}


def _short(value: Any) -> str | None:
    return str(value)[:128] if value else None


FIELDS = (
    Field("name", "title", key="name", read=_title),
    Field("description", "description", key="description", read=lambda d: d["description"] or ""),
    Field("template", "template", Asked.AT_CREATION,
          key="metadata", read=lambda d: _short(_metadata(d).get("template"))),
    Field("os", "os", Asked.NEVER,
          key="metadata", read=lambda d: _short(_metadata(d).get("os"))),
    Field("cpu", "vcpus", key="vcpus", read=lambda d: int(d["vcpus"]), cost=Cost.WHOLE),
    Field("memory", "memory", key="memory", read=lambda d: int(d["memory"]), cost=Cost.WHOLE),
    Field("disk", "disk", key="disks", read=_first_disk, cost=Cost.GROWTH),
    Field("network", "network", key="interfaces", read=_first_card, cost=Cost.NETWORK),
    Field("auto_start", "autostart", api="autoStart",
          key="autostart", read=lambda d: bool(d["autostart"])),
    Field("labels", "labels",
          key="metadata", read=lambda d: dict(_metadata(d).get("labels") or {})),
    Field("clone", "clone", Asked.AT_CREATION, stored=False),
    Field("ssh_keys", "ssh_keys", Asked.AT_CREATION, api="sshKeys", stored=False),
    Field("user_data", "user_data", Asked.AT_CREATION, api="userData", stored=False, secret=True),
)  # fmt: skip
"""Memory is in MiB, disk in GiB."""
_COMMON = (
    ("cpu", "cpus", "cores"),
    ("memory", "ram", "mem"),
    ("disk", "disks", "size"),
    ("network", "interfaces", "nic"),
    ("labels", "tags"),
    ("name", "hostname", "domain"),
)
WORDS = (*((field.api_name, field.name, field.variable) for field in FIELDS), *_COMMON)
"""The words that API, database, role and other tools have for one field."""


def from_request(body: Mapping[str, Any]) -> dict[str, Any]:
    """Return field name → value, for the fields in the body of a request."""
    return {field.name: body[field.api_name] for field in FIELDS if field.api_name in body}


def columns_of(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values that the VM's row stores."""
    return {
        field.name: values[field.name] for field in FIELDS if field.stored and field.name in values
    }


def shown(vm: Any) -> dict[str, Any]:
    """Return API name → value, for the fields of a VM's row."""
    return {field.api_name: getattr(vm, field.name) for field in FIELDS if field.stored}


def to_variables(values: Mapping[str, Any], *, secret: bool = False) -> dict[str, Any]:
    """Return the role's variables for the values: those of secret fields, or all others."""
    return {
        field.role_variable: values[field.name]
        for field in FIELDS
        if field.secret is secret and values.get(field.name) is not None
    }


def from_variables(variables: Mapping[str, Any]) -> dict[str, Any]:
    """Return the columns that the role's variables set."""
    return {
        field.name: variables[field.role_variable]
        for field in FIELDS
        if field.stored and field.role_variable in variables
    }


def from_domain(domain: Mapping[str, Any]) -> dict[str, Any]:
    """Return the columns that a domain, as its host reports it, sets.

    Of a field that changes at the next boot, the column gets the new value, and `pending` the
    current one.
    """
    defined = {**domain, **(domain.get("pending") or {})}
    pending: dict[str, Any] = {}
    values: dict[str, Any] = {}
    for field in FIELDS:
        if field.key in domain and (value := field.read(defined)) is not None:
            values[field.name] = value
            if (now := field.read(domain)) != value:
                pending[field.name] = now
    return {**values, "pending": pending} if values else values


def needs_room(values: Mapping[str, Any]) -> bool:
    """Return whether a change of these fields must be checked against the room of the host."""
    return any(field.cost is not Cost.NOTHING and field.name in values for field in FIELDS)


def growth(vm: Any, requested: Mapping[str, Any]) -> dict[str, int]:
    """Return field name → the room that a VM's change of it requires, for the fields with amounts.

    The room is counted without what the VM is promised now, except for its disk's present size. A
    disk outside the default pool requires none of its room.
    """
    needed = {}
    elsewhere = vm.disk_pool not in {None, DEFAULT_POOL}
    for field in FIELDS:
        if field.cost in AMOUNTS:
            now = getattr(vm, field.name)
            new = requested.get(field.name, now)
            grows = 0 if elsewhere else new - now
            needed[field.name] = grows if field.cost is Cost.GROWTH else new * (new > now)
    return needed


def promised(values: Mapping[str, Any], requested: Mapping[str, Any]) -> dict[str, int]:
    """Return field name → amount promised to a VM with these columns and an unfinished update."""
    return {
        field.name: max(values[field.name], requested.get(field.name, 0))
        for field in FIELDS
        if field.cost in AMOUNTS
    }
