"""What may happen to a VM, and the jobs that make it happen."""

import hashlib
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from virtplay import errors, vm_fields
from virtplay.actions import Action
from virtplay.hosts.inventory import Inventory
from virtplay.hosts.observer import Observer
from virtplay.hosts.placement import HostRoom, Need, Overcommit, place
from virtplay.jobs.dispatcher import Dispatcher
from virtplay.jobs.submission import Caller, refuse_if_busy, submit
from virtplay.settings import Settings
from virtplay.states import HostStatus, VmStatus
from virtplay.store import jobs as job_store
from virtplay.store import vms as store
from virtplay.store.database import transaction
from virtplay.store.models import Host, Job, Vm
from virtplay.store.vms import Promised
from virtplay.units import GIB, MIB

DEFAULT_POOL = "default"


@dataclass(frozen=True)
class Accepted:
    """What a mutation answers: the VM as it is now, and the job that changes it."""

    vm: Vm
    job: Job


def room_of(host: Host, overcommit: Overcommit, promised: Promised) -> HostRoom:
    """A host's room from its last observation and from what its VMs were promised."""
    facts = host.facts.get("host", {})
    pools = {pool["name"]: pool for pool in host.facts.get("pools", [])}
    return HostRoom(
        name=host.name,
        cpus=int(facts.get("cpus", 0)),
        memory=int(facts.get("memory_bytes", 0)) // MIB,
        disk_free=int(pools.get(DEFAULT_POOL, {}).get("available_bytes", 0)),
        promised_cpu=promised.cpu,
        promised_memory=promised.memory,
        promised_disk=promised.disk,
        overcommit=overcommit,
        networks=frozenset(n["name"] for n in host.facts.get("networks", []) if n.get("active")),
        bridges=frozenset(host.facts.get("bridges", [])),
    )


