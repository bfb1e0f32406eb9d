# Copyright: Virtplay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Prepares new disks and network interfaces of a domain, checked against its host."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..failure import Failure
from ..host.files import list_bridges
from ..host.images import require_response
from ..host.reservations import find_network
from ..host.storage import (
    DEFAULT_POOL,
    Template,
    create_disk,
    disk_name,
    find_pool,
    find_template,
    pool_path,
    wanted_size,
)
from ..values import MAC, NEW_DISK_TARGET
from .xml import NAMESPACE, Interface

# The target of a new domain's disk that has none.
FIRST_TARGET = "vda"
# Reservations of a deleted domain are searched by this many derived MAC addresses.
_MOST_INTERFACES = 8


@dataclass(frozen=True)
class NewDisk:
    """A disk to create: its place, its size in bytes, and its template."""

    target: str
    pool: str
    name: str
    path: str
    size: int
    template: Template | None
    clone: str


def prepare_disk(
    conn: Any, uuid: str, disk: Mapping[str, Any], templates: Path, *, dry_run: bool = False
) -> NewDisk:
    """Check a new disk against the host; in a dry run its template may be missing."""
    target = disk["target"]
    if not NEW_DISK_TARGET.allows(target):
        raise Failure(
            f"cannot create disk {target!r}: the target of a new disk {NEW_DISK_TARGET.sentence}",
            "VALIDATION_ERROR",
        )
    template = None
    if disk.get("template"):
        try:
            template = find_template(disk["template"], templates)
        except Failure:
            if not dry_run:
                raise
            template = Template(disk["template"], "", "qcow2", 0, None)
    pool = disk.get("pool") or DEFAULT_POOL
    name = disk_name(uuid, target)
    directory = pool_path(find_pool(conn, pool))
    require_response([directory], f"create disk {target}")
    return NewDisk(
        target=target,
        pool=pool,
        name=name,
        path=os.path.join(directory, name),
        size=wanted_size(dict(disk), template),
        template=template,
        clone=disk.get("clone") or "linked",
    )


def make_disk(conn: Any, disk: NewDisk) -> Any:
    """Create the volume of a new disk; fails if a volume of that name exists."""
    pool = find_pool(conn, disk.pool)
    return create_disk(
        conn, pool, disk.name, size=disk.size, template=disk.template, clone=disk.clone
    )


def prepare_interface(conn: Any, uuid: str, number: int, wanted: Mapping[str, Any]) -> Interface:
    """Return a wanted interface with all its values; raises Failure without its source."""
    kind = wanted.get("type") or "network"
    source = wanted.get("source") or ("default" if kind == "network" else None)
    if source is None:
        raise Failure(
            f"cannot create interface {number}: source, the name of the bridge, is required",
            "VALIDATION_ERROR",
        )
    check_source(conn, kind, source)
    mac = wanted.get("mac") or derive_mac(uuid, number)
    if not MAC.allows(mac):
        raise Failure(f"cannot use MAC address {mac!r}: it {MAC.sentence}", "VALIDATION_ERROR")
    return Interface(mac.lower(), kind, source, wanted.get("model") or "virtio")


def check_source(conn: Any, kind: str, source: str) -> None:
    """Raise Failure (VALIDATION_ERROR) if the host lacks this network or bridge."""
    if kind == "network":
        find_network(conn, source)
    elif source not in list_bridges():
        raise Failure(
            f"cannot use bridge {source!r}: the host has no bridge of that name", "VALIDATION_ERROR"
        )


def derive_mac(uuid: str, number: int) -> str:
    """Return the derived MAC address of a domain's interface: stable and locally administered."""
    digest = hashlib.sha256(f"{NAMESPACE}/{uuid}/{number}".encode()).hexdigest()
    return ":".join(["52", *(digest[i : i + 2] for i in range(0, 10, 2))])


def derived_macs(uuid: str) -> list[str]:
    """Return the derived MAC addresses that a domain may have."""
    return [derive_mac(uuid, number) for number in range(_MOST_INTERFACES)]
