"""Runs queued jobs in this process's event loop, within a limit in all and for each host."""

import asyncio
import contextlib
import logging
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

from virtplay.actions import cuts_power, goes_together, waits_for_guest
from virtplay.settings import Settings
from virtplay.store.database import DatabaseAway
from virtplay.store.jobs import ReadyJob, cancelled_jobs, ready_jobs

Execute = Callable[[int, asyncio.Event], Awaitable[list[int]]]
"""Runs a job until it ends or the event is set; returns the jobs that were waiting for it.

Raises only before the job has begun: it is called again then.
"""

Ended = Callable[[int, Sequence[int]], None]
"""Takes the number of a job that has ended, and those of the jobs that may run now."""

ExecuteBatch = Callable[[Sequence[int], asyncio.Event, Ended], Awaitable[None]]
"""Runs several jobs as one play, like Execute, and calls Ended for each as soon as it has ended."""

LOOK_SECONDS = 5.0
"""How often the database is asked for queued jobs, also without a request or the end of a job."""

BATCH_ROUNDS = 8
"""How often a batch may fill a host's `jobs_per_host`, so that its time limit is enough for all."""
BATCH_VMS = 100
"""The most VMs of one host in a batch: ansible-runner drops a result of more than 700,000 bytes."""
BATCH_HOSTS = 25
"""The most hosts in a batch: Ansible works on all at once, with a fork of 20 MB for each."""

log = logging.getLogger("virtplay.jobs.dispatcher")


class Dispatcher(Protocol):
    """The interface of a dispatcher to the rest of the service."""

    def enqueue(self, job_id: int) -> None:
        """Queue a committed job, which starts as soon as the limits allow it."""

    async def run(self) -> None:
        """Run jobs until stopped."""

    async def stop(self) -> None:
        """Start no more jobs, and end the jobs that still run after the grace period."""


@dataclass(eq=False)
class Work:
    """A task that runs one job, or a batch of them, and those of its jobs that have not ended."""

    jobs: dict[int, ReadyJob]
    give_up: asyncio.Event = field(default_factory=asyncio.Event)
    """Ends its play."""
    task: asyncio.Task[None] | None = None


class Load:
    """What runs, as far as it limits what may be started."""

    def __init__(self, settings: Settings, works: Iterable[Work]) -> None:
        self._settings = settings
        self.running: set[int] = set()
        self._workers: Counter[bool] = Counter()
        self._busy: Counter[tuple[bool, str]] = Counter()
        self._bulks: Counter[int | None] = Counter()
        for work in works:
            jobs = work.jobs.values()
            self.running.update(work.jobs)
            self._workers.update({job.locks for job in jobs})
            self._busy.update({job.lane for job in jobs})
            self._bulks.update(job.bulk_id for job in jobs)

    def admits(self, job: ReadyJob, batch: Sequence[ReadyJob] = ()) -> bool:
        """Return whether a job may start, or join the batch, which has one worker.

        A batch has one place on each of its hosts.
        """
        if job.at_once is not None and self._bulks[job.bulk_id] >= job.at_once:
            return False
        if not batch and self._workers[job.locks] >= self._settings.job_workers:
            return False
        per_host = self._settings.jobs_per_host
        if there := sum(member.host == job.host for member in batch):
            return there < min(BATCH_ROUNDS * per_host, BATCH_VMS)
        return self._busy[job.lane] < per_host

    def add(self, job: ReadyJob, batch: Sequence[ReadyJob] = ()) -> None:
        """Count a job that starts or joins the batch."""
        self._bulks[job.bulk_id] += 1
        self._workers[job.locks] += not batch
        self._busy[job.lane] += job.host not in {member.host for member in batch}


def choose(
    settings: Settings, ready: Iterable[ReadyJob], works: Iterable[Work]
) -> list[list[ReadyJob]]:
    """Return the jobs to start: each alone, or several as one batch.

    Those that cut the power come first, as they must not wait until other guests have shut down;
    then the others, in order of the queue. Of the jobs that may go together, those that are ready
    now do; no job waits for others.
    """
    load = Load(settings, works)
    batch: list[ReadyJob] = []
    chosen: list[list[ReadyJob]] = []
    for job in sorted(ready, key=lambda job: not cuts_power(job.action, job.variables)):
        together = goes_together(job.action, job.variables)
        if together and not _has_place(batch, job.host):
            batch = []
        beside = batch if together else []
        if job.id in load.running or not load.admits(job, beside):
            continue
        load.add(job, beside)
        if not beside:
            chosen.append(beside)
        beside.append(job)
    return chosen


