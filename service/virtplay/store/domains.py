"""Store: what a domain, as its host reports it, makes of a VM's row.

An observation and the result of a job's module report a domain in the same shape, and both reach
the row here alone.
"""

from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from typing import Any

from virtplay.states import POWER_STATUS, VmStatus
from virtplay.store.models import Snapshot, Vm
from virtplay.store.snapshots import follow_snapshots, list_snapshots
from virtplay.store.vms import save_vm
from virtplay.vm_fields import from_domain

UNREADABLE = (AttributeError, KeyError, TypeError, ValueError)
"""What a report in another shape raises."""
STATE: tuple[tuple[str, str, Callable[[Any], Any]], ...] = (
    ("domain", "name", str),
    ("power", "state", lambda state: state or ""),
    ("status", "state", lambda state: POWER_STATUS.get(state, VmStatus.ERROR)),
    ("started_at", "started_at", lambda text: datetime.fromisoformat(text) if text else None),
    ("addresses", "addresses", lambda addresses: addresses or []),
    ("ip", "addresses", lambda addresses: addresses[0]["ip"] if addresses else None),
    ("snapshots", "snapshots", lambda snapshots: len(snapshots or ())),
    (
        "disk_allocation",
        "disks",
        lambda disks: sum(disk.get("allocation_bytes") or 0 for disk in disks or ()),
    ),
)
"""What a VM is doing, beside the fields that it is asked for: column, key of the domain, how."""


def columns_of(domain: Mapping[str, Any]) -> dict[str, Any]:
    """The columns of a VM that its domain gives, as the modules report it.

    What the domain does not report gives no column.
    """
    if domain.get("state") == "stopped":
        domain = {"addresses": [], **domain}
    state = {column: read(domain[key]) for column, key, read in STATE if key in domain}
    return {**from_domain(domain), **state}


async def follow_domain(
    vm: Vm,
    domain: Mapping[str, Any],
    snapshots: Iterable[Snapshot] | None = None,
    *,
    network: Mapping[str, Any] | None = None,
    **values: Any,
) -> None:
    """Bring the row of a VM whose domain is there, and those of its snapshots, to the domain.

    `snapshots` are all rows of the VM's snapshots, where the caller has read them. `network` is
    what a job was asked to make of the network card, if it was: no host reports its fixed address.
    `values` are further columns.
    """
    seen = columns_of(domain)
    asked = network or vm.network
    if asked.get("ip") and asked.get("mac") == seen.get("network", {}).get("mac"):
        seen["network"]["ip"] = asked["ip"]
    await save_vm(vm, provisioned=True, error=None, **seen, **values)
    if "snapshots" in domain:
        rows = await list_snapshots(vm) if snapshots is None else snapshots
        await follow_snapshots(vm, domain["snapshots"] or (), rows)
