"""Executes one job: lease, play, progress, outcome. Both dispatchers run this."""

import asyncio
import contextlib
import logging
import math
import os
import socket
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from virtplay.actions import ABSENT, RULES, Action, playbook
from virtplay.errors import Conflict
from virtplay.jobs import runner
from virtplay.jobs.progress import Progress
from virtplay.jobs.submission import job_directory, read_secrets
from virtplay.logs import request_id
from virtplay.metrics.service_series import count_job
from virtplay.settings import Settings
from virtplay.states import JobStatus, SnapshotOrigin, SnapshotStatus, VmStatus
from virtplay.store import jobs as store
from virtplay.store.database import transaction
from virtplay.store.models import Job, Vm
from virtplay.store.snapshots import (
    delete_snapshot,
    follow_snapshots,
    forget_guard,
    list_snapshots,
    save_snapshot,
    snapshot_of_job,
)
from virtplay.store.vms import forget_vm, lock_vm, save_vm

log = logging.getLogger("virtplay.jobs.execution")

POWER_STATUS = {
    "running": VmStatus.RUNNING,
    "paused": VmStatus.PAUSED,
    "stopped": VmStatus.STOPPED,
    "stopping": VmStatus.STOPPING,
    "suspended": VmStatus.PAUSED,
    "crashed": VmStatus.ERROR,
}
"""A domain's state → the VM's status when no job holds it."""

GIB = 1024**3
RETRY_SECONDS = 5.0
RETRY_DELETION = timedelta(hours=1)
"""A snapshot that could not be deleted is not pruned again at once."""
MOST_ATTEMPTS = 5
"""A job that ends its service at every start must not do so for ever."""

CHANGE_FIELDS = {"vcpus": "cpu", "memory": "memory", "disks": "disk", "interfaces": "network"}
"""The domain module's fields → the VM's."""


def this_worker() -> str:
    """The name under which this process leases jobs."""
    return f"{socket.gethostname()}:{os.getpid()}"


async def execute(settings: Settings, job_id: int, give_up: asyncio.Event) -> list[int]:
    """Run a queued job to its outcome; returns the ids of jobs that may run now.

    When `give_up` is set first, the play is ended and the job stays unfinished: whoever takes it
    up next repeats it under a higher generation.
    """
    job = await _lease(job_id)
    if job is None:
        return []
    request_id.set(job.request_id)
    directory = job_directory(settings, str(job.ref))
    if job.status == JobStatus.FAILED:
        _count(job)
        await runner.clear(directory)
        return []
    log.info("%s: %s on %s for VM %s", job.ref, job.action, job.host, job.vm_ref)
    progress = Progress(tasks=RULES[Action(job.action)].tasks)
    try:
        outcome = await _play(settings, job, directory, progress, give_up)
    except Exception as error:
        # Whatever broke, the job must not stay running for ever; what it did is observed later.
        log.exception("%s broke", job.ref)
        message = f"cannot finish {job.ref}: {type(error).__name__}: {error}"
        progress.error = {
            "code": "INTERNAL_ERROR",
            "message": message,
            "task": progress.step,
            "host": job.host,
        }
        outcome = None
    if give_up.is_set() and (outcome is None or outcome["status"] == "ended"):
        return []
    followers = await _conclude(job, progress, outcome, give_up)
    await runner.clear(directory)
    return followers


async def _conclude(
    job: Job, progress: Progress, outcome: Mapping[str, Any] | None, give_up: asyncio.Event
) -> list[int]:
    """Write the outcome, again and again while the database is away: the job must not stay running.

    A service that stops meanwhile leaves it to the next start.
    """
    while True:
        try:
            fresh = await store.get_job(job.id)
            if fresh is None or fresh.generation != job.generation:
                raise Conflict(f"cannot finish {job.ref}: another worker has it now")
            followers = await _finish(fresh, progress, outcome)
        except Conflict:
            raise
        except Exception:
            log.exception("%s has ended, but that cannot be written; trying again", job.ref)
            if give_up.is_set():
                raise
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(give_up.wait(), RETRY_SECONDS)
        else:
            _count(fresh)
            return followers


