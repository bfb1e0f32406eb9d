"""The usage history of VMs: the latest usage, and samples that are averaged as they age."""

import asyncio
import contextlib
import logging
import time
from collections.abc import Mapping
from typing import Any, Protocol

from virtplay.metrics.rates import Counters, Usage, measure, read_counters
from virtplay.settings import Settings
from virtplay.store import samples as store
from virtplay.store.samples import Resolution, Sample

log = logging.getLogger("virtplay.metrics.history")

HOUR = 3600
DAY = 24 * HOUR
SLACK_SECONDS = 300
"""A request for the last 24 hours starts at a whole minute, slightly later than 24 hours ago."""
ROLL_SECONDS = 60.0
LATE_SECONDS = 30
"""A span is averaged this long after its end, once its last samples have arrived."""
FILESYSTEMS_SECONDS = 300
"""A report of file systems by a guest agent expires after this long."""
SOURCES = {
    Resolution.FIVE_MINUTES: Resolution.RAW,
    Resolution.HOUR: Resolution.FIVE_MINUTES,
}
DOMAINS_AT_ONCE = 20
"""Each holds the event loop for 0.1 ms."""
DORMANT = frozenset({"stopped", "crashed"})


class HistorySource(Protocol):
    """Where past usage is read from: our own samples, or a Prometheus that scrapes us."""

    async def read(self, vm: Mapping[str, Any], since: int, until: int, step: int) -> list[Sample]:
        """Return averages over spans of `step` seconds; spans without samples are absent.

        `vm` has id and uuid.
        """


class History:
    """Our own samples: written at each observation, averaged and deleted as they age."""

    def __init__(self, settings: Settings) -> None:
        self._keeps = not settings.prometheus_url
        self._days = {
            Resolution.RAW: settings.history_raw_days,
            Resolution.FIVE_MINUTES: settings.history_5m_days,
            Resolution.HOUR: settings.history_1h_days,
        }
        self._counters: dict[str, Counters] = {}
        """Maps the UUID of a running domain to its counters at the last observation."""
        self._latest: dict[str, tuple[Usage, Counters]] = {}
        """Maps the UUID of a running domain to its usage at the last observation."""
        self._filesystems: dict[str, tuple[float, list[dict[str, Any]]]] = {}
        """Maps the UUID of a running domain to its agent's last report of file systems."""
        self._hosts: dict[str, set[str]] = {}
        """Maps each host to the UUIDs of its running domains."""
        self._stopping = asyncio.Event()

    def latest(self, uuid: str) -> tuple[Usage, Counters] | None:
        """Return the usage of a running VM in the last interval; None when unknown."""
        return self._latest.get(uuid)

    async def take(
        self, host: str, info: Mapping[str, Any], numbers: Mapping[str, int], now: float
    ) -> None:
        """Record one host's observation; `numbers` maps the UUIDs of VMs to their numbers."""
        running = [d for d in info["domains"] if d.get("state") not in DORMANT and "vcpus" in d]
        written = []
        for position, domain in enumerate(running):
            if position % DOMAINS_AT_ONCE == 0:
                await asyncio.sleep(0)
            uuid = domain["uuid"]
            counters = read_counters(info["host"], domain)
            seen = {**domain, "filesystems": self._filesystems_of(domain, now)}
            use = measure(self._counters.get(uuid), counters, seen)
            self._counters[uuid] = counters
            self._latest[uuid] = (use, counters)
            if uuid in numbers:
                written.append((numbers[uuid], as_sample(int(now), use)))
        here = {domain["uuid"] for domain in running}
        for uuid in self._hosts.get(host, set()) - here:
            # The domain may run on another host by now.
            if not any(uuid in others for name, others in self._hosts.items() if name != host):
                self._forget(uuid)
        self._hosts[host] = here
        if self._keeps:
            await store.write_samples(written)

    def _filesystems_of(self, domain: Mapping[str, Any], now: float) -> list[dict[str, Any]]:
        """Return the guest agent's last report of file systems; it is not always queried."""
        if "filesystems" in domain:
            self._filesystems[domain["uuid"]] = (now, domain["filesystems"])
        at, filesystems = self._filesystems.get(domain["uuid"], (0.0, []))
        return filesystems if now - at < FILESYSTEMS_SECONDS else []

    def lose(self, host: str) -> None:
        """Delete the latest usage of all VMs of a host; their counters are kept."""
        for uuid in self._hosts.get(host, set()):
            self._latest.pop(uuid, None)

    def _forget(self, uuid: str) -> None:
        self._latest.pop(uuid, None)
        self._counters.pop(uuid, None)
        self._filesystems.pop(uuid, None)

    async def read(self, vm: Mapping[str, Any], since: int, until: int, step: int) -> list[Sample]:
        """Return averages over spans of `step` seconds, from the finest samples available."""
        now = time.time()
        resolution = next(
            (r for r, days in self._days.items() if since >= now - days * DAY - SLACK_SECONDS),
            Resolution.HOUR,
        )
        step = max(step, int(resolution))
        found = await store.read_samples(vm["id"], resolution, since, until, step)
        if resolution == Resolution.RAW:
            return found
        # The latest spans are not averaged yet.
        fresh = max(since, await store.rolled_until(resolution))
        fresh -= fresh % step
        if fresh >= until:
            return found
        recent = await store.read_samples(vm["id"], Resolution.RAW, fresh, until, step)
        return [sample for sample in found if sample.at < fresh] + recent

    async def run(self) -> None:
        """Average and delete samples periodically, until stopped."""
        while not self._stopping.is_set():
            if self._keeps:
                await self.roll_up(int(time.time()))
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), ROLL_SECONDS)

    def stop(self) -> None:
        """Stop after the current round."""
        self._stopping.set()

    async def roll_up(self, now: int) -> None:
        """Average completed spans, and delete samples that are older than their retention."""
        for target, source in SOURCES.items():
            done = await store.rolled_until(target)
            ready = now - LATE_SECONDS
            ready -= ready % int(target)
            if ready <= done:
                continue
            oldest = now - int(self._days[source] * DAY)
            since = max(done, oldest - oldest % int(target))
            await store.roll_up(source, target, since, ready)
            if target == Resolution.HOUR:
                for resolution, days in self._days.items():
                    await store.forget_samples(resolution, now - int(days * DAY) - HOUR)


def as_sample(at: int, use: Usage) -> Sample:
    """Return a usage as the integers that are stored."""
    return Sample(
        at=at,
        cpu=_whole(use.cpu, 100),
        memory_used=_whole(use.memory_used, 1 / 1024),
        memory_total=_whole(use.memory_total, 1 / 1024),
        disk_usage=_whole(use.disk_usage, 100),
        disk_read=_whole(use.disk_read),
        disk_write=_whole(use.disk_write),
        network_rx=_whole(use.network_rx),
        network_tx=_whole(use.network_tx),
    )


def _whole(value: float | None, scale: float = 1) -> int | None:
    return round(value * scale) if value is not None else None
