"""Executes one job: takes its lease and runs its playbook."""

import asyncio
import contextlib
import logging
import os
import secrets
import socket
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any, TypeVar

from virtplay.actions import RULES, VALIDATION, Action, playbook
from virtplay.errors import Conflict
from virtplay.jobs import runner
from virtplay.jobs.launcher import Launcher
from virtplay.jobs.outcome import RETRY_SECONDS, conclude, count_ended, internal_error
from virtplay.jobs.progress import Progress
from virtplay.jobs.recovery import queue_again
from virtplay.jobs.specification import Specification
from virtplay.jobs.submission import job_directory, read_secrets
from virtplay.logs import request_id
from virtplay.settings import Settings
from virtplay.states import JobStatus
from virtplay.store import jobs as store
from virtplay.store.database import DatabaseAway, transaction
from virtplay.store.models import Job
from virtplay.store.vms import lock_vm, save_vm

T = TypeVar("T")

log = logging.getLogger("virtplay.jobs.execution")


def new_holder() -> str:
    """Return a name under which this process leases one job once, host:pid:random."""
    return f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}"


async def execute(
    settings: Settings, launcher: Launcher, job_id: int, give_up: asyncio.Event
) -> list[int]:
    """Run a queued job to its outcome; return the ids of jobs that were waiting for it.

    If `give_up` is set first, the play is ended, and the job is queued again for the next start of
    the service, unless another job has superseded it.
    """
    take = partial(lease, job_id, new_holder())
    job = await repeat_while_away(take, give_up)
    if job is None:
        return []
    request_id.set(job.request_id)
    directory = job_directory(settings, str(job.ref))
    if job.status == JobStatus.FAILED:
        count_ended(job)
        await runner.clear(directory)
        return []
    log.info("%s: %s on %s for VM %s", job.ref, job.action, job.host, job.vm_ref)
    progress = progress_of(job)
    try:
        outcome = await _play(settings, launcher, job, progress, give_up)
    except Exception as error:
        # The job must not stay running forever; an observation shows what it has done.
        log.exception("%s failed with an internal error", job.ref)
        progress.error = internal_error(job, progress, error)
        outcome = None
    followers = await end(job, progress, outcome, give_up)
    if followers is None:
        return []
    if job.id not in followers:  # else it runs again, with the secrets that are there
        await runner.clear(directory)
    return followers


def progress_of(job: Job) -> Progress:
    """Return the progress of a job whose play has not begun."""
    return Progress(RULES[Action(job.action)].tasks, job.action, job.variables)


def columns_of(progress: Progress) -> dict[str, Any]:
    """Return the columns of a job that hold its step."""
    return {
        "step": progress.step.words,
        "step_started_at": progress.step_started_at,
        "step_timeout": progress.step.timeout,
    }


async def end(
    job: Job, progress: Progress, outcome: Mapping[str, Any] | None, give_up: asyncio.Event
) -> list[int] | None:
    """Write the outcome of a job whose play has ended; queue it again if the play was given up.

    One that another job has superseded has its outcome already. Return the jobs that were waiting
    for it; None if it has no outcome yet.
    """
    if give_up.is_set() and (outcome is None or outcome["status"] in ("ended", "killed")):
        if not RULES[Action(job.action)].repeatable:
            return None
        try:
            # Now, as the next start would take this for a crash, and count it.
            await queue_again(job)
        except DatabaseAway as error:
            log.warning("cannot queue %s again, or count it: %s", job.ref, error.message)
            return None
        except Conflict:
            pass
        else:
            return None
    try:
        return await conclude(job, progress, outcome, give_up)
    except Exception:
        # Not again: its play has ended, and would be repeated.
        log.exception("%s ended without an outcome", job.ref)
        return None


async def lease(job_id: int, holder: str = "") -> Job | None:
    """Take the lease of a job, and set its VM's status to the action under way.

    Return the job, failed if its VM is gone; None if the job must not run. With the same `holder`
    it may be called again: a lease whose commit got no response is recognised.
    """
    holder = holder or new_holder()
    async with transaction():
        job = await store.get_job(job_id)
        if job is not None and job.status == JobStatus.RUNNING and job.leased_by == holder:
            return job
        if job is None or job.status != JobStatus.QUEUED:
            return None
        vm = await lock_vm(job.vm_id)
        if vm is None:
            await fail_without_vm(job)
            return job
        if not await store.lease_job(job, vm, holder):
            return None
        if job.locks:
            await save_vm(vm, status=RULES[Action(job.action)].status)
    return job


async def fail_without_vm(job: Job) -> None:
    """Fail a queued job whose VM is gone: one that did not hold it, or whose VM was released."""
    message = f"cannot run {job.ref}: VM {job.vm_ref} is gone"
    error = {"code": "VM_NOT_FOUND", "message": message, "task": "", "host": job.host}
    await store.move(job, JobStatus.FAILED, error=error)


async def _play(
    settings: Settings,
    launcher: Launcher,
    job: Job,
    progress: Progress,
    give_up: asyncio.Event,
) -> Mapping[str, Any]:
    """Run the job's playbook and store its events; return the exit event.

    A job process that was killed has written none; `rc` is then minus the signal. While the
    database is away the play goes on, and its events wait in the spool file.
    """
    patiently = partial(repeat_while_away, give_up=give_up)
    directory = job_directory(settings, str(job.ref))
    private = await asyncio.to_thread(read_secrets, directory)
    rules = RULES[Action(job.action)]
    variables = {**job.variables, **private, f"{rules.role}_job": job.ref}
    if rules.locks:
        variables[f"{rules.role}_generation"] = job.generation
    specification = Specification(
        project_dir=str(settings.project_dir),
        playbook=playbook(job.action),
        inventory=settings.inventory_sources,
        limit=job.host,
        variables=variables,
        skip_tags=VALIDATION if rules.validated else None,
        time_limit=rules.time_limit,
    )
    sequence = await patiently(lambda: store.next_event(job.id))
    run = await runner.start(launcher, specification, directory)
    watcher = asyncio.create_task(end_when_asked(run, give_up))
    try:
        async for batch in run.batches():
            moved = [event for event in batch if progress.take(event)]
            outcome = batch.pop() if batch[-1]["event"] == "exit" else None
            sequence = await patiently(partial(store.append_events, job.id, sequence, batch))
            if moved:
                percent = max(job.progress, progress.percent)
                await patiently(partial(store.save_progress, job, percent, **columns_of(progress)))
            if outcome is not None:
                return outcome
    finally:
        watcher.cancel()
        await run.end()
    return {"event": "exit", "rc": run.returncode, "status": "killed"}


async def repeat_while_away(work: Callable[[], Awaitable[T]], give_up: asyncio.Event) -> T:
    """Return what `work` returns, which is repeated while the database is away."""
    while True:
        try:
            return await work()
        except DatabaseAway as error:
            if give_up.is_set():
                raise
            log.warning("trying again: %s", error.message)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(give_up.wait(), RETRY_SECONDS)


async def end_when_asked(run: runner.Run, give_up: asyncio.Event) -> None:
    """End the play when the event is set."""
    await give_up.wait()
    await run.end()
