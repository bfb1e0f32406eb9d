"""Pure: the fields of a VM, one a line, and every translation of them.

The API, the database, the role libvirt_domain and the module `domain` each have a name of their own
for a field. A field is written down here once; what turns one name into another reads this table.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any

from virtplay.units import GIB

ROLE = "libvirt_domain"


class Asked(Enum):
    """In which requests a field may be given."""

    NEVER = auto()
    """It is known without asking."""
    AT_CREATION = auto()
    """It is fixed then."""
    ALWAYS = auto()
    """It can be changed later."""


@dataclass(frozen=True)
class Field:
    """One field of a VM and its names."""

    name: str
    """Its column; for a field that no row keeps, its name in a request inside the service."""
    variable: str
    """The role's variable, without the role's name."""
    asked: Asked = Asked.ALWAYS
    api: str = ""
    """Its name in the API, where that is not `name`."""
    stored: bool = True
    """Whether the row keeps it."""
    secret: bool = False
    """Whether its value is kept out of the database, the log and the command line."""
    key: str = ""
    """The key of a reported domain with which it is reported; empty if no host reports it."""
    read: Callable[[Mapping[str, Any]], Any] = lambda domain: None
    """A domain with that key → the column's value; None where the host does not know."""
    needs_room: bool = False
    """Whether a new value must be checked against the room that its host has."""

    @property
    def api_name(self) -> str:
        """Its name in requests and answers of the API."""
        return self.api or self.name

    @property
    def role_variable(self) -> str:
        """The role's variable in full."""
        return f"{ROLE}_{self.variable}"


def _title(domain: Mapping[str, Any]) -> str:
    return str(domain.get("title") or domain["name"])[:255]


def _first_disk(domain: Mapping[str, Any]) -> int | None:
    """GiB, rounded up."""
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
    Field("cpu", "vcpus", key="vcpus", read=lambda d: int(d["vcpus"]), needs_room=True),
    Field("memory", "memory", key="memory", read=lambda d: int(d["memory"]), needs_room=True),
    Field("disk", "disk", key="disks", read=_first_disk, needs_room=True),
    Field("network", "network", key="interfaces", read=_first_card, needs_room=True),
    Field("auto_start", "autostart", api="autoStart",
          key="autostart", read=lambda d: bool(d["autostart"])),
    Field("labels", "labels",
          key="metadata", read=lambda d: dict(_metadata(d).get("labels") or {})),
    Field("clone", "clone", Asked.AT_CREATION, stored=False),
    Field("ssh_keys", "ssh_keys", Asked.AT_CREATION, api="sshKeys", stored=False),
    Field("user_data", "user_data", Asked.AT_CREATION, api="userData", stored=False, secret=True),
)  # fmt: skip
"""Memory MiB, disk GiB."""


def from_request(body: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that a request's body gives, by name."""
    return {field.name: body[field.api_name] for field in FIELDS if field.api_name in body}


def columns_of(values: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the values that the VM's row keeps."""
    return {
        field.name: values[field.name] for field in FIELDS if field.stored and field.name in values
    }


def shown(vm: Any) -> dict[str, Any]:
    """The fields of a VM's row by their names in the API."""
    return {field.api_name: getattr(vm, field.name) for field in FIELDS if field.stored}


def to_variables(values: Mapping[str, Any], *, secret: bool = False) -> dict[str, Any]:
    """The role's variables for the values that are given; the secret ones only, or all others."""
    return {
        field.role_variable: values[field.name]
        for field in FIELDS
        if field.secret is secret and values.get(field.name) is not None
    }


def from_variables(variables: Mapping[str, Any]) -> dict[str, Any]:
    """The columns that the role's variables stand for."""
    return {
        field.name: variables[field.role_variable]
        for field in FIELDS
        if field.stored and field.role_variable in variables
    }


def from_domain(domain: Mapping[str, Any]) -> dict[str, Any]:
    """The columns that a domain gives, as its host reports it: those of what it reports.

    A value that waits for the next boot counts as given; `pending` has the one in force now.
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
    """Whether a change of these fields must be checked against the room of the host."""
    return any(field.needs_room and field.name in values for field in FIELDS)
