"""Writes the outcome of a job: its own row, its VM's, its snapshot's and the waiting start's."""

import asyncio
import contextlib
import logging
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from virtplay.actions import ABSENT, RULES, Action
from virtplay.errors import Conflict
from virtplay.jobs.progress import Progress
from virtplay.metrics.service_series import count_job
from virtplay.states import FINISHED_JOB, JobStatus, SnapshotOrigin, SnapshotStatus, VmStatus
from virtplay.store import jobs as store
from virtplay.store.database import DatabaseAway, transaction
from virtplay.store.domains import UNREADABLE, follow_domain
from virtplay.store.models import Job, Vm
from virtplay.store.snapshots import (
    delete_guard,
    delete_snapshot,
    save_snapshot,
    snapshot_of_job,
)
from virtplay.store.vms import delete_vm, lock_vm, save_vm
from virtplay.vm_fields import from_variables

log = logging.getLogger("virtplay.jobs.outcome")

OPEN_ENDS = frozenset({"INTERNAL_ERROR", "TIMEOUT", "HOST_UNREACHABLE", "PLAYBOOK_FAILED"})
"""Codes of errors after which a deletion may have been done nevertheless."""
RETRY_SECONDS = 5.0
RETRY_DELETION = timedelta(hours=1)
"""How long pruning waits before it retries the deletion of a snapshot."""


def internal_error(job: Job, progress: Progress, error: Exception) -> dict[str, Any]:
    """Return the job error for a fault in the service itself."""
    message = f"cannot finish {job.ref}: {type(error).__name__}: {error}"
    return {
        "code": "INTERNAL_ERROR",
        "message": message,
        "task": progress.task,
        "host": job.host,
    }


async def conclude(
    job: Job, progress: Progress, outcome: Mapping[str, Any] | None, give_up: asyncio.Event
) -> list[int]:
    """Write the outcome; retry while the database is unavailable, as no job must stay running.

    A job whose result cannot be read fails, as a retry could not read it either. If the service
    stops before the outcome is written, its next start recovers the job.
    """
    while True:
        try:
            fresh = await store.get_job(job.id)
            # Another service may have taken it over, and queued it again under the same generation.
            if fresh is None or (fresh.generation, fresh.leased_by) != (
                job.generation,
                job.leased_by,
            ):
                raise Conflict(f"cannot finish {job.ref}: another worker has leased it")
            followers = await finish(fresh, progress, outcome)
        except Conflict:
            raise
        except UNREADABLE as error:
            if progress.result is None:
                raise
            log.exception("cannot read the result of %s", job.ref)
            if progress.error is not None:
                progress.result = None  # of a failed job only its state is read
            progress.error = progress.error or internal_error(job, progress, error)
        except DatabaseAway as error:
            log.warning("cannot write the outcome of %s, trying again: %s", job.ref, error.message)
            await _wait_or_raise(error, give_up)
        except Exception as error:
            log.exception("cannot write the outcome of %s; trying again", job.ref)
            await _wait_or_raise(error, give_up)
        else:
            if fresh.status in FINISHED_JOB:
                count_ended(fresh)
            return followers


async def _wait_or_raise(error: Exception, give_up: asyncio.Event) -> None:
    """Wait before the next attempt; raise `error` if the service stops."""
    if give_up.is_set():
        raise error
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(give_up.wait(), RETRY_SECONDS)


def count_ended(job: Job) -> None:
    """Count a job that has ended; call this after its outcome is written."""
    seconds = None
    if job.started_at and job.finished_at:
        seconds = (job.finished_at - job.started_at).total_seconds()
    count_job(job.action, job.status, seconds)


