"""Submits jobs: lock, audit row and job in the caller's transaction."""

import asyncio
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from virtplay.actions import RULES, Action, command_line
from virtplay.errors import OperationInProgress
from virtplay.settings import Settings
from virtplay.states import FINISHED_JOB, JobOrigin
from virtplay.store import jobs as store
from virtplay.store.models import Job, Snapshot, Vm
from virtplay.store.vms import save_vm

SECRETS = "secrets.json"
POLL_SECONDS = 0.05
"""The database tells the end of a job, whichever process runs it."""


@dataclass(frozen=True)
class Caller:
    """Who asks: the token's name and id, the request's id, the client's address."""

    name: str
    token_id: int
    request_id: str
    address: str
    origin: JobOrigin = JobOrigin.API


def job_directory(settings: Settings, ref: str) -> Path:
    """The private directory of a job: its secrets, and the spool of its process."""
    return settings.state_dir / "jobs" / ref


def write_secrets(directory: Path, secrets: Mapping[str, Any]) -> None:
    """Keep variables that must not enter the database (0600 in a 0700 directory).

    What is there already is removed: a transaction that is rolled back leaves its job's number to
    the next one, and must not leave it secrets.
    """
    shutil.rmtree(directory, ignore_errors=True)
    if not secrets:
        return
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = directory / SECRETS
    path.touch(mode=0o600)
    path.write_text(json.dumps(secrets))


def read_secrets(directory: Path) -> dict[str, Any]:
    """The variables that write_secrets kept; empty when there were none."""
    try:
        return dict(json.loads((directory / SECRETS).read_text()))
    except FileNotFoundError:
        return {}


async def refuse_if_busy(vm: Vm) -> None:
    """Raise OperationInProgress with the holder's id when an unfinished job holds the VM."""
    holder = await store.unfinished_job(vm.id)
    if holder is not None:
        raise OperationInProgress(
            f"cannot change VM {vm.ref}: {holder.ref} ({holder.action}) is {holder.status}",
            jobId=holder.ref,
        )


async def await_end(job: Job, seconds: float) -> Job:
    """The job once it has ended, or as it is after `seconds`."""
    deadline = asyncio.get_running_loop().time() + seconds
    while True:
        fresh = await store.find_job(str(job.ref))
        if fresh.status in FINISHED_JOB or asyncio.get_running_loop().time() > deadline:
            return fresh
        await asyncio.sleep(POLL_SECONDS)


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
) -> Job:
    """Lock `vm` with a queued job for `action`; to be called inside a transaction.

    `after` makes it wait behind that unfinished job; `snapshot` is the one it is about.
    OperationInProgress when another job holds the VM. An action without a VM status locks nothing.
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
        eta_seconds=await store.usual_seconds(action),
        after_id=after.id if after else None,
    )
    # Before the commit: a 202 must not lose them.
    await asyncio.to_thread(write_secrets, job_directory(settings, str(job.ref)), secrets or {})
    if after is None and rules.locks:
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
