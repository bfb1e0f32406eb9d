"""Observes all hosts again and again, in a play that stays or in one a round."""

import asyncio
import contextlib
import logging
import math
import secrets
import time
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

from virtplay.actions import command_line, playbook
from virtplay.errors import VirtplayError
from virtplay.hosts.inventory import Inventory
from virtplay.hosts.observed import Generations, generations, mark_host, take_observation
from virtplay.jobs import runner
from virtplay.metrics.exposition import Exposition
from virtplay.metrics.history import History
from virtplay.metrics.host_series import VmLabels
from virtplay.settings import Settings
from virtplay.states import HostStatus
from virtplay.store import vms as store
from virtplay.store.database import DatabaseError
from virtplay.store.domains import UNREADABLE

log = logging.getLogger("virtplay.hosts.observer")

LEAST_PAUSE = 1.0
"""Seconds between two looks, also when one takes longer than the interval."""
STAY_SECONDS = 300.0
ROUNDS_MAX = 60
"""A staying play is begun anew after so long, or so many rounds."""
STAY_POLL = 0.5
"""Seconds between two reads of what a staying play reports."""
WATCH_SECONDS = 1.0
SAMPLE_EARLY = 1.0
SAMPLE_MARGIN = 0.3
"""The VMs' generations are read this long before a look begins, and are of no use any later."""
LEAST_LIMIT = 5.0
NO_ANSWER = "no answer within the time limit"
ITEMS_FAILED = "One or more items failed"
"""What Ansible says of a loop whose items have said it themselves."""


