"""Store: VMs and hosts as rows."""

import itertools
import json
import re
import uuid
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, NamedTuple, cast

from tortoise.expressions import Q, RawSQL
from tortoise.queryset import QuerySet

from virtplay.errors import HostNotFound
from virtplay.states import ACTIVE_STATES, DomainState, HostStatus, VmStatus
from virtplay.store.database import fit, select, skip_numbers
from virtplay.store.jobs import busy_vms
from virtplay.store.models import ConsoleTicket, Host, Job, Snapshot, SnapshotSchedule, Vm
from virtplay.store.samples import forget_vm_samples
from virtplay.store.vm_index import index_texts
from virtplay.texts import did_you_mean, numbered, slug
from virtplay.units import GIB
from virtplay.vm_fields import DEFAULT_POOL, from_variables, promised

REF = re.compile(r"vm-(\d{3,9})")
MOST_CLAIMED = 99_999_999
"""The highest number that a host may claim; new VMs get higher ones, which must fit REF too."""
STEM_LENGTH = 50
"""The characters that a slug and the same with a number have in common."""
HOSTS_AT_ONCE = 50
"""Hosts that are read in one step: the facts of more would hold the event loop while they are
parsed."""
CHUNK = 50
"""VMs read at once: each holds the event loop for 0.1 ms."""


@dataclass(frozen=True)
class Promised:
    """What the VMs of a host were promised, in vCPUs, MiB and bytes."""

    vms: int = 0
    cpu: int = 0
    """vCPUs of the VMs that are running, being created or being started."""
    memory: int = 0
    disk: int = 0
    """Bytes by which disks in the default pool may still grow."""
    disk_size: int = 0
    """Bytes of all disks in the default pool at full size."""
    stopped_vms: int = 0
    stopped_cpu: int = 0
    """vCPUs of the other VMs, which are not in `cpu`."""
    stopped_memory: int = 0
    """Their memory, which is a part of `memory`."""
    unmanaged_vms: int = 0
    """VMs that Virtplay has neither created nor changed; the next three are theirs alone."""
    unmanaged_cpu: int = 0
    unmanaged_memory: int = 0
    unmanaged_disk_size: int = 0


class VmInError(NamedTuple):
    """A VM whose status is error."""

    host: str
    """Empty until the VM has one."""
    uuid: str
    vm: str
    """The VM's public id."""
    name: str
    managed: bool
    """False only when its domain is known to have none of our metadata."""
    code: str
    """Of its error."""


def vm_ref(number: int) -> str:
    """Return the public id of a VM, such as vm-001."""
    return f"vm-{number:03d}"


def number_of(text: object) -> int | None:
    """Return the number of a VM's public id (vm-007 → 7), or None for anything else."""
    match = REF.fullmatch(str(text))
    number = int(match[1]) if match else 0
    return number if 0 < number <= MOST_CLAIMED and vm_ref(number) == text else None


async def create_vm(number: int | None = None, **values: Any) -> Vm:
    """Insert a VM with the next public id, or with `number`, which its host claims for it.

    An id that another VM's domain has as its name is skipped. A VM without a `domain` gets one by
    its name.
    """
    if number is not None:
        values["id"] = number
        await skip_numbers("vm", number)  # first, or another transaction is given the number
    values = fit(Vm, values)
    vm = Vm(**values)
    await vm.save(force_create=True)
    while number is None and await Vm.filter(domain=vm_ref(vm.id)).exclude(id=vm.id).exists():
        await vm.delete()  # neither database gives its number again
        vm = Vm(**values)
        await vm.save(force_create=True)
    vm.ref = vm_ref(vm.id)
    vm.domain = vm.domain or await free_domain(vm.host, vm.name, vm.ref)
    index_texts(vm)
    await vm.save(update_fields=["ref", "domain", "search_text", "label_text"])
    return vm


async def free_domain(host: str | None, name: str, ref: str, *, without: int | None = None) -> str:
    """Return a name for the domain of VM `ref` on a host, by the VM's name.

    It is the slug of the name, or the id if nothing is left of that, with a number behind it where
    a domain there has it, other than that of VM number `without`. It is never another VM's id.
    """
    base = slug(name) or ref
    rows = _placed_on(host).filter(domain__startswith=base[:STEM_LENGTH]).exclude(id=without or 0)
    taken = set(cast("list[str]", await rows.values_list("domain", flat=True)))
    names = (numbered(base, number) for number in itertools.count(1))
    return next(
        each for each in names if each not in taken and (each == ref or not REF.fullmatch(each))
    )


