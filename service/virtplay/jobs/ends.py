"""Wakes what waits for the end of a job."""

import asyncio
from collections import defaultdict
from contextlib import suppress

from virtplay.states import FINISHED_JOB
from virtplay.store import jobs as store
from virtplay.store.models import Job

LOOK_SECONDS = 2.0
"""How often a wait reads the job, whose end is not always announced: a cancellation is not."""


class JobEnds:
    """The waits for the ends of jobs in this process."""

    def __init__(self) -> None:
        self._waits: defaultdict[int, set[asyncio.Event]] = defaultdict(set)
        self._closed = False

    @property
    def waiting(self) -> int:
        """How many waits there are."""
        return sum(map(len, self._waits.values()))

    def announce(self, job_id: int) -> None:
        """Wake the waits for a job, whose end has been committed."""
        for wait in self._waits.get(job_id, ()):
            wait.set()

    def close(self) -> None:
        """End all waits, and those that begin from now on at once: the service stops."""
        self._closed = True
        for job_id in self._waits:
            self.announce(job_id)

    async def wait(self, job: Job, seconds: float) -> Job:
        """Return the job when it has ended; unfinished after `seconds`, or if the service stops."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + seconds
        ended = asyncio.Event()
        self._waits[job.id].add(ended)
        try:
            while True:
                # Read after the wait is registered: an end between the two is seen.
                job = await store.find_job(str(job.ref))
                left = deadline - loop.time()
                if job.status in FINISHED_JOB or left <= 0 or self._closed:
                    return job
                with suppress(TimeoutError):
                    await asyncio.wait_for(ended.wait(), min(left, LOOK_SECONDS))
                ended.clear()
        finally:
            self._waits[job.id].discard(ended)
            if not self._waits[job.id]:
                del self._waits[job.id]
