# Copyright: Virtplay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Reads one domain through libvirtd alone, so that a stuck QEMU cannot block."""

from __future__ import annotations

from typing import Any

from ..host.connection import libvirt, read_state, saved_xml
from ..host.qemu_process import file_sizes, started_at
from ..host.reservations import list_reservations
from ..units import GIB
from .flags import read_flags
from .jobs import list_jobs
from .plan import Current
from .xml import hotpluggable_vcpus, parse_domain, pending_values


def view_domain(conn: Any, dom: Any, *, whole: bool = False) -> Current:
    """Return a domain as libvirt reports it; whole adds what only a change of definition needs."""
    live_xml = dom.XMLDesc(0)
    persistent = bool(dom.isPersistent())
    active = bool(dom.isActive())
    config_xml = live_xml
    if active and persistent:
        config_xml = dom.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE)
    state, reason, has_managed_save = read_state(dom)
    if has_managed_save and not active:
        live_xml = saved_xml(dom) or config_xml
    config = parse_domain(config_xml)
    current = Current(
        state=state,
        flags=read_flags(dom, persistent=persistent),
        persistent=persistent,
        config=config,
        live=config if live_xml == config_xml else parse_domain(live_xml),
        config_xml=config_xml,
        live_xml=live_xml,
        reason=reason,
        has_managed_save=has_managed_save,
        jobs=list_jobs(dom, live_xml) if active else (),
    )
    if whole:
        current.hotpluggable_vcpus = hotpluggable_vcpus(live_xml) if active else 0
        current.capacities = {
            disk["target"]: sizes["capacity_bytes"]
            for disk in config["disks"]
            if disk["path"] and (sizes := file_sizes(disk["path"]))
        }
        current.reservations = list_reservations(
            conn, (nic["mac"] for nic in config["interfaces"] if nic["mac"])
        )
        current.snapshots = dom.snapshotNum(0)
    return current


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
    shown["disks"] = [_measure(disk) for disk in current.live["disks"]]
    if pending := pending_values(current.live, current.config):
        shown["pending"] = pending
    return shown


def _measure(disk: dict[str, Any]) -> dict[str, Any]:
    sizes = file_sizes(disk["path"]) if disk["path"] else {}
    if not sizes:
        return disk
    return {**disk, **sizes, "size": round(sizes["capacity_bytes"] / GIB, 3)}
