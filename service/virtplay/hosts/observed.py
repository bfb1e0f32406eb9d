"""Writes what one look at a host has shown: the host's row, and those of its VMs."""

import logging
import uuid
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from virtplay.states import HostStatus
from virtplay.store import jobs as job_store
from virtplay.store import snapshots as snapshot_store
from virtplay.store import vms as store
from virtplay.store.database import transaction
from virtplay.store.domains import columns_of, follow_domain
from virtplay.store.models import Host, Vm

log = logging.getLogger("virtplay.hosts.observed")

MISSES_UNTIL_GONE = 2
"""A domain that its host does not list this often in a row was removed by someone."""


class Generations(dict[uuid.UUID, int]):
    """A VM's UUID → its generation, as they were at a moment before a look began."""

    def __init__(self, values: Mapping[uuid.UUID, int], at: datetime) -> None:
        super().__init__(values)
        self.at = at


async def generations() -> Generations:
    """Every VM's generation at this moment."""
    now = datetime.now(UTC)
    return Generations(await store.generations(), now)


async def mark_host(name: str, status: HostStatus, message: str, command: str = "") -> None:
    """A host gave no observation: its VMs are unreachable, never stopped or gone.

    The first of a row of such observations is kept as a failed job; `command` is how to repeat it.
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


async def take_observation(name: str, info: Mapping[str, Any], seen_before: Generations) -> bool:
    """Write one host's observation: the host, its domains, and those that are gone.

    True when a VM that ought to be there was not.

    `seen_before` was noted before the observation began: a VM that a job has touched since is left
    alone, as what was seen may be older than what the job did.
    """
    now = datetime.now(UTC)
    missed = False
    async with transaction():
        host = await store.find_host(name)
        facts = {key: value for key, value in info.items() if key != "domains"}
        await store.save_host(host, HostStatus.READY, "", facts=facts, observed_at=now)
        known = {vm.uuid: vm for vm in await store.vms_seen_or_expected(name, info["domains"])}
        busy = await job_store.busy_vms(vm.id for vm in known.values())
        snapshots = await snapshot_store.snapshots_of(vm.id for vm in known.values())
        present: list[int] = []
        for domain in info["domains"]:
            identity = uuid.UUID(domain["uuid"])
            vm = known.pop(identity, None)
            if "unreadable" in domain:
                log.warning("host %s: %s", name, domain["unreadable"])
            elif vm is None:
                # The look may have seen one that was deleted since.
                if identity not in seen_before and identity not in await job_store.deleted_since(
                    seen_before.at
                ):
                    await adopt(host, identity, domain, now)
            elif vm.id not in busy and seen_before.get(identity) == vm.generation:
                await follow_domain(vm, domain, snapshots.get(vm.id, ()), host=name)
                present.append(vm.id)
        if present:
            await store.mark_seen(present, now)
        for vm in known.values():
            if (
                vm.host == name
                and vm.provisioned
                and vm.id not in busy
                and seen_before.get(vm.uuid) == vm.generation
            ):
                await miss(vm)
                missed = True
    return missed


async def adopt(host: Host, identity: uuid.UUID, domain: Mapping[str, Any], now: datetime) -> None:
    """Take a domain that someone else made, or that an earlier database knew, into the list."""
    metadata = domain.get("metadata") or {}
    vm = await store.create_vm(
        await store.free_number(metadata),
        uuid=identity,
        host=host.name,
        provisioned=True,
        observed_at=now,
        generation=int(domain.get("generation") or 0),
        **{"disk": 0, **columns_of(domain)},
    )
    snapshots = domain.get("snapshots") or ()
    await snapshot_store.follow_snapshots(vm, snapshots, ())
    await job_store.pass_over_jobs([metadata.get("job"), *(one.get("job") for one in snapshots)])
    log.info("found domain %s on %s: it is VM %s", domain["name"], host.name, vm.ref)
    await job_store.write_audit(actor="observation", action="vm_found", vm_ref=vm.ref)


async def miss(vm: Vm) -> None:
    """Its host answered and does not have it: after the second time, it was removed there."""
    await store.mark_missed(vm)
    if vm.missed < MISSES_UNTIL_GONE:
        return
    log.warning("VM %s is gone from host %s: someone removed it there", vm.ref, vm.host)
    await job_store.write_audit(actor="observation", action="vm_gone", vm_ref=vm.ref)
    await store.delete_vm(vm)
