"""Looks at all hosts again and again, and makes the VM list follow what it sees."""

import asyncio
import contextlib
import logging
import math
import uuid
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from virtplay import runner
from virtplay.actions import playbook
from virtplay.errors import VirtplayError
from virtplay.execution import POWER_STATUS
from virtplay.inventory import Inventory
from virtplay.settings import Settings
from virtplay.states import HostStatus, VmStatus
from virtplay.store import jobs as job_store
from virtplay.store import snapshots as snapshot_store
from virtplay.store import vms as store
from virtplay.store.database import DatabaseError, transaction
from virtplay.store.models import Host, Vm

log = logging.getLogger("virtplay.observation")

GIB = 1024**3
LEAST_PAUSE = 1.0
"""Seconds between two looks, also when one takes longer than the interval."""
MISSES_UNTIL_GONE = 2
"""A domain that its host does not list this often in a row was removed by someone."""


class Observer:
    """Runs playbooks/host_observe.yml over all hosts, every `observe_interval` seconds."""

    def __init__(self, settings: Settings, inventory: Inventory) -> None:
        self._settings = settings
        self.inventory = inventory
        self._stopping = asyncio.Event()
        self._wanted = asyncio.Event()
        self._seen_once = asyncio.Event()
        self._doubtful: set[str] = set()
        """Hosts that the last round reached but could not see."""

    async def run(self) -> None:
        """Observe until stopped."""
        while not self._stopping.is_set():
            self._wanted.clear()
            started = asyncio.get_running_loop().time()
            try:
                await self.observe()
            except (VirtplayError, OSError) as error:
                log.error("cannot observe the hosts: %s", error)
            self._seen_once.set()
            # An interval is from one beginning to the next, but never without a pause.
            took = asyncio.get_running_loop().time() - started
            pause = max(LEAST_PAUSE, self._settings.observe_interval - took)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wanted.wait(), pause)

    @property
    def has_looked(self) -> bool:
        """Whether the first round has ended: the service is ready from then on."""
        return self._seen_once.is_set()

    async def first_look(self) -> None:
        """Wait until the first round has ended, for as long as a round may take."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._seen_once.wait(), self._settings.observe_timeout)

    def stop(self) -> None:
        """End after the round that is under way, which is cut short."""
        self._stopping.set()
        self._wanted.set()

    async def observe(self) -> None:
        """One round: every host's answer is taken in as it arrives."""
        seen_before = {vm.uuid: vm.generation for vm in await Vm.all().only("uuid", "generation")}
        missed_before = await _missed()
        directory = self._settings.state_dir / "observation"
        run = await runner.start(
            runner.Specification(
                project_dir=str(self._settings.project_dir),
                playbook=playbook("host_observe"),
                inventory=self._settings.inventory_sources,
                variables={},
                time_limit=int(self._settings.observe_timeout),
            ),
            directory,
        )
        waiting = set(self.inventory.hosts)
        complaint = "no answer within the time limit"
        stopper = asyncio.create_task(self._end_at_stop(run))
        try:
            async for batch in run.batches():
                for event in batch:
                    name = event.get("host", "")
                    if name in waiting and await self._take_event(name, event, seen_before):
                        waiting.discard(name)
                    if not name and "ERROR" in event.get("text", ""):
                        complaint = event["text"].strip()
        finally:
            stopper.cancel()
            await run.end()
            await runner.clear(directory)
        if not self._stopping.is_set():
            for name in waiting & self.inventory.hosts.keys():
                await self._doubt(name, f"cannot observe {name}: {complaint}")
            if await _missed() - missed_before:
                # Gone, or just being defined anew? The answer must not take another interval.
                self._wanted.set()

    async def _take_event(
        self, name: str, event: Mapping[str, Any], seen_before: Mapping[uuid.UUID, int]
    ) -> bool:
        """Take in what one event says of host `name`; True when it settles the host's round."""
        result = event.get("res") or {}
        if not await store.knows_host(name):
            return True  # the inventory has lost it since the round began
        match event["event"]:
            case "runner_on_ok" if "host_info" in result:
                try:
                    await take_observation(name, result["host_info"], seen_before)
                    self._doubtful.discard(name)
                except (KeyError, TypeError, ValueError, AttributeError, DatabaseError) as error:
                    # One odd host must not keep all others from being seen.
                    log.exception("cannot read the observation of host %s", name)
                    await self._doubt(name, f"cannot read its observation: {error!r}")
            case "runner_on_unreachable":
                await mark_host(name, HostStatus.UNREACHABLE, str(result.get("msg")))
            case "runner_on_failed":
                await self._doubt(name, str(result.get("msg")))
            case _:
                return False
        return True

    async def _doubt(self, name: str, message: str) -> None:
        """Take in that a host was reached but not seen: it is marked the second time in a row.

        libvirt can be slow for once, as while it ends a stuck QEMU; it is looked at again at once.
        """
        host = await store.find_host(name)
        if host.status == HostStatus.READY and name not in self._doubtful:
            log.warning("host %s: %s; looking again", name, message)
            self._doubtful.add(name)
            self._wanted.set()
        else:
            await mark_host(name, HostStatus.ERROR, message)

    async def _end_at_stop(self, run: runner.Run) -> None:
        await self._stopping.wait()
        await run.end()


async def _missed() -> set[int]:
    """The VMs that their hosts did not show when they were last looked at."""
    return {vm.id for vm in await Vm.filter(missed__gt=0).only("id")}