async def save_vm(vm: Vm, **values: Any) -> bool:
    """Write the values that differ, and `updated_at`; return False if none differs."""
    fitting = fit(Vm, values)
    changed = {key: value for key, value in fitting.items() if getattr(vm, key) != value}
    if not changed:
        return False
    for key, value in changed.items():
        setattr(vm, key, value)
    vm.updated_at = datetime.now(UTC)
    index_texts(vm)
    await vm.save(update_fields=[*changed, "updated_at", "search_text", "label_text"])
    return True


async def mark_observed(vm_ids: Iterable[int], now: datetime) -> None:
    """Record that an observation has shown the VMs."""
    await Vm.filter(id__in=list(vm_ids)).update(observed_at=now, missed=0)


async def mark_missed(vm: Vm) -> None:
    """Count one more successive observation of its host that has not shown the VM."""
    vm.missed += 1
    await vm.save(update_fields=["missed"])


async def mark_unreachable(host: str) -> None:
    """Mark the VMs of a host that cannot be observed unreachable, unless a job holds them."""
    await _mark_unreachable(_reachable_vms().filter(host=host))


async def _mark_unreachable(rows: QuerySet[Vm]) -> None:
    # Locked in the order of everybody else, or two of them wait for each other; and before the
    # jobs that hold them are read.
    vms = await rows.order_by("id").select_for_update()
    busy = await busy_vms(vm.id for vm in vms)
    for vm in vms:
        if vm.id not in busy:
            await save_vm(vm, status=VmStatus.UNREACHABLE)


def _reachable_vms() -> QuerySet[Vm]:
    return Vm.filter(provisioned=True).exclude(status=VmStatus.UNREACHABLE)


async def delete_vm(vm: Vm) -> None:
    """Delete the rows of a VM; its jobs and audit rows are kept."""
    for model in (Snapshot, SnapshotSchedule, ConsoleTicket):
        await model.filter(vm_id=vm.id).delete()
    await forget_vm_samples(vm.id)
    await vm.delete()


async def lock_vm(vm_id: int | None) -> Vm | None:
    """Return the VM with that number, if any, with its row locked until the transaction ends."""
    return await Vm.filter(id=vm_id).select_for_update().first()


async def vms_on_host(host: str) -> list[tuple[int, uuid.UUID, str, str, str, str]]:
    """Return id, uuid, ref, name, template and os of each VM of a host."""
    columns = ("id", "uuid", "ref", "name", "template", "os")
    return cast(
        "list[tuple[int, uuid.UUID, str, str, str, str]]",
        await Vm.filter(host=host).values_list(*columns),
    )


async def without_address(host: str, numbers: Collection[int]) -> dict[int, str]:
    """Return number → UUID, for those of these VMs that run on `host` and have no address.

    A VM without a network card is left out.
    """
    rows = await Vm.filter(
        id__in=list(numbers), host=host, power=DomainState.RUNNING, ip=None
    ).values_list("id", "uuid", "network")
    return {number: str(identity) for number, identity, network in rows if network.get("type")}


async def vms_in_error(limit: int) -> list[VmInError]:
    """Return the VMs with status error, the first ones."""
    rows = await select(
        "SELECT host, uuid, ref, name, COALESCE(managed, TRUE), error"
        " FROM vm WHERE status = ?1 ORDER BY id LIMIT ?2",
        [VmStatus.ERROR, limit],
    )
    return [
        VmInError(
            host or "",
            str(identity),
            vm,
            name,
            bool(managed),
            json.loads(error or "{}").get("code") or "",
        )
        for host, identity, vm, name, managed, error in rows
    ]


async def vm_with_mac(host: str, mac: str) -> Vm | None:
    """Return a VM of that host whose network card has that MAC address, if any."""
    # Filtered in Python, as JSON filters of Tortoise 1.1 raise on SQLite.
    vms = await Vm.filter(host=host).only("ref", "name", "network")
    return next((vm for vm in vms if vm.network.get("mac") == mac), None)


async def generations(host: str, *, in_job: int) -> dict[uuid.UUID, int]:
    """Return UUID → generation of the VMs of a host, and of those that several hosts define.

    It is `in_job` while an unfinished job holds the VM.
    """
    rows = await _placed_on(host).values_list("id", "uuid", "generation")
    # Read after the generations: a job that begins in between raises the generation.
    held = await Job.filter(finished_at=None, locks=True).values_list("vm_id", flat=True)
    busy = set(cast("list[int]", held))
    return {
        cast("uuid.UUID", identity): in_job if number in busy else cast("int", generation)
        for number, identity, generation in rows
    }


