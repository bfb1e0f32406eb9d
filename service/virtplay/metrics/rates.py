"""The usage of a VM between two observations, computed from its counters. Pure."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from virtplay.units import MIB

LONGEST_SECONDS = 3600.0
"""Two observations further apart than this give no meaningful rate."""


@dataclass(frozen=True, slots=True)
class Counters:
    """The counters of one domain at one observation; None where libvirt reports nothing."""

    uptime: float
    """Seconds since the host was booted, by its monotonic clock."""
    run: tuple[str, str]
    """The boot of the host and the start of the domain: either resets the counters."""
    cpu_ns: int | None
    disk_read: int | None
    disk_write: int | None
    network_rx: int | None
    network_tx: int | None


@dataclass(frozen=True, slots=True)
class Usage:
    """The usage of a domain, in percent, bytes and bytes per second."""

    cpu: float | None = None
    memory_used: int | None = None
    memory_total: int | None = None
    disk_usage: float | None = None
    disk_read: float | None = None
    disk_write: float | None = None
    network_rx: float | None = None
    network_tx: float | None = None


def _sum(entries: Iterable[Mapping[str, Any]], key: str) -> int | None:
    values = [entry[key] for entry in entries if key in entry]
    return sum(values) if values else None


def read_counters(host: Mapping[str, Any], domain: Mapping[str, Any]) -> Counters:
    """Return the counters of a running domain from an observation of its host."""
    stats = domain.get("stats") or {}
    blocks, interfaces = stats.get("block") or (), stats.get("interface") or ()
    return Counters(
        uptime=float(host["uptime_seconds"]),
        run=(str(host.get("uuid")), str(domain.get("started_at"))),
        cpu_ns=stats.get("cpu_time_ns"),
        disk_read=_sum(blocks, "read_bytes"),
        disk_write=_sum(blocks, "write_bytes"),
        network_rx=_sum(interfaces, "rx_bytes"),
        network_tx=_sum(interfaces, "tx_bytes"),
    )


def rate(before: int | None, after: int | None, seconds: float) -> float | None:
    """Return the rate per second; None when a value is unknown or the counter was reset."""
    if before is None or after is None or after < before:
        return None
    return (after - before) / seconds


def measure(before: Counters | None, after: Counters, domain: Mapping[str, Any]) -> Usage:
    """Return the usage of a running domain; rates require a `before` of the same run."""
    memory_used, memory_total = memory_of(domain)
    use = Usage(memory_used=memory_used, memory_total=memory_total, disk_usage=disk_usage(domain))
    seconds = after.uptime - before.uptime if before else 0.0
    if before is None or before.run != after.run or not 0 < seconds < LONGEST_SECONDS:
        return use
    cpu = rate(before.cpu_ns, after.cpu_ns, seconds)
    return replace(
        use,
        cpu=cpu / 1e9 / max(1, int(domain["vcpus"])) * 100 if cpu is not None else None,
        disk_read=rate(before.disk_read, after.disk_read, seconds),
        disk_write=rate(before.disk_write, after.disk_write, seconds),
        network_rx=rate(before.network_rx, after.network_rx, seconds),
        network_tx=rate(before.network_tx, after.network_tx, seconds),
    )


def memory_of(domain: Mapping[str, Any]) -> tuple[int | None, int]:
    """Return used and total bytes of the guest; used is None without a balloon driver."""
    balloon = (domain.get("stats") or {}).get("balloon") or {}
    total = int(domain["memory"]) * MIB
    if "available_bytes" not in balloon or "usable_bytes" not in balloon:
        return None, total
    return max(0, balloon["available_bytes"] - balloon["usable_bytes"]), total


def disk_usage(domain: Mapping[str, Any]) -> float | None:
    """Return the used percent of the guest's file systems, or else of the disk images."""
    systems = domain.get("filesystems") or ()
    used, total = _sum(systems, "used_bytes"), _sum(systems, "total_bytes")
    if not total:
        # A block device or a disk on the network has a size only.
        disks = [disk for disk in domain.get("disks") or () if "allocation_bytes" in disk]
        used, total = _sum(disks, "allocation_bytes"), _sum(disks, "capacity_bytes")
    return min(100.0, used / total * 100) if total and used is not None else None
