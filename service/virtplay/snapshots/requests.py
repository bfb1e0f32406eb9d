"""Checks requests to create, restore and delete snapshots, and submits their jobs."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from virtplay import errors
from virtplay.actions import Action
from virtplay.jobs.dispatcher import Dispatcher
from virtplay.jobs.submission import Caller, refuse_if_busy, submit
from virtplay.settings import Settings
from virtplay.states import ACTIVE_STATES, SAVED, SnapshotOrigin, SnapshotStatus
from virtplay.store import snapshots as store
from virtplay.store.database import transaction
from virtplay.store.lookup import find_vm
from virtplay.store.models import Job, Snapshot, Vm
from virtplay.times import time_text
from virtplay.vms import refuse_running_elsewhere, refuse_unusable

GUARD_TITLE = "before restoring {}"
TITLE_MAX = 64


@dataclass(frozen=True)
class NewSnapshot:
    """A checked request for a snapshot."""

    title: str
    description: str = ""
    expires_at: datetime | None = None
    freeze: bool = True
    """Whether to freeze the guest's file systems if its guest agent responds."""
    origin: SnapshotOrigin = SnapshotOrigin.MANUAL


@dataclass(frozen=True)
class AcceptedSnapshot:
    """An accepted request: the VM and snapshot as they are now, and the job that changes them."""

    vm: Vm
    snapshot: Snapshot
    job: Job


class Snapshots:
    """Changes snapshots: checks a request, locks the VM with a job, and dispatches the job."""

    def __init__(self, settings: Settings, dispatcher: Dispatcher) -> None:
        self._settings = settings
        self._dispatcher = dispatcher

    async def create(self, caller: Caller, ref: str, new: NewSnapshot) -> AcceptedSnapshot:
        """Submit the creation of a snapshot, which has the memory of a running VM.

        Raise OperationInProgress while the VM is being created, VmHasSavedState.
        """
        async with transaction():
            vm = await self._idle(ref)
            if vm.state_reason == SAVED:
                raise errors.VmHasSavedState(
                    f"cannot create a snapshot of VM {vm.label}: its memory is saved, and no"
                    " snapshot can include it; start it first"
                )
            snapshot = await store.create_snapshot(
                vm,
                title=new.title,
                description=new.description,
                origin=new.origin,
                status=SnapshotStatus.CREATING,
                expires_at=new.expires_at,
            )
            variables = {
                **identify(vm, snapshot),
                "libvirt_snapshot_title": new.title,
                "libvirt_snapshot_description": new.description,
                "libvirt_snapshot_origin": str(new.origin),
                "libvirt_snapshot_freeze": new.freeze,
            }
            if new.expires_at is not None:
                variables["libvirt_snapshot_expires_at"] = time_text(new.expires_at)
            job = await submit(
                self._settings, caller, vm, Action.SNAPSHOT_CREATE, variables, snapshot=snapshot
            )
        self._dispatcher.enqueue(job.id)
        return AcceptedSnapshot(vm, snapshot, job)

    async def restore(
        self, caller: Caller, ref: str, snapshot_ref: str, *, force: bool, guard: bool
    ) -> AcceptedSnapshot:
        """Submit the restore of a VM to a snapshot; a running VM requires `force`.

        With `guard`, the job first creates a snapshot of the current state.
        """
        async with transaction():
            vm, snapshot = await self._idle_with(ref, snapshot_ref)
            _refuse_failed(snapshot)
            refuse_running_elsewhere(vm, "restore")
            if vm.power in ACTIVE_STATES and not force:
                raise errors.VmAlreadyRunning(
                    f"cannot restore VM {vm.label} to {snapshot_ref}: it is {vm.power}; stop it"
                    " first, or use force=true, which loses its current state unless guard=true"
                    " saves it"
                )
            if vm.state_reason == SAVED and not force:
                raise errors.VmHasSavedState(
                    f"cannot restore VM {vm.label} to {snapshot_ref}: its memory is saved; start it"
                    " first, or use force=true, which loses its memory even if guard=true"
                )
            variables = {**identify(vm, snapshot), "libvirt_snapshot_force": force}
            if guard:
                title = GUARD_TITLE.format(snapshot.title)[:TITLE_MAX].rstrip()
                saved = await store.create_snapshot(
                    vm,
                    title=title,
                    origin=SnapshotOrigin.GUARD,
                    status=SnapshotStatus.CREATING,
                )
                variables["libvirt_snapshot_guard"] = saved.name
                variables["libvirt_snapshot_guard_title"] = title
            await store.save_snapshot(snapshot, status=SnapshotStatus.RESTORING)
            job = await submit(
                self._settings, caller, vm, Action.SNAPSHOT_RESTORE, variables, snapshot=snapshot
            )
        self._dispatcher.enqueue(job.id)
        return AcceptedSnapshot(vm, snapshot, job)

    async def delete(self, caller: Caller, ref: str, snapshot_ref: str) -> AcceptedSnapshot:
        """Submit the deletion of a snapshot; its children are kept."""
        async with transaction():
            vm, snapshot = await self._idle_with(ref, snapshot_ref)
            await store.save_snapshot(snapshot, status=SnapshotStatus.DELETING)
            job = await submit(
                self._settings,
                caller,
                vm,
                Action.SNAPSHOT_DELETE,
                identify(vm, snapshot),
                snapshot=snapshot,
            )
        self._dispatcher.enqueue(job.id)
        return AcceptedSnapshot(vm, snapshot, job)

    async def _idle(self, ref: str) -> Vm:
        """Return the idle VM, with its row locked."""
        vm = await find_vm(ref, lock=True)
        await refuse_if_busy(vm)
        await refuse_unusable(vm)
        return vm

    async def _idle_with(self, ref: str, snapshot_ref: str) -> tuple[Vm, Snapshot]:
        """Return the idle VM and its snapshot; a missing snapshot is reported before a busy VM."""
        vm = await find_vm(ref, lock=True)
        snapshot = await store.find_snapshot(vm, snapshot_ref)
        await refuse_if_busy(vm)
        await refuse_unusable(vm)
        return vm, snapshot


def _refuse_failed(snapshot: Snapshot) -> None:
    if snapshot.status == SnapshotStatus.ERROR:
        reason = (snapshot.error or {}).get("message", "the reason is unknown")
        raise errors.ValidationFailed(
            f"cannot restore snapshot {snapshot.ref}: its creation failed ({reason}); delete it"
        )


def expiry_of(settings: Settings, snapshot: Snapshot) -> datetime | None:
    """Return when a snapshot expires: at its own time, or after the guards' retention."""
    is_guard = snapshot.origin == SnapshotOrigin.GUARD and snapshot.name == snapshot.ref
    if snapshot.expires_at is None and is_guard:
        return snapshot.created_at + timedelta(days=settings.guard_retention_days)
    return snapshot.expires_at


def identify(vm: Vm, snapshot: Snapshot) -> dict[str, Any]:
    """Return the playbook variables that identify a VM and its snapshot."""
    return {
        "libvirt_snapshot_uuid": str(vm.uuid),
        "libvirt_snapshot_domain": str(vm.domain),
        "libvirt_snapshot_name": snapshot.name,
    }