def _count(job: Job) -> None:
    """Count a job that has ended, once that is written."""
    seconds = None
    if job.started_at and job.finished_at:
        seconds = (job.finished_at - job.started_at).total_seconds()
    count_job(job.action, job.status, seconds)


async def _play(
    settings: Settings, job: Job, directory: Path, progress: Progress, give_up: asyncio.Event
) -> Mapping[str, Any] | None:
    """Run the job's playbook and write its events down; its exit event, None if it was killed."""
    secrets = await asyncio.to_thread(read_secrets, directory)
    rules = RULES[Action(job.action)]
    variables = {**job.variables, **secrets, f"{rules.role}_job": job.ref}
    if rules.locks:
        variables[f"{rules.role}_generation"] = job.generation
    specification = runner.Specification(
        project_dir=str(settings.project_dir),
        playbook=playbook(job.action),
        inventory=settings.inventory_sources,
        limit=job.host,
        variables=variables,
        time_limit=rules.time_limit,
    )
    sequence = await store.next_event(job.id)
    run = await runner.start(specification, directory)
    watcher = asyncio.create_task(_end_when_asked(run, give_up))
    try:
        async for batch in run.batches():
            moved = [event for event in batch if progress.take(event)]
            outcome = batch.pop() if batch[-1]["event"] == "exit" else None
            sequence = await store.append_events(job.id, sequence, batch)
            if moved:
                percent = max(job.progress, progress.percent)
                await store.save_progress(job, percent, progress.step)
            if outcome is not None:
                return outcome
    finally:
        watcher.cancel()
        await run.end()
    return None


async def _end_when_asked(run: runner.Run, give_up: asyncio.Event) -> None:
    await give_up.wait()
    await run.end()


async def _lease(job_id: int) -> Job | None:
    """Take the lease of a job, and show on its VM what is done to it.

    It is failed when its VM is gone; None when it is not to be run.
    """
    async with transaction():
        job = await store.get_job(job_id)
        if job is None or job.status != JobStatus.QUEUED:
            return None
        vm = await lock_vm(job.vm_id)
        if vm is None:
            # Only one that does not hold its VM can find it gone.
            message = f"cannot run {job.ref}: VM {job.vm_ref} is gone"
            error = {"code": "VM_NOT_FOUND", "message": message, "task": "", "host": job.host}
            await store.move(job, JobStatus.FAILED, error=error)
            return job
        if not await store.lease_job(job, vm, this_worker()):
            return None
        if job.locks:
            await save_vm(vm, status=RULES[Action(job.action)].status)
    return job


async def _finish(job: Job, progress: Progress, exit_event: Mapping[str, Any] | None) -> list[int]:
    """Write the outcome: job, VM, snapshot and the waiting start in one transaction."""
    error = _failure(job, progress, exit_event)
    result = progress.result or {}
    if error:
        log.warning("%s failed: %s", job.ref, error["message"])
    async with transaction():
        vm = await lock_vm(job.vm_id)
        if vm is None and job.locks:
            raise Conflict(f"cannot finish {job.ref}: VM {job.vm_ref} is gone")
        waiting = await store.waiting_job(vm.id) if vm and job.locks else None
        await store.move(
            job,
            JobStatus.FAILED if error else JobStatus.SUCCEEDED,
            error=error,
            changed=progress.changed,
            result=progress.row_result(),
            **({} if error else {"progress": 100}),
        )
        if vm is None or not job.locks:
            return []
        if error:
            await _settle_failure(job, vm, error, result)
        else:
            await _settle_success(job, vm, result)
        return await _release_waiting(job, vm, waiting, error)


async def _release_waiting(
    job: Job, vm: Vm, waiting: Job | None, error: Mapping[str, Any] | None
) -> list[int]:
    """Let the start behind a creation go on, or end it with the creation."""
    if waiting is None:
        return []
    if error:
        await store.move(
            waiting,
            JobStatus.CANCELLED,
            error={
                "code": error["code"],
                "message": f"cannot start VM {vm.ref}: its creation {job.ref} failed",
                "task": "",
                "host": job.host,
            },
        )
        _count(waiting)
        return []
    await store.release_job(waiting)
    await save_vm(vm, status=RULES[Action.VM_START].status)
    return [waiting.id]


