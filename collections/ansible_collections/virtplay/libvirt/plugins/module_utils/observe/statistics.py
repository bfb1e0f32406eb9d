# Copyright: Virtplay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Converts libvirt's flat statistics record into nested values; pure.

The VIR_DOMAIN_STATS_* groups of virConnectGetAllDomainStats define names and units of a record.
Values that libvirt does not return are missing here too, never 0.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

Record = Mapping[str, Any]

_VCPU = {"state": "state", "time": "time_ns", "wait": "wait_ns", "delay": "delay_ns"}
# KiB in libvirt, bytes in our values.
_BALLOON_KIB = {
    "current": "actual_bytes",
    "maximum": "maximum_bytes",
    "available": "available_bytes",
    "usable": "usable_bytes",
    "unused": "unused_bytes",
    "rss": "rss_bytes",
    "swap_in": "swap_in_bytes",
    "swap_out": "swap_out_bytes",
}
_BALLOON_COUNTS = {"major_fault": "major_fault", "minor_fault": "minor_fault"}
# These libvirt and QEMU know themselves; the others are what the guest's driver has reported last.
_NOT_OF_GUEST = frozenset({"current", "maximum", "rss"})
# QEMU keeps the figures of a driver that has stopped: they are unknown after so many seconds, or
# so many times the period in which QEMU queries them.
STALE_SECONDS = 60
STALE_PERIODS = 4
_BLOCK = {
    "name": "target",
    "rd.bytes": "read_bytes",
    "rd.reqs": "read_requests",
    "rd.times": "read_time_ns",
    "wr.bytes": "write_bytes",
    "wr.reqs": "write_requests",
    "wr.times": "write_time_ns",
    "fl.reqs": "flush_requests",
    "fl.times": "flush_time_ns",
    "capacity": "capacity_bytes",
    "allocation": "allocation_bytes",
    "physical": "physical_bytes",
}
_INTERFACE = {
    "name": "target",
    **{
        f"{way}.{theirs}": f"{way}_{ours}"
        for way in ("rx", "tx")
        for theirs, ours in (
            ("bytes", "bytes"),
            ("pkts", "packets"),
            ("errs", "errs"),
            ("drop", "drop"),
        )
    },
}


def has_monitor_values(record: Record) -> bool:
    """Whether QEMU itself responded: libvirt returns the resident size only together with it."""
    return "balloon.rss" in record


def balloon_period(live_xml: str) -> int:
    """Return how often QEMU queries the balloon driver, in seconds; 0 for never."""
    # libvirt writes the definition, always in this form; parsing it takes much longer.
    found = re.search(r"<stats period='([0-9]{1,6})'/>", live_xml)
    return int(found[1]) if found else 0


def read_statistics(
    record: Record,
    cpu_time_ns: int | None,
    mac_of_target: Mapping[str, str],
    *,
    now: float,
    period: int,
) -> dict[str, Any]:
    """Return a record as nested values; mac_of_target maps tap devices to MAC addresses.

    now is the host's time in seconds since the epoch, period is that of balloon_period.
    """
    stats: dict[str, Any] = {}
    if cpu_time_ns is not None:
        stats["cpu_time_ns"] = cpu_time_ns
    stats["vcpu"] = [{"vcpu": number, **entry} for number, entry in _entries(record, "vcpu", _VCPU)]
    stats["balloon"] = _read_balloon(record, now, period)
    stats["block"] = [entry for _number, entry in _entries(record, "block", _BLOCK)]
    stats["interface"] = [entry for _number, entry in _entries(record, "net", _INTERFACE)]
    for interface in stats["interface"]:
        if interface.get("target") in mac_of_target:
            interface["mac"] = mac_of_target[interface["target"]]
    return stats


def _read_balloon(record: Record, now: float, period: int) -> dict[str, int]:
    age = now - record.get("balloon.last-update", 0)
    fresh = age <= max(STALE_SECONDS, STALE_PERIODS * period)
    factors = [*((names, 1024) for names in _BALLOON_KIB.items())]
    factors += [(names, 1) for names in _BALLOON_COUNTS.items()]
    return {
        ours: record[f"balloon.{theirs}"] * factor
        for (theirs, ours), factor in factors
        if f"balloon.{theirs}" in record and (fresh or theirs in _NOT_OF_GUEST)
    }


def _entries(
    record: Record, group: str, names: Mapping[str, str]
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the numbered entries of a group ("vcpu.3.time") that have at least one known field.

    Numbers may have holes: a vCPU in the middle can be offline.
    """
    found: dict[int, dict[str, Any]] = {}
    for key, value in record.items():
        head, _dot, rest = key.partition(".")
        number, _dot, field = rest.partition(".")
        if head == group and number.isdigit() and field in names:
            found.setdefault(int(number), {})[names[field]] = value
    yield from sorted(found.items())
