"""Saves an observation of a host: the rows of the host, its VMs and their snapshots."""

import asyncio
import base64
import json
import logging
import uuid
import zlib
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

from virtplay.states import ACTIVE_STATES, DomainState, HostStatus
from virtplay.store import jobs as job_store
from virtplay.store import snapshots as snapshot_store
from virtplay.store import vms as store
from virtplay.store.database import transaction
from virtplay.store.domains import (
    columns_of,
    error_of,
    follow_domain,
    leave_elsewhere,
    other_id,
)
from virtplay.store.models import Host, Vm
from virtplay.texts import storable

log = logging.getLogger("virtplay.hosts.observed")

MISSES_UNTIL_GONE = 2
"""Successive observations without a VM after which it counts as deleted on its host."""
REPORT_BYTES = 64 * 2**20
"""The largest report of a host, decompressed: that of 25,000 VMs."""
DOMAINS_AT_ONCE = 20
"""Domains without a change need no query, and would hold the event loop, 0.1 ms each."""
IN_JOB = -1
ARRIVED = "migrated"
"""The reason of a running domain that has just come from another host."""


class Generations(dict[uuid.UUID, int]):
    """UUID of a VM of a host → its generation, at the moment `at` before an observation began.

    A VM with an unfinished job has generation IN_JOB, which no VM has: the observation may see the
    domain before the job changes it, and be saved after the job has ended.
    """

    def __init__(self, values: Mapping[uuid.UUID, int], at: datetime) -> None:
        super().__init__(values)
        self.at = at


async def generations(host: str) -> Generations:
    """Return the generations of the VMs of a host now."""
    now = datetime.now(UTC)
    return Generations(await store.generations(host, in_job=IN_JOB), now)


def decompress(text: str) -> dict[str, Any]:
    """Return the `host_info` in the module's `host_info_compressed`; raise ValueError."""
    unpacking = zlib.decompressobj()
    try:
        content = unpacking.decompress(base64.b64decode(text, validate=True), REPORT_BYTES)
    except zlib.error as error:
        raise ValueError(f"not compressed by zlib: {error}") from error
    if not unpacking.eof:
        raise ValueError(f"incomplete, or longer than {REPORT_BYTES} bytes")
    info: dict[str, Any] = json.loads(content)
    # Only escaped can JSON have them.
    if b"\\u0000" in content or b"\\ud" in content.lower():
        info = storable(info)
    return info


async def mark_host(name: str, status: HostStatus, message: str, command: str = "") -> None:
    """Save that a host could not be observed: its VMs are unreachable, never stopped or deleted.

    The first of several such observations in a row becomes a failed job; `command` repeats it.
    """
    async with transaction():
        host = await store.find_host(name)
        if host.status != status:
            log.warning("host %s is %s: %s", name, status, message)
            code = "HOST_UNREACHABLE" if status == HostStatus.UNREACHABLE else "LIBVIRT_ERROR"
            error = {"code": code, "message": message, "task": "", "host": name}
            await job_store.keep_observation(host=name, error=error, command=command)
        await store.save_host(host, status, message)
        await store.mark_unreachable(name)


async def save_observation(
    name: str, info: Mapping[str, Any], before: Generations, *, strangers: bool = True
) -> bool:
    """Save one host's observation: the host, its domains, and VMs that it no longer reports.

    Return True when the host did not report a VM that it should have.

    Unless `strangers`, domains without an id in their metadata get none yet: domains with one, here
    or on another host, come first.

    `before` was noted before the observation began: a VM that a job has changed since is skipped,
    since the observation may be older than the job's change.
    """
    now = datetime.now(UTC)
    async with transaction():
        host = await store.find_host(name)
        facts = {key: value for key, value in info.items() if key != "domains"}
        missing = "; ".join(info.get("warnings") or ())
        if missing and missing != host.message:
            log.warning("host %s: %s", name, missing)
        await store.save_host(host, HostStatus.READY, missing, facts=facts, observed_at=now)
        known = {vm.uuid: vm for vm in await store.vms_reported_or_expected(name, info["domains"])}
        busy = await job_store.busy_vms(vm.id for vm in known.values())
        snapshots = await snapshot_store.snapshots_of(vm.id for vm in known.values())
        inventory = await store.host_names()
        # Not noted before the observation, as no row placed them here.
        arrived = {vm.id for vm in known.values() if vm.host != name and vm.uuid not in before}
        held = await job_store.held_since(before.at, arrived) if arrived else set()
        reported: list[int] = []
        new: list[Mapping[str, Any]] = []
        for number, domain in enumerate(info["domains"]):
            if number % DOMAINS_AT_ONCE == 0:
                await asyncio.sleep(0)
            identity = uuid.UUID(domain["uuid"])
            vm = known.pop(identity, None)
            if "unreadable" in domain:
                log.warning("host %s: %s", name, domain["unreadable"])
            elif vm is None and is_stranger(domain) and not strangers:
                continue
            elif vm is None:
                # It may have been deleted since it was observed.
                if identity not in before and identity not in await job_store.deleted_since(
                    before.at
                ):
                    new.append(domain)
            elif vm.id not in busy and (
                vm.created_at < before.at and vm.id not in held
                if vm.id in arrived
                else before.get(identity) == vm.generation
            ):
                if not belongs(vm, name, domain, inventory):
                    there = None if _is_arriving(domain) else domain.get("state")
                    if await leave_elsewhere(vm, name, there) and vm.elsewhere:
                        log.warning("%s", (vm.error or {}).get("message"))
                    continue
                # A database from a backup is behind: the host would refuse its jobs, or take them
                # for those that had their numbers.
                if _generation(domain) > vm.generation:
                    await job_store.pass_over_jobs(_remembered_jobs(domain))
                values: dict[str, Any] = {
                    "generation": max(vm.generation, _generation(domain)),
                    "elsewhere": _elsewhere(vm, name, inventory),
                }
                rows = snapshots.get(vm.id, ())
                await follow_domain(vm, domain, rows, host=name, **values)
                reported.append(vm.id)
        if reported:
            await store.mark_observed(reported, now)
        await _adopt_all(host, new, now)
        return await _miss(name, known.values(), busy, before)


