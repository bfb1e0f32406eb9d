"""Wiring: runs what the service does beside the requests."""

import asyncio
import fcntl
import gc
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
from virtplay.jobs.recovery import recover, sweep_jobs
from virtplay.jobs.reported import watch_reports
from virtplay.metrics.service_series import watch_loop
from virtplay.services import Services, build_services
from virtplay.settings import Settings
from virtplay.store.claim import Claim, claim_of
from virtplay.store.database import close_database, open_database
from virtplay.store.jobs import forget_audit, forget_jobs
from virtplay.store.tickets import forget_tickets
from virtplay.store.upgrade import save_before_upgrade
from virtplay.store.vm_index import compact_counts, renew_index
from virtplay.store.vms import sync_hosts

log = logging.getLogger("virtplay.background")

UPKEEP_SECONDS = 600.0
CLAIM_SECONDS = 5.0
SWITCH_SECONDS = 0.001
"""How long a thread may hold the interpreter; Python's default of 5 ms delays the event loop."""
COLLECTIONS = (1_000, 5, 1_000_000)
"""Thresholds of Python's garbage collector: no full collections but those of the upkeep.

Python would begin them while reports of hosts are parsed, when there are hundreds of thousands of
objects and nothing to collect, and hold the event loop for up to 70 ms.
"""


class Background:
    """Runs the background tasks of the service.

    Some tasks end by themselves once their part is stopped, so that work in progress completes; the
    others are endless and are cancelled.
    """

    def __init__(self, services: Services, claim: Claim) -> None:
        self.services = services
        self.claim = claim
        self.claim_lost = asyncio.Event()
        """Another service runs the jobs of the database now: this one must end."""
        self._reload_asked = asyncio.Event()
        self._launching: asyncio.Task[None] | None = None
        self._ending: list[asyncio.Task[None]] = []
        self._endless: list[asyncio.Task[None]] = []

    def run(self) -> None:
        """Start all tasks; from now on, SIGHUP reloads the inventory."""
        if threading.current_thread() is threading.main_thread():
            loop = asyncio.get_running_loop()
            loop.add_signal_handler(signal.SIGHUP, self._reload_asked.set)
        self._launching = asyncio.create_task(
            _restart_on_error(self.services.launcher.run, "the launcher")
        )
        self._ending = [
            asyncio.create_task(_restart_on_error(self.services.dispatcher.run, "the dispatcher")),
            asyncio.create_task(_restart_on_error(self.services.observer.run, "the observer")),
            asyncio.create_task(_restart_on_error(self.services.scheduler.run, "the scheduler")),
            asyncio.create_task(_restart_on_error(self.services.history.run, "the history")),
        ]
        self._endless = [
            asyncio.create_task(
                _restart_on_error(self.services.consoles.watch, "the console watch")
            ),
            asyncio.create_task(_restart_on_error(watch_reports, "the watch of reported runs")),
            asyncio.create_task(_restart_on_error(watch_loop, "the watch of the event loop")),
            asyncio.create_task(
                _restart_on_error(self._delete_expired, "the deletion of expired rows")
            ),
            asyncio.create_task(_restart_on_error(self._reload_when_asked, "the reload")),
            asyncio.create_task(_restart_on_error(self._watch_claim, "the claim of the database")),
        ]

    async def stop(self) -> None:
        """Stop all tasks; running jobs get their grace period."""
        self.services.observer.stop()
        self.services.scheduler.stop()
        self.services.history.stop()
        # Before the grace period of the jobs, so that open consoles are closed at once.
        await self.services.consoles.stop()
        await self.services.dispatcher.stop()
        self.services.ends.close()
        await asyncio.gather(*self._ending)
        self.services.launcher.stop()
        if self._launching is not None:
            await self._launching
        for task in self._endless:
            task.cancel()

    async def reload_inventory(self) -> None:
        """Reload the inventory; if that fails, keep the old one and log the error."""
        services = self.services
        try:
            inventory = await load_inventory(services.settings)
        except errors.CannotStart as error:
            log.error("cannot reload the inventory, the old one is kept: %s", error)
            return
        await sync_hosts(set(inventory.hosts))
        services.vms.inventory = inventory
        services.observer.inventory = inventory
        services.consoles.inventory = inventory
        services.exposition.keep(set(inventory.hosts))
        log.info("reloaded the inventory: %d hosts", len(inventory.hosts))

    async def close(self) -> None:
        """Close the launcher and the database, and let another service have it."""
        self.services.launcher.close()
        await close_database()
        await self.claim.release()

    async def _watch_claim(self) -> None:
        """Take the claim again whenever it is lost, until another service has it."""
        while await self.claim.holds():  # noqa: ASYNC110 - the other service tells nobody
            await asyncio.sleep(CLAIM_SECONDS)
        self.claim_lost.set()

    async def _reload_when_asked(self) -> None:
        """Reload on each request; requests that arrive during a reload lead to one more reload.

        Each reload starts ansible-inventory; hundreds at once would starve the service.
        """
        while True:
            await self._reload_asked.wait()
            self._reload_asked.clear()
            await self.reload_inventory()

    async def _delete_expired(self) -> None:
        """Delete rows older than their retention, and what jobs left, every UPKEEP_SECONDS."""
        settings = self.services.settings
        while True:
            while await forget_jobs(timedelta(days=settings.job_retention_days)):
                pass
            while await forget_audit(timedelta(days=settings.audit_retention_days)):
                pass
            await forget_tickets()
            await compact_counts()
            await sweep_jobs(settings)
            gc.collect()
            await asyncio.sleep(UPKEEP_SECONDS)


