"""Runs queued jobs in this process's event loop, within a limit in all and for each host."""

import asyncio
import logging
from collections import Counter, deque
from collections.abc import Awaitable, Callable
from typing import Protocol

from virtplay.settings import Settings
from virtplay.states import JobStatus
from virtplay.store.jobs import get_job

Execute = Callable[[int, asyncio.Event], Awaitable[list[int]]]
"""Runs a job until it ends or the event is set; returns the jobs that were waiting for it."""

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

    Jobs that hold no VM have limits of their own, of the same size: a user who opens a console
    must not wait, least of all when all workers wait for guests that do not shut down.
    """

    def __init__(self, settings: Settings, execute: Execute) -> None:
        self._settings = settings
        self._execute = execute
        self._waiting: deque[tuple[int, Lane]] = deque()
        self._new: asyncio.Queue[int] = asyncio.Queue()
        self._running: dict[asyncio.Task[None], Lane] = {}
        self._give_up = asyncio.Event()
        self._changed = asyncio.Event()
        self._stopping = False

    def enqueue(self, job_id: int) -> None:
        """Queue a committed job."""
        self._new.put_nowait(job_id)
        self._changed.set()

    async def run(self) -> None:
        """Start waiting jobs in order, as far as the limits allow, until stopped."""
        while not self._stopping:
            self._changed.clear()
            await self._take_new()
            self._start_what_fits()
            await self._changed.wait()

    async def stop(self) -> None:
        """Start no more jobs, and end the jobs that still run after the grace period.

        The next start of the service recovers them.
        """
        self._stopping = True
        self._changed.set()
        tasks = list(self._running)
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=self._settings.shutdown_grace)
            self._give_up.set()
            if late:
                await asyncio.wait(late)

    async def _take_new(self) -> None:
        while not self._new.empty():
            job = await get_job(self._new.get_nowait())
            if job is not None and job.status == JobStatus.QUEUED and job.after_id is None:
                self._waiting.append((job.id, (job.locks, job.host or "")))

    def _start_what_fits(self) -> None:
        busy = Counter(self._running.values())
        workers = Counter(locks for locks, _ in self._running.values())
        kept: deque[tuple[int, Lane]] = deque()
        while self._waiting:
            job_id, lane = self._waiting.popleft()
            locks, _ = lane
            if (
                workers[locks] >= self._settings.job_workers
                or busy[lane] >= self._settings.jobs_per_host
            ):
                kept.append((job_id, lane))
                continue
            workers[locks] += 1
            busy[lane] += 1
            task = asyncio.create_task(self._run_one(job_id), name=f"job {job_id}")
            self._running[task] = lane
            task.add_done_callback(self._ended)
        self._waiting = kept

    async def _run_one(self, job_id: int) -> None:
        for follower in await self._execute(job_id, self._give_up):
            self.enqueue(follower)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._running.pop(task, None)
        self._changed.set()
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("%s ended without an outcome", task.get_name(), exc_info=error)
