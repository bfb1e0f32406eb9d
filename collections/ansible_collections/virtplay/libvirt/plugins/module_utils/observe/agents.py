# Copyright: Virtplay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Queries the guest agents of many domains in parallel, within a time limit."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from ..failure import Failure
from ..host.connection import has_error_code, libvirt
from ..host.silence import Silence
from ..lock.agent import agent_answers_within, hold_agent, reset_agent_timeout
from .addresses import Address, read_agent_addresses

# Each waiting query blocks one of libvirtd's 20 workers, for at most AGENT_TIMEOUT seconds.
MAX_QUERIES = 5
AGENT_TIMEOUT = 2
# Another observation holds an agent for a moment; a snapshot, until it has thawed the guest.
HELD_SECONDS = 0.5
# An agent that has not responded for so long is not waited for by later observations.
SILENT_AFTER = 0.9
_NO_RESPONSE = ("VIR_ERR_AGENT_UNRESPONSIVE", "VIR_ERR_AGENT_UNSYNCED", "VIR_ERR_OPERATION_TIMEOUT")
# Read-only images are always full: their usage is no information.
READ_ONLY = frozenset({"iso9660", "squashfs", "udf", "cramfs", "erofs"})


class AgentQueries:
    """Queries the guest agents of domains in parallel threads, from now until `finish`."""

    def __init__(
        self,
        connect: Callable[[], Any],
        addresses: set[str],
        filesystems: set[str],
        deadline: float,
        silence: Silence,
    ) -> None:
        """Start the queries; the sets hold the UUIDs to query for addresses and file systems.

        None begins after the deadline (monotonic seconds). Agents that are known not to respond are
        queried last, unless an earlier observation still waits for them.
        """
        self._connect = connect
        self._deadline = deadline
        self._addresses = addresses
        self._filesystems = filesystems
        self._silence = silence
        self._found_addresses: dict[str, dict[str, list[Address]]] = {}
        self._found_filesystems: dict[str, list[dict[str, Any]]] = {}
        wanted = addresses | filesystems
        self._expected = {uuid for uuid in wanted if uuid not in silence}
        again = (wanted - self._expected) & silence.unasked()
        silence.add(again)
        # Addresses first: without them a guest cannot be reached. In any order, so that agents that
        # do not respond never keep the same others from their turn.
        self._waiting = [
            *_shuffled(again),
            *_shuffled(self._expected - addresses),
            *_shuffled(self._expected & addresses),
        ]  # taken from the end
        self._since: dict[str, float] = {}
        self._changed = threading.Condition()
        self._threads = [
            threading.Thread(target=self._query, daemon=True)
            for _thread in range(min(MAX_QUERIES, len(self._waiting)))
        ]
        for thread in self._threads:
            thread.start()

    def collect(
        self,
    ) -> tuple[dict[str, dict[str, list[Address]]], dict[str, list[dict[str, Any]]]]:
        """Return addresses by UUID and MAC address, and file systems by UUID.

        As known at the deadline, or before it when all others than known silent ones have ended.
        """
        left = max(0.0, self._deadline - time.monotonic())
        with self._changed:
            self._changed.wait_for(lambda: not self._expected, left)
        now = time.monotonic()
        self._silence.add(
            uuid for uuid, since in list(self._since.items()) if now - since > SILENT_AFTER
        )
        return dict(self._found_addresses), dict(self._found_filesystems)

    def is_waiting(self) -> bool:
        """Whether a query has begun and not ended."""
        return bool(self._since)

    def finish(self) -> None:
        """Wait for the queries that have begun: each agent must have its time limit back."""
        self._deadline = time.monotonic()
        until = self._deadline + AGENT_TIMEOUT + 0.5
        for thread in self._threads:
            thread.join(max(0.0, until - time.monotonic()))
        for uuid in list(self._since):
            with suppress(libvirt.libvirtError, Failure):
                reset_agent_timeout(self._connect().lookupByUUIDString(uuid))

    def _query(self) -> None:
        connection = None
        while (uuid := self._take()) is not None:
            # No agent, it does not respond, a snapshot uses it, or what it says is no text: the
            # values stay unknown.
            with suppress(libvirt.libvirtError, Failure, OSError, ValueError, TypeError):
                # Its own: a waiting request blocks its connection.
                connection = connection or self._connect()
                self._query_one(uuid, connection.lookupByUUIDString(uuid))
            with self._changed:
                self._expected.discard(uuid)
                self._changed.notify()

    def _take(self) -> str | None:
        with self._changed:
            is_late = time.monotonic() >= self._deadline
            return None if is_late or not self._waiting else self._waiting.pop()

    def _query_one(self, uuid: str, domain: Any) -> None:
        with hold_agent(domain, HELD_SECONDS):
            began = self._since[uuid] = time.monotonic()
            try:
                left = int(self._deadline - began)
                with agent_answers_within(domain, max(1, min(AGENT_TIMEOUT, left))):
                    self._read(uuid, domain)
            except libvirt.libvirtError as error:
                took = time.monotonic() - began
                if took > SILENT_AFTER and has_error_code(error, *_NO_RESPONSE):
                    self._silence.add([uuid])
                    return
            finally:
                del self._since[uuid]
            self._silence.remove([uuid])

    def _read(self, uuid: str, domain: Any) -> None:
        if uuid in self._addresses:
            self._found_addresses[uuid] = read_agent_addresses(domain)
        # After the deadline the time limit is no longer ours.
        if uuid in self._filesystems and time.monotonic() < self._deadline:
            info = domain.guestInfo(libvirt.VIR_DOMAIN_GUEST_INFO_FILESYSTEM, 0)
            self._found_filesystems[uuid] = parse_filesystems(info)


def _shuffled(uuids: set[str]) -> list[str]:
    return random.sample(sorted(uuids), len(uuids))


def parse_filesystems(info: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the guest's writable file systems from the flat fields of virDomainGetGuestInfo.

    A file system with several mount points is listed once; one of unknown size is left out.
    """
    found: dict[str, dict[str, Any]] = {}
    for number in range(int(info.get("fs.count", 0))):
        entry = {
            key: info.get(f"fs.{number}.{name}")
            for key, name in (
                ("device", "name"),
                ("mountpoint", "mountpoint"),
                ("type", "fstype"),
                ("total_bytes", "total-bytes"),
                ("used_bytes", "used-bytes"),
            )
        }
        if entry["type"] in READ_ONLY or None in (entry["total_bytes"], entry["used_bytes"]):
            continue
        found.setdefault(str(entry["device"]), entry)
    return list(found.values())
