"""Checks requests to create, change, start, stop and delete VMs, and submits their jobs."""

import hashlib
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

from virtplay import errors, vm_fields
from virtplay.actions import FORCIBLE, Action, waits_for_guest
from virtplay.hosts.inventory import Inventory
from virtplay.hosts.observer import Observer
from virtplay.hosts.placement import HostRoom, Need, Overcommit, place
from virtplay.jobs.dispatcher import Dispatcher
from virtplay.jobs.outcome import count_ended
from virtplay.jobs.submission import Caller, refuse_held, refuse_if_busy, submit
from virtplay.settings import Settings
from virtplay.states import ACTIVE_STATES, SAVED, DomainState, HostStatus, VmStatus
from virtplay.store import jobs as job_store
from virtplay.store import lookup
from virtplay.store import vms as store
from virtplay.store.database import transaction
from virtplay.store.models import Host, Job, Vm
from virtplay.store.vms import Promised
from virtplay.units import GIB, MIB
from virtplay.vm_fields import CardModel

MOST_TOGETHER = 200
"""How many VMs one request may act on."""


@dataclass(frozen=True)
class Accepted:
    """An accepted request: the VM as it is now, and the job that changes it."""

    vm: Vm
    job: Job
    superseded: Job | None = None
    """The job that this one has cancelled."""


@dataclass(frozen=True)
class Refused:
    """A VM of a request for many that was refused, and why."""

    ref: str
    reason: errors.VirtplayError


@dataclass(frozen=True)
class Answers:
    """What has become of a request for many VMs: of each one or the other."""

    accepted: list[Accepted]
    refused: list[Refused]


def room_of(host: Host, overcommit: Overcommit, promised: Promised) -> HostRoom:
    """Return a host's room, from its last observation and what its VMs were promised."""
    facts = host.facts.get("host", {})
    pools = {pool["name"]: pool for pool in host.facts.get("pools", [])}
    return HostRoom(
        name=host.name,
        cpus=int(facts.get("cpus", 0)),
        memory=int(facts.get("memory_bytes", 0)) // MIB,
        disk_free=int(pools.get(vm_fields.DEFAULT_POOL, {}).get("available_bytes", 0)),
        promised_cpu=promised.cpu,
        promised_memory=promised.memory,
        stopped_memory=promised.stopped_memory,
        promised_disk=promised.disk,
        used_disk=promised.disk_size - promised.disk,
        overcommit=overcommit,
        networks=frozenset(n["name"] for n in host.facts.get("networks", []) if n.get("active")),
        bridges=frozenset(host.facts.get("bridges", [])),
    )


