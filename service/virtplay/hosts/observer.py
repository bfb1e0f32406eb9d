"""Observes all hosts in rounds, by one long-lived play or by one play a round."""

import asyncio
import contextlib
import logging
import math
import secrets
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from virtplay.actions import STARTING, command_line, playbook
from virtplay.errors import VirtplayError
from virtplay.hosts.inventory import Inventory
from virtplay.hosts.observed import (
    Generations,
    decompress,
    generations,
    is_stranger,
    mark_host,
    save_observation,
)
from virtplay.jobs import runner
from virtplay.jobs.launcher import Launcher
from virtplay.jobs.specification import Specification
from virtplay.metrics.exposition import Exposition
from virtplay.metrics.history import History
from virtplay.metrics.host_series import VmLabels
from virtplay.settings import Settings
from virtplay.states import HostStatus
from virtplay.store import vms as store
from virtplay.store.database import DatabaseAway, DatabaseError
from virtplay.store.domains import UNREADABLE
from virtplay.store.jobs import ReadyJob

log = logging.getLogger("virtplay.hosts.observer")

LEAST_PAUSE = 1.0
"""Seconds between two observations of a host, also when one takes longer than the interval."""
PLAY_SECONDS = 300.0
ROUNDS_MAX = 60
"""A long-lived play is started again after so many seconds or rounds."""
PLAY_POLL = 0.5
"""Seconds between two reads of the events of a long-lived play."""
WATCH_SECONDS = 1.0
STRANGERS_SECONDS = 600.0
"""How long domains without an id wait for a host that was never observed, in seconds."""
MOST_PAUSE = 300.0
"""The longest wait, in seconds, before a host in error is observed once more beside the play."""
EXTRA_PLAYS = 8
"""Plays of single hosts at once: after a power failure all hosts may need one."""
ADDRESS_PLAYS = 8
"""Hosts that are waited on for addresses at once; the others are observed at the interval."""
RESPONSE_PAUSE = 0.25
"""Seconds from the end of a start to its play, which would take the CPU from the response."""
ADDRESS_WAIT = 30.0
"""The longest wait for an address in one play, in seconds: a stop leaves it on the host."""
ADDRESS_INTERVAL = 3.0
"""With an interval up to this, addresses appear as soon without waiting for them."""
NOTE_EARLY = 1.0
NOTE_MARGIN = 0.3
"""The VMs' generations are read so many seconds before an observation begins; later is too late."""
LEAST_LIMIT = 5.0
FAULTS = (VirtplayError, DatabaseError, OSError)
"""What may prevent a task that runs beside the play."""
REPORTS = {"host_info", "host_info_compressed"}
NO_RESPONSE = "no response within the time limit"
ITEMS_FAILED = "One or more items failed"
"""Ansible's message for a loop; each failed item has reported its own."""
FAILURES = frozenset({"runner_on_failed", "runner_item_on_failed", "runner_on_unreachable"})