async def _miss(name: str, vms: Iterable[Vm], busy: set[int], before: Generations) -> bool:
    """Count that a host does not report these VMs; return whether one of them is its own."""
    missed = False
    for vm in vms:
        if vm.host != name and name in (vm.elsewhere or {}):
            await leave_elsewhere(vm, name, None)
        if (
            vm.host == name
            and vm.provisioned
            and vm.id not in busy
            and before.get(vm.uuid) == vm.generation
        ):
            await count_miss(vm)
            missed = True
    return missed


def belongs(vm: Vm, host: str, domain: Mapping[str, Any], inventory: set[str]) -> bool:
    """Return whether a VM that `host` reports is that host's, if another one may define it too.

    The host where it runs wins, and keeps it until it is not defined there any more.
    """
    if vm.host in (None, host) or vm.host not in inventory or vm.missed:
        return True
    if domain.get("state") not in ACTIVE_STATES or _is_arriving(domain):
        return False
    has_arrived = domain.get("state_reason") == ARRIVED != vm.state_reason
    return vm.power not in ACTIVE_STATES or has_arrived


def _is_arriving(domain: Mapping[str, Any]) -> bool:
    reasons = ("migration", "postcopy", "starting_up")
    return domain.get("state") == DomainState.PAUSED and domain.get("state_reason") in reasons


def _elsewhere(vm: Vm, host: str, inventory: set[str]) -> dict[str, str] | None:
    """Return the hosts that define a VM besides `host`, to which it belongs now."""
    others = {**(vm.elsewhere or {})}
    if vm.host is not None and not vm.missed and vm.power not in ACTIVE_STATES:
        others[vm.host] = vm.power
    return {name: state for name, state in others.items() if name in inventory - {host}} or None


async def _adopt_all(host: Host, domains: Iterable[Mapping[str, Any]], now: datetime) -> None:
    """Create the VMs of new domains; those that get the id that they claim come first."""
    others = []
    for domain in sorted(domains, key=_precedence):
        claimed = _claimed(domain) or store.number_of(domain["name"])
        if claimed is None or await store.has_number(claimed):
            others.append(domain)
        else:
            await adopt(host, domain, now, claimed)
    for domain in others:
        await adopt(host, domain, now)


def _precedence(domain: Mapping[str, Any]) -> tuple[bool, int]:
    """Return the order in which domains may claim an id.

    One in the metadata comes before one that is only the domain's name. Two domains have the same
    one if one is a copy: jobs have raised the original's generation.
    """
    return is_stranger(domain), -_generation(domain)


def _claimed(domain: Mapping[str, Any]) -> int | None:
    """Return the number of the id in a domain's metadata, if it is one."""
    return store.number_of((domain.get("metadata") or {}).get("id"))


def is_stranger(domain: Mapping[str, Any]) -> bool:
    """Whether a domain's metadata has no id of a VM: no service has created it."""
    return _claimed(domain) is None


async def adopt(
    host: Host, domain: Mapping[str, Any], now: datetime, number: int | None = None
) -> None:
    """Create the VM of a domain that was created elsewhere, or that an earlier database knew."""
    vm = await store.create_vm(
        number,
        uuid=uuid.UUID(domain["uuid"]),
        host=host.name,
        provisioned=True,
        observed_at=now,
        generation=_generation(domain),
        **{"disk": 0, **columns_of(domain)},
    )
    conflict = other_id(vm, domain)
    await store.save_vm(vm, error=error_of(vm.label, domain) or conflict)
    snapshots = domain.get("snapshots") or ()
    await snapshot_store.follow_snapshots(vm, snapshots, ())
    await job_store.pass_over_jobs(_remembered_jobs(domain))
    log.info("found domain %s on %s: it is VM %s", domain["name"], host.name, vm.ref)
    await job_store.write_audit(actor="observation", action="vm_found", vm_ref=vm.ref)
    if conflict:
        log.warning("%s", conflict["message"])


def _remembered_jobs(domain: Mapping[str, Any]) -> list[object]:
    """Return the ids of the jobs that a host remembers of a VM."""
    remembered = [(domain.get("metadata") or {}).get("job"), domain.get("restart_job")]
    return [*remembered, *(one.get("job") for one in domain.get("snapshots") or ())]


def _generation(domain: Mapping[str, Any]) -> int:
    """Return the generation that a host reports, which anybody may have written there."""
    return min(int(domain.get("generation") or 0), job_store.GENERATION_MAX)


async def count_miss(vm: Vm) -> None:
    """Count that its host does not report a VM; the second time in a row, delete the VM."""
    await store.mark_missed(vm)
    if vm.missed < MISSES_UNTIL_GONE:
        return
    if vm.elsewhere:
        states: dict[str, str] = vm.elsewhere
        host = max(states, key=lambda name: states[name] in ACTIVE_STATES)
        others = {name: state for name, state in states.items() if name != host} or None
        domain = {"state": states[host]}
        await follow_domain(vm, domain, host=host, missed=0, elsewhere=others)
        return
    log.warning("VM %s is gone: it was deleted on host %s", vm.ref, vm.host)
    await job_store.write_audit(actor="observation", action="vm_gone", vm_ref=vm.ref)
    await store.delete_vm(vm)
