"""Recovers the jobs that an earlier process of the service left unfinished."""

import asyncio
import contextlib
import logging
import math
import shutil
import time
from collections.abc import Collection
from pathlib import Path

from virtplay.actions import RULES, Action
from virtplay.jobs import runner
from virtplay.jobs.outcome import lose, release_waiting
from virtplay.jobs.processes import end_strays
from virtplay.jobs.submission import batch_directory, job_directory
from virtplay.settings import Settings
from virtplay.states import JobStatus
from virtplay.store import jobs as store
from virtplay.store.database import transaction
from virtplay.store.models import Job
from virtplay.store.vms import lock_vm

log = logging.getLogger("virtplay.jobs.recovery")

MOST_STALLED = 20
"""How many attempts in a row may end with the service and without progress.

A job that makes the service crash whenever it runs must be given up at last. But nobody can tell
it from the jobs beside it, or from a machine that lacks memory for a while.
"""
LEFT_SECONDS = 3600.0
"""A directory that has not changed for so long is not that of a job about to be committed."""
UNKNOWN_END = {"code": "INTERNAL_ERROR"}
"""The error of a creation that has left none."""


async def recover(settings: Settings) -> list[int]:
    """Recover the unfinished jobs of an earlier process; return the ids of those that may run now.

    Repeatable jobs are queued again, to run with a higher generation. Call this before the first
    job process is started.
    """
    # Job processes end with their service, but not those whose job process was killed with it.
    # They must not act any more for a job that ends as lost, or waits for its turn.
    await asyncio.to_thread(end_strays, settings.state_dir)
    for job in await store.unfinished_jobs():
        if job.status != JobStatus.QUEUED:
            log.warning("%s was %s when the service ended", job.ref, job.status)
            await _abandon(settings, job)
    for job in await store.unfinished_jobs():
        if job.after_id is not None:
            await _release_forgotten(job)
    await asyncio.to_thread(_sweep, settings.state_dir / "observation")
    await sweep_jobs(settings, young=True)
    unfinished = await store.unfinished_jobs()
    return [job.id for job in unfinished if job.status == JobStatus.QUEUED and job.after_id is None]


async def _abandon(settings: Settings, job: Job) -> None:
    """Queue a job without a process again, or end it as lost if it must not be repeated."""
    stalled = job.stalled or 0
    begun = await asyncio.to_thread(runner.forget_play, job_directory(settings, str(job.ref)))
    # The directory of a play of several jobs stays for the others, until the sweep.
    batch = batch_directory(settings, job.leased_by)
    begun = await asyncio.to_thread(runner.has_begun, batch) or begun
    if job.progress > (job.reached or 0):
        stalled = 0
    elif begun:
        stalled += 1
    if RULES[Action(job.action)].repeatable and stalled < MOST_STALLED:
        await queue_again(job, stalled)
    else:
        await lose(job)


async def queue_again(job: Job, stalled: int = 0) -> None:
    """Queue a running job whose process has ended before its play had an outcome."""
    await store.move(
        job,
        JobStatus.QUEUED,
        attempt=job.attempt + 1,
        reached=job.progress,
        stalled=stalled or None,
        leased_by="",
        started_at=None,
    )


async def _release_forgotten(waiting: Job) -> None:
    """Release or cancel a start that waits for nothing: earlier releases left it behind."""
    async with transaction():
        vm = await lock_vm(waiting.vm_id)
        if vm is None:
            await store.release_job(waiting)  # it fails, as its VM is gone
        elif await store.unfinished_job(vm.id) is None:
            error = None if vm.provisioned else vm.error or UNKNOWN_END
            _ = await release_waiting(vm, waiting, error, "its creation did not succeed")


async def sweep_jobs(settings: Settings, *, young: bool = False) -> None:
    """Remove the directories of jobs that have ended or were never committed, with their secrets.

    A job's secrets are written before it is committed: while the service runs, `young` ones stay.
    """
    unfinished = set()
    for job in await store.unfinished_jobs():
        unfinished.add(str(job.ref))
        if job.leased_by:
            unfinished.add(batch_directory(settings, job.leased_by).name)
    before = math.inf if young else time.time() - LEFT_SECONDS
    await asyncio.to_thread(_sweep, settings.state_dir / "jobs", unfinished, before)


def _sweep(folder: Path, kept: Collection[str] = (), before: float = math.inf) -> None:
    """Remove what is in a folder and has not changed since `before` (Unix seconds)."""
    for directory in folder.iterdir() if folder.is_dir() else ():
        with contextlib.suppress(OSError):  # it has just been removed
            if directory.name not in kept and directory.stat().st_mtime <= before:
                shutil.rmtree(directory, ignore_errors=True)
