"""Shows reported runs, which are runs of ansible-playbook from a shell, as jobs.

Such a job holds no VM, and the service never starts, ends or repeats it.
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
from virtplay.jobs.steps import Step
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
"""A run that reports nothing for this long is lost; a run reports every 15 s."""
ROUND_SECONDS = 5.0
NEW_VMS_WITHIN = timedelta(minutes=10)
"""A VM that an observation adds within this time of a run's last report may be the run's."""
EVENTS_LIMIT = 50_000
"""Events in the log of one run; later events only update its progress."""
OTHER_ACTION = "playbook"
ACTION = re.compile(r"[a-z][a-z0-9_]{0,31}")


@dataclass(frozen=True)
class Batch:
    """One report of a run; an empty one reports that the run is still alive."""

    first: int
    """The number of the first event; the run counts its events from 1."""
    events: Sequence[Mapping[str, Any]]
    """Events of the runner's shape, with `percent` where the run knows it."""
    hosts: Sequence[str] | None = None
    """All hosts so far; None when they are unchanged."""
    domains: Sequence[Domain] | None = None
    """All domains that the run has named so far; None when they are unchanged."""
    outcome: JobStatus | None = None
    error: Mapping[str, str] | None = None
    """code and message of a failure that is no task's."""


def action_of(playbook: str) -> str:
    """Return a playbook's action, which is its file name: playbooks/vm_start.yml → vm_start."""
    stem = PurePosixPath(playbook).stem
    return stem if ACTION.fullmatch(stem) else OTHER_ACTION


async def begin_report(
    caller: Caller, *, run_id: str, playbook: str, run_by: str, command: str, dry_run: bool
) -> tuple[Job, ReportedRun, bool]:
    """Return the caller's run with its job, and whether they are new; a repeat creates none."""
    # One at a time: a run may be sent twice at once, and the second must not use up a job number.
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
    """Apply a run's report; return its job, and the number that its next event gets.

    Known events are skipped, so that a batch may be sent again. Raise Forbidden unless the
    caller's token reports this run, and JobFinished when the job ended without these events.
    """
    job = await store.find_job(ref)
    run = (await reports.runs_of([job])).get(job.id)
    if run is None or run.token_id != caller.token_id:
        raise Forbidden(f"cannot report on {ref}: this token does not report that run")
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
    """Write what the run has reported into its rows."""
    progress = Progress(
        tasks=1,
        action=job.action,
        percent=job.progress,
        task=job.step,
        step=Step(job.step),
        step_started_at=job.step_started_at,
        changed=bool(job.changed),
        error=job.error,
    )
    for event in events:
        progress.take(event)
    job.progress, job.changed = progress.percent, progress.changed
    job.step, job.step_started_at = progress.step.words, progress.step_started_at
    job.error = _error(job, batch.error, progress.task) if batch.error else progress.error
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
            # The result of the last of several domains does not describe the run.
            job.result = None
    await reports.save_run(job, run)


async def _add_vms(job: Job, run: ReportedRun) -> None:
    """Write which VMs the run's domains are; a VM that was deleted since stays named."""
    found = await reports.find_vms([Domain(**domain) for domain in run.domains])
    refs = list(dict.fromkeys([*run.vm_refs.split(), *(str(vm.ref) for vm in found)]))
    several = len(run.domains) > 1
    if not several:
        refs = refs[:1]
    job.vm_ref = refs[0] if refs and not several else None
    run.vm_refs = f" {' '.join(refs)} " if refs else ""


def _error(job: Job, reported: Mapping[str, str], task: str | None = None) -> dict[str, Any]:
    return {**reported, "task": job.step if task is None else task, "host": job.host or ""}


async def _finish(job: Job, outcome: JobStatus) -> None:
    """End the job with the reported outcome; a success clears errors that the play rescued."""
    if outcome == JobStatus.SUCCEEDED:
        await store.move(job, outcome, progress=100, error=None)
        return
    if outcome == JobStatus.CANCELLED:
        await store.move(job, outcome)
        return
    message = f"cannot report why {job.ref} failed: its run sent no error; read its log"
    error = {"code": "PLAYBOOK_FAILED", "message": message}
    await store.move(job, outcome, error=job.error or _error(job, error))


async def watch_reports() -> None:
    """End silent runs as lost, and name the VMs that other runs created, until cancelled."""
    listening_since = datetime.now(UTC)
    while True:
        await asyncio.sleep(ROUND_SECONDS)
        now = datetime.now(UTC)
        # While the service was stopped, no run could report.
        if now - listening_since > LEASE:
            await give_up_silent(now - LEASE)
        await name_new_vms(now - NEW_VMS_WITHIN)


async def name_new_vms(since: datetime) -> None:
    """Write which VMs the runs have created; only an observation adds these to the VMs."""
    for job, run in await reports.runs_since(since):
        before = run.vm_refs
        await _add_vms(job, run)
        if run.vm_refs != before:
            await reports.save_vms(job, run)


async def give_up_silent(since: datetime) -> None:
    """End the runs that have reported nothing since then as lost."""
    for job in await reports.silent_jobs(since):
        seconds = int(LEASE.total_seconds())
        message = (
            f"cannot determine how {job.ref} ended: the run has not reported for {seconds} s;"
            f" it was killed, or its machine cannot reach the service"
        )
        error = _error(job, {"code": "RUN_LOST", "message": message})
        with contextlib.suppress(Conflict):  # the run has reported its end just now
            await store.move(job, JobStatus.LOST, error=error)
            count_reported_job(job.status)
            log.warning("%s", message)
