"""Dispatch: brings committed jobs to execution; `local` does it in this process."""

from typing import Protocol


class Dispatcher(Protocol):
    """What the rest of the service knows of a dispatcher."""

    def enqueue(self, job_id: int) -> None:
        """Take note of a committed job; it runs as soon as there is room."""

    async def run(self) -> None:
        """Run jobs until stopped."""

    async def stop(self) -> None:
        """Take no more jobs, give the running ones their grace, end what is left."""