async def start_background(settings: Settings) -> Background:
    """Open the database, recover unfinished jobs of an earlier process, and start all tasks."""
    sys.setswitchinterval(SWITCH_SECONDS)
    claim = claim_of(settings.database)
    # Before the database is migrated: another service may be using it.
    await claim.take()
    try:
        await save_before_upgrade(settings.database, settings.backups)
        await open_database(settings.database)
        await renew_index()
        await compact_counts()
        background = Background(await build_services(settings, claim), claim)
        for job_id in await recover(settings):
            background.services.dispatcher.enqueue(job_id)
        background.run()
        # What exists now stays. A full collection would visit all of it, for 100 ms of the loop.
        gc.collect()
        gc.freeze()
        gc.set_threshold(*COLLECTIONS)
    except BaseException:
        # Nothing else closes it now, and an open database keeps the interpreter from exiting.
        await close_database()
        await claim.release()
        raise
    return background


def claim_directory(directory: Path) -> int:
    """Lock the state directory until the descriptor that is returned is closed.

    Two services on one directory would both run its jobs. Raise CannotStart when another service
    holds the lock, or when the directory cannot be created or written.
    """
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        # The mode of an existing directory stays; what we create in it is private.
        for name in ("jobs", "observation"):
            (directory / name).mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise _unusable(directory, error) from error
    return lock_directory(directory)


def lock_directory(directory: Path) -> int:
    """Lock a state directory that exists, as `claim_directory` does."""
    try:
        descriptor = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise _unusable(directory, error) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise errors.CannotStart(
            f"cannot start: another virtplay serve uses the state directory {directory}"
        ) from None
    return descriptor


def _unusable(directory: Path, error: OSError) -> errors.CannotStart:
    return errors.CannotStart(f"cannot use the state directory {directory}: {error.strerror}")


async def _restart_on_error(work: Callable[[], Awaitable[None]], name: str) -> None:
    """Run a part of the service; if it raises, log the exception and start it again."""
    while True:
        try:
            await work()
        except errors.DatabaseNotAvailable as error:
            log.warning("%s waits: %s", name, error.message)
            await asyncio.sleep(errors.RETRY_SECONDS)
        except Exception:
            log.exception("%s failed and is restarted", name)
            await asyncio.sleep(1)
        else:
            return