class Vms:
    """Every mutation of a VM: check, then lock and job in one transaction, then dispatch."""

    def __init__(
        self,
        settings: Settings,
        inventory: Inventory,
        dispatcher: Dispatcher,
        observer: Observer,
    ) -> None:
        self._settings = settings
        self.inventory = inventory
        self._dispatcher = dispatcher
        self._observer = observer

    async def create(
        self, caller: Caller, wanted: Mapping[str, Any], host: str | None = None
    ) -> Accepted:
        """Place a VM of the wanted fields (memory MiB, disk GiB) and submit its creation."""
        # Right after its start the service knows no host yet: waiting is better than refusing.
        await self._observer.first_observation()
        os = self.inventory.template_os(wanted["template"])
        network = wanted["network"]
        need = Need(
            wanted["cpu"],
            wanted["memory"],
            wanted["disk"],
            network["type"],
            network[network["type"]],
        )
        async with transaction(exclusive="placement"):
            hosts = await self._candidates(wanted["template"], host)
            promised = await store.promised_by_host()
            name = place([self._room(each, promised) for each in hosts], need)
            await _refuse_used_mac(name, network.get("mac"))
            _check_template_size(wanted, next(each for each in hosts if each.name == name))
            identity = uuid.uuid4()
            columns = vm_fields.columns_of(wanted)
            columns["network"] = {**network, "mac": network.get("mac") or derive_mac(identity)}
            vm = await store.create_vm(
                uuid=identity, host=name, status=VmStatus.CREATING, os=os, **columns
            )
            job = await submit(
                self._settings,
                caller,
                vm,
                Action.VM_CREATE,
                create_variables(vm, wanted),
                secrets=vm_fields.to_variables(wanted, secret=True) or None,
            )
        self._dispatcher.enqueue(job.id)
        return Accepted(vm, job)

    async def update(self, caller: Caller, ref: str, wanted: Mapping[str, Any]) -> Accepted:
        """Submit a change of the wanted fields, by their names."""
        async with transaction(exclusive="placement"):
            vm = await store.find_vm(ref, lock=True)
            await refuse_if_busy(vm)
            await refuse_unusable(vm)
            if "disk" in wanted and wanted["disk"] < vm.disk:
                message = f"can only grow: it is {vm.disk} GiB"
                raise errors.ValidationFailed(
                    f"cannot shrink the disk of VM {ref}: it {message}",
                    [{"field": "disk", "message": message}],
                )
            await self._check_growth(vm, wanted)
            job = await submit(
                self._settings, caller, vm, Action.VM_UPDATE, update_variables(vm, wanted)
            )
        self._dispatcher.enqueue(job.id)
        return Accepted(vm, job)

    async def delete(self, caller: Caller, ref: str, *, force: bool, keep_disks: bool) -> Accepted:
        """Submit the removal of a VM; a running one only with `force`."""
        async with transaction():
            vm = await store.find_vm(ref, lock=True)
            await refuse_if_busy(vm)
            await refuse_unreachable(vm)
            if vm.status in (VmStatus.RUNNING, VmStatus.PAUSED) and not force:
                raise errors.VmAlreadyRunning(
                    f"cannot delete VM {ref}: it is {vm.status}; stop it first, or use force=true"
                )
            if vm.snapshots and not force:
                raise errors.VmHasSnapshots(
                    f"cannot delete VM {ref}: it has {vm.snapshots} snapshots, which force=true"
                    " would delete with it",
                    snapshots=vm.snapshots,
                )
            job = await submit(
                self._settings,
                caller,
                vm,
                Action.VM_DELETE,
                {
                    **identify(vm),
                    "libvirt_domain_force": force,
                    "libvirt_domain_keep_disks": keep_disks,
                },
            )
        self._dispatcher.enqueue(job.id)
        return Accepted(vm, job)

    async def start(self, caller: Caller, ref: str) -> Accepted:
        """Submit a start; accepted while the VM is being created, behind the creation."""
        async with transaction():
            vm = await store.find_vm(ref, lock=True)
            holder = await job_store.unfinished_job(vm.id)
            if holder is not None and holder.action == Action.VM_CREATE:
                waiting = await job_store.waiting_job(vm.id)
                if waiting is not None:
                    raise errors.OperationInProgress(
                        f"cannot start VM {ref}: {waiting.ref} already waits for its creation",
                        jobId=waiting.ref,
                    )
                job = await submit(
                    self._settings, caller, vm, Action.VM_START, identify(vm), after=holder
                )
                return Accepted(vm, job)
            await refuse_if_busy(vm)
            await refuse_unusable(vm)
            if vm.status in (VmStatus.RUNNING, VmStatus.PAUSED):
                raise errors.VmAlreadyRunning(f"cannot start VM {ref}: it is {vm.status}")
            job = await submit(self._settings, caller, vm, Action.VM_START, identify(vm))
        self._dispatcher.enqueue(job.id)
        return Accepted(vm, job)

    async def stop(self, caller: Caller, ref: str, *, force: bool) -> Accepted:
        """Submit a stop: by the guest itself, or at once with `force`."""
        return await self._power(caller, ref, Action.VM_STOP, force=force)

    async def restart(self, caller: Caller, ref: str, *, force: bool) -> Accepted:
        """Submit a restart: by the guest itself, or at once with `force`."""
        return await self._power(caller, ref, Action.VM_RESTART, force=force)

    async def pause(self, caller: Caller, ref: str) -> Accepted:
        """Submit a pause of a running VM."""
        return await self._power(caller, ref, Action.VM_PAUSE)

    async def resume(self, caller: Caller, ref: str) -> Accepted:
        """Submit the resumption of a paused VM."""
        return await self._power(caller, ref, Action.VM_RESUME)

    async def _power(
        self, caller: Caller, ref: str, action: Action, *, force: bool | None = None
    ) -> Accepted:
        async with transaction():
            vm = await store.find_vm(ref, lock=True)
            await refuse_if_busy(vm)
            await refuse_unusable(vm)
            refuse_wrong_state(vm, action, force=bool(force))
            variables = identify(vm)
            if force is not None:
                variables["libvirt_domain_force"] = force
                variables["libvirt_domain_timeout"] = self._settings.stop_timeout
            job = await submit(self._settings, caller, vm, action, variables)
        self._dispatcher.enqueue(job.id)
        return Accepted(vm, job)

    async def _candidates(self, template: str, host_name: str | None) -> list[Host]:
        """The ready hosts that may take the VM; the reason why not, if there is none."""
        if host_name is not None:
            host = await store.find_host(host_name)
            if host.status != HostStatus.READY:
                raise errors.HostUnreachable(
                    f"cannot create a VM on host {host.name}: it is {host.status}"
                    + (f" ({host.message})" if host.message else "")
                )
            hosts = [host]
        else:
            known = await store.list_hosts()
            hosts = [host for host in known if host.status == HostStatus.READY]
            if not hosts:
                states = ", ".join(f"{host.name} is {host.status}" for host in known)
                raise errors.HostUnreachable(f"cannot create a VM: no host is ready ({states})")
        hosts = [h for h in hosts if template in self._catalogue(h.name)]
        if not hosts:
            raise errors.TemplateNotFound(
                f"cannot find template {template}: no ready host's image catalogue has it"
            )
        return hosts

    def _catalogue(self, host: str) -> Mapping[str, Any]:
        config = self.inventory.hosts.get(host)
        return config.catalogue if config else {}

    def _room(self, host: Host, promised: Mapping[str, Promised]) -> HostRoom:
        config = self.inventory.hosts.get(host.name)
        overcommit = config.overcommit if config else Overcommit()
        return room_of(host, overcommit, promised.get(host.name, Promised()))

    async def rooms(self) -> dict[str, HostRoom]:
        """Host name → its room, for every host of the inventory."""
        promised = await store.promised_by_host()
        return {host.name: self._room(host, promised) for host in await store.list_hosts()}

    async def _check_growth(self, vm: Vm, wanted: Mapping[str, Any]) -> None:
        """INSUFFICIENT_RESOURCES or a wrong network, as at creation, for what the change adds."""
        if not vm_fields.needs_room(wanted):
            return
        host = await store.find_host(str(vm.host))
        promised = await store.promised_by_host(without=vm.id)
        network = wanted.get("network", vm.network)
        kind = network.get("type", "network")
        room = self._room(host, promised)
        need = Need(
            wanted.get("cpu", vm.cpu) if wanted.get("cpu", 0) > vm.cpu else 0,
            wanted.get("memory", vm.memory) if wanted.get("memory", 0) > vm.memory else 0,
            wanted["disk"] - vm.disk if "disk" in wanted else 0,
            kind,
            network.get(kind, ""),
        )
        if "network" not in wanted and not room.has_network(need):
            # A change of something else must not fail over a network that is gone meanwhile.
            room_networks = frozenset({need.network_name})
            room = room_of(host, room.overcommit, promised.get(host.name, Promised()))
            room = HostRoom(**{**vars(room), "networks": room_networks, "bridges": room_networks})
        place([room], need)


