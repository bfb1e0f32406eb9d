"""Executes several power actions as one play; each stays a job of its own."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from virtplay.actions import (
    BATCH_PLAYBOOK,
    BATCH_SECONDS,
    RULES,
    VALIDATION,
    Action,
    playbook,
    power_options,
)
from virtplay.jobs import runner
from virtplay.jobs.dispatcher import Ended
from virtplay.jobs.execution import (
    columns_of,
    end,
    end_when_asked,
    fail_without_vm,
    new_holder,
    progress_of,
    repeat_while_away,
)
from virtplay.jobs.launcher import Launcher
from virtplay.jobs.outcome import count_ended, internal_error
from virtplay.jobs.progress import Progress
from virtplay.jobs.recovery import queue_again
from virtplay.jobs.specification import Specification
from virtplay.jobs.splitting import split
from virtplay.jobs.submission import batch_directory, job_directory
from virtplay.logs import request_id
from virtplay.settings import Settings
from virtplay.states import JobStatus
from virtplay.store import jobs as store
from virtplay.store.database import transaction
from virtplay.store.models import Job
from virtplay.store.vms import save_vm

T = TypeVar("T")

CONNECT_SECONDS = 30
"""How much earlier than the play its modules end, so that they can say what they have done."""
NOT_BEGUN = "NOT_BEGUN"
"""The code of a domain to which the module has done nothing when its time was up."""
DONE: Mapping[str, Any] = {"event": "exit", "rc": 0, "status": "successful"}
"""The exit event of a job whose result is there, while the play works on other hosts."""

log = logging.getLogger("virtplay.jobs.batch")


@dataclass
class Share:
    """The part of one job in the play."""

    job: Job
    progress: Progress
    sequence: int
    """The number of its next event."""

    @property
    def is_done(self) -> bool:
        """Whether its result is there: the module power is the last that the play does."""
        return self.progress.result is not None or self.progress.error is not None


async def execute_batch(
    settings: Settings,
    launcher: Launcher,
    job_ids: Sequence[int],
    give_up: asyncio.Event,
    ended: Ended,
) -> None:
    """Run queued power actions to their outcomes; call `ended` for each as soon as it has one.

    A job that cannot be leased is left out. If `give_up` is set first, the play is ended, and the
    jobs without a result are queued again for the next start of the service.
    """
    holder = new_holder()
    jobs = await repeat_while_away(partial(lease_together, job_ids, holder), give_up)
    for job_id in {*job_ids} - {job.id for job in jobs}:
        ended(job_id, [])
    if jobs:
        await _Batch(settings, jobs, batch_directory(settings, holder), give_up, ended).run(
            launcher
        )


async def lease_together(job_ids: Collection[int], holder: str) -> list[Job]:
    """Take the leases of jobs in one transaction, as `lease` does; return those that may run.

    With the same `holder` it may be called again: leases whose commit got no response are
    recognised.
    """
    leased, failed = [], []
    async with transaction():
        for job, vm in await store.lock_jobs(job_ids):
            if job.status == JobStatus.RUNNING and job.leased_by == holder:
                leased.append(job)
            elif job.status == JobStatus.QUEUED and vm is None:
                await fail_without_vm(job)
                failed.append(job)
            elif vm is not None and await store.lease_job(job, vm, holder):
                await save_vm(vm, status=RULES[Action(job.action)].status)
                leased.append(job)
    for job in failed:
        count_ended(job)
    return leased


class _Batch:
    """A play of several jobs, all leased by one holder, and the jobs without an outcome."""

    def __init__(
        self,
        settings: Settings,
        jobs: Sequence[Job],
        directory: Path,
        give_up: asyncio.Event,
        ended: Ended,
    ) -> None:
        self._settings = settings
        self._shares = {str(job.ref): Share(job, progress_of(job), 1) for job in jobs}
        self._directory = directory
        self._give_up = give_up
        self._ended = ended

    async def run(self, launcher: Launcher) -> None:
        """Run the play, and write the outcome of each job."""
        jobs = [share.job for share in self._shares.values()]
        hosts = sorted({str(job.host) for job in jobs})
        log.info("%s: one play on %s", ", ".join(self._shares), ", ".join(hosts))
        try:
            outcome = await self._play(launcher, hosts)
        except Exception as error:
            # The jobs must not stay running forever; an observation shows what it has done.
            log.exception("the play of %s failed with an internal error", ", ".join(self._shares))
            for share in self._shares.values():
                share.progress.error = internal_error(share.job, share.progress, error)
            outcome = None
        for share in list(self._shares.values()):
            await self._end(share, outcome)
        await runner.clear(self._directory)

    async def _play(self, launcher: Launcher, hosts: Sequence[str]) -> Mapping[str, Any]:
        """Run the play, store its events, and end the jobs whose result is there.

        Return the exit event, like `_play` of one job.
        """
        ids = [share.job.id for share in self._shares.values()]
        first = await self._patiently(partial(store.next_events, ids))
        for share in self._shares.values():
            share.sequence = first.get(share.job.id, 1)
        run = await runner.start(launcher, self._specification(hosts), self._directory)
        watcher = asyncio.create_task(end_when_asked(run, self._give_up))
        try:
            async for events in run.batches():
                exit_event = events.pop() if events[-1]["event"] == "exit" else None
                await self._take(events)
                if exit_event is not None:
                    return {**exit_event, "time_limit": BATCH_SECONDS}
        finally:
            watcher.cancel()
            await run.end()
        return {"event": "exit", "rc": run.returncode, "status": "killed"}

    def _specification(self, hosts: Sequence[str]) -> Specification:
        power: dict[str, list[dict[str, Any]]] = {host: [] for host in hosts}
        for share in self._shares.values():
            job = share.job
            options = power_options(job.action, job.variables)
            own = {**options, "job": job.ref, "generation": job.generation}
            power[str(job.host)].append(own)
        return Specification(
            project_dir=str(self._settings.project_dir),
            playbook=playbook(BATCH_PLAYBOOK),
            inventory=self._settings.inventory_sources,
            limit=",".join(hosts),
            variables={
                "libvirt_domain_power": power,
                "libvirt_domain_at_once": self._settings.jobs_per_host,
                "libvirt_domain_time_limit": BATCH_SECONDS - CONNECT_SECONDS,
            },
            forks=len(hosts),
            skip_tags=VALIDATION,
            time_limit=BATCH_SECONDS,
        )

    async def _take(self, events: Sequence[Mapping[str, Any]]) -> None:
        """Give each job its events, store them, and end the jobs whose result is there."""
        hosts = {ref: str(share.job.host) for ref, share in self._shares.items()}
        rows = []
        moved: dict[str, Share] = {}
        for event in events:
            for ref, own in split(event, hosts).items():
                share = self._shares[ref]
                rows.append((share.job.id, share.sequence, own))
                share.sequence += 1
                if share.progress.take(own):
                    moved[ref] = share
        await self._patiently(partial(store.append_rows, rows))
        alike: dict[tuple[tuple[str, Any], ...], list[Job]] = {}
        for share in moved.values():
            percent = max(share.job.progress, share.progress.percent)
            columns = {"progress": percent, **columns_of(share.progress)}
            alike.setdefault(tuple(columns.items()), []).append(share.job)
        for values, jobs in alike.items():
            await self._patiently(partial(store.save_progress_together, jobs, **dict(values)))
        for share in list(self._shares.values()):
            if share.is_done:
                share.progress.stats_seen = True
                await self._end(share, DONE)

    async def _end(self, share: Share, outcome: Mapping[str, Any] | None) -> None:
        """Write the outcome of a job, which leaves the batch."""
        job = share.job
        request_id.set(job.request_id)
        del self._shares[str(job.ref)]
        if (share.progress.error or {}).get("code") == NOT_BEGUN:
            # What did not respond took the time of the others; the next batch has time for them.
            await self._patiently(partial(queue_again, job))
            self._ended(job.id, [job.id])
            return
        followers = await end(job, share.progress, outcome, self._give_up)
        # What an earlier attempt, alone, has left.
        await runner.clear(job_directory(self._settings, str(job.ref)))
        self._ended(job.id, followers or [])

    async def _patiently(self, work: Callable[[], Awaitable[T]]) -> T:
        return await repeat_while_away(work, self._give_up)
