# Copyright: Virtplay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Reads one domain through libvirtd alone, so that a stuck QEMU cannot block."""

from __future__ import annotations

import time
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

from ..failure import Failure
from ..host.connection import libvirt, read_state, saved_xml
from ..host.definition import read_definition
from ..host.images import Image, call_each, image_of, image_sizes, with_sizes
from ..host.qemu_process import started_at
from ..host.reservations import list_reservations
from ..host.storage import resolve_volumes
from ..states import DomainReason
from .flags import read_flags
from .jobs import is_idle, list_jobs
from .plan import Current
from .power import call_within
from .xml import (
    has_numa_cells,
    hotpluggable_vcpus,
    may_lose_variables,
    nvram_has_name,
    parse_domain,
    pending_values,
)

# How long to wait for the storage of a domain's disks; without a response sizes are unknown.
STORAGE_SECONDS = 5.0


def view_domain(conn: Any, dom: Any, *, whole: bool = False) -> Current:
    """Return a domain as libvirt reports it; whole adds what only a change of definition needs."""
    persistent = bool(dom.isPersistent())
    active = bool(dom.isActive())
    live_xml = read_definition(dom, active=active)
    config_xml = live_xml
    if active and persistent:
        config_xml = read_definition(dom, active=True, inactive=True)
    state, reason, has_managed_save = read_state(dom)
    if reason == DomainReason.SAVED:
        live_xml = saved_xml(dom) or config_xml
    config = parse_domain(config_xml)
    live = config if live_xml == config_xml else parse_domain(live_xml)
    resolve_volumes(conn, config["disks"])
    if live is not config:
        resolve_volumes(conn, live["disks"])
    current = Current(
        state=state,
        flags=read_flags(dom, persistent=persistent),
        persistent=persistent,
        config=config,
        live=live,
        config_xml=config_xml,
        live_xml=live_xml,
        reason=reason,
        has_managed_save=has_managed_save,
        jobs=list_jobs(dom, live_xml) if active else (),
        may_lose_variables=may_lose_variables(config_xml),
        idle=active and reason == DomainReason.MIGRATION and is_idle(dom),
    )
    if whole:
        current.hotpluggable_vcpus = hotpluggable_vcpus(live_xml) if active else 0
        current.has_numa_cells = has_numa_cells(config_xml)
        # The live image counts: the next boot may have another one in its place.
        disks = {disk["target"]: disk for disk in (*config["disks"], *live["disks"])}
        sizes = _measure(disks.values())
        current.capacities = {
            target: sizes[image]["capacity_bytes"]
            for target, disk in disks.items()
            if (image := image_of(disk)) and "capacity_bytes" in sizes.get(image, {})
        }
        # Only a file has an allocation.
        current.block_devices = {
            target
            for target, disk in disks.items()
            if (image := image_of(disk)) and sizes.get(image, {}).keys() == {"capacity_bytes"}
        }
        for disk in live["disks"] if active else ():
            if not disk["path"] and disk["source"]:
                _ask_capacity(dom, disk["target"], current)
        current.reservations = list_reservations(
            conn, (nic["mac"] for nic in config["interfaces"] if nic["mac"])
        )
        current.snapshots = dom.snapshotNum(0)
        current.nvram_has_name = nvram_has_name(config_xml)
    return current


def _ask_capacity(dom: Any, target: str, current: Current) -> None:
    """Set the capacity of a disk that is not on the host, if QEMU responds with it."""
    with suppress(libvirt.libvirtError, Failure):
        info = call_within(STORAGE_SECONDS, lambda: dom.blockInfo(target), "cannot measure a disk")
        current.capacities[target] = info[0]


def describe(current: Current) -> dict[str, Any]:
    """Return a domain as the module's `domain` value; `pending` has the values of the next boot."""
    shown = {
        **current.live,
        "state": str(current.state),
        "state_reason": str(current.reason),
        "has_managed_save": current.has_managed_save,
        "persistent": current.persistent,
        **current.flags,
        "started_at": started_at(current.label) if current.active else None,
    }
    shown["disks"] = _with_sizes(current.live["disks"])
    if pending := pending_values(current.live, current.config):
        shown["pending"] = pending
    return shown


def _measure(disks: Iterable[dict[str, Any]]) -> dict[Image, dict[str, int]]:
    """Return the sizes of the images that can be read within STORAGE_SECONDS."""
    images = [image for disk in disks if (image := image_of(disk))]
    return call_each(image_sizes, images, time.monotonic() + STORAGE_SECONDS)


def _with_sizes(disks: list[dict[str, Any]]) -> list[dict[str, Any]]:
    measured = _measure(disks)
    return [
        with_sizes(disk, measured.get(image, {}) if (image := image_of(disk)) else {})
        for disk in disks
    ]
