"""Wiring: runs what the service does beside the requests."""

import asyncio
import fcntl
import logging
import os
import signal
import sys
import threading
from collections.abc import Awaitable, Callable
from datetime import timedelta
from pathlib import Path

from virtplay import errors
from virtplay.hosts.inventory import load_inventory
from virtplay.jobs import execution
from virtplay.jobs.reported import watch_reports
from virtplay.services import Services, build_services
from virtplay.settings import Settings
from virtplay.store.database import close_database, open_database
from virtplay.store.jobs import forget_audit, forget_jobs
from virtplay.store.tickets import forget_tickets
from virtplay.store.vms import sync_hosts

log = logging.getLogger("virtplay.background")

UPKEEP_SECONDS = 600.0
SWITCH_SECONDS = 0.001
"""How long a thread keeps the interpreter from the event loop; Python's own 5 ms are felt."""


class Background:
    """The running service but for its HTTP: its parts, and a task for each.

    Of those tasks some end by themselves once their part is stopped, so that what is under way is
    finished; the others go round for ever, and are cancelled.
    """

    def __init__(self, services: Services) -> None:
        self.services = services
        self._reload_asked = asyncio.Event()
        self._ending: list[asyncio.Task[None]] = []
        self._endless: list[asyncio.Task[None]] = []

    def run(self) -> None:
        """Begin all tasks; from now on SIGHUP reloads the inventory."""
        if threading.current_thread() is threading.main_thread():
            loop = asyncio.get_running_loop()
            loop.add_signal_handler(signal.SIGHUP, self._reload_asked.set)
        self._ending = [
            asyncio.create_task(_kept_alive(self.services.dispatcher.run, "the dispatcher")),
            asyncio.create_task(_kept_alive(self.services.observer.run, "the observer")),
            asyncio.create_task(_kept_alive(self.services.scheduler.run, "the scheduler")),
            asyncio.create_task(_kept_alive(self.services.history.run, "the history")),
        ]
        self._endless = [
            asyncio.create_task(_kept_alive(self.services.consoles.watch, "the console watch")),
            asyncio.create_task(_kept_alive(watch_reports, "the watch over reported runs")),
            asyncio.create_task(_kept_alive(self._keep_up, "the upkeep")),
            asyncio.create_task(_kept_alive(self._reload_when_asked, "the reload")),
        ]

    async def stop(self) -> None:
        """End everything; running jobs get their grace."""
        self.services.observer.stop()
        self.services.scheduler.stop()
        self.services.history.stop()
        # Before the jobs get their grace: who looks at a console is told at once.
        await self.services.consoles.stop()
        await self.services.dispatcher.stop()
        await asyncio.gather(*self._ending)
        for task in self._endless:
            task.cancel()

    async def reload_inventory(self) -> None:
        """Read the inventory anew; on a fault the old one stays, and the fault is logged."""
        services = self.services
        try:
            inventory = await load_inventory(services.settings)
        except errors.CannotStart as error:
            log.error("the inventory is kept as it was: %s", error)
            return
        await sync_hosts(set(inventory.hosts))
        services.vms.inventory = inventory
        services.observer.inventory = inventory
        services.consoles.inventory = inventory
        services.exposition.keep(set(inventory.hosts))
        log.info("read the inventory: %d hosts", len(inventory.hosts))

    async def _reload_when_asked(self) -> None:
        """Reload each time it is asked for; however often meanwhile, one more follows.

        A reload starts ansible-inventory: hundreds at once would leave nothing for the service.
        """
        while True:
            await self._reload_asked.wait()
            self._reload_asked.clear()
            await self.reload_inventory()

    async def _keep_up(self) -> None:
        """Forget what has been kept long enough, again and again."""
        settings = self.services.settings
        while True:
            while await forget_jobs(timedelta(days=settings.job_retention_days)):
                pass
            while await forget_audit(timedelta(days=settings.audit_retention_days)):
                pass
            await forget_tickets()
            await asyncio.sleep(UPKEEP_SECONDS)


async def start_background(settings: Settings) -> Background:
    """Open the database, take up what an earlier process left unfinished, and begin all tasks."""
    sys.setswitchinterval(SWITCH_SECONDS)
    await open_database(settings.database)
    try:
        background = Background(await build_services(settings))
        for job_id in await execution.recover():
            background.services.dispatcher.enqueue(job_id)
        background.run()
    except BaseException:
        # Nothing else closes it then, and an open database keeps the interpreter from ending.
        await close_database()
        raise
    return background


def claim_directory(directory: Path) -> int:
    """Make the state directory ours until this process ends: the descriptor of its locked file.

    Two services on one directory would both run its jobs. CannotStart when another has it, or
    when it cannot be made or written.
    """
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        # A directory that the user made stays as it is; what is put into it is private.
        for name in ("jobs", "observation"):
            (directory / name).mkdir(mode=0o700, exist_ok=True)
        descriptor = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise errors.CannotStart(
            f"cannot use the state directory {directory}: {error.strerror}"
        ) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise errors.CannotStart(
            f"cannot start: another virtplay serve uses the state directory {directory}"
        ) from None
    return descriptor


async def _kept_alive(work: Callable[[], Awaitable[None]], name: str) -> None:
    """Run a part of the service; when it breaks, say so and begin it again."""
    while True:
        try:
            await work()
        except Exception:
            log.exception("%s broke and is started again", name)
            await asyncio.sleep(1)
        else:
            return