def _placed_on(host: str | None) -> QuerySet[Vm]:
    return Vm.filter(Q(host=host) | Q(elsewhere__isnull=False))


async def vms_reported_or_expected(host: str, domains: Iterable[Mapping[str, Any]]) -> list[Vm]:
    """Return the VMs of the reported domains, by UUID, and those that the rows place on `host`.

    VMs that several hosts define are among them. Their rows are locked, so that no concurrent
    request loses what it has written.
    """
    identities = [uuid.UUID(domain["uuid"]) for domain in domains]
    found = Q(host=host) | Q(elsewhere__isnull=False)
    rows = Vm.filter(found | Q(uuid__in=identities) if identities else found)
    ids = cast("list[int]", await rows.order_by("id").values_list("id", flat=True))
    vms: list[Vm] = []
    for start in range(0, len(ids), CHUNK):
        chunk = Vm.filter(id__in=ids[start : start + CHUNK])
        vms += await chunk.order_by("id").select_for_update()
    return vms


async def promised_by_host(
    host: str | None = None, *, without: int | None = None
) -> dict[str, Promised]:
    """Return host name → what its VMs were promised, without VM number `without`.

    A VM counts from its request on, with the values that an unfinished update requests; a VM
    whose creation failed does not count. Of one `host` only, if it is given.
    """
    growing = {
        job.vm_id: from_variables(job.variables)
        for job in await Job.filter(finished_at=None, action="vm_update").only("vm_id", "variables")
    }
    rows = Vm.filter(Q(provisioned=True) | Q(status=VmStatus.CREATING), host__not_isnull=True)
    if host is not None:
        rows = rows.filter(host=host)
    # The database adds up the many VMs, and only the few that grow are read.
    found = await _promised(rows.exclude(id__in=[*growing, without or 0]))
    for row in await rows.filter(id__in=list(growing.keys() - {without})).values(
        *("id", "host", "status", "power", "managed"),
        *("cpu", "memory", "disk", "disk_pool", "pool_size", "disk_allocation"),
    ):
        so_far = vars(found.get(row["host"], Promised()))
        more = _promised_to(row, promised(row, growing[row["id"]]))
        found[row["host"]] = Promised(**{key: so_far[key] + more.get(key, 0) for key in so_far})
    return found


def _promised_to(row: Mapping[str, Any], amounts: Mapping[str, int]) -> dict[str, int]:
    """Return the fields of Promised for one VM that is promised these amounts."""
    runs = row["power"] in ACTIVE_STATES or row["status"] in ABOUT_TO_RUN
    size = _size_in_pool(row, amounts["disk"])
    running_cpu = amounts["cpu"] * runs
    values = {
        "vms": 1,
        "cpu": running_cpu,
        "memory": amounts["memory"],
        "disk": max(0, size - row["disk_allocation"]),
        "disk_size": size,
    }
    if not runs:
        values |= {"stopped_vms": 1, "stopped_cpu": amounts["cpu"]}
        values["stopped_memory"] = amounts["memory"]
    if row["managed"] is False:
        values |= {"unmanaged_vms": 1, "unmanaged_cpu": running_cpu}
        values |= {"unmanaged_memory": amounts["memory"], "unmanaged_disk_size": size}
    return values


def _in_sql(words: Iterable[str]) -> str:
    return ", ".join(f"'{word}'" for word in sorted(words))


ABOUT_TO_RUN = frozenset({VmStatus.CREATING, VmStatus.STARTING})
"""The statuses of VMs that may not run yet."""
_SIZE = f"COALESCE(pool_size, CAST(disk AS BIGINT) * {GIB})"
_RUNS = f"(power IN ({_in_sql(ACTIVE_STATES)}) OR status IN ({_in_sql(ABOUT_TO_RUN)}))"
_IS_UNMANAGED = "managed IS NOT NULL AND NOT managed"
_SUMS = {
    "vms": "1",
    "cpu": f"CASE WHEN {_RUNS} THEN cpu ELSE 0 END",
    "memory": "memory",
    "disk": f"CASE WHEN {_SIZE} > disk_allocation THEN {_SIZE} - disk_allocation ELSE 0 END",
    "disk_size": _SIZE,
    "stopped_vms": f"CASE WHEN {_RUNS} THEN 0 ELSE 1 END",
    "stopped_cpu": f"CASE WHEN {_RUNS} THEN 0 ELSE cpu END",
    "stopped_memory": f"CASE WHEN {_RUNS} THEN 0 ELSE memory END",
    "unmanaged_vms": f"CASE WHEN {_IS_UNMANAGED} THEN 1 ELSE 0 END",
    "unmanaged_cpu": f"CASE WHEN {_IS_UNMANAGED} AND {_RUNS} THEN cpu ELSE 0 END",
    "unmanaged_memory": f"CASE WHEN {_IS_UNMANAGED} THEN memory ELSE 0 END",
    "unmanaged_disk_size": f"CASE WHEN {_IS_UNMANAGED} THEN {_SIZE} ELSE 0 END",
}
"""Field of Promised → what the database adds up for it, as _promised_to does for one VM."""


