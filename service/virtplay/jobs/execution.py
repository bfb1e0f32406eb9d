"""Executes one job: takes its lease and runs its playbook."""

import asyncio
import logging
import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from virtplay.actions import RULES, Action, playbook
from virtplay.jobs import runner
from virtplay.jobs.outcome import conclude, count_ended, internal_error
from virtplay.jobs.progress import Progress
from virtplay.jobs.recovery import queue_again
from virtplay.jobs.specification import Specification
from virtplay.jobs.submission import job_directory, read_secrets
from virtplay.logs import request_id
from virtplay.settings import Settings
from virtplay.states import JobStatus
from virtplay.store import jobs as store
from virtplay.store.database import transaction
from virtplay.store.models import Job
from virtplay.store.vms import lock_vm, save_vm

log = logging.getLogger("virtplay.jobs.execution")


def this_worker() -> str:
    """Return the name under which this process leases jobs, host:pid."""
    return f"{socket.gethostname()}:{os.getpid()}"


async def execute(settings: Settings, job_id: int, give_up: asyncio.Event) -> list[int]:
    """Run a queued job to its outcome; return the ids of jobs that were waiting for it.

    If `give_up` is set first, the play is ended, and the job is queued again for the next start of
    the service.
    """
    job = await lease(job_id)
    if job is None:
        return []
    request_id.set(job.request_id)
    directory = job_directory(settings, str(job.ref))
    if job.status == JobStatus.FAILED:
        count_ended(job)
        await runner.clear(directory)
        return []
    log.info("%s: %s on %s for VM %s", job.ref, job.action, job.host, job.vm_ref)
    progress = Progress(tasks=RULES[Action(job.action)].tasks)
    try:
        outcome = await _play(settings, job, directory, progress, give_up)
    except Exception as error:
        # The job must not stay running forever; an observation shows what it has done.
        log.exception("%s failed with an internal error", job.ref)
        progress.error = internal_error(job, progress, error)
        outcome = None
    if give_up.is_set() and (outcome is None or outcome["status"] in ("ended", "killed")):
        if RULES[Action(job.action)].repeatable:
            # Now, as the next start would take this for a crash, and count it.
            await queue_again(job)
        return []
    followers = await conclude(job, progress, outcome, give_up)
    await runner.clear(directory)
    return followers


async def lease(job_id: int) -> Job | None:
    """Take the lease of a job, and set its VM's status to the action under way.

    Return the job, failed if its VM is gone; None if the job must not run.
    """
    async with transaction():
        job = await store.get_job(job_id)
        if job is None or job.status != JobStatus.QUEUED:
            return None
        vm = await lock_vm(job.vm_id)
        if vm is None:
            # Only a job that does not hold its VM can find it gone.
            message = f"cannot run {job.ref}: VM {job.vm_ref} is gone"
            error = {"code": "VM_NOT_FOUND", "message": message, "task": "", "host": job.host}
            await store.move(job, JobStatus.FAILED, error=error)
            return job
        if not await store.lease_job(job, vm, this_worker()):
            return None
        if job.locks:
            await save_vm(vm, status=RULES[Action(job.action)].status)
    return job


async def _play(
    settings: Settings, job: Job, directory: Path, progress: Progress, give_up: asyncio.Event
) -> Mapping[str, Any]:
    """Run the job's playbook and store its events; return the exit event.

    A job process that was killed has written none; `rc` is then minus the signal.
    """
    secrets = await asyncio.to_thread(read_secrets, directory)
    rules = RULES[Action(job.action)]
    variables = {**job.variables, **secrets, f"{rules.role}_job": job.ref}
    if rules.locks:
        variables[f"{rules.role}_generation"] = job.generation
    specification = Specification(
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
    return {"event": "exit", "rc": run.returncode, "status": "killed"}


async def _end_when_asked(run: runner.Run, give_up: asyncio.Event) -> None:
    await give_up.wait()
    await run.end()