async def finish(job: Job, progress: Progress, exit_event: Mapping[str, Any] | None) -> list[int]:
    """Write the outcome to job, VM, snapshot and the waiting start in one transaction.

    Return the ids of jobs that were waiting for it. A job that has ended keeps its outcome.
    """
    error = _failure(job, progress, exit_event)
    result = progress.result or {}
    async with transaction():
        vm = await lock_vm(job.vm_id)
        # Read again under the VM's lock: another job may have superseded it meanwhile.
        await store.refresh_status(job)
        if job.status in FINISHED_JOB:
            # Or written before, without a response; the dispatcher finds what waited for it.
            return []
        if error:
            log.warning("%s failed: %s", job.ref, error["message"])
        if vm is not None and await _catches_up(job, vm, progress):
            return [job.id]
        waiting = await store.waiting_job(vm.id) if vm and job.locks else None
        await store.move(
            job,
            _status_of(error),
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
        return await release_waiting(vm, waiting, error, f"its creation {job.ref} failed")


async def _catches_up(job: Job, vm: Vm, progress: Progress) -> bool:
    """Queue a job again above the generation for which its host has refused it.

    The database is behind the host: it was restored from a backup, or is new. The module refuses
    before it changes anything. A job whose lease somebody else has, which the fence is there for,
    does not get here: only the holder of the lease concludes a job.
    """
    seen = progress.seen_generation
    if not isinstance(seen, int) or not job.generation < seen <= store.GENERATION_MAX:
        return False
    log.warning(
        "%s runs again: host %s has seen generation %s of VM %s, above %s of the database",
        *(job.ref, job.host, seen, vm.ref, job.generation),
    )
    await store.raise_generation(vm, seen)
    await store.move(job, JobStatus.QUEUED, attempt=job.attempt + 1, leased_by="", started_at=None)
    return True


async def release_waiting(
    vm: Vm, waiting: Job | None, error: Mapping[str, Any] | None, why: str
) -> list[int]:
    """Release the start that waits for a creation, or cancel it if that has ended with `error`.

    `why` says in a few words how the creation has ended. Return the id of a released start.
    """
    if waiting is None:
        return []
    if error:
        await store.move(
            waiting,
            JobStatus.CANCELLED,
            error={
                "code": error["code"],
                "message": f"cannot start VM {vm.label}: {why}",
                "task": "",
                "host": waiting.host,
            },
        )
        count_ended(waiting)
        return []
    await store.release_job(waiting)
    await save_vm(vm, status=RULES[Action.VM_START].status)
    return [waiting.id]


async def lose(job: Job, why: str = "the service ended before the job") -> None:
    """End an unfinished job as lost, as nobody knows how far it got; settle its VM and the rest.

    One that was queued ends as cancelled.
    """
    message = f"cannot determine how {job.ref} ended: {why}"
    outcome = JobStatus.CANCELLED if job.status == JobStatus.QUEUED else JobStatus.LOST
    async with transaction():
        vm = await lock_vm(job.vm_id)
        waiting = await store.waiting_job(vm.id) if vm and job.locks else None
        task = await store.last_task(job.id)
        error = {"code": "INTERNAL_ERROR", "message": message, "task": task, "host": job.host}
        await store.move(job, outcome, error=error)
        if vm is not None and job.locks:
            await _settle_failure(job, vm, error, {})
            _ = await release_waiting(vm, waiting, error, f"its creation {job.ref} was lost")
    count_job(job.action, job.status, None)


def _status_of(error: Mapping[str, Any] | None) -> JobStatus:
    """Return the final status of a job with that error."""
    if error is None:
        return JobStatus.SUCCEEDED
    # A run by hand, with force, has ended the wait for the guest on the host.
    return JobStatus.CANCELLED if error["code"] == "SUPERSEDED" else JobStatus.FAILED


def _failure(
    job: Job, progress: Progress, exit_event: Mapping[str, Any] | None
) -> dict[str, Any] | None:
    """Return the error of a failed job, or None.

    A job succeeds with exit code 0, final statistics, and the domain in the requested state.
    """

    def failure(code: str, message: str) -> dict[str, Any]:
        return {"code": code, "message": message, "task": progress.task, "host": job.host}

    if progress.error is not None:
        return progress.error
    assert exit_event is not None  # without one, an exception has set progress.error
    if exit_event["status"] == "killed":
        code = exit_event["rc"]
        how = f"was killed (signal {-code})" if code < 0 else f"ended with exit code {code}"
        return failure("INTERNAL_ERROR", f"cannot finish {job.ref}: its process {how}")
    if exit_event["status"] == "timeout":
        limit = exit_event.get("time_limit", RULES[Action(job.action)].time_limit)
        return failure("TIMEOUT", f"cannot finish {job.ref}: it took longer than {limit} s")
    if exit_event["rc"] is None:  # ansible-runner does not say by which signal
        return failure("PLAYBOOK_FAILED", f"cannot finish {job.ref}: ansible-playbook was killed")
    if exit_event["rc"] != 0:
        return failure(
            "PLAYBOOK_FAILED",
            f"cannot finish {job.ref}: ansible-playbook failed with exit code"
            f" {exit_event['rc']}; read the job's log",
        )
    if not progress.stats_seen or progress.result is None:
        return failure(
            "PLAYBOOK_FAILED", f"cannot finish {job.ref}: the play ended without a result"
        )
    state = (progress.result.get("domain") or {}).get("state", ABSENT)
    expected = RULES[Action(job.action)].ends_in
    if state not in expected:
        return failure(
            "PLAYBOOK_FAILED",
            f"cannot finish {job.ref}: the domain is {state}, not {' or '.join(sorted(expected))}",
        )
    return None


async def _settle_success(job: Job, vm: Vm, result: Mapping[str, Any]) -> None:
    """Update the VM's row to the domain that the job reported."""
    if job.action == Action.VM_DELETE:
        await delete_vm(vm)
        return
    domain = dict(result["domain"])
    if "snapshots" in result:
        domain["snapshots"] = result["snapshots"]
    await follow_domain(vm, domain, network=from_variables(job.variables).get("network"))
    if snapshot := await snapshot_of_job(vm, job.snapshot_ref):
        await save_snapshot(snapshot, error=None, prune_after=None)


async def _settle_failure(
    job: Job, vm: Vm, error: Mapping[str, Any], result: Mapping[str, Any]
) -> None:
    """Set the VM's status to its last known state."""
    reason = reason_of(job, error)
    await settle_snapshot(job, vm, reason)
    if not vm.provisioned:
        await save_vm(vm, status=VmStatus.ERROR, error=reason)
        return
    now = result.get("domain") or {"state": vm.power, "state_reason": vm.state_reason}
    await follow_domain(vm, {key: now[key] for key in ("state", "state_reason") if key in now})
    if error["code"] == "HOST_UNREACHABLE":
        await save_vm(vm, status=VmStatus.UNREACHABLE)
    if error["code"] == "VM_NOT_FOUND" or (
        job.action == Action.VM_DELETE and error["code"] in OPEN_ENDS
    ):
        # Until it is observed, further jobs would be accepted and fail. One observation without
        # the domain is enough now, and one with it takes this back.
        await save_vm(vm, missed=max(1, vm.missed))


def reason_of(job: Job, error: Mapping[str, Any]) -> dict[str, Any]:
    """Return the error of a VM or snapshot whose job did not succeed."""
    return {"code": error["code"], "message": error["message"], "jobId": job.ref}


async def settle_snapshot(job: Job, vm: Vm, reason: Mapping[str, Any]) -> None:
    """Set the status of a failed job's snapshot until the next observation of the host.

    A scheduled snapshot that could not be created is deleted: its job has the reason, and the next
    turn creates another. A guard is deleted too; if its host has created it, the next observation
    adds it again with the same id.
    """
    await delete_guard(vm)
    snapshot = await snapshot_of_job(vm, job.snapshot_ref)
    if snapshot is None:
        return
    if job.action == Action.SNAPSHOT_CREATE:
        if snapshot.origin == SnapshotOrigin.SCHEDULE:
            await delete_snapshot(snapshot)
        else:
            await save_snapshot(snapshot, status=SnapshotStatus.ERROR, error=dict(reason))
        return
    exists = snapshot.power != ""
    await save_snapshot(
        snapshot,
        status=SnapshotStatus.READY if exists else SnapshotStatus.ERROR,
        error=dict(reason),
        prune_after=datetime.now(UTC) + RETRY_DELETION,
    )