async def mark_host(name: str, status: HostStatus, message: str) -> None:
    """A host gave no observation: its VMs are unreachable, never stopped or gone."""
    async with transaction():
        host = await store.find_host(name)
        if host.status != status:
            log.warning("host %s is %s: %s", name, status, message)
        await store.save_host(host, status, message)
        vms = await Vm.filter(host=name, provisioned=True).exclude(status=VmStatus.UNREACHABLE)
        busy = await job_store.busy_vms(vm.id for vm in vms)
        for vm in vms:
            if vm.id not in busy:
                await store.save_vm(vm, status=VmStatus.UNREACHABLE)


async def take_observation(
    name: str, info: Mapping[str, Any], seen_before: Mapping[uuid.UUID, int]
) -> None:
    """Write one host's observation: the host, its domains, and those that are gone.

    `seen_before` maps each VM's UUID to its generation before the observation began: a VM that a
    job has touched since is left alone, as what was seen may be older than what the job did.
    """
    now = datetime.now(UTC)
    async with transaction():
        host = await store.find_host(name)
        facts = {key: value for key, value in info.items() if key != "domains"}
        await store.save_host(host, HostStatus.READY, "", facts=facts, observed_at=now)
        known = {vm.uuid: vm for vm in await store.vms_seen_or_expected(name, info["domains"])}
        busy = await job_store.busy_vms(vm.id for vm in known.values())
        present: list[int] = []
        for domain in info["domains"]:
            identity = uuid.UUID(domain["uuid"])
            vm = known.pop(identity, None)
            if "unreadable" in domain:
                log.warning("host %s: %s", name, domain["unreadable"])
            elif vm is None:
                if identity not in seen_before:
                    await adopt(host, identity, domain, now)
            elif vm.id not in busy and seen_before.get(identity) == vm.generation:
                await follow(vm, name, domain)
                present.append(vm.id)
        if present:
            await Vm.filter(id__in=present).update(observed_at=now, missed=0)
        for vm in known.values():
            if (
                vm.host == name
                and vm.provisioned
                and vm.id not in busy
                and seen_before.get(vm.uuid) == vm.generation
            ):
                await miss(vm)


async def adopt(host: Host, identity: uuid.UUID, domain: Mapping[str, Any], now: datetime) -> None:
    """Take a domain that someone else made, or that an earlier database knew, into the list."""
    metadata = domain.get("metadata") or {}
    number = store.metadata_number(metadata)
    if number is not None and await Vm.exists(id=number):
        number = None
    vm = await store.create_vm(
        number,
        uuid=identity,
        host=host.name,
        domain=domain["name"],
        provisioned=True,
        observed_at=now,
        template=str(metadata.get("template") or "")[:128],
        generation=int(domain.get("generation") or 0),
        **{"disk": 0, **_seen_values(domain)},
    )
    await snapshot_store.follow_snapshots(vm, domain.get("snapshots") or ())
    log.info("found domain %s on %s: it is VM %s", domain["name"], host.name, vm.ref)
    await job_store.write_audit(actor="observation", action="vm_found", vm_ref=vm.ref)


async def follow(vm: Vm, host: str, domain: Mapping[str, Any]) -> None:
    """Bring a VM's row to what its host shows."""
    values = _seen_values(domain)
    network = values.get("network", {})
    if vm.network.get("ip") and vm.network.get("mac") == network.get("mac"):
        network["ip"] = vm.network["ip"]
    if not vm.provisioned:
        values["error"] = None
    await store.save_vm(vm, host=host, domain=domain["name"], provisioned=True, **values)
    await snapshot_store.follow_snapshots(vm, domain.get("snapshots") or ())


async def miss(vm: Vm) -> None:
    """Its host answered and does not have it: after the second time, it was removed there."""
    vm.missed += 1
    if vm.missed < MISSES_UNTIL_GONE:
        await vm.save(update_fields=["missed"])
        return
    log.warning("VM %s is gone from host %s: someone removed it there", vm.ref, vm.host)
    await job_store.write_audit(actor="observation", action="vm_gone", vm_ref=vm.ref)
    await store.forget_vm(vm)


def _seen_values(domain: Mapping[str, Any]) -> dict[str, Any]:
    """The columns of a VM that an observed domain gives; memory MiB, disk GiB."""
    metadata = domain.get("metadata") or {}
    configured = {**domain, **(domain.get("pending") or {})}
    disks = domain.get("disks") or []
    addresses = domain.get("addresses") or []
    power = domain.get("state") or ""
    values: dict[str, Any] = {
        "name": str(domain.get("title") or domain["name"])[:255],
        "description": domain.get("description") or "",
        "power": power,
        "status": POWER_STATUS.get(power, VmStatus.ERROR),
        "cpu": int(configured["vcpus"]),
        "memory": int(configured["memory"]),
        "pending": {
            column: domain[field]
            for column, field in (("cpu", "vcpus"), ("memory", "memory"))
            if configured[field] != domain[field]
        },
        "auto_start": bool(domain.get("autostart")),
        "snapshots": len(domain.get("snapshots") or ()),
        "labels": dict(metadata.get("labels") or {}),
        "addresses": addresses,
        "ip": addresses[0]["ip"] if addresses else None,
        "started_at": datetime.fromisoformat(domain["started_at"])
        if domain.get("started_at")
        else None,
    }
    if metadata.get("os"):
        values["os"] = str(metadata["os"])[:128]
    size = disks[0].get("capacity_bytes") if disks else 0
    if size is not None:
        values["disk"] = math.ceil(size / GIB)
    values["disk_allocation"] = sum(disk.get("allocation_bytes") or 0 for disk in disks)
    if interface := next(iter(domain.get("interfaces") or []), None):
        kind = interface["type"]
        values["network"] = {
            "type": kind,
            kind: interface.get("source") or "",
            "mac": interface.get("mac"),
            "model": interface.get("model"),
        }
    return values