def _failure(
    job: Job, progress: Progress, exit_event: Mapping[str, Any] | None
) -> dict[str, Any] | None:
    """Why the job did not succeed, or None: rc 0, final stats, and the state that was asked for."""

    def say(code: str, message: str) -> dict[str, Any]:
        return {"code": code, "message": message, "task": progress.step, "host": job.host}

    if progress.error is not None:
        return progress.error
    if exit_event is None:
        return say("INTERNAL_ERROR", f"cannot finish {job.ref}: its process was killed")
    if exit_event["status"] == "timeout":
        limit = RULES[Action(job.action)].time_limit
        return say("TIMEOUT", f"cannot finish {job.ref}: it took longer than {limit} s")
    if exit_event["rc"] != 0:
        return say(
            "PLAYBOOK_FAILED",
            f"cannot finish {job.ref}: ansible-playbook ended with"
            f" {exit_event['rc']}; the log says why",
        )
    if not progress.stats_seen or progress.result is None:
        return say("PLAYBOOK_FAILED", f"cannot finish {job.ref}: the play ended before its result")
    state = (progress.result.get("domain") or {}).get("state", ABSENT)
    wanted = RULES[Action(job.action)].ends_in
    if state not in wanted:
        return say(
            "PLAYBOOK_FAILED",
            f"cannot finish {job.ref}: the domain is {state}, not {' or '.join(sorted(wanted))}",
        )
    return None


async def _settle_success(job: Job, vm: Vm, result: Mapping[str, Any]) -> None:
    """Bring the VM's row to what the job has done."""
    domain = result.get("domain") or {}
    if job.action == Action.VM_DELETE:
        await forget_vm(vm)
        return
    if "snapshots" in result:
        await follow_snapshots(vm, result["snapshots"], await list_snapshots(vm))
        if snapshot := await snapshot_of_job(vm, job.snapshot_ref):
            await save_snapshot(snapshot, error=None, prune_after=None)
    started_at = domain.get("started_at")
    booted = job.action in BOOTING
    pending = {} if booted else dict(vm.pending)
    values = wanted_values(job.variables) if job.action == Action.VM_UPDATE else {}
    if job.action == Action.SNAPSHOT_RESTORE:
        values = _restored_values(domain, vm)
    for change in result.get("changes") or []:
        field = CHANGE_FIELDS.get(str(change["field"]).split(".", 1)[0].split("[", 1)[0])
        if field is None or job.action != Action.VM_UPDATE:
            continue
        if change.get("applies") == "next_boot":
            pending.setdefault(field, getattr(vm, field))
        else:
            pending.pop(field, None)
    await save_vm(
        vm,
        **values,
        provisioned=True,
        power=domain.get("state", vm.power),
        status=POWER_STATUS.get(domain.get("state", ""), vm.status),
        error=None,
        pending=pending,
        started_at=datetime.fromisoformat(started_at) if started_at else None,
        **({"snapshots": len(result["snapshots"])} if "snapshots" in result else {}),
        **({"ip": None, "addresses": []} if domain.get("state") == "stopped" else {}),
    )


def _restored_values(domain: Mapping[str, Any], vm: Vm) -> dict[str, Any]:
    """The VM's columns after a restore: the definition goes back with the disks."""
    disks = domain.get("disks") or [{}]
    size = disks[0].get("capacity_bytes") or vm.disk * GIB
    return {
        "cpu": domain.get("vcpus", vm.cpu),
        "memory": domain.get("memory", vm.memory),
        "disk": math.ceil(size / GIB),
    }


BOOTING = (
    Action.VM_START,
    Action.VM_STOP,
    Action.VM_RESTART,
    Action.VM_CREATE,
    Action.SNAPSHOT_RESTORE,
)
"""After these nothing waits for the next boot any more."""

