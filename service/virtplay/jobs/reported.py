"""Runs from a shell, which report themselves: they are shown as jobs.

Such a job holds no VM, and the service never runs, ends or repeats it.
"""

import asyncio
import contextlib
import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import PurePosixPath
from typing import Any

from virtplay.errors import Conflict, Forbidden, JobFinished
from virtplay.jobs.progress import Progress
from virtplay.jobs.submission import Caller
from virtplay.metrics.service_series import count_reported_job
from virtplay.states import FINISHED_JOB, JobStatus
from virtplay.store import jobs as store
from virtplay.store import reports
from virtplay.store.database import transaction
from virtplay.store.models import Job, ReportedRun
from virtplay.store.reports import Domain

log = logging.getLogger("virtplay.jobs.reported")

LEASE = timedelta(seconds=60)
"""A run of which nothing is heard for this long is given up; it says something every 15 s."""
ROUND_SECONDS = 5.0
NEW_VMS_WITHIN = timedelta(minutes=10)
"""For so long after a run was last heard of, VMs that come into the list may be its."""
EVENTS_LIMIT = 50_000
"""Events that the log of one run keeps; later ones only move its progress."""
OTHER_ACTION = "playbook"
ACTION = re.compile(r"[a-z][a-z0-9_]{0,31}")


@dataclass(frozen=True)
class Batch:
    """What a run tells at once, beside that it is still there."""

    first: int
    """The number of the first of the events; the run counts them from 1."""
    events: Sequence[Mapping[str, Any]]
    """As the runner's, with `percent` where the run knows it."""
    hosts: Sequence[str] | None = None
    """All hosts so far; None when that is as before."""
    domains: Sequence[Domain] | None = None
    """The domains that it is about so far; None when that is as before."""
    outcome: JobStatus | None = None
    error: Mapping[str, str] | None = None
    """code and message, where no task failed."""


def action_of(playbook: str) -> str:
    """The action of a playbook, which is its file's name: playbooks/vm_start.yml → vm_start."""
    stem = PurePosixPath(playbook).stem
    return stem if ACTION.fullmatch(stem) else OTHER_ACTION


async def begin_report(
    caller: Caller, *, run_id: str, playbook: str, run_by: str, command: str, dry_run: bool
) -> tuple[Job, ReportedRun, bool]:
    """The caller's run and its job, and whether they are new: the same run is the same job."""
    # One at a time: the same run may be sent twice at once, and a job's number is not to be wasted.
    async with transaction(exclusive="reported_run"):
        found = await reports.find_run(caller.token_id, run_id)
        if found is not None:
            return *found, False
        job, run = await reports.create_run(
            token_id=caller.token_id,
            run_id=run_id,
            playbook=playbook,
            run_by=run_by,
            action=action_of(playbook),
            requested_by=caller.name,
            request_id=caller.request_id,
            command=command,
            dry_run=dry_run,
        )
        await store.write_audit(
            actor=caller.name,
            action="report",
            job_ref=job.ref,
            address=caller.address,
            request_id=caller.request_id,
        )
    return job, run, True


async def take_report(caller: Caller, ref: str, batch: Batch) -> tuple[Job, int]:
    """Take in what a run tells; the job, and the number that its next event gets.

    Events that are known are passed over, so that a batch may be sent again. Forbidden unless the
    job is a run that the caller's token reports, JobFinished when it has ended without these.
    """
    job = await store.find_job(ref)
    run = (await reports.runs_of([job])).get(job.id)
    if run is None or run.token_id != caller.token_id:
        raise Forbidden(f"cannot report on {ref}: it is not a run that this token has reported")
    async with transaction():
        job, run = await reports.lock_run(job.id)
        number = await store.next_event(job.id)
        new = batch.events[max(0, number - batch.first) :]
        if job.status in FINISHED_JOB:
            if new or job.status != batch.outcome:
                raise JobFinished(f"cannot report on {ref}: it has {job.status} already")
            return job, number
        first = max(number, batch.first)
        kept = new[: max(0, EVENTS_LIMIT - first)]
        number = await store.append_events(job.id, first, kept)
        await _show(job, run, new, batch)
        if batch.outcome is not None:
            await _finish(job, batch.outcome)
    if job.status in FINISHED_JOB:
        count_reported_job(job.status)
    return job, max(number, first + len(new))


