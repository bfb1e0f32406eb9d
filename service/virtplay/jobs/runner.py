"""Starts the process of a job and reads its events.

The service writes a specification into the job's directory, has the launcher start
`virtplay.jobs.play` with it, and reads the events from its spool file.
"""

import asyncio
import contextlib
import json
import logging
import os
import shutil
from collections.abc import AsyncIterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from virtplay.jobs.launcher import Launcher, Process
from virtplay.jobs.processes import MARK, end_strays
from virtplay.jobs.specification import EVENTS, SPECIFICATION, Specification
from virtplay.metrics.service_series import count_fallback

log = logging.getLogger("virtplay.jobs.runner")

POLL_SECONDS = 0.1
END_SECONDS = 20.0
"""How long a job process may take to end its descendants; longer than it tries to."""


class Run:
    """A job process, from the service's side."""

    def __init__(self, process: Process, directory: Path) -> None:
        self._process = process
        self._directory = directory
        self._read = 0

    @property
    def pid(self) -> int:
        """The process id of the job process."""
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        """Exit code of the job process, minus the signal that killed it; None while it runs."""
        return self._process.returncode

    async def batches(self, poll: float = POLL_SECONDS) -> AsyncIterator[list[dict[str, Any]]]:
        """Yield the play's events in order; the last is {"event": "exit", rc, status}.

        The spool is read every `poll` seconds; `at` is the time at which an event was written, in
        seconds since the epoch. A killed process writes no `exit` event.
        """
        while True:
            ended = self._process.returncode is not None
            if events := await asyncio.to_thread(self._read_events):
                yield events
            if ended:
                return
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._process.wait(), poll)

    def _read_events(self) -> list[dict[str, Any]]:
        try:
            with (self._directory / EVENTS).open("rb") as spool:
                spool.seek(self._read)
                block = spool.read()
        except FileNotFoundError:
            return []
        whole = block.rfind(b"\n") + 1
        self._read += whole
        events = [json.loads(line) for line in block[:whole].splitlines()]
        for reason in events[-1].get("fallbacks", ()) if events else ():
            count_fallback("ansible-playbook")
            log.warning("cannot fork ansible-playbook of %s: %s", self._directory.name, reason)
        return events

    async def end(self) -> None:
        """End the play and all its descendants, and wait until they have ended.

        A job process that does not do that itself, because it is halted or stuck, is killed.
        """
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.terminate()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._process.wait(), END_SECONDS)
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
        await self._process.wait()
        if self._process.returncode:
            await asyncio.to_thread(end_strays, self._directory)


async def start(launcher: Launcher, specification: Specification, directory: Path) -> Run:
    """Start a job process in `directory`, created 0700; remove what an earlier run left there."""
    await asyncio.to_thread(_prepare, specification, directory)
    # The mark first: /proc shows only the beginning of a fork's environment.
    environment = {MARK: str(directory)} | {k: v for k, v in os.environ.items() if k != MARK}
    return Run(await launcher.start(directory, environment), directory)


def has_begun(directory: Path) -> bool:
    """Return whether a play has begun in a directory, by its events."""
    with contextlib.suppress(OSError):
        return (directory / EVENTS).stat().st_size > 0
    return False


def forget_play(directory: Path) -> bool:
    """Return whether a play has begun in a directory, by its events, and remove these."""
    begun = has_begun(directory)
    (directory / EVENTS).unlink(missing_ok=True)
    return begun


async def clear(directory: Path) -> None:
    """Remove a job's directory, including its secrets."""
    await asyncio.to_thread(shutil.rmtree, directory, ignore_errors=True)


def _prepare(specification: Specification, directory: Path) -> None:
    if (directory / SPECIFICATION).exists():
        end_strays(directory)
    shutil.rmtree(directory / "private", ignore_errors=True)
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    (directory / EVENTS).unlink(missing_ok=True)
    path = directory / SPECIFICATION
    path.touch(mode=0o600)
    path.write_text(json.dumps(asdict(specification)))
