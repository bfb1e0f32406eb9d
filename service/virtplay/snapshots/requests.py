"""What may happen to the snapshots of a VM, and the jobs that make it happen."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from virtplay import errors
from virtplay.actions import Action
from virtplay.jobs.dispatcher import Dispatcher
from virtplay.jobs.submission import Caller, refuse_if_busy, submit
from virtplay.settings import Settings
from virtplay.states import SnapshotOrigin, SnapshotStatus, VmStatus
from virtplay.store import snapshots as store
from virtplay.store.database import transaction
from virtplay.store.models import Job, Snapshot, Vm
from virtplay.store.vms import find_vm
from virtplay.times import time_text
from virtplay.vms import refuse_unusable

ACTIVE = (VmStatus.RUNNING, VmStatus.PAUSED)
GUARD_TITLE = "before restoring {}"
TITLE_MAX = 64


@dataclass(frozen=True)
class NewSnapshot:
    """A checked request for a snapshot."""

    title: str
    description: str = ""
    expires_at: datetime | None = None
    freeze: bool = True
    """Whether the guest's file systems are frozen where its agent answers."""
    origin: SnapshotOrigin = SnapshotOrigin.MANUAL


@dataclass(frozen=True)
class AcceptedSnapshot:
    """What a mutation answers: VM and snapshot as they are now, and the job that changes them."""

    vm: Vm
    snapshot: Snapshot
    job: Job


class Snapshots:
    """Every mutation of a snapshot: check, then lock and job in one transaction, then dispatch."""

    def __init__(self, settings: Settings, dispatcher: Dispatcher) -> None:
        self._settings = settings
        self._dispatcher = dispatcher

    async def create(self, caller: Caller, ref: str, new: NewSnapshot) -> AcceptedSnapshot:
        """Submit a snapshot: with the memory of a VM that runs, of the disks of one that does not.

        A VM whose creation is under way is refused with OperationInProgress.
        """
        async with transaction():
            vm = await self._idle(ref)
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
        """Submit the return of a VM to a snapshot; of one that runs only with `force`.

        With `guard` a snapshot of the state before is taken first.
        """
        async with transaction():
            vm, snapshot = await self._idle_with(ref, snapshot_ref)
            _refuse_unmade(snapshot)
            if vm.status in ACTIVE and not force:
                raise errors.VmAlreadyRunning(
                    f"cannot restore VM {ref} to {snapshot_ref}: it is {vm.status}; stop it first,"
                    " or use force=true, which loses its present state unless guard=true keeps it"
                )
            variables = {**identify(vm, snapshot), "libvirt_snapshot_force": force}
            if guard:
                title = GUARD_TITLE.format(snapshot.title)[:TITLE_MAX].rstrip()
                kept = await store.create_snapshot(
                    vm,
                    title=title,
                    origin=SnapshotOrigin.GUARD,
                    status=SnapshotStatus.CREATING,
                )
                variables["libvirt_snapshot_guard"] = kept.name
                variables["libvirt_snapshot_guard_title"] = title
            await store.save_snapshot(snapshot, status=SnapshotStatus.RESTORING)
            job = await submit(
                self._settings, caller, vm, Action.SNAPSHOT_RESTORE, variables, snapshot=snapshot
            )
        self._dispatcher.enqueue(job.id)
        return AcceptedSnapshot(vm, snapshot, job)

    async def delete(self, caller: Caller, ref: str, snapshot_ref: str) -> AcceptedSnapshot:
        """Submit the removal of a snapshot; those that stand on it stay."""
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
        """The VM, with its row locked."""
        vm = await find_vm(ref, lock=True)
        await refuse_if_busy(vm)
        await refuse_unusable(vm)
        return vm

    async def _idle_with(self, ref: str, snapshot_ref: str) -> tuple[Vm, Snapshot]:
        """The same and its snapshot, whose absence is said before what the VM is busy with."""
        vm = await find_vm(ref, lock=True)
        snapshot = await store.find_snapshot(vm, snapshot_ref)
        await refuse_if_busy(vm)
        await refuse_unusable(vm)
        return vm, snapshot


def _refuse_unmade(snapshot: Snapshot) -> None:
    if snapshot.status == SnapshotStatus.ERROR:
        reason = (snapshot.error or {}).get("message", "it could not be made")
        raise errors.ValidationFailed(
            f"cannot restore snapshot {snapshot.ref}: it was never made ({reason}); delete it"
        )


def expiry_of(settings: Settings, snapshot: Snapshot) -> datetime | None:
    """When a snapshot is deleted by itself: its own time, or for the guard of a restore ours."""
    is_guard = snapshot.origin == SnapshotOrigin.GUARD and snapshot.name == snapshot.ref
    if snapshot.expires_at is None and is_guard:
        return snapshot.created_at + timedelta(days=settings.guard_retention_days)
    return snapshot.expires_at


def identify(vm: Vm, snapshot: Snapshot) -> dict[str, Any]:
    """The variables that name a VM and its snapshot to the playbooks."""
    return {
        "libvirt_snapshot_uuid": str(vm.uuid),
        "libvirt_snapshot_domain": str(vm.domain),
        "libvirt_snapshot_name": snapshot.name,
    }