async def _show(
    job: Job, run: ReportedRun, events: Sequence[Mapping[str, Any]], batch: Batch
) -> None:
    """Bring the rows to what the run has reported."""
    progress = Progress(
        tasks=1,
        percent=job.progress,
        step=job.step,
        changed=bool(job.changed),
        error=job.error,
    )
    for event in events:
        progress.take(event)
    job.progress, job.step, job.changed = progress.percent, progress.step, progress.changed
    job.error = _error(job, batch.error) if batch.error else progress.error
    run.reported_at = datetime.now(UTC)
    if batch.hosts is not None:
        run.hosts = list(batch.hosts)
        job.host = batch.hosts[0] if len(batch.hosts) == 1 else None
    if progress.result is not None:
        job.result = progress.row_result()
    if batch.domains is not None:
        domains = [asdict(domain) for domain in batch.domains]
        if not all(domain in domains for domain in run.domains):
            run.vm_refs = ""
        run.domains = domains
        await _add_vms(job, run)
        if len(domains) > 1:
            # What the last of many has changed says nothing of the run.
            job.result = None
    await reports.save_run(job, run)


async def _add_vms(job: Job, run: ReportedRun) -> None:
    """Name the VMs of the list that the run's domains are; one that has gone since stays named."""
    found = await reports.find_vms([Domain(**domain) for domain in run.domains])
    refs = list(dict.fromkeys([*run.vm_refs.split(), *(str(vm.ref) for vm in found)]))
    several = len(run.domains) > 1
    if not several:
        refs = refs[:1]
    job.vm_ref = refs[0] if refs and not several else None
    run.vm_refs = f" {' '.join(refs)} " if refs else ""


def _error(job: Job, told: Mapping[str, str]) -> dict[str, Any]:
    return {**told, "task": job.step, "host": job.host or ""}


async def _finish(job: Job, outcome: JobStatus) -> None:
    """End the job as the run says; a failure that the play recovered from is none."""
    if outcome == JobStatus.SUCCEEDED:
        await store.move(job, outcome, progress=100, error=None)
        return
    if outcome == JobStatus.CANCELLED:
        await store.move(job, outcome)
        return
    message = f"cannot tell why {job.ref} failed; the log may"
    told = {"code": "PLAYBOOK_FAILED", "message": message}
    await store.move(job, outcome, error=job.error or _error(job, told))


async def watch_reports() -> None:
    """Give up silent runs, and name the VMs that the others have created, until cancelled."""
    listening_since = datetime.now(UTC)
    while True:
        await asyncio.sleep(ROUND_SECONDS)
        now = datetime.now(UTC)
        # While no service was there nothing could be heard.
        if now - listening_since > LEASE:
            await give_up_silent(now - LEASE)
        await name_new_vms(now - NEW_VMS_WITHIN)


async def name_new_vms(since: datetime) -> None:
    """Name the VMs that runs have created, which the list has only from an observation on."""
    for job, run in await reports.runs_since(since):
        before = run.vm_refs
        await _add_vms(job, run)
        if run.vm_refs != before:
            await reports.save_vms(job, run)


async def give_up_silent(since: datetime) -> None:
    """End the runs of which nothing was heard since then as lost."""
    for job in await reports.silent_jobs(since):
        seconds = int(LEASE.total_seconds())
        message = (
            f"cannot tell how {job.ref} ended: nothing was heard of the run for {seconds} s;"
            f" it was killed, or its machine cannot reach the service"
        )
        error = _error(job, {"code": "RUN_LOST", "message": message})
        with contextlib.suppress(Conflict):  # it has spoken up just now
            await store.move(job, JobStatus.LOST, error=error)
            count_reported_job(job.status)
            log.warning("%s", message)
