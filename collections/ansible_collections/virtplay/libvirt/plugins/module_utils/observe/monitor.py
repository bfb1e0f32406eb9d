# Copyright: Virtplay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Queries QEMU monitors for statistics so that a stuck one does not block the others.

Measured with libvirt 9.0 and a QEMU under SIGSTOP:

1. the first question to its monitor waits in libvirtd for ever, NOWAIT or not, and holds the
   domain's job; CPU_TOTAL asks the monitor too, STATE and INTERFACE do not;
2. from then on a NOWAIT question skips that domain, and virDomainGetControlInfo says "occupied";
3. the wait goes on when the client leaves, and takes one of libvirtd's 20 workers.

So: one common question for all whose process looks alive; the others one by one, and all when the
common question does not come back. Each thread has a connection of its own, because a request that
waits blocks the others on its connection, and never more than MAX_WAITING of libvirtd's workers
wait.
"""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from ..host.connection import libvirt
from ..host.qemu_process import seems_stopped
from .statistics import answered_by_monitor

# libvirtd's workers are shared by everything that speaks to it: leave it some (max_workers is 20).
MAX_WAITING = 14
MAX_ASKING = 4
# An occupied monitor is nothing special for moments; from here on it is stuck.
STUCK_AFTER = 1.0


@dataclass
class MonitorAnswers:
    """Statistics records by UUID, and the UUIDs of domains whose QEMU does not answer."""

    records: dict[str, dict[str, Any]] = field(default_factory=dict)
    stuck: set[str] = field(default_factory=set)


def ask_monitors(
    connect: Callable[[], Any],
    domains: dict[str, Any],
    inactive: set[str],
    deadline: float,
    patience: float,
) -> MonitorAnswers:
    """Collect BALLOON, VCPU and BLOCK of all domains on a host.

    domains maps UUID to virDomain, inactive are those of them without a QEMU; deadline is in
    monotonic seconds; patience is how long the common question may take before they are asked
    one by one.
    """
    active = {uuid: domain for uuid, domain in domains.items() if uuid not in inactive}
    occupied = occupied_domains(active)
    # NOWAIT skips the occupied ones, so they cannot do any harm (2).
    suspects = [
        uuid
        for uuid, domain in active.items()
        if uuid not in occupied and seems_stopped(domain.name())
    ]
    calm = [uuid for uuid in domains if uuid not in suspects]
    answers = MonitorAnswers()
    common = _Question(lambda: _ask_all_but(connect, set(suspects)))
    if common.wait(min(patience, deadline - time.monotonic())):
        answers.records = common.answer()
        waiting = len(occupied)
        unasked = suspects
    else:
        waiting = max(1, len(occupied_domains(active)))
        unasked = [*calm, *suspects]
    if unasked:
        may_hang = MAX_WAITING - waiting
        answers.records |= _ask_one_by_one(connect, unasked, deadline, may_hang)
    if common.wait(0):  # slow, not stuck: all of it is better than some of it
        answers.records = common.answer() | answers.records
    silent = {
        uuid: domain
        for uuid, domain in active.items()
        if not answered_by_monitor(answers.records.get(uuid, {}))
    }
    # A process that is still stopped needs no question: there may have been no room for one.
    answers.stuck = occupied_domains(silent) | {
        uuid for uuid in silent.keys() & set(suspects) if seems_stopped(silent[uuid].name())
    }
    return answers


class _Question:
    """A call in a daemon thread: somebody may have to leave without its answer."""

    def __init__(self, call: Callable[[], Any]) -> None:
        self._done = threading.Event()
        self._call = call
        self._answer: Any = {}
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        with contextlib.suppress(libvirt.libvirtError):
            self._answer = self._call()
        self._done.set()

    def wait(self, seconds: float) -> bool:
        """Wait for the answer at most so long; say whether it is there."""
        return self._done.wait(max(0.0, seconds))

    def answer(self) -> Any:
        """Return the answer; an empty one when libvirt refused the question."""
        return self._answer


def _ask_all_but(connect: Callable[[], Any], suspects: set[str]) -> dict[str, dict[str, Any]]:
    listed = connect().listAllDomains(0)
    return _ask([domain for domain in listed if domain.UUIDString() not in suspects])


def _ask_one_by_one(
    connect: Callable[[], Any], uuids: list[str], deadline: float, may_hang: int
) -> dict[str, dict[str, Any]]:
    """Ask with a few threads; one that hangs is replaced as long as libvirtd can afford it."""
    records: dict[str, dict[str, Any]] = {}
    waiting: queue.SimpleQueue[str] = queue.SimpleQueue()
    for uuid in uuids:
        waiting.put(uuid)
    askers: list[_Asker] = []
    while time.monotonic() < deadline:
        asking = [asker for asker in askers if not asker.done.is_set()]
        hanging = [asker for asker in asking if asker.seconds() > 1.2 * STUCK_AFTER]
        if len(hanging) == len(asking) and waiting.empty():
            break
        room = min(MAX_ASKING + len(hanging), may_hang) - len(asking)
        for _thread in range(min(room, waiting.qsize())):
            askers.append(_Asker(connect, waiting, records))
        if len(hanging) >= may_hang:
            break
        time.sleep(0.02)
    return dict(records)


class _Asker:
    """A thread that takes domains off the queue and asks each for its statistics."""

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
        """Say how long the present question has been waiting."""
        return time.monotonic() - self._since

    def _run(self) -> None:
        connect, waiting, records = self._work
        try:
            connection = connect()
            while True:
                uuid = waiting.get_nowait()
                self._since = time.monotonic()
                with contextlib.suppress(libvirt.libvirtError):
                    records.update(_ask([connection.lookupByUUIDString(uuid)]))
        except queue.Empty:
            pass
        finally:
            self.done.set()


def occupied_domains(domains: dict[str, Any]) -> set[str]:
    """Return the domains whose monitor has been busy with one command for STUCK_AFTER seconds.

    Asks libvirtd only, never a QEMU.
    """
    return {uuid for uuid, domain in domains.items() if _is_occupied(domain)}


def _is_occupied(domain: Any) -> bool:
    try:
        state, _details, milliseconds = domain.controlInfo()
    except libvirt.libvirtError:
        return False  # it has stopped or gone meanwhile
    return bool(state == libvirt.VIR_DOMAIN_CONTROL_OCCUPIED and milliseconds >= STUCK_AFTER * 1000)


def _ask(domains: list[Any]) -> dict[str, dict[str, Any]]:
    """Return the records of domains of one connection by UUID; may wait for ever."""
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