async def _promised(rows: QuerySet[Vm]) -> dict[str, Promised]:
    # No name is that of a column, of which PostgreSQL would take the value.
    sums = {f"of_{name}": RawSQL(f"SUM({value})") for name, value in _SUMS.items()}
    found = await rows.annotate(**sums).group_by("host").values("host", *sums)
    return {
        row["host"]: Promised(**{name: int(row[f"of_{name}"]) for name in _SUMS}) for row in found
    }


def _size_in_pool(row: Mapping[str, Any], disk: int) -> int:
    """Return the bytes of a VM's disks in the default pool, if its first disk has `disk` GiB."""
    if row["pool_size"] is None:
        return disk * GIB
    growth = (disk - row["disk"]) * GIB if row["disk_pool"] == DEFAULT_POOL else 0
    return int(row["pool_size"]) + growth


async def sync_hosts(names: set[str]) -> None:
    """Update the host table to the inventory.

    The VMs of a host that left the inventory become unreachable.
    """
    known = {host.name: host for host in await Host.all()}
    for name in names - known.keys():
        await Host(name=name).save()
    for name, host in known.items():
        if host.in_inventory != (name in names):
            host.in_inventory = name in names
            await host.save(update_fields=["in_inventory"])
    for name in await _hosts_with_vms() - names:
        await mark_unreachable(name)
    await _mark_unreachable(_reachable_vms().filter(host=None))


async def _hosts_with_vms() -> set[str]:
    """Return the hosts of VMs that are not unreachable, without reading the VMs."""
    rows = await select(
        "SELECT host FROM vm_count WHERE host IS NOT NULL AND status <> 'unreachable'"
        " GROUP BY host HAVING SUM(vms) > 0"
    )
    return {host for (host,) in rows}


async def host_names() -> set[str]:
    """Return the names of the hosts of the inventory."""
    names = await Host.filter(in_inventory=True).values_list("name", flat=True)
    return set(cast("list[str]", names))


async def list_hosts() -> list[Host]:
    """Return the hosts of the inventory, by name."""
    hosts: list[Host] = []
    rows = Host.filter(in_inventory=True).order_by("name").limit(HOSTS_AT_ONCE)
    while len(hosts) % HOSTS_AT_ONCE == 0:
        more = await rows.filter(name__gt=hosts[-1].name if hosts else "")
        if not more:
            break
        hosts += more
    return hosts


async def find_host(name: str) -> Host:
    """Return the host of the inventory with that name; raise HostNotFound."""
    host = await Host.get_or_none(name=name, in_inventory=True) if len(name) <= 255 else None
    if host is None:
        raise HostNotFound(
            f"cannot find host {name[:255]}: the inventory has no such hypervisor"
            f"{did_you_mean(name[:255], sorted(await host_names()))}"
        )
    return host


async def host_status(name: str) -> HostStatus | None:
    """Return the status of the host of the inventory with that name, if there is one."""
    found = await Host.filter(name=name, in_inventory=True).values_list("status", flat=True)
    return cast("HostStatus", found[0]) if found else None


async def forget_observations() -> None:
    """Count every host as never observed: the database is older than what is known of them."""
    await Host.all().update(status=HostStatus.UNKNOWN, message="", observed_at=None)


async def knows_host(name: str) -> bool:
    """Return whether the inventory has a hypervisor of that name."""
    return await Host.exists(name=name, in_inventory=True)


async def any_never_observed(names: Collection[str]) -> bool:
    """Return whether one of the hosts has not been observed since the database was created."""
    return bool(names) and await Host.exists(name__in=list(names), observed_at=None)


async def save_host(host: Host, status: HostStatus, message: str, **values: Any) -> None:
    """Write a host's status after an observation."""
    for key, value in {"status": status, "message": message[:2000], **values}.items():
        setattr(host, key, value)
    await host.save(update_fields=["status", "message", *values])


async def has_number(number: int) -> bool:
    """Return whether a VM has the number."""
    return await Vm.exists(id=number)