VARIABLE_FIELDS = {
    "libvirt_domain_title": "name",
    "libvirt_domain_description": "description",
    "libvirt_domain_vcpus": "cpu",
    "libvirt_domain_memory": "memory",
    "libvirt_domain_disk": "disk",
    "libvirt_domain_autostart": "auto_start",
    "libvirt_domain_labels": "labels",
    "libvirt_domain_network": "network",
}


def wanted_values(variables: Mapping[str, Any]) -> dict[str, Any]:
    """The VM's columns that an update's variables stand for."""
    return {
        column: variables[name] for name, column in VARIABLE_FIELDS.items() if name in variables
    }


async def _settle_failure(
    job: Job, vm: Vm, error: Mapping[str, Any], result: Mapping[str, Any]
) -> None:
    """Give the VM back the status that is known to be true."""
    reason = _reason(job, error)
    await _settle_snapshot(job, vm, reason)
    if not vm.provisioned:
        await save_vm(vm, status=VmStatus.ERROR, error=reason)
        return
    state = (result.get("domain") or {}).get("state") or vm.power
    status = POWER_STATUS.get(state, VmStatus.ERROR)
    if error["code"] == "HOST_UNREACHABLE":
        status = VmStatus.UNREACHABLE
    await save_vm(vm, status=status, power=state)


def _reason(job: Job, error: Mapping[str, Any]) -> dict[str, Any]:
    """Why a VM or a snapshot is not what a job was to make it."""
    return {"code": error["code"], "message": error["message"], "jobId": job.ref}


async def _settle_snapshot(job: Job, vm: Vm, reason: Mapping[str, Any]) -> None:
    """Give the snapshot of a job that did not succeed a status; the next observation knows more.

    One of the schedule that could not be made goes: its job says why, and the next turn comes. So
    does a guard, which comes back with its id when its host shows that it was made.
    """
    await forget_guard(vm)
    snapshot = await snapshot_of_job(vm, job.snapshot_ref)
    if snapshot is None:
        return
    if job.action == Action.SNAPSHOT_CREATE:
        if snapshot.origin == SnapshotOrigin.SCHEDULE:
            await delete_snapshot(snapshot)
        else:
            await save_snapshot(snapshot, status=SnapshotStatus.ERROR, error=dict(reason))
        return
    made = snapshot.power != ""
    await save_snapshot(
        snapshot,
        status=SnapshotStatus.READY if made else SnapshotStatus.ERROR,
        error=dict(reason),
        prune_after=datetime.now(UTC) + RETRY_DELETION,
    )


async def recover() -> list[int]:
    """Take up what an earlier process of the service left unfinished: the jobs that may run now.

    Its job processes ended with it. What can be repeated is queued again and runs under a higher
    generation; a restart is not repeated, as the guest may have gone through it already.
    """
    for job in await store.unfinished_jobs():
        if job.status != JobStatus.QUEUED:
            log.warning("%s was %s when the service ended", job.ref, job.status)
            await _abandon(job)
    return [
        job.id
        for job in await store.unfinished_jobs()
        if job.status == JobStatus.QUEUED and job.after_id is None
    ]


async def _abandon(job: Job) -> None:
    """Its process is gone: queue the job again, or end it as lost if it can't be repeated."""
    async with transaction():
        if RULES[Action(job.action)].repeatable and job.attempt < MOST_ATTEMPTS:
            await store.move(
                job, JobStatus.QUEUED, attempt=job.attempt + 1, leased_by="", started_at=None
            )
            return
        vm = await lock_vm(job.vm_id)
        message = f"cannot tell how {job.ref} ended: the service ended before it did"
        error = {"code": "INTERNAL_ERROR", "message": message, "task": job.step, "host": job.host}
        await store.move(job, JobStatus.LOST, error=error)
        if vm is not None and job.locks:
            await _settle_snapshot(job, vm, _reason(job, error))
            await save_vm(vm, status=POWER_STATUS.get(vm.power, VmStatus.ERROR))
    count_job(job.action, job.status, None)