class Observer:
    """Keeps playbooks/host_observe.yml going over all hosts, and takes in what each round shows.

    One play stays and goes round, as starting ansible-playbook costs more than a look. It is begun
    anew now and then, because Ansible keeps the results of all rounds in memory. With more hosts
    than forks no fork can stay with its host: then every round is a play of its own.
    """

    def __init__(
        self, settings: Settings, inventory: Inventory, exposition: Exposition, history: History
    ) -> None:
        self._settings = settings
        self._exposition = exposition
        self._history = history
        self._inventory = inventory
        self._stopping = asyncio.Event()
        self._renew = asyncio.Event()
        self._seen_once = asyncio.Event()
        self._unheard = set(inventory.hosts)
        """Hosts of which nothing was heard since the service started."""
        self._doubtful: set[str] = set()
        """Hosts that the last round reached but could not see."""
        self._before: dict[str, Generations] = {}
        """Host → the VMs' generations at a moment before its present look began."""
        self._looks: dict[str, asyncio.Task[None]] = {}
        """Host → the look at it that goes on beside the staying play."""
        self._samples: set[asyncio.Task[None]] = set()

    @property
    def inventory(self) -> Inventory:
        """The hosts to look at."""
        return self._inventory

    @inventory.setter
    def inventory(self, inventory: Inventory) -> None:
        # Reloads that find nothing new must not keep the play from ever ending a round.
        if inventory != self._inventory:
            self._inventory = inventory
            self._renew.set()

    async def run(self) -> None:
        """Observe until stopped."""
        while not self._stopping.is_set():
            self._renew.clear()
            began = time.monotonic()
            try:
                began = await self._stay()
            except (VirtplayError, OSError) as error:
                log.error("cannot observe the hosts: %s", error)
                self._seen_once.set()
            # An interval is from one beginning to the next, but never without a pause.
            took = time.monotonic() - began
            await self._pause(max(LEAST_PAUSE, self._settings.observe_interval - took))
        for task in (*self._looks.values(), *self._samples):
            task.cancel()
        await asyncio.gather(*self._looks.values(), *self._samples, return_exceptions=True)

    @property
    def has_looked(self) -> bool:
        """Whether every host was heard of once: the service is ready from then on."""
        return self._seen_once.is_set()

    async def first_look(self) -> None:
        """Wait until every host was heard of once, for as long as a look may take."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._seen_once.wait(), self._settings.observe_timeout)

    def stop(self) -> None:
        """End the play that is under way."""
        self._stopping.set()
        self._renew.set()

    async def observe(self, host: str | None = None) -> None:
        """One look at every host, or at one of them, in a play of its own."""
        directory = self._settings.state_dir / "observation" / f"look-{secrets.token_hex(4)}"
        before = await generations()
        waiting = {host} if host else set(self.inventory.hosts)
        complaint = NO_ANSWER
        async for event in self._play(directory, rounds=1, limit=host):
            name = event.get("host", "")
            if name in waiting and await self._take_event(name, event, before):
                waiting.discard(name)
            complaint = _complaint_of(event) or complaint
        if not self._stopping.is_set():
            for name in waiting & self.inventory.hosts.keys():
                await self._doubt(name, f"cannot observe {name}: {complaint}")

    async def _stay(self) -> float:
        """One staying play; monotonic time at which its last round began, or had ended."""
        hosts = set(self.inventory.hosts)
        interval, patience = self._settings.observe_interval, self._settings.observe_timeout
        stays = len(hosts) <= self._settings.observe_forks
        rounds = max(1, min(ROUNDS_MAX, math.ceil(STAY_SECONDS / interval))) if stays else 1
        self._before = dict.fromkeys(hosts, await generations())
        began = time.monotonic()
        due = dict.fromkeys(hosts, began + patience)
        silent = set(hosts)
        complaint = NO_ANSWER
        watcher = asyncio.create_task(self._watch(due))
        directory = self._settings.state_dir / "observation" / "stay"
        try:
            async for event in self._play(directory, rounds=rounds, limit=None):
                name = event.get("host", "")
                if name in due and await self._take_event(name, event, self._before[name]):
                    silent.discard(name)
                    due[name] = time.monotonic() + interval + patience
                    if stays:
                        began = time.monotonic()
                        self._sample_later(name, float(event["at"]))
                complaint = _complaint_of(event) or complaint
        finally:
            watcher.cancel()
        if not self._renew.is_set():
            for name in silent & self.inventory.hosts.keys():
                await self._doubt(name, f"cannot observe {name}: {complaint}")
        return began

    async def _play(
        self, directory: Path, *, rounds: int, limit: str | None
    ) -> AsyncIterator[dict[str, Any]]:
        """The events of one play of host_observe, which is ended when the observer is to stop."""
        interval, patience = self._settings.observe_interval, self._settings.observe_timeout
        alone = rounds == 1 and limit is None
        run = await runner.start(
            runner.Specification(
                project_dir=str(self._settings.project_dir),
                playbook=playbook("host_observe"),
                inventory=self._settings.inventory_sources,
                limit=limit,
                variables={
                    "libvirt_observe_rounds": rounds,
                    "libvirt_observe_interval": interval,
                    # Where all wait for the last, a host that hangs must not cost a round.
                    "libvirt_observe_limit": math.ceil(
                        min(patience, max(interval, LEAST_LIMIT)) if alone else patience
                    ),
                },
                time_limit=math.ceil(patience + (rounds - 1) * (interval + patience)),
                forks=self._settings.observe_forks,
            ),
            directory,
        )
        asked = self._stopping if limit else self._renew
        ender = asyncio.create_task(self._end_when_asked(run, asked))
        try:
            # A poll is dearer than a moment's delay of what is looked at every few seconds.
            async for batch in run.batches(STAY_POLL if rounds > 1 else runner.POLL_SECONDS):
                for event in batch:
                    yield event
        finally:
            ender.cancel()
            await run.end()
            await runner.clear(directory)

    async def _pause(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._renew.wait(), seconds)

    async def _watch(self, due: dict[str, float]) -> None:
        """Doubt hosts of which nothing was heard in time."""
        while True:
            await asyncio.sleep(WATCH_SECONDS)
            now = time.monotonic()
            for name in [name for name, moment in due.items() if moment < now]:
                due[name] = now + self._settings.observe_interval + self._settings.observe_timeout
                if name in self.inventory.hosts:
                    await self._doubt(name, f"cannot observe {name}: {NO_ANSWER}")

    def _sample_later(self, name: str, ended: float) -> None:
        task = asyncio.create_task(self._sample(name, ended))
        self._samples.add(task)
        task.add_done_callback(self._samples.discard)

    async def _sample(self, name: str, ended: float) -> None:
        """Note the VMs' generations as late as can be before the host's next look begins.

        `ended` (by the clock) is when the last look had ended; the next one begins an interval
        later. A sample that might be later than that is worth nothing: the one before stays, and
        a VM that a job has touched since is followed a round later.
        """
        begins = ended + self._settings.observe_interval
        await asyncio.sleep(max(0.0, begins - SAMPLE_EARLY - time.time()))
        sample = await generations()
        if time.time() < begins - SAMPLE_MARGIN:
            self._before[name] = sample

    async def _take_event(
        self, name: str, event: Mapping[str, Any], seen_before: Generations
    ) -> bool:
        """Take in what one event says of host `name`; True when it settles the host's round."""
        result = event.get("res") or {}
        if not await store.knows_host(name):
            return True  # the inventory has lost it since the round began
        match event["event"]:
            case "runner_on_ok" | "runner_item_on_ok" if "host_info" in result:
                try:
                    missed = await take_observation(name, result["host_info"], seen_before)
                    await self._publish(name, result["host_info"], float(event["at"]))
                    self._doubtful.discard(name)
                except (*UNREADABLE, DatabaseError) as error:
                    # One odd host must not keep all others from being seen.
                    log.exception("cannot read the observation of host %s", name)
                    await self._doubt(name, f"cannot read its observation: {error!r}")
                else:
                    if missed:
                        # Gone, or just being defined anew? The answer must not take an interval.
                        self._look_again(name)
            case "runner_on_unreachable":
                await self._mark(name, HostStatus.UNREACHABLE, str(result.get("msg")))
            case "runner_item_on_failed" if result.get("unreachable"):
                await self._mark(name, HostStatus.UNREACHABLE, str(result.get("msg")))
            case "runner_on_failed" if result.get("msg") == ITEMS_FAILED:
                return False  # each item has said its own
            case "runner_on_failed" | "runner_item_on_failed":
                await self._doubt(name, str(result.get("msg")))
            case _:
                return False
        self._hear_of(name)
        return True

    async def _doubt(self, name: str, message: str) -> None:
        """Take in that a host was reached but not seen: it is marked the second time in a row.

        libvirt can be slow for once, as while it ends a stuck QEMU; it is looked at again at once.
        """
        host = await store.find_host(name)
        if host.status == HostStatus.READY and name not in self._doubtful:
            log.warning("host %s: %s; looking again", name, message)
            self._doubtful.add(name)
            self._exposition.doubt(name)
            self._look_again(name)
        else:
            await self._mark(name, HostStatus.ERROR, message)
        self._hear_of(name)

    def _hear_of(self, name: str) -> None:
        """Note that something was heard of a host; ready is who has heard of every one."""
        self._unheard.discard(name)
        if not self._unheard & self.inventory.hosts.keys():
            self._seen_once.set()

    async def _publish(self, name: str, info: Mapping[str, Any], at: float) -> None:
        """Give one host's observation, made at `at` (Unix seconds), to history and Prometheus."""
        vms = await store.vms_on_host(name)
        await self._history.take(name, info, {str(vm.uuid): vm.id for vm in vms}, at)
        labels = {str(vm.uuid): VmLabels(vm.ref or "", vm.name, vm.template, vm.os) for vm in vms}
        took = (info.get("host") or {}).get("took_seconds")
        await asyncio.to_thread(self._exposition.take, name, info, labels, at, took)

    async def _mark(self, name: str, status: HostStatus, message: str) -> None:
        await mark_host(name, status, message, self._command(name))
        self._exposition.fail(name)
        self._history.lose(name)

    def _command(self, name: str) -> str:
        return command_line("host_observe", name, self._settings.inventory_sources, {})

    def _look_again(self, name: str) -> None:
        """Look at one host beside the staying play, unless such a look is under way."""
        if name in self._looks or self._stopping.is_set():
            return
        task = asyncio.create_task(self._look_at(name))
        self._looks[name] = task
        task.add_done_callback(lambda _: self._looks.pop(name, None))

    async def _look_at(self, name: str) -> None:
        await asyncio.sleep(LEAST_PAUSE)
        try:
            await self.observe(name)
        except (VirtplayError, OSError) as error:
            log.error("cannot look at host %s again: %s", name, error)

    async def _end_when_asked(self, run: runner.Run, asked: asyncio.Event) -> None:
        await asked.wait()
        await run.end()


def _complaint_of(event: Mapping[str, Any]) -> str:
    """What Ansible said of no host, such as that it cannot read the inventory."""
    text = str(event.get("text", ""))
    return text.strip() if not event.get("host") and "ERROR" in text else ""