def _has_place(batch: Sequence[ReadyJob], host: str | None) -> bool:
    """Return whether a batch may have jobs of a host."""
    hosts = {job.host for job in batch}
    return host in hosts or len(hosts) < BATCH_HOSTS


class LocalDispatcher:
    """The dispatcher of the single-process service.

    The database is the queue: every look reads it anew, so that no job is forgotten because the
    database was away for a moment. Memory holds only the jobs that run.

    Jobs that hold no VM have limits of their own, of the same size: a user who opens a console
    must not wait, least of all when all workers wait for guests that do not shut down.
    """

    def __init__(
        self,
        settings: Settings,
        execute: Execute,
        execute_batch: ExecuteBatch,
        is_allowed: Callable[[], Awaitable[bool]],
        on_end: Callable[[ReadyJob], None],
    ) -> None:
        self._settings = settings
        self._on_end = on_end
        """Called when a job has ended, or is queued again."""
        self._execute = execute
        self._execute_batch = execute_batch
        self._is_allowed = is_allowed
        """Whether this service still runs the jobs of the database, and not another one."""
        self._works: set[Work] = set()
        self._failed: dict[int, float] = {}
        """Jobs that could not be started, and the monotonic time at which they are tried again."""
        self._changed = asyncio.Event()
        self._stopping = False

    def enqueue(self, job_id: int) -> None:
        """Look for committed jobs now; this one is among them."""
        self._failed.pop(job_id, None)
        self._changed.set()

    async def run(self) -> None:
        """Start queued jobs, as far as the limits allow, and end superseded ones, until stopped."""
        away = False
        while not self._stopping:
            self._changed.clear()
            try:
                if not await self._is_allowed():
                    # The other service has taken over also the jobs that run here.
                    self._stopping = True
                    self._give_up_all()
                    return
                await self._withdraw_superseded()
                ready = await ready_jobs()
            except DatabaseAway as error:
                if not away:
                    log.warning("cannot read the queue of jobs: %s", error.message)
                away = True
            else:
                away = False
                self._start_what_fits(ready)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), LOOK_SECONDS)

    async def stop(self) -> None:
        """Start no more jobs, and end the jobs that still run after the grace period.

        The next start of the service recovers them.
        """
        self._stopping = True
        self._changed.set()
        tasks = [work.task for work in self._works if work.task is not None]
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=self._settings.shutdown_grace)
            self._give_up_all()
            if late:
                await asyncio.wait(late)

    async def _withdraw_superseded(self) -> None:
        """End the plays of jobs that others have superseded: who did so may not be able to.

        Only what waits for its guest is superseded, and that runs alone.
        """
        waiting = {
            job.id: work
            for work in self._works
            for job in work.jobs.values()
            if waits_for_guest(job.action, job.variables)
        }
        for job_id in await cancelled_jobs(waiting):
            waiting[job_id].give_up.set()

    def _give_up_all(self) -> None:
        for work in self._works:
            work.give_up.set()

    def _start_what_fits(self, ready: Sequence[ReadyJob]) -> None:
        if self._stopping:
            return
        now = time.monotonic()
        able = [job for job in ready if self._failed.get(job.id, now) <= now]
        for jobs in choose(self._settings, able, self._works):
            work = Work({job.id: job for job in jobs})
            run = self._run_one if len(jobs) == 1 else self._run_batch
            name = " ".join(["job", *map(str, work.jobs)])
            work.task = asyncio.create_task(run(work), name=name)
            self._works.add(work)
            work.task.add_done_callback(partial(self._ended, work))

    async def _run_one(self, work: Work) -> None:
        for job_id, job in work.jobs.items():
            for follower in await self._execute(job_id, work.give_up):
                self.enqueue(follower)
            self._on_end(job)

    async def _run_batch(self, work: Work) -> None:
        def ended(job_id: int, followers: Sequence[int]) -> None:
            job = work.jobs.pop(job_id)
            for follower in followers:
                self.enqueue(follower)
            self._on_end(job)
            self._changed.set()

        await self._execute_batch(list(work.jobs), work.give_up, ended)

    def _ended(self, work: Work, task: asyncio.Task[None]) -> None:
        self._works.remove(work)
        self._changed.set()
        if task.cancelled() or (error := task.exception()) is None:
            return
        if self._stopping:
            log.warning("%s stays unfinished: %s", task.get_name(), error)
            return
        self._failed.update(dict.fromkeys(work.jobs, time.monotonic() + LOOK_SECONDS))
        log.error("cannot start %s; trying again", task.get_name(), exc_info=error)
