"""Turns the observation of one host into series. Pure."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from virtplay.states import ACTIVE_STATES, DomainState
from virtplay.units import MIB

NANO = 10**9

Values = dict[str, dict[tuple[str, ...], float]]
"""Maps each metric to its values, by label values in the order of the family."""


@dataclass(frozen=True)
class VmLabels:
    """The labels of libvirt_domain_info, which describe a VM."""

    vm: str
    """The public id, such as vm-001."""
    name: str
    template: str
    os: str


_POOL = {
    "capacity_bytes": "libvirt_storage_pool_capacity_bytes",
    "allocation_bytes": "libvirt_storage_pool_allocation_bytes",
    "available_bytes": "libvirt_storage_pool_available_bytes",
}
_HOST = {
    "cpus": "virtplay_host_cpus",
    "memory_bytes": "virtplay_host_memory_bytes",
    "memory_free_bytes": "virtplay_host_memory_free_bytes",
}
# The metric, and the divisor that converts the reported figure to its unit.
_VCPU = {
    "state": ("libvirt_domain_vcpu_state", 1),
    "time_ns": ("libvirt_domain_vcpu_time_seconds_total", NANO),
    "wait_ns": ("libvirt_domain_vcpu_wait_seconds_total", NANO),
    "delay_ns": ("libvirt_domain_vcpu_delay_seconds_total", NANO),
}
_BALLOON = {
    "actual_bytes": "libvirt_domain_memory_stats_actual_balloon_bytes",
    "available_bytes": "libvirt_domain_memory_stats_available_bytes",
    "usable_bytes": "libvirt_domain_memory_stats_usable_bytes",
    "unused_bytes": "libvirt_domain_memory_stats_unused_bytes",
    "rss_bytes": "libvirt_domain_memory_stats_rss_bytes",
    "swap_in_bytes": "libvirt_domain_memory_stats_swap_in_bytes_total",
    "swap_out_bytes": "libvirt_domain_memory_stats_swap_out_bytes_total",
    "major_fault": "libvirt_domain_memory_stats_major_faults_total",
    "minor_fault": "libvirt_domain_memory_stats_minor_faults_total",
}
_BLOCK = {
    "read_bytes": ("libvirt_domain_block_stats_read_bytes_total", 1),
    "read_requests": ("libvirt_domain_block_stats_read_requests_total", 1),
    "read_time_ns": ("libvirt_domain_block_stats_read_time_seconds_total", NANO),
    "write_bytes": ("libvirt_domain_block_stats_write_bytes_total", 1),
    "write_requests": ("libvirt_domain_block_stats_write_requests_total", 1),
    "write_time_ns": ("libvirt_domain_block_stats_write_time_seconds_total", NANO),
    "flush_requests": ("libvirt_domain_block_stats_flush_requests_total", 1),
    "flush_time_ns": ("libvirt_domain_block_stats_flush_time_seconds_total", NANO),
    "capacity_bytes": ("libvirt_domain_block_stats_capacity_bytes", 1),
    "allocation_bytes": ("libvirt_domain_block_stats_allocation_bytes", 1),
    "physical_bytes": ("libvirt_domain_block_stats_physical_bytes", 1),
}
_INTERFACE = {
    f"{way}_{theirs}": (f"libvirt_domain_interface_stats_{verb}_{ours}_total", 1)
    for way, verb in (("rx", "receive"), ("tx", "transmit"))
    for theirs, ours in (
        ("bytes", "bytes"),
        ("packets", "packets"),
        ("errs", "errors"),
        ("drop", "drops"),
    )
}


def read_host(
    host: str, info: Mapping[str, Any], refs: Mapping[str, VmLabels], at: float
) -> Values:
    """Return the series of one host's `host_info`, observed at `at` (Unix seconds).

    What libvirt did not give has no series.
    """
    values: Values = {}
    facts = info.get("host") or {}
    for key, metric in _HOST.items():
        _put(values, metric, (host,), facts.get(key))
    domains = info.get("domains") or ()
    configured = [{**domain, **(domain.get("pending") or {})} for domain in domains]
    # As placement counts them: a stopped VM keeps its memory, but needs no CPU.
    active = [domain for domain in configured if domain.get("state") in ACTIVE_STATES]
    for metric, key, counted, per in (
        ("virtplay_host_cpus_allocated", "vcpus", active, 1),
        ("virtplay_host_memory_bytes_allocated", "memory", configured, 1 / MIB),
    ):
        # An unreadable domain reports neither.
        given = sum(_number(domain.get(key)) or 0.0 for domain in counted)
        _put(values, metric, (host,), given, per)
    for pool in info.get("pools") or ():
        for key, metric in _POOL.items():
            _put(values, metric, (host, label_value(pool["name"])), pool.get(key))
    for domain in domains:
        _read_domain(values, host, domain, refs.get(domain["uuid"]), at)
    return values


def _read_domain(
    values: Values, host: str, domain: Mapping[str, Any], named: VmLabels | None, at: float
) -> None:
    vm = (host, label_value(domain["name"]), label_value(domain["uuid"]))
    called = named or VmLabels("", str(domain.get("title") or domain["name"]), "", "")
    managed = domain.get("metadata") is not None
    texts = (called.vm, called.name, called.template, called.os, managed_label(managed=managed))
    _put(values, "libvirt_domain_info", (*vm, *map(label_value, texts)), 1)
    state = domain.get("state") or DomainState.UNKNOWN
    for each in DomainState:
        _put(values, "libvirt_domain_state", (*vm, each), 1 if each == state else 0)
    if reason := domain.get("state_reason"):
        _put(
            values, "libvirt_domain_state_reason", (*vm, label_value(state), label_value(reason)), 1
        )
    _put(values, "virtplay_vm_last_observed_timestamp_seconds", vm, at)
    _put(values, "virtplay_vm_generation", vm, domain.get("generation"))
    _put(values, "libvirt_domain_info_virtual_cpus", vm, domain.get("vcpus"))
    _put(values, "libvirt_domain_info_maximum_memory_bytes", vm, domain.get("memory_max"), 1 / MIB)
    stats = domain.get("stats") or {}
    cpu_time = stats.get("cpu_time_ns")
    _put(values, "libvirt_domain_info_cpu_time_seconds_total", vm, cpu_time, NANO)
    for vcpu in stats.get("vcpu") or ():
        for key, (metric, per) in _VCPU.items():
            _put(values, metric, (*vm, str(vcpu["vcpu"])), vcpu.get(key), per)
    balloon = stats.get("balloon") or {}
    for key, metric in _BALLOON.items():
        _put(values, metric, vm, balloon.get(key))
    available, usable = (
        _number(balloon.get("available_bytes")),
        _number(balloon.get("usable_bytes")),
    )
    if available is not None and usable is not None:
        _put(values, "libvirt_domain_memory_used_bytes", vm, available - usable)
    for block in stats.get("block") or ():
        if target := block.get("target"):
            for key, (metric, per) in _BLOCK.items():
                _put(values, metric, (*vm, label_value(target)), block.get(key), per)
    for device, interface in _named_interfaces(stats.get("interface") or ()):
        for key, (metric, per) in _INTERFACE.items():
            _put(values, metric, (*vm, device), interface.get(key), per)


def _named_interfaces(interfaces: Any) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield each interface with its MAC address, which stays the same after a restart.

    libvirt numbers tap devices anew at each start, so vnet3 would be another VM's tomorrow. Only
    one without an address, or with the address of an earlier one, goes by its device.
    """
    taken = set()
    for interface in interfaces:
        device = interface.get("mac")
        if not device or device in taken:
            device = interface.get("target")
        if device and device not in taken:
            taken.add(device)
            yield label_value(device), interface


def _put(
    values: Values, metric: str, labels: tuple[str, ...], value: object, per: float = 1
) -> None:
    number = _number(value)
    if number is not None:
        values.setdefault(metric, {})[labels] = number / per


def managed_label(*, managed: bool) -> str:
    """Return the label managed of a VM."""
    return "true" if managed else "false"


def label_value(value: object) -> str:
    """Return the value as text without lone surrogates, which cannot be encoded as UTF-8."""
    return str(value).encode("utf-8", "replace").decode()


def _number(value: object) -> float | None:
    """Return the value as a number; None when it is not a finite number."""
    if isinstance(value, int | float) and math.isfinite(value):
        return float(value)
    return None