class Observer:
    """Runs playbooks/host_observe.yml on all hosts and saves what each round reports.

    One long-lived play runs many rounds, since starting ansible-playbook costs more than an
    observation. It is started again now and then, because Ansible keeps the results of all rounds
    in memory. With more hosts than forks no fork can stay with its host: every round is then a play
    of its own.
    """

    def __init__(
        self,
        settings: Settings,
        launcher: Launcher,
        inventory: Inventory,
        exposition: Exposition,
        history: History,
    ) -> None:
        self._settings = settings
        self._launcher = launcher
        self._exposition = exposition
        self._history = history
        self._inventory = inventory
        self._stopping = asyncio.Event()
        self._renew = asyncio.Event()
        self._all_observed = asyncio.Event()
        self._unobserved = set(inventory.hosts)
        """Hosts that were not observed since the service started."""
        self._began = time.monotonic()
        self._found = False
        """Whether any host was observed since the service started."""
        self._awaited: set[str] = set()
        """Hosts whose libvirt did not respond at first: a patient observation is under way."""
        self._observed_at: dict[str, float] = {}
        """Host → the Unix time of its last observation; it excuses one failure of before."""
        self._unnumbered: set[str] = set()
        """Hosts whose domains without an id wait until every host was observed."""
        self._suspect: set[str] = set()
        """Hosts that Ansible reached in the last round, but whose observation failed."""
        self._before: dict[str, Generations] = {}
        """Host → the VMs' generations at a moment before its current observation began."""
        self._extra: dict[str, asyncio.Task[None]] = {}
        """Host → its extra observation beside the long-lived play."""
        self._extra_plays = asyncio.Semaphore(EXTRA_PLAYS)
        self._retries: dict[str, asyncio.Task[None]] = {}
        """Host in error → the wait before its next extra observation."""
        self._pauses: dict[str, float] = {}
        """Host in error → the seconds of the wait after that one."""
        self._notes: set[asyncio.Task[None]] = set()
        self._started: dict[str, dict[int, float]] = {}
        """Host → number of a VM that was started → the monotonic time until it may need."""
        self._address_waits: dict[str, asyncio.Task[None]] = {}
        """Host → the wait for addresses of these VMs."""
        self._address_plays = asyncio.Semaphore(ADDRESS_PLAYS)

    @property
    def inventory(self) -> Inventory:
        """The hosts to observe."""
        return self._inventory

    @inventory.setter
    def inventory(self, inventory: Inventory) -> None:
        # A reload without a change must not end the play: frequent ones would end every round.
        if inventory != self._inventory:
            self._inventory = inventory
            self._renew.set()

    async def run(self) -> None:
        """Observe until stopped."""
        while not self._stopping.is_set():
            self._renew.clear()
            began = time.monotonic()
            try:
                began = await self._observe_in_rounds()
            except (VirtplayError, OSError) as error:
                log.error("cannot observe the hosts: %s", error)
                self._all_observed.set()
            # The interval counts from start to start, but there is always a pause.
            took = time.monotonic() - began
            await self._pause(max(LEAST_PAUSE, self._settings.observe_interval - took))
        waits = (*self._retries.values(), *self._address_waits.values())
        tasks = (*self._extra.values(), *waits, *self._notes)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    @property
    def has_observed(self) -> bool:
        """Whether every host was observed once, or could not be: the service is then ready.

        A host whose libvirt does not respond yet is waited for only while no other host is ready.
        """
        return self._all_observed.is_set()

    async def wait_observed(self) -> None:
        """Wait until has_observed."""
        await self._all_observed.wait()

    async def first_observation(self) -> None:
        """Wait until has_observed, for at most the time limit of an observation."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.wait_observed(), self._settings.observe_timeout)

    def stop(self) -> None:
        """End the running play."""
        self._stopping.set()
        self._renew.set()

    def follow_start(self, job: ReadyJob) -> None:
        """Observe the host of a job's VM as soon as its guest has an address.

        Only if the job may have started it, and for a while; the address is awaited on the host.
        """
        patience, interval = self._settings.observe_address_timeout, self._settings.observe_interval
        if job.vm_id is None or job.action not in STARTING or self._stopping.is_set():
            return
        if not patience or interval <= ADDRESS_INTERVAL:
            return
        self._started.setdefault(job.host, {})[job.vm_id] = time.monotonic() + patience
        if job.host not in self._address_waits:
            task = asyncio.create_task(self._await_addresses(job.host))
            self._address_waits[job.host] = task

    async def _await_addresses(self, name: str) -> None:
        """Observe a host whenever one of the VMs that were started there gets an address.

        Many starts in a row cost few observations: the pause between two of them grows to the
        interval.
        """
        pause, started = LEAST_PAUSE, self._started[name]
        try:
            with self._logged(f"cannot await the addresses of VMs on host {name}"):
                await asyncio.sleep(RESPONSE_PAUSE)
                while started:
                    awaited = await self._without_address(name, started)
                    if not awaited:
                        continue  # nothing is left, or another VM was started meanwhile
                    async with self._address_plays:
                        left = max(0.0, max(started.values()) - time.monotonic())
                        await self.observe(name, awaited=awaited, wait=min(ADDRESS_WAIT, left))
                    if await self._without_address(name, started):
                        await asyncio.sleep(pause)
                        pause = min(2 * pause, self._settings.observe_interval)
        finally:
            del self._started[name], self._address_waits[name]

    async def _without_address(self, name: str, started: dict[int, float]) -> list[str]:
        """Return the UUIDs of the VMs `started` on a host that run and have no address yet.

        The others are removed, and those whose time is over.
        """
        now = time.monotonic()
        asked = dict(started)
        known = name in self._inventory.hosts
        numbers = [number for number, end in asked.items() if end > now and known]
        awaited = await store.without_address(name, numbers) if numbers else {}
        for number, end in asked.items():
            if number not in awaited and started[number] == end:  # not started again meanwhile
                del started[number]
        return list(awaited.values())

    async def observe(
        self,
        host: str | None = None,
        *,
        startup: float = 0.0,
        awaited: Sequence[str] = (),
        wait: float = 0.0,
    ) -> None:
        """Observe every host, or one of them, once, in a play of its own.

        Wait up to `startup` seconds more for a libvirt that does not respond yet, and up to `wait`
        seconds for an address of one of the `awaited` VMs (UUIDs).
        """
        directory = self._settings.state_dir / "observation" / f"once-{secrets.token_hex(4)}"
        waiting = {host} if host else set(self.inventory.hosts)
        before = {name: await generations(name) for name in waiting}
        fault = NO_RESPONSE
        async for event in self._play(
            directory, rounds=1, limit=host, startup=startup, awaited=awaited, wait=wait
        ):
            name = event.get("host", "")
            if name in waiting and await self._save_event(
                name, event, before[name], last=startup > 0
            ):
                waiting.discard(name)
            fault = _fault_of(event) or fault
        if not self._stopping.is_set():
            for name in waiting & self.inventory.hosts.keys():
                await self._mark_suspect(name, f"cannot observe {name}: {fault}", last=startup > 0)

    async def _observe_in_rounds(self) -> float:
        """Run one long-lived play; return the monotonic time at which its last round began."""
        hosts = set(self.inventory.hosts)
        interval, patience = self._settings.observe_interval, self._settings.observe_timeout
        long_lived = len(hosts) <= self._settings.observe_forks
        rounds = max(1, min(ROUNDS_MAX, math.ceil(PLAY_SECONDS / interval))) if long_lived else 1
        patience *= self._turns
        self._before = {name: await generations(name) for name in hosts}
        began = time.monotonic()
        due = dict.fromkeys(hosts, began + patience)
        missing = set(hosts)
        overdue: set[str] = set()
        fault = NO_RESPONSE
        watcher = asyncio.create_task(self._watch(due, overdue))
        directory = self._settings.state_dir / "observation" / "rounds"
        try:
            async for event in self._play(directory, rounds=rounds, limit=None):
                name = event.get("host", "")
                if name in due and await self._save_event(name, event, self._before[name]):
                    missing.discard(name)
                    overdue.discard(name)
                    due[name] = time.monotonic() + interval + patience
                    if long_lived:
                        began = time.monotonic()
                        self._note_later(name, float(event["at"]))
                fault = _fault_of(event) or fault
        finally:
            watcher.cancel()
        if not self._renew.is_set():
            for name in missing & self.inventory.hosts.keys():
                await self._mark_suspect(name, f"cannot observe {name}: {fault}")
        return began

    async def _play(
        self,
        directory: Path,
        *,
        rounds: int,
        limit: str | None,
        startup: float = 0.0,
        awaited: Sequence[str] = (),
        wait: float = 0.0,
    ) -> AsyncIterator[dict[str, Any]]:
        """Yield the events of one play of host_observe; end the play when the observer stops."""
        interval = self._settings.observe_interval
        patience = self._settings.observe_timeout + startup + wait
        alone = rounds == 1 and limit is None
        specification = Specification(
            project_dir=str(self._settings.project_dir),
            playbook=playbook("host_observe"),
            inventory=self._settings.inventory_sources,
            limit=limit,
            variables={
                "libvirt_observe_rounds": rounds,
                "libvirt_observe_interval": interval,
                "libvirt_observe_startup_timeout": startup,
                "libvirt_observe_compressed": True,
                "libvirt_observe_awaited": list(awaited),
                "libvirt_observe_wait": wait,
                # Here all hosts wait for the last one: a host that hangs must not delay it.
                "libvirt_observe_limit": math.ceil(
                    min(patience, max(interval, LEAST_LIMIT)) if alone else patience
                ),
            },
            time_limit=math.ceil(
                patience * (1 if limit else self._turns) + (rounds - 1) * (interval + patience)
            ),
            forks=self._settings.observe_forks,
            tags="observe_once" if rounds == 1 else "observe_repeatedly",
            # The variables are the service's own, and the module checks what it is given: a task
            # that checks them would double the cost of an observation.
            skip_tags="always",
        )
        try:
            run = await runner.start(self._launcher, specification, directory)
            ending = asyncio.create_task(
                self._end_at(run, self._stopping if limit else self._renew)
            )
            try:
                # Polling less often costs less, and observations are seconds apart anyway.
                async for batch in run.batches(PLAY_POLL if rounds > 1 else runner.POLL_SECONDS):
                    for event in batch:
                        yield event
            finally:
                ending.cancel()
                await run.end()
        finally:
            await runner.clear(directory)

    @property
    def _turns(self) -> int:
        """How many hosts each fork observes one after the other; all of them may be slow."""
        return math.ceil(len(self._inventory.hosts) / self._settings.observe_forks)

    async def _pause(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._renew.wait(), seconds)

    async def _watch(self, due: dict[str, float], overdue: set[str]) -> None:
        """Mark hosts suspect that were not observed in time; end a play that reports none.

        Such a play lives, but what it reports is lost, for example on a full disk.
        """
        while True:
            await asyncio.sleep(WATCH_SECONDS)
            now = time.monotonic()
            for name in [name for name, moment in due.items() if moment < now]:
                due[name] = now + self._settings.observe_interval + self._settings.observe_timeout
                overdue.add(name)
                if name not in self.inventory.hosts:
                    continue
                with self._logged(f"cannot save that host {name} is not observed"):
                    await self._mark_suspect(name, f"cannot observe {name}: {NO_RESPONSE}")
            if due and overdue >= due.keys():
                log.warning("no host is observed any more: the play is ended and begun anew")
                self._renew.set()
                return

    def _note_later(self, name: str, ended: float) -> None:
        task = asyncio.create_task(self._note_generations(name, ended))
        self._notes.add(task)
        task.add_done_callback(self._notes.discard)

    async def _note_generations(self, name: str, ended: float) -> None:
        """Note the VMs' generations shortly before the host's next observation begins.

        `ended` (Unix seconds) is when the last observation ended; the next one begins an interval
        later. Generations that may have been read after that are dropped: the earlier ones stay,
        and a VM that a job has changed since is updated a round later.
        """
        begins = ended + self._settings.observe_interval
        await asyncio.sleep(max(0.0, begins - NOTE_EARLY - time.time()))
        try:
            noted = await generations(name)
        except DatabaseAway:
            return
        if time.time() < begins - NOTE_MARGIN:
            self._before[name] = noted

    async def _save_event(
        self, name: str, event: Mapping[str, Any], before: Generations, *, last: bool = False
    ) -> bool:
        """Save what one event reports of host `name`; True when it completes the host's round.

        After a failure the host is not observed again if this is the `last` attempt.
        """
        result = event.get("res") or {}
        if not await store.knows_host(name):
            return True  # it has left the inventory since the round began
        at = float(event.get("at", time.time()))
        match event["event"]:
            case "runner_on_failed" if result.get("msg") == ITEMS_FAILED:
                return False  # each item has reported its own
            case failure if failure in FAILURES and at < self._observed_at.get(name, 0.0):
                # The rounds are read later than an observation beside them, which succeeded since.
                # Only one such failure is excused, as the clock may have been set back.
                del self._observed_at[name]
                log.info("host %s: %s; but it was observed since", name, result.get("msg"))
            case "runner_on_ok" | "runner_item_on_ok" if REPORTS & result.keys():
                try:
                    info = await _info_of(result)
                    strangers = any(map(is_stranger, info["domains"]))
                    strangers = strangers and await self._may_number_strangers(name)
                    missed = await save_observation(name, info, before, strangers=strangers)
                    await self._publish(name, info, at)
                    self._observed_at[name] = at
                    self._suspect.discard(name)
                    self._pauses.pop(name, None)
                    self._found = True
                except DatabaseAway:
                    raise
                except (*UNREADABLE, DatabaseError) as error:
                    # One odd host must not prevent the observation of all others.
                    log.exception("cannot read the observation of host %s", name)
                    await self._mark_suspect(name, f"cannot read its observation: {error!r}", last)
                else:
                    if missed:
                        # Was it deleted, or is it being defined again? Do not wait an interval.
                        self._observe_again(name)
            case "runner_on_unreachable":
                await self._mark(name, HostStatus.UNREACHABLE, str(result.get("msg")))
            case "runner_item_on_failed" if result.get("unreachable"):
                await self._mark(name, HostStatus.UNREACHABLE, str(result.get("msg")))
            case "runner_on_failed" | "runner_item_on_failed":
                await self._mark_suspect(name, str(result.get("msg")), last)
                return True
            case _:
                return False
        self._complete_round(name)
        return True

    async def _may_number_strangers(self, name: str) -> bool:
        """Return whether domains of host `name` without an id may get one now.

        All domains with an id come first: those of hosts that were not observed yet since the
        start, and for a while those of hosts that this database has never observed.
        """
        left = self._unobserved & self.inventory.hosts.keys() - {name}
        if left and not self.has_observed:
            self._unnumbered.add(name)
            return False
        if time.monotonic() - self._began > STRANGERS_SECONDS:
            return True
        return not await store.any_never_observed(self.inventory.hosts.keys() - {name})

    async def _mark_suspect(self, name: str, message: str, last: bool = False) -> None:
        """Observe a reachable host again after a failed observation; mark it after the second.

        libvirt may be slow for a moment, for example while it ends a stuck QEMU. After its own
        start it probes QEMU before it responds, so the first observation is repeated patiently.
        """
        if name in self._awaited and not last:
            return
        host = await store.find_host(name)
        first = name in self._unobserved or host.status == HostStatus.UNKNOWN
        if first and not last and name not in self._extra:
            log.info("host %s: %s; waiting for libvirt", name, message)
            if host.status != HostStatus.READY:
                await store.save_host(host, host.status, f"waiting for libvirt: {message}")
            self._awaited.add(name)
            self._observe_again(name, startup=self._settings.observe_startup_timeout)
            self._check_observed()
            return
        if host.status == HostStatus.READY and name not in self._suspect and not last:
            log.warning("host %s: %s; observing it again", name, message)
            self._suspect.add(name)
            self._exposition.count_failure(name)
            self._observe_again(name)
        else:
            await self._mark(name, HostStatus.ERROR, message)
            self._retry_later(name)
        self._complete_round(name)

    def _complete_round(self, name: str) -> None:
        """Record that a host's round is complete."""
        self._awaited.discard(name)
        self._unobserved.discard(name)
        self._check_observed()

    def _check_observed(self) -> None:
        """Record that the service is ready, after the last host's first round."""
        left = self._unobserved & self.inventory.hosts.keys()
        if not left or (self._found and left <= self._awaited):
            self._all_observed.set()
            for waiting in self._unnumbered:
                self._observe_again(waiting)
            self._unnumbered.clear()

    async def _publish(self, name: str, info: Mapping[str, Any], at: float) -> None:
        """Pass one host's observation, made at `at` (Unix seconds), to history and Prometheus."""
        vms = await store.vms_on_host(name)
        await self._history.take(name, info, {str(uuid): number for number, uuid, *_ in vms}, at)
        labels = {str(uuid): VmLabels(ref or "", *texts) for _, uuid, ref, *texts in vms}
        took = (info.get("host") or {}).get("took_seconds")
        await asyncio.to_thread(self._exposition.take, name, info, labels, at, took)

    async def _mark(self, name: str, status: HostStatus, message: str) -> None:
        await mark_host(name, status, message, self._command(name))
        self._exposition.fail(name)
        self._history.lose(name)

    def _command(self, name: str) -> str:
        return command_line("host_observe", name, self._settings.inventory_sources, {})

    def _observe_again(self, name: str, *, startup: float = 0.0) -> None:
        """Observe one host beside the long-lived play, unless that is already under way."""
        if name in self._extra or self._stopping.is_set():
            return
        task = asyncio.create_task(self._observe_soon(name, startup))
        self._extra[name] = task
        task.add_done_callback(lambda _: self._extra.pop(name, None))

    async def _observe_soon(self, name: str, startup: float) -> None:
        await asyncio.sleep(LEAST_PAUSE)
        with self._logged(f"cannot save that host {name} is not observed"):
            try:
                async with self._extra_plays:
                    await self.observe(name, startup=startup)
            except FAULTS as error:
                log.error("cannot observe host %s again: %s", name, error)
                if name in self._awaited:
                    await self._mark_suspect(name, f"cannot observe {name}: {error}", last=True)
        # If that could not be saved either, the next round decides.
        self._awaited.discard(name)

    def _retry_later(self, name: str) -> None:
        """Observe a host in error beside the long-lived play, which may not report it any more."""
        if name in self._retries or self._stopping.is_set():
            return
        pause = self._pauses.get(name, self._settings.observe_interval)
        self._pauses[name] = min(2 * pause, MOST_PAUSE)
        task = asyncio.create_task(self._retry(name, pause))
        self._retries[name] = task
        task.add_done_callback(lambda _: self._retries.pop(name, None))

    async def _retry(self, name: str, pause: float) -> None:
        await asyncio.sleep(pause)
        if name not in self.inventory.hosts:
            return
        with self._logged(f"cannot observe host {name} again"):
            if await store.host_status(name) == HostStatus.ERROR:
                self._observe_again(name)

    @contextlib.contextmanager
    def _logged(self, cannot: str) -> Iterator[None]:
        """Log what prevents a task beside the play, which nobody waits for."""
        try:
            yield
        except FAULTS as error:
            log.error("%s: %s", cannot, error)

    async def _end_at(self, run: runner.Run, stopped: asyncio.Event) -> None:
        await stopped.wait()
        await run.end()


async def _info_of(result: Mapping[str, Any]) -> dict[str, Any]:
    """Return the `host_info` in a module's result; raise ValueError if it cannot be read."""
    text = result.get("host_info_compressed")
    if text is None:
        return dict(result["host_info"])
    return await asyncio.to_thread(decompress, text)


def _fault_of(event: Mapping[str, Any]) -> str:
    """Return an error that Ansible reports for no host, such as an unreadable inventory."""
    text = str(event.get("text", ""))
    return text.strip() if not event.get("host") and "ERROR" in text else ""