class Vms:
    """Changes VMs: checks a request, locks the VM with a job, and dispatches the job."""

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
        self,
        caller: Caller,
        requested: Mapping[str, Any],
        host: str | None = None,
        *,
        start: bool = False,
    ) -> Accepted:
        """Place a VM with the requested fields (memory MiB, disk GiB), and submit its creation.

        The creation starts it if `start` is set, or if it starts with its host.
        """
        # Just after its start the service has observed no host; waiting is better than an error.
        await self._observer.first_observation()
        os = self.inventory.template_os(requested["template"])
        network = requested["network"]
        need = Need(
            requested["cpu"],
            requested["memory"],
            requested["disk"],
            network["type"],
            network[network["type"]],
        )
        async with transaction(exclusive="placement"):
            hosts = await self._candidates(requested["template"], host)
            promised = await store.promised_by_host(host)
            name = place([self.room(each, promised) for each in hosts], need)
            await _refuse_used_mac(name, network.get("mac"))
            _check_template_size(requested, next(each for each in hosts if each.name == name))
            identity = uuid.uuid4()
            columns = vm_fields.columns_of(requested)
            columns["network"] = {**network, "mac": network.get("mac") or derive_mac(identity)}
            vm = await store.create_vm(
                uuid=identity,
                host=name,
                status=VmStatus.CREATING,
                managed=True,
                os=os,
                **columns,
            )
            job = await submit(
                self._settings,
                caller,
                vm,
                Action.VM_CREATE,
                create_variables(vm, requested, start=start or vm.auto_start),
                secrets=vm_fields.to_variables(requested, secret=True) or None,
            )
        self._dispatcher.enqueue(job.id)
        return Accepted(vm, job)

    async def update(self, caller: Caller, ref: str, requested: Mapping[str, Any]) -> Accepted:
        """Submit an update of a VM to the requested fields."""
        async with transaction(exclusive="placement"):
            vm = await lookup.find_vm(ref, lock=True)
            await refuse_if_busy(vm)
            await refuse_unusable(vm)
            if "disk" in requested and requested["disk"] < vm.disk:
                message = f"can only grow: it is {vm.disk} GiB"
                raise errors.ValidationFailed(
                    f"cannot shrink the disk of VM {vm.label}: it {message}",
                    [{"field": "disk", "message": message}],
                )
            if requested.get("disk") == vm.disk:
                # Who writes back what was shown asks for no growth: it may be rounded up, and the
                # host may not know the size of a disk that is not stored there.
                requested = {key: value for key, value in requested.items() if key != "disk"}
            _check_card(vm, requested.get("network") or {})
            if requested.get("disk", vm.disk) > vm.disk and vm.state_reason == SAVED:
                raise errors.VmHasSavedState(
                    f"cannot grow the disk of VM {vm.label}: its memory is saved, and the saved"
                    " guest knows the disk's present size; start it first"
                )
            await self._check_growth(vm, requested)
            variables = update_variables(vm, requested)
            if requested.get("name", vm.name) != vm.name:
                variables |= await _rename_variables(vm, requested["name"])
            job = await submit(self._settings, caller, vm, Action.VM_UPDATE, variables)
        self._dispatcher.enqueue(job.id)
        return Accepted(vm, job)

    async def delete(self, caller: Caller, ref: str, *, force: bool, keep_disks: bool) -> Accepted:
        """Submit the deletion of a VM; a running VM, or one with snapshots, requires `force`."""
        async with transaction():
            vm = await lookup.find_vm(ref, lock=True)
            await refuse_if_busy(vm)
            await refuse_unreachable(vm)
            refuse_running_elsewhere(vm, "delete")
            if vm.elsewhere and not keep_disks:
                others = ", ".join(sorted(vm.elsewhere))
                raise errors.ValidationFailed(
                    f"cannot delete VM {vm.label} with its disks: {others} defines it too,"
                    " perhaps on the same disks; undefine it there first, or use keepDisks=true",
                    [{"field": "keepDisks", "message": f"must be true: {others} defines the VM"}],
                )
            if vm.power in ACTIVE_STATES and not force:
                raise errors.VmAlreadyRunning(
                    f"cannot delete VM {vm.label}: it is {vm.power}; stop it first, or use"
                    " force=true"
                )
            if vm.state_reason == SAVED and not force:
                raise errors.VmHasSavedState(
                    f"cannot delete VM {vm.label}: its memory is saved; start it first, or use"
                    " force=true, which loses its memory"
                )
            if vm.snapshots and not force:
                count = f"{vm.snapshots} snapshot{'s' * (vm.snapshots > 1)}"
                raise errors.VmHasSnapshots(
                    f"cannot delete VM {vm.label}: it has {count}; delete them first, or use"
                    " force=true, which deletes them too",
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

    async def act(
        self, caller: Caller, ref: str, action: Action, *, force: bool = False
    ) -> Accepted:
        """Submit a power action; with `force` a power-off or reset instead of a shutdown.

        A start of a VM that is being created waits for the creation. A job that waits for its
        guest to shut down is superseded by one with `force`.
        """
        async with transaction():
            vm = await lookup.find_vm(ref, lock=True)
            holder = await job_store.unfinished_job(vm.id)
            after = await _check_action(vm, action, holder, force=force)
            accepted = await self._submit_action(caller, vm, action, force=force, after=after)
        self._dispatch(accepted)
        return accepted

    async def act_together(
        self,
        caller: Caller,
        action: Action,
        *,
        refs: Sequence[str] | None = None,
        label: str | None = None,
        force: bool = False,
        at_once: int | None = None,
    ) -> Answers:
        """Submit a power action for each VM of `refs`, or with `label`, in one transaction.

        A VM that does not allow the action does not prevent the others. Of these jobs `at_once`
        may run at once. Raise VmNotFound if there is none of the VMs, and ValidationFailed if
        more than MOST_TOGETHER have the label.
        """
        accepted: list[Accepted] = []
        refused: list[Refused] = []
        common: dict[str, Any] = {"bulk_id": None, "at_once": at_once}
        async with transaction():
            vms = await self._choose(action, refs, label)
            # Read once: a request for many holds SQLite's only write lock.
            holders = await job_store.holders(
                vm.id for vm in vms.values() if not isinstance(vm, errors.VirtplayError)
            )
            common["eta_seconds"] = await job_store.usual_seconds(action)
            for ref, vm in vms.items():
                try:
                    if isinstance(vm, errors.VirtplayError):
                        raise vm
                    after = await _check_action(vm, action, holders.get(vm.id), force=force)
                except errors.DatabaseNotAvailable:
                    raise
                except errors.VirtplayError as reason:
                    refused.append(Refused(ref, reason))
                    continue
                one = await self._submit_action(
                    caller, vm, action, force=force, after=after, **common
                )
                common["bulk_id"] = one.job.bulk_id
                accepted.append(one)
        for each in accepted:
            self._dispatch(each)
        return Answers(accepted, refused)

    async def _choose(
        self, action: Action, refs: Sequence[str] | None, label: str | None
    ) -> dict[str, Vm | errors.VirtplayError]:
        """Return what names it → VM, with its row locked, of each chosen one, or why there is none.

        Of several names of one VM the first counts.
        """
        verb = action.value.removeprefix("vm_")
        if label is not None:
            vms = await lookup.lock_labelled(label, MOST_TOGETHER + 1)
            if not vms:
                raise errors.VmNotFound(f"cannot {verb} VMs: there is none with the label {label}")
            if len(vms) > MOST_TOGETHER:
                message = f"matches more than {MOST_TOGETHER} VMs"
                raise errors.ValidationFailed(
                    f"cannot {verb} the VMs with the label {label}: it {message}",
                    [{"field": "label", "message": message}],
                )
            return {str(vm.ref): vm for vm in vms}
        chosen: dict[str, Vm | errors.VirtplayError] = {}
        first: dict[int, str] = {}
        for ref, numbers in (await lookup.numbers_of(refs or ())).items():
            try:
                number = await lookup.only_one(ref, numbers)
            except (errors.VmNotFound, errors.VmAmbiguous) as reason:
                chosen[ref] = reason
            else:
                if first.setdefault(number, ref) == ref:
                    chosen[ref] = lookup.not_found(ref)  # unless its row is still there
        for number, vm in (await lookup.lock_numbers(first)).items():
            chosen[first[number]] = vm
        if all(isinstance(one, errors.VmNotFound) for one in chosen.values()):
            raise errors.VmNotFound(f"cannot {verb} VMs: there is none of these names")
        return chosen

    async def _submit_action(
        self,
        caller: Caller,
        vm: Vm,
        action: Action,
        *,
        force: bool,
        after: Job | None,
        **common: Any,
    ) -> Accepted:
        variables = identify(vm)
        if action in FORCIBLE:
            variables["libvirt_domain_force"] = force
            variables["libvirt_domain_timeout"] = self._settings.stop_timeout
        common["after"] = after
        job = await submit(self._settings, caller, vm, action, variables, **common)
        return Accepted(vm, job, superseded=after if job.after_id is None else None)

    def _dispatch(self, accepted: Accepted) -> None:
        """Start the job of an accepted and committed request; count the one that it supersedes."""
        if accepted.superseded is not None and accepted.superseded.started_at is None:
            count_ended(accepted.superseded)  # whoever runs a job counts it
        if accepted.job.after_id is None:
            self._dispatcher.enqueue(accepted.job.id)

    async def _candidates(self, template: str, host_name: str | None) -> list[Host]:
        """Return the ready hosts that have the template; raise the reason if there is none."""
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
                states = ", ".join(
                    f"{host.name} is {host.status}" + (f": {host.message}" if host.message else "")
                    for host in known
                )
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

    def room(self, host: Host, promised: Mapping[str, Promised]) -> HostRoom:
        """Return the room of a host, less what `promised_by_host` says of it."""
        config = self.inventory.hosts.get(host.name)
        overcommit = config.overcommit if config else Overcommit()
        return room_of(host, overcommit, promised.get(host.name, Promised()))

    async def _check_growth(self, vm: Vm, requested: Mapping[str, Any]) -> None:
        """Raise INSUFFICIENT_RESOURCES or a network error, as at creation, for what grows."""
        if not vm_fields.needs_room(requested):
            return
        host = await store.find_host(str(vm.host))
        promised = await store.promised_by_host(host.name, without=vm.id)
        network = requested.get("network", vm.network)
        kind = network.get("type", "network")
        room = self.room(host, promised)
        need = Need(
            **vm_fields.growth(vm, requested),
            network_type=kind,
            network_name=network.get(kind, ""),
        )
        if "network" not in requested and not room.has_network(need):
            # The current network may be gone; a change of other fields must not fail for that.
            room_networks = frozenset({need.network_name})
            room = room_of(host, room.overcommit, promised.get(host.name, Promised()))
            room = HostRoom(**{**vars(room), "networks": room_networks, "bridges": room_networks})
        place([room], need, vm=vm.label)


def _check_card(vm: Vm, requested: Mapping[str, Any]) -> None:
    """Raise ValidationFailed unless the VM's network card can become the requested one."""
    kind, model = vm.network.get("type", "network"), requested.get("model")
    wrong = {}
    if requested and kind not in ("network", "bridge"):
        wrong["type"] = f"cannot change: the card is of type {kind}; change it with virsh edit"
    if model not in (None, vm.network.get("model"), *get_args(CardModel)):
        wrong["model"] = f"must be one of {', '.join(get_args(CardModel))}"
    for key, message in wrong.items():
        raise errors.ValidationFailed(
            f"cannot change the network card of VM {vm.label}: {key} {message}",
            [{"field": f"network.{key}", "message": message}],
        )


def _check_template_size(requested: Mapping[str, Any], host: Host) -> None:
    """Raise ValidationFailed if the disk is smaller than its template."""
    template = requested["template"]
    for image in host.facts.get("templates", []):
        size = -(-int(image.get("virtual_size_bytes", 0)) // GIB)
        if image.get("name") == template and size > requested["disk"]:
            message = f"must be at least {size} GiB, the size of template {template}"
            raise errors.ValidationFailed(
                f"cannot create VM {requested['name']}: disk {message}",
                [{"field": "disk", "message": message}],
            )


async def _check_action(vm: Vm, action: Action, holder: Job | None, *, force: bool) -> Job | None:
    """Raise the reason why the VM, whose row is locked, does not allow a power action.

    `holder` is the job that holds it. Return the creation for which a start has to wait, or the job
    that one with `force` supersedes, if any.
    """
    if action == Action.VM_START and holder is not None and holder.action == Action.VM_CREATE:
        waiting = await job_store.waiting_job(vm.id)
        if waiting is not None:
            raise errors.OperationInProgress(
                f"cannot start VM {vm.label}: {waiting.ref} will already start it once it is"
                " created",
                jobId=waiting.ref,
            )
        return holder
    superseded = None
    if force and holder is not None and waits_for_guest(holder.action, holder.variables):
        superseded = holder
    else:
        refuse_held(vm, holder)
    await refuse_unusable(vm)
    if action in (Action.VM_START, Action.VM_RESTART, Action.VM_RESUME):
        refuse_running_elsewhere(vm, action.value.removeprefix("vm_"))
    if action != Action.VM_START:
        refuse_wrong_state(vm, action, force=force)
    elif vm.power in ACTIVE_STATES:
        reason = (vm.error or {}).get("message") or f"it is {vm.power}"
        raise errors.VmAlreadyRunning(f"cannot start VM {vm.label}: {reason}")
    return superseded


async def refuse_unreachable(vm: Vm) -> None:
    """Raise HostUnreachable if no job can run on the VM's host now."""
    status = await store.host_status(str(vm.host))
    if status is None:
        raise errors.HostUnreachable(
            f"cannot change VM {vm.label}: its host {vm.host} is no longer in the inventory"
        )
    if vm.status == VmStatus.UNREACHABLE or status == HostStatus.UNREACHABLE:
        raise errors.HostUnreachable(
            f"cannot change VM {vm.label}: its host {vm.host} is unreachable"
        )


async def refuse_unusable(vm: Vm) -> None:
    """Raise the reason why the VM allows no action except its deletion, if there is one."""
    await refuse_unreachable(vm)
    if not vm.provisioned:
        reason = (vm.error or {}).get("message", "the reason is unknown")
        raise errors.ValidationFailed(
            f"cannot change VM {vm.label}: its creation failed ({reason}); delete it"
        )


def refuse_running_elsewhere(vm: Vm, verb: str) -> None:
    """Raise VmAlreadyRunning if the VM also runs on another host, perhaps on the same disks."""
    for host, state in (vm.elsewhere or {}).items():
        if state in ACTIVE_STATES:
            raise errors.VmAlreadyRunning(
                f"cannot {verb} VM {vm.label}: it is defined on {vm.host} and on {host}, and is"
                f" {state} on {host}; stop it there first (virsh)"
            )


async def _refuse_used_mac(host: str, mac: str | None) -> None:
    """Raise ValidationFailed if a VM of the host has the MAC address."""
    if mac is None:
        return
    vm = await store.vm_with_mac(host, mac)
    if vm is not None:
        raise errors.ValidationFailed(
            f"cannot create a VM with MAC address {mac}: VM {vm.label} uses it",
            [{"field": "network.mac", "message": f"is in use by VM {vm.label}"}],
        )


def refuse_wrong_state(vm: Vm, action: Action, *, force: bool = False) -> None:
    """Raise the API's error if the VM's status does not allow `action`."""
    cannot = f"cannot {action.value.removeprefix('vm_')} VM {vm.label}"
    saved = vm.state_reason == SAVED
    if vm.power not in ACTIVE_STATES:
        forced = force and action == Action.VM_STOP
        if not (forced and (saved or vm.status == VmStatus.ERROR)):
            remedy = "; start it, or stop it with force=true, which loses its memory"
            raise errors.VmAlreadyStopped(
                f"{cannot}: it is {vm.status}{f', and its memory is saved{remedy}' * saved}"
            )
    paused = vm.power in (DomainState.PAUSED, DomainState.SUSPENDED)
    if action == Action.VM_PAUSE and (paused or vm.power == DomainState.CRASHED):
        raise errors.VmAlreadyPaused(f"{cannot}: it is {vm.power}")
    if action == Action.VM_RESUME and not paused:
        raise errors.VmNotPaused(f"{cannot}: it is {vm.power}")


def derive_mac(identity: uuid.UUID) -> str:
    """Return the MAC address that a host gives the first network card of a VM with that UUID.

    The rule is the collection's (domain/devices.py), and a test compares both. The service repeats
    it so that the address is known before the domain exists.
    """
    digest = hashlib.sha256(f"urn:virtplay:vm:1/{identity}/0".encode()).digest()
    return ":".join(["52", *(f"{byte:02x}" for byte in digest[:5])])


def identify(vm: Vm) -> dict[str, Any]:
    """Return the playbook variables that identify a VM."""
    return {"libvirt_domain_uuid": str(vm.uuid), "libvirt_domain_name": str(vm.domain)}


async def _rename_variables(vm: Vm, name: str) -> dict[str, Any]:
    """Return the variable that renames the domain of a VM with it; its host decides if it can."""
    domain = await store.free_domain(vm.host, name, str(vm.ref), without=vm.id)
    return {} if domain == vm.domain else {"libvirt_domain_new_name": domain}


def create_variables(vm: Vm, requested: Mapping[str, Any], *, start: bool) -> dict[str, Any]:
    """Return the variables of playbooks/vm_create.yml, without secrets."""
    return {
        **identify(vm),
        "libvirt_domain_id": str(vm.ref),
        **vm_fields.to_variables({**requested, "os": vm.os, "network": vm.network}),
        "libvirt_domain_state": "running" if start else "stopped",
    }


def update_variables(vm: Vm, requested: Mapping[str, Any]) -> dict[str, Any]:
    """Return the variables of playbooks/vm_update.yml, with the requested fields only."""
    values = dict(requested)
    if "network" in requested:
        new = dict(requested["network"])
        if new.get("model") == vm.network.get("model"):
            new.pop("model", None)  # the role knows fewer models than a found VM may have
        keys = ["mac"]
        if all(vm.network.get(key) == new.get(key) for key in ("type", "network", "bridge")):
            keys.append("ip")  # as on the host, a fixed address is kept on the same network
        values["network"] = {**{key: vm.network[key] for key in keys if vm.network.get(key)}, **new}
    variables = {**identify(vm), **vm_fields.to_variables(values)}
    if vm.error and vm.managed:
        # Whatever error is shown: it may hide that the metadata has another VM's id. An equal id is
        # no change; a domain without metadata gets none.
        variables["libvirt_domain_id"] = str(vm.ref)
    return variables
