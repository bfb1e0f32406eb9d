"""Recovers the jobs that an earlier process of the service left unfinished."""

import asyncio
import logging
import shutil
from collections.abc import Collection

from virtplay.actions import RULES, Action
from virtplay.jobs.outcome import reason_of, settle_snapshot
from virtplay.jobs.processes import end_strays
from virtplay.metrics.service_series import count_job
from virtplay.settings import Settings
from virtplay.states import JobStatus, power_status
from virtplay.store import jobs as store
from virtplay.store.database import transaction
from virtplay.store.models import Job
from virtplay.store.vms import lock_vm, save_vm

log = logging.getLogger("virtplay.jobs.recovery")

MOST_ATTEMPTS = 5
"""Limit for a job that makes the service crash whenever it runs."""


async def recover(settings: Settings) -> list[int]:
    """Recover the unfinished jobs of an earlier process; return the ids of those that may run now.

    Repeatable jobs are queued again, to run with a higher generation. A restart is not repeatable,
    as the guest may have restarted already. Call this before the first job process is started.
    """
    # Job processes end with their service, but not those whose job process was killed with it.
    # They must not act any more for a job that ends as lost, or waits for its turn.
    await asyncio.to_thread(end_strays, settings.state_dir)
    for job in await store.unfinished_jobs():
        if job.status != JobStatus.QUEUED:
            log.warning("%s was %s when the service ended", job.ref, job.status)
            await _abandon(job)
    unfinished = await store.unfinished_jobs()
    await asyncio.to_thread(_sweep, settings, {str(job.ref) for job in unfinished})
    return [job.id for job in unfinished if job.status == JobStatus.QUEUED and job.after_id is None]


def _sweep(settings: Settings, unfinished: Collection[str]) -> None:
    """Remove the directories of observations and of jobs that have ended, with their secrets."""
    for name, kept in (("jobs", unfinished), ("observation", ())):
        for directory in (settings.state_dir / name).iterdir():
            if directory.name not in kept:
                shutil.rmtree(directory, ignore_errors=True)


async def _abandon(job: Job) -> None:
    """Queue a job without a process again, or end it as lost if it must not be repeated."""
    async with transaction():
        if RULES[Action(job.action)].repeatable and job.attempt < MOST_ATTEMPTS:
            await store.move(
                job, JobStatus.QUEUED, attempt=job.attempt + 1, leased_by="", started_at=None
            )
            return
        vm = await lock_vm(job.vm_id)
        message = f"cannot determine how {job.ref} ended: the service ended before the job"
        error = {"code": "INTERNAL_ERROR", "message": message, "task": job.step, "host": job.host}
        await store.move(job, JobStatus.LOST, error=error)
        if vm is not None and job.locks:
            await settle_snapshot(job, vm, reason_of(job, error))
            await save_vm(vm, status=power_status(vm.power, vm.state_reason))
    count_job(job.action, job.status, None)
