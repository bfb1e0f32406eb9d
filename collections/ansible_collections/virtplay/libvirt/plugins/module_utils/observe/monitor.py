# Copyright: Virtplay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Queries QEMU monitors for statistics so that a stuck one does not block the others.

Measured with libvirt 9.0 and a QEMU under SIGSTOP:

1. the first query of its monitor waits in libvirtd for ever, NOWAIT or not, and holds the domain's
   libvirt job; CPU_TOTAL queries the monitor too, STATE and INTERFACE do not;
2. from then on a NOWAIT query skips that domain, and virDomainGetControlInfo returns "occupied";
3. the wait continues after the client has disconnected, and blocks one of libvirtd's 20 workers.

So: one common query for all domains whose process seems alive; the others one by one, and all of
them if the common query does not return. Each thread has its own connection, because a waiting
request blocks all others on its connection, and at most MAX_WAITING of libvirtd's workers wait.
"""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from ..host.connection import libvirt, read_disk_errors
from ..host.qemu_process import seems_stopped
from .statistics import has_monitor_values

# All clients of libvirtd share its workers (max_workers is 20): leave some of them free.
MAX_WAITING = 14
MAX_QUERIES = 4
# A monitor is often occupied for a moment; after this many seconds it counts as stuck.
STUCK_AFTER = 1.0


@dataclass
class MonitorResults:
    """Statistics records by UUID, and the UUIDs of domains whose QEMU does not respond."""

    records: dict[str, dict[str, Any]] = field(default_factory=dict)
    stuck: set[str] = field(default_factory=set)


def query_monitors(
    connect: Callable[[], Any],
    active: dict[str, Any],
    deadline: float,
    patience: float,
) -> MonitorResults:
    """Return BALLOON, VCPU and BLOCK statistics of all active domains on a host.

    active maps UUID to virDomain; deadline is in monotonic seconds; patience is how many seconds
    the common query may take before domains are queried one by one.
    Domains without a QEMU are never queried: libvirtd itself would open their images, and would
    wait for storage that does not respond.
    """
    occupied = occupied_domains(active)
    # NOWAIT skips occupied domains, so they cannot block the query (2).
    suspects = [
        uuid
        for uuid, domain in active.items()
        if uuid not in occupied and seems_stopped(domain.name())
    ]
    others = [uuid for uuid in active if uuid not in suspects]
    results = MonitorResults()
    common = _Query(lambda: _query_all_but(connect, set(suspects)))
    if common.wait(min(patience, deadline - time.monotonic())):
        results.records = common.result()
        waiting = len(occupied)
        remaining = suspects
    else:
        waiting = max(1, len(occupied_domains(active)))
        remaining = [*others, *suspects]
    if remaining:
        may_hang = MAX_WAITING - waiting
        results.records |= _query_one_by_one(connect, remaining, deadline, may_hang)
    if common.wait(0):  # slow, not stuck: add its records
        results.records = common.result() | results.records
    silent = {
        uuid: domain
        for uuid, domain in active.items()
        if not has_monitor_values(results.records.get(uuid, {}))
    }
    # A process that is still stopped counts as stuck even if no thread was free to query it.
    results.stuck = occupied_domains(silent) | {
        uuid for uuid in silent.keys() & set(suspects) if seems_stopped(silent[uuid].name())
    }
    return results


class _Query:
    """A call in a daemon thread: the caller may have to continue without its result."""

    def __init__(self, call: Callable[[], Any]) -> None:
        self._done = threading.Event()
        self._call = call
        self._result: Any = {}
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        with contextlib.suppress(libvirt.libvirtError):
            self._result = self._call()
        self._done.set()

    def wait(self, seconds: float) -> bool:
        """Wait at most seconds for the result; returns whether it has come."""
        return self._done.wait(max(0.0, seconds))

    def result(self) -> Any:
        """Return the result; {} after a libvirt error."""
        return self._result


def _query_all_but(connect: Callable[[], Any], suspects: set[str]) -> dict[str, dict[str, Any]]:
    listed = connect().listAllDomains(libvirt.VIR_CONNECT_LIST_DOMAINS_ACTIVE)
    return _query([domain for domain in listed if domain.UUIDString() not in suspects])


def _query_one_by_one(
    connect: Callable[[], Any], uuids: list[str], deadline: float, may_hang: int
) -> dict[str, dict[str, Any]]:
    """Query with a few threads; a thread that hangs is replaced, until may_hang of them hang."""
    records: dict[str, dict[str, Any]] = {}
    waiting: queue.SimpleQueue[str] = queue.SimpleQueue()
    for uuid in uuids:
        waiting.put(uuid)
    workers: list[_Worker] = []
    while time.monotonic() < deadline:
        busy = [worker for worker in workers if not worker.done.is_set()]
        hanging = [worker for worker in busy if worker.seconds() > 1.2 * STUCK_AFTER]
        if len(hanging) == len(busy) and waiting.empty():
            break
        room = min(MAX_QUERIES + len(hanging), may_hang) - len(busy)
        for _thread in range(min(room, waiting.qsize())):
            workers.append(_Worker(connect, waiting, records))
        if len(hanging) >= may_hang:
            break
        time.sleep(0.02)
    return dict(records)


class _Worker:
    """A thread that takes domains from the queue and queries the statistics of each."""

    def __init__(
        self,
        connect: Callable[[], Any],
        waiting: queue.SimpleQueue[str],
        records: dict[str, dict[str, Any]],
    ) -> None:
        self.done = threading.Event()
        self._since = time.monotonic()
        self._work = (connect, waiting, records)
        threading.Thread(target=self._run, daemon=True).start()

    def seconds(self) -> float:
        """Return how many seconds the current query has taken so far."""
        return time.monotonic() - self._since

    def _run(self) -> None:
        connect, waiting, records = self._work
        try:
            connection = connect()
            while True:
                uuid = waiting.get_nowait()
                self._since = time.monotonic()
                with contextlib.suppress(libvirt.libvirtError):
                    records.update(_query([connection.lookupByUUIDString(uuid)]))
        except queue.Empty:
            pass
        finally:
            self.done.set()


def query_disk_errors(
    connect: Callable[[], Any], domains: dict[str, Any]
) -> dict[str, dict[str, str]]:
    """Return the errors for which QEMU has paused these domains: UUID → target → words.

    Waits for ever for a QEMU that does not respond.
    """
    responsive = domains.keys() - occupied_domains(domains)
    if not responsive:
        return {}
    connection = connect()
    found = {}
    for uuid in sorted(responsive):
        with contextlib.suppress(libvirt.libvirtError):
            found[uuid] = read_disk_errors(connection.lookupByUUIDString(uuid))
    return found


def occupied_domains(domains: dict[str, Any]) -> set[str]:
    """Return the domains whose monitor has been busy with one command for STUCK_AFTER seconds.

    Queries libvirtd only, never a QEMU.
    """
    return {uuid for uuid, domain in domains.items() if _is_occupied(domain)}


def _is_occupied(domain: Any) -> bool:
    try:
        state, _details, milliseconds = domain.controlInfo()
    except libvirt.libvirtError:
        return False  # stopped or deleted meanwhile
    return bool(state == libvirt.VIR_DOMAIN_CONTROL_OCCUPIED and milliseconds >= STUCK_AFTER * 1000)


def _query(domains: list[Any]) -> dict[str, dict[str, Any]]:
    """Return the records of domains of one connection, by UUID; may wait for ever."""
    if not domains:
        return {}
    groups = (
        libvirt.VIR_DOMAIN_STATS_BALLOON
        | libvirt.VIR_DOMAIN_STATS_VCPU
        | libvirt.VIR_DOMAIN_STATS_BLOCK
    )
    flags = libvirt.VIR_CONNECT_GET_ALL_DOMAINS_STATS_NOWAIT
    found = domains[0].connect().domainListGetStats(domains, groups, flags)
    return {domain.UUIDString(): record for domain, record in found}
