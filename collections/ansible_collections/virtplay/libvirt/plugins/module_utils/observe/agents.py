# Copyright: Virtplay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Queries the guest agents of many domains in parallel, within a time limit."""

from __future__ import annotations

import queue
import random
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from ..failure import Failure
from ..host.connection import libvirt
from ..lock.agent import agent_answers_within, hold_agent, reset_agent_timeout
from .addresses import Address, read_agent_addresses

# Each waiting query blocks one of libvirtd's 20 workers, for at most AGENT_TIMEOUT seconds.
MAX_QUERIES = 5
AGENT_TIMEOUT = 2
# Another observation holds an agent for a moment; a snapshot, until it has thawed the guest.
HELD_SECONDS = 0.5
RESET_SECONDS = 0.3
# Read-only images are always full: their usage is no information.
READ_ONLY = frozenset({"iso9660", "squashfs", "udf", "cramfs", "erofs"})


class AgentQueries:
    """Queries the guest agents of domains in parallel threads, from now until `collect`."""

    def __init__(
        self,
        connect: Callable[[], Any],
        addresses: set[str],
        filesystems: set[str],
        deadline: float,
    ) -> None:
        """Start the queries; the sets hold the UUIDs to query for addresses and file systems.

        None begins after the deadline (monotonic seconds).
        """
        self._deadline = deadline
        self._addresses = addresses
        self._filesystems = filesystems
        self._found_addresses: dict[str, dict[str, list[Address]]] = {}
        self._found_filesystems: dict[str, list[dict[str, Any]]] = {}
        self._waiting: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._queried: dict[str, Any] = {}
        # Addresses first: without them a guest cannot be reached. In any order, so that agents that
        # do not respond never keep the same others from their turn.
        for uuids in (list(addresses), list(filesystems - addresses)):
            random.shuffle(uuids)
            for uuid in uuids:
                self._waiting.put(uuid)
        self._connect = connect
        self._threads = [
            threading.Thread(target=self._query, daemon=True)
            for _thread in range(min(MAX_QUERIES, self._waiting.qsize()))
        ]
        for thread in self._threads:
            thread.start()

    def collect(
        self,
    ) -> tuple[dict[str, dict[str, list[Address]]], dict[str, list[dict[str, Any]]]]:
        """Return addresses by UUID and MAC address, and file systems by UUID.

        As known at the deadline.
        """
        for thread in self._threads:
            thread.join(max(0.0, self._deadline - time.monotonic()))
        # This process may end before these queries do. Not by this thread: libvirtd may hang.
        late = threading.Thread(target=self._reset_timeouts, daemon=True)
        late.start()
        late.join(RESET_SECONDS)
        return dict(self._found_addresses), dict(self._found_filesystems)

    def _reset_timeouts(self) -> None:
        for uuid in list(self._queried):
            with suppress(libvirt.libvirtError, Failure):
                reset_agent_timeout(self._connect().lookupByUUIDString(uuid))

    def _query(self) -> None:
        connection = self._connect()  # its own: a waiting request blocks its connection
        while time.monotonic() < self._deadline:
            try:
                uuid = self._waiting.get_nowait()
            except queue.Empty:
                return
            try:
                self._query_one(uuid, connection.lookupByUUIDString(uuid))
            except (libvirt.libvirtError, Failure, OSError):
                # No agent, it does not respond, or a snapshot uses it: the values stay unknown.
                continue

    def _query_one(self, uuid: str, domain: Any) -> None:
        with hold_agent(domain, HELD_SECONDS):
            self._queried[uuid] = domain
            try:
                left = int(self._deadline - time.monotonic())
                with agent_answers_within(domain, max(1, min(AGENT_TIMEOUT, left))):
                    self._read(uuid, domain)
            finally:
                del self._queried[uuid]

    def _read(self, uuid: str, domain: Any) -> None:
        if uuid in self._addresses:
            self._found_addresses[uuid] = read_agent_addresses(domain)
        # After the deadline the time limit is no longer ours.
        if uuid in self._filesystems and time.monotonic() < self._deadline:
            info = domain.guestInfo(libvirt.VIR_DOMAIN_GUEST_INFO_FILESYSTEM, 0)
            self._found_filesystems[uuid] = parse_filesystems(info)


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
