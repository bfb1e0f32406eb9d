"""Store: writes a domain, as its host reports it, into its VM's row.

Observations and module results of jobs report domains in the same shape; only this file writes
them into rows.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from virtplay.states import DomainState, fault_of, power_status
from virtplay.store.models import Snapshot, Vm
from virtplay.store.snapshots import follow_snapshots, list_snapshots
from virtplay.store.vms import number_of, save_vm
from virtplay.vm_fields import DEFAULT_POOL, from_domain

UNREADABLE = (AttributeError, KeyError, TypeError, ValueError)
"""Errors that a report of another shape raises."""
NO_REASON = "unknown"
"""The reason of a VM that was only created, or whose libvirt has been restarted since.

QEMU also pauses a guest for it, and then it is an error: see PAUSED_BY_QEMU.
"""
STATE: tuple[tuple[str, str, Callable[[Any], Any]], ...] = (
    ("domain", "name", str),
    ("power", "state", lambda state: state or ""),
    ("state_reason", "state_reason", lambda reason: reason or None),
    ("started_at", "started_at", lambda text: datetime.fromisoformat(text) if text else None),
    ("addresses", "addresses", lambda addresses: addresses or []),
    ("ip", "addresses", lambda addresses: addresses[0]["ip"] if addresses else None),
    ("managed", "metadata", lambda metadata: metadata is not None),
    ("snapshots", "snapshots", lambda snapshots: len(snapshots or ())),
)
"""The columns that no request sets: column, key of the domain, function to read it."""


def columns_of(domain: Mapping[str, Any]) -> dict[str, Any]:
    """Return the columns of a VM that its domain, as the modules report it, sets.

    A key that the domain does not report sets no column.
    """
    if domain.get("state") == "stopped":
        domain = {"addresses": [], **domain}
    state = {column: read(domain[key]) for column, key, read in STATE if key in domain}
    if state.get("state_reason") == NO_REASON and domain.get("state") != DomainState.PAUSED:
        state["state_reason"] = None
    if "state" in domain:
        state["status"] = power_status(state["power"], state.get("state_reason"))
    return {**from_domain(domain), **state, **_room_of(domain.get("disks"))}


def _room_of(disks: Sequence[Mapping[str, Any]] | None) -> dict[str, Any]:
    """Return the columns about storage pools; only observations report the pools of disks."""
    if disks is None or not all("pool" in disk for disk in disks):
        return {}
    inside = [disk for disk in disks if disk["pool"] == DEFAULT_POOL]
    if not all("capacity_bytes" in disk for disk in inside):
        return {}  # as long as storage does not respond, the last known sizes count
    return {
        "disk_pool": (disks[0]["pool"] or "")[:255] if disks else "",
        "pool_size": sum(disk["capacity_bytes"] for disk in inside),
        "disk_allocation": sum(
            # Snapshots in an image may take more than the disk.
            min(disk["capacity_bytes"], disk.get("allocation_bytes") or 0)
            for disk in inside
        ),
    }


def error_of(label: str, domain: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the error of a VM whose guest has crashed or was paused by QEMU, or None.

    `label`: the VM's name and id.
    """
    fault = fault_of(domain.get("state") or "", domain.get("state_reason"))
    if fault is None:
        return None
    happened, remedy = fault
    disks = domain.get("disk_errors") or {}
    named = ", ".join(f"{target}: {error}" for target, error in sorted(disks.items()))
    return {
        "code": "GUEST_NOT_RUNNING",
        "message": f"VM {label} does not run: {happened}{f' ({named})' if named else ''}; {remedy}",
        "jobId": None,
    }


def twice_defined(vm: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the error of a VM, given by its columns, that several hosts define, or None."""
    if not vm.get("elsewhere"):
        return None
    states = ", ".join(
        f"{host} ({state})"
        for host, state in sorted({**vm["elsewhere"], vm["host"]: vm["power"]}.items())
    )
    return {
        "code": "DEFINED_TWICE",
        "message": f"VM {vm['name']} ({vm['ref']}) is defined on several hosts: {states};"
        " undefine it where it does not belong (virsh undefine, without its disks)",
        "jobId": None,
    }


def other_id(vm: Vm, domain: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the error of a VM whose metadata on the host has the id of another VM, or None."""
    claimed = (domain.get("metadata") or {}).get("id")
    if claimed == vm.ref or number_of(claimed) is None:
        return None
    return {
        "code": "ID_IN_USE",
        "message": f"VM {vm.label} has the id {claimed} in its metadata, which another VM had"
        f" when it was found: it is a copy of {claimed}, or {claimed} was created while its host"
        f" was not observed; it is VM {vm.ref} here, and any update of it writes that into its"
        " metadata",
        "jobId": None,
    }


async def leave_elsewhere(vm: Vm, host: str, state: str | None) -> bool:
    """Note the state of a VM on a host that is not its own, None if it is not defined there.

    Return False if that was known.
    """
    elsewhere = {**(vm.elsewhere or {}), host: state}
    present = {name: known for name, known in elsewhere.items() if known is not None} or None
    values = {"elsewhere": present}
    error = twice_defined({**vars(vm), **values})
    if error or (vm.error or {}).get("code") == "DEFINED_TWICE":
        # The error of its own host, if any, comes back with the next observation of that.
        values["error"] = error
    return await save_vm(vm, **values)


async def follow_domain(
    vm: Vm,
    domain: Mapping[str, Any],
    snapshots: Iterable[Snapshot] | None = None,
    *,
    network: Mapping[str, Any] | None = None,
    **values: Any,
) -> None:
    """Update the rows of a VM whose domain exists, and of its snapshots, from the domain.

    `snapshots` are all rows of the VM's snapshots, if the caller has read them. `network` is the
    network card that a job was asked for, if any: hosts do not report its fixed address. `values`
    are further columns.
    """
    observed = columns_of(domain)
    if "addresses" not in domain and observed.get("started_at", vm.started_at) != vm.started_at:
        # A guest that a job has started: the addresses are those of the boot before.
        observed |= {"addresses": [], "ip": None}
    requested = network or vm.network
    if requested.get("ip") and requested.get("mac") == observed.get("network", {}).get("mac"):
        observed["network"]["ip"] = requested["ip"]
    error = (
        error_of(vm.label, domain)
        or twice_defined({**vars(vm), **observed, **values})
        or other_id(vm, domain)
    )
    if "pool_size" not in observed and observed.get("disk", vm.disk) != vm.disk:
        # Until the next observation the whole disk counts.
        observed["pool_size"] = None
    await save_vm(vm, provisioned=True, **{"error": error, **observed, **values})
    if "snapshots" in domain:
        rows = await list_snapshots(vm) if snapshots is None else snapshots
        await follow_snapshots(vm, domain["snapshots"] or (), rows)