def _check_template_size(wanted: Mapping[str, Any], host: Host) -> None:
    """Refuse a disk that is smaller than its template."""
    template = wanted["template"]
    for image in host.facts.get("templates", []):
        size = -(-int(image.get("virtual_size_bytes", 0)) // GIB)
        if image.get("name") == template and size > wanted["disk"]:
            message = f"must be at least {size}: template {template} is that large (GiB)"
            raise errors.ValidationFailed(
                f"cannot create VM {wanted['name']}: disk {message}",
                [{"field": "disk", "message": message}],
            )


async def refuse_unreachable(vm: Vm) -> None:
    """Raise HostUnreachable when nothing can be done to the VM now."""
    try:
        host = await store.find_host(str(vm.host))
    except errors.HostNotFound:
        raise errors.HostUnreachable(
            f"cannot change VM {vm.ref}: the inventory has no host {vm.host} any more"
        ) from None
    if vm.status == VmStatus.UNREACHABLE or host.status == HostStatus.UNREACHABLE:
        raise errors.HostUnreachable(f"cannot change VM {vm.ref}: host {vm.host} cannot be reached")


async def refuse_unusable(vm: Vm) -> None:
    """Raise what keeps every action but its removal from the VM."""
    await refuse_unreachable(vm)
    if not vm.provisioned:
        reason = (vm.error or {}).get("message", "its creation failed")
        raise errors.ValidationFailed(
            f"cannot change VM {vm.ref}: it was never created ({reason}); delete it"
        )


async def _refuse_used_mac(host: str, mac: str | None) -> None:
    """Two cards of one MAC address on a host would share leases and addresses."""
    if mac is None:
        return
    vm = await store.vm_with_mac(host, mac)
    if vm is not None:
        raise errors.ValidationFailed(
            f"cannot create a VM with MAC address {mac}: VM {vm.ref} has it",
            [{"field": "network.mac", "message": f"is the address of VM {vm.ref}"}],
        )


def refuse_wrong_state(vm: Vm, action: Action, *, force: bool = False) -> None:
    """Raise the error that the document names for `action` in the VM's state."""
    stopped = vm.status in (VmStatus.STOPPED, VmStatus.ERROR)
    verb = action.value.removeprefix("vm_")
    if stopped and not (action == Action.VM_STOP and vm.status == VmStatus.ERROR and force):
        raise errors.VmAlreadyStopped(f"cannot {verb} VM {vm.ref}: it is {vm.status}")
    if vm.status == VmStatus.PAUSED and action == Action.VM_PAUSE:
        raise errors.VmAlreadyPaused(f"cannot pause VM {vm.ref}: it is paused")
    if vm.status != VmStatus.PAUSED and action == Action.VM_RESUME:
        raise errors.VmNotPaused(f"cannot resume VM {vm.ref}: it is {vm.status}")


def derive_mac(identity: uuid.UUID) -> str:
    """The MAC address that a host would give the first network card of a VM with that UUID.

    The rule is the collection's (domain/devices.py); here it makes the address known at once, and
    a test compares both.
    """
    digest = hashlib.sha256(f"urn:virtplay:vm:1/{identity}/0".encode()).digest()
    return ":".join(["52", *(f"{byte:02x}" for byte in digest[:5])])


def identify(vm: Vm) -> dict[str, Any]:
    """The variables that name a VM to the playbooks."""
    return {"libvirt_domain_uuid": str(vm.uuid), "libvirt_domain_name": str(vm.domain)}


def create_variables(vm: Vm, wanted: Mapping[str, Any]) -> dict[str, Any]:
    """The variables of playbooks/vm_create.yml, but for secrets."""
    return {
        **identify(vm),
        **vm_fields.to_variables({**wanted, "os": vm.os, "network": vm.network}),
        "libvirt_domain_state": "running" if vm.auto_start else "stopped",
    }


def update_variables(vm: Vm, wanted: Mapping[str, Any]) -> dict[str, Any]:
    """The variables of playbooks/vm_update.yml: only what was asked for."""
    values = dict(wanted)
    if "network" in wanted:
        new = wanted["network"]
        keys = ["mac", "model"]
        if all(vm.network.get(key) == new.get(key) for key in ("type", "network", "bridge")):
            keys.append("ip")  # as on the host, the address goes only with its network
        values["network"] = {**{key: vm.network[key] for key in keys if vm.network.get(key)}, **new}
    return {**identify(vm), **vm_fields.to_variables(values)}
