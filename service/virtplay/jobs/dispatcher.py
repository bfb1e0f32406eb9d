"""Runs queued jobs in this process's event loop, within a limit in all and for each host."""

import asyncio
import contextlib
import logging
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Protocol

from virtplay.settings import Settings
from virtplay.store.database import DatabaseAway
from virtplay.store.jobs import ready_jobs

Execute = Callable[[int, asyncio.Event], Awaitable[list[int]]]
"""Runs a job until it ends or the event is set; returns the jobs that were waiting for it.

Raises only before the job has begun: it is called again then.
"""

LOOK_SECONDS = 5.0
"""How often the database is asked for queued jobs, also without a request or the end of a job."""

Lane = tuple[bool, str]
"""Whether a job holds its VM, and the name of its host."""

log = logging.getLogger("virtplay.jobs.dispatcher")


class Dispatcher(Protocol):
    """The interface of a dispatcher to the rest of the service."""

    def enqueue(self, job_id: int) -> None:
        """Queue a committed job, which starts as soon as the limits allow it."""

    async def run(self) -> None:
        """Run jobs until stopped."""

    async def stop(self) -> None:
        """Start no more jobs, and end the jobs that still run after the grace period."""


class LocalDispatcher:
    """The dispatcher of the single-process service.

    The database is the queue: every look reads it anew, so that no job is forgotten because the
    database was away for a moment. Memory holds only the jobs that run.

    Jobs that hold no VM have limits of their own, of the same size: a user who opens a console
    must not wait, least of all when all workers wait for guests that do not shut down.
    """

    def __init__(
        self, settings: Settings, execute: Execute, is_allowed: Callable[[], Awaitable[bool]]
    ) -> None:
        self._settings = settings
        self._execute = execute
        self._is_allowed = is_allowed
        """Whether this service still runs the jobs of the database, and not another one."""
        self._running: dict[int, tuple[Lane, asyncio.Task[None]]] = {}
        self._failed: dict[int, float] = {}
        """Jobs that could not be started, and the monotonic time at which they are tried again."""
        self._give_up = asyncio.Event()
        self._changed = asyncio.Event()
        self._stopping = False

    def enqueue(self, job_id: int) -> None:
        """Look for committed jobs now; this one is among them."""
        self._failed.pop(job_id, None)
        self._changed.set()

    async def run(self) -> None:
        """Start queued jobs in order, as far as the limits allow, until stopped."""
        away = False
        while not self._stopping:
            self._changed.clear()
            try:
                if not await self._is_allowed():
                    # The other service has taken over also the jobs that run here.
                    self._stopping = True
                    self._give_up.set()
                    return
                ready = await ready_jobs()
            except DatabaseAway as error:
                if not away:
                    log.warning("cannot read the queue of jobs: %s", error.message)
                away = True
            else:
                away = False
                self._start_what_fits({job_id: (locks, host) for job_id, locks, host in ready})
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), LOOK_SECONDS)

    async def stop(self) -> None:
        """Start no more jobs, and end the jobs that still run after the grace period.

        The next start of the service recovers them.
        """
        self._stopping = True
        self._changed.set()
        tasks = [task for _, task in self._running.values()]
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=self._settings.shutdown_grace)
            self._give_up.set()
            if late:
                await asyncio.wait(late)

    def _start_what_fits(self, ready: dict[int, Lane]) -> None:
        if self._stopping:
            return
        now = time.monotonic()
        busy = Counter(lane for lane, _ in self._running.values())
        workers = Counter(locks for (locks, _), _ in self._running.values())
        for job_id, lane in ready.items():
            locks, _ = lane
            if (
                job_id in self._running
                or self._failed.get(job_id, now) > now
                or workers[locks] >= self._settings.job_workers
                or busy[lane] >= self._settings.jobs_per_host
            ):
                continue
            workers[locks] += 1
            busy[lane] += 1
            task = asyncio.create_task(self._run_one(job_id), name=f"job {job_id}")
            self._running[job_id] = lane, task
            task.add_done_callback(partial(self._ended, job_id))

    async def _run_one(self, job_id: int) -> None:
        for follower in await self._execute(job_id, self._give_up):
            self.enqueue(follower)

    def _ended(self, job_id: int, task: asyncio.Task[None]) -> None:
        del self._running[job_id]
        self._failed.pop(job_id, None)
        self._changed.set()
        if task.cancelled() or (error := task.exception()) is None:
            return
        if self._stopping:
            log.warning("%s stays unfinished: %s", task.get_name(), error)
            return
        self._failed[job_id] = time.monotonic() + LOOK_SECONDS
        log.error("cannot start %s; trying again", task.get_name(), exc_info=error)
