"""Submits jobs: writes the VM's lock, the audit row and the job in the caller's transaction."""

import asyncio
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import EllipsisType
from typing import Any

from virtplay.actions import RULES, Action, command_line, waits_for_guest
from virtplay.errors import OperationInProgress
from virtplay.settings import Settings
from virtplay.states import JobOrigin, JobStatus
from virtplay.store import jobs as store
from virtplay.store.models import Job, Snapshot, Vm
from virtplay.store.vms import save_vm

SECRETS = "secrets.json"


@dataclass(frozen=True)
class Caller:
    """Who submits a job: the token's name and id, the request's id, the client's address."""

    name: str
    token_id: int
    request_id: str
    address: str
    origin: JobOrigin = JobOrigin.API


def job_directory(settings: Settings, ref: str) -> Path:
    """Return the private directory of a job, which holds its secrets and its process's spool."""
    return settings.state_dir / "jobs" / ref


def batch_directory(settings: Settings, holder: str) -> Path:
    """Return the private directory of the play of the jobs that `holder` has leased together."""
    return settings.state_dir / "jobs" / f"batch-{holder.rpartition(':')[2]}"


def write_secrets(directory: Path, secrets: Mapping[str, Any]) -> None:
    """Write variables that must not enter the database to a 0600 file in a 0700 directory.

    An existing directory is removed first: the next job may get the number of a job whose
    transaction was rolled back, and must not get its secrets.
    """
    shutil.rmtree(directory, ignore_errors=True)
    if not secrets:
        return
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = directory / SECRETS
    path.touch(mode=0o600)
    path.write_text(json.dumps(secrets))


def read_secrets(directory: Path) -> dict[str, Any]:
    """Return the variables that write_secrets has written; empty if there were none."""
    try:
        return dict(json.loads((directory / SECRETS).read_text()))
    except FileNotFoundError:
        return {}


async def refuse_if_busy(vm: Vm) -> None:
    """Raise OperationInProgress with the job's id if an unfinished job holds the VM."""
    refuse_held(vm, await store.unfinished_job(vm.id))


def refuse_held(vm: Vm, holder: Job | None) -> None:
    """Raise OperationInProgress with the job's id if there is one that holds the VM."""
    if holder is not None:
        raise OperationInProgress(
            f"cannot change VM {vm.label}: {holder.ref} ({holder.action}) is {holder.status}"
            + _wait_of(holder),
            jobId=holder.ref,
        )


def _wait_of(job: Job) -> str:
    """Return which step a job has reached, and how long it waits for a guest: ": …, 12 of 90 s"."""
    began = store.step_start(job)
    if began is None:
        return ""
    step = job.step
    if step[1:2].islower():  # not "VMs"
        step = step[:1].lower() + step[1:]
    words = f": {step}"
    if job.step_timeout is None:
        return words
    waited = max(0, int((datetime.now(UTC) - began).total_seconds()))
    left = f"{words}, {min(waited, job.step_timeout)} of {job.step_timeout} s"
    return f"{left}; a stop with force cuts the power now"


async def submit(
    settings: Settings,
    caller: Caller,
    vm: Vm,
    action: Action,
    variables: Mapping[str, Any],
    *,
    secrets: Mapping[str, Any] | None = None,
    after: Job | None = None,
    snapshot: Snapshot | None = None,
    bulk_id: int | None = None,
    at_once: int | None = None,
    eta_seconds: float | EllipsisType | None = ...,
) -> Job:
    """Lock `vm` with a queued job for `action`; call this inside a transaction.

    The job waits for the unfinished job `after`; if that waits for its guest to shut down, the job
    supersedes it, and the dispatcher ends its play. It works on `snapshot`. `at_once` jobs of the
    request whose first job is `bulk_id`, by default this one, may run at once. `eta_seconds` is how
    long it will probably take, None if unknown, by default as earlier ones. Raise
    OperationInProgress when another job holds the VM. An action that does not lock leaves the
    VM's status as it is.
    """
    assert vm.host is not None
    rules = RULES[action]
    job = await store.create_job(
        action=action.value,
        vm_id=vm.id,
        vm_ref=vm.ref,
        snapshot_ref=snapshot.ref if snapshot else None,
        locks=rules.locks,
        host=vm.host,
        origin=caller.origin,
        requested_by=caller.name,
        request_id=caller.request_id,
        variables=dict(variables),
        command=command_line(action, vm.host, settings.inventory_sources, variables),
        eta_seconds=await store.usual_seconds(action) if eta_seconds is ... else eta_seconds,
        after_id=after.id if after else None,
        bulk_id=bulk_id,
        at_once=at_once,
    )
    if after is not None and waits_for_guest(after.action, after.variables):
        await _take_over(vm, after, job)
    # Before the commit: a request that got 202 must not lose its secrets.
    await asyncio.to_thread(write_secrets, job_directory(settings, str(job.ref)), secrets or {})
    if job.after_id is None and rules.locks:
        await save_vm(vm, status=rules.status)
    await store.write_audit(
        actor=caller.name,
        action=action.value,
        vm_ref=vm.ref,
        job_ref=job.ref,
        address=caller.address,
        request_id=caller.request_id,
    )
    return job


async def _take_over(vm: Vm, superseded: Job, job: Job) -> None:
    """Cancel the job that holds the VM, and let `job`, which waits for it, hold the VM."""
    verb = superseded.action.removeprefix("vm_")
    error = {
        "code": "SUPERSEDED",
        "message": f"cannot {verb} VM {vm.label}: {job.ref} has superseded it, with force",
        "task": await store.last_task(superseded.id),
        "host": superseded.host,
    }
    await store.move(superseded, JobStatus.CANCELLED, error=error)
    await store.release_job(job)
    job.after_id = None
