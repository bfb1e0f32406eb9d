"""Recovers the jobs that an earlier process of the service left unfinished."""

import asyncio
import logging
import shutil
from collections.abc import Collection

from virtplay.actions import RULES, Action
from virtplay.jobs.outcome import lose, release_waiting
from virtplay.jobs.processes import end_strays
from virtplay.settings import Settings
from virtplay.states import JobStatus
from virtplay.store import jobs as store
from virtplay.store.database import transaction
from virtplay.store.models import Job
from virtplay.store.vms import lock_vm

log = logging.getLogger("virtplay.jobs.recovery")

MOST_ATTEMPTS = 5
"""Limit for a job that makes the service crash whenever it runs."""
UNKNOWN_END = {"code": "INTERNAL_ERROR"}
"""The error of a creation that has left none."""


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
    for job in await store.unfinished_jobs():
        if job.after_id is not None:
            await _release_forgotten(job)
    unfinished = await store.unfinished_jobs()
    await asyncio.to_thread(_sweep, settings, {str(job.ref) for job in unfinished})
    return [job.id for job in unfinished if job.status == JobStatus.QUEUED and job.after_id is None]


async def _abandon(job: Job) -> None:
    """Queue a job without a process again, or end it as lost if it must not be repeated."""
    if RULES[Action(job.action)].repeatable and job.attempt < MOST_ATTEMPTS:
        await store.move(
            job, JobStatus.QUEUED, attempt=job.attempt + 1, leased_by="", started_at=None
        )
    else:
        await lose(job)


async def _release_forgotten(waiting: Job) -> None:
    """Release or cancel a start that waits for nothing: earlier releases left it behind."""
    async with transaction():
        vm = await lock_vm(waiting.vm_id)
        if vm is None:
            await store.release_job(waiting)  # it fails, as its VM is gone
        elif await store.unfinished_job(vm.id) is None:
            error = None if vm.provisioned else vm.error or UNKNOWN_END
            _ = await release_waiting(vm, waiting, error, "its creation did not succeed")


def _sweep(settings: Settings, unfinished: Collection[str]) -> None:
    """Remove the directories of observations and of jobs that have ended, with their secrets."""
    for name, kept in (("jobs", unfinished), ("observation", ())):
        for directory in (settings.state_dir / name).iterdir():
            if directory.name not in kept:
                shutil.rmtree(directory, ignore_errors=True)
