# Copyright: Virtplay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Queries the guest agents of many domains in parallel, within a time limit."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from ..host.connection import libvirt
from .addresses import Address, read_agent_addresses

# Each waiting query blocks one of libvirtd's 20 workers, for at most AGENT_TIMEOUT seconds.
MAX_QUERIES = 5
AGENT_TIMEOUT = 2
# Read-only images are always full: their usage is no information.
READ_ONLY = frozenset({"iso9660", "squashfs", "udf", "cramfs", "erofs"})


class AgentQueries:
    """Queries the guest agents of domains in parallel threads, from now until `collect`."""

    def __init__(
        self, connect: Callable[[], Any], addresses: set[str], filesystems: set[str]
    ) -> None:
        """Start the queries; the sets hold the UUIDs to query for addresses and file systems."""
        self._addresses = addresses
        self._filesystems = filesystems
        self._found_addresses: dict[str, list[Address]] = {}
        self._found_filesystems: dict[str, list[dict[str, Any]]] = {}
        self._waiting: queue.SimpleQueue[str] = queue.SimpleQueue()
        # Addresses first: without them a guest cannot be reached.
        for uuid in (*sorted(addresses), *sorted(filesystems - addresses)):
            self._waiting.put(uuid)
        self._connect = connect
        self._threads = [
            threading.Thread(target=self._query, daemon=True)
            for _thread in range(min(MAX_QUERIES, self._waiting.qsize()))
        ]
        for thread in self._threads:
            thread.start()

    def collect(
        self, deadline: float
    ) -> tuple[dict[str, list[Address]], dict[str, list[dict[str, Any]]]]:
        """Return addresses by MAC and file systems by UUID, as known at deadline (monotonic)."""
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        return dict(self._found_addresses), dict(self._found_filesystems)

    def _query(self) -> None:
        connection = self._connect()  # its own: a waiting request blocks its connection
        while True:
            try:
                uuid = self._waiting.get_nowait()
            except queue.Empty:
                return
            try:
                self._query_one(uuid, connection.lookupByUUIDString(uuid))
            except libvirt.libvirtError:
                continue  # no agent, or it does not respond: the values stay unknown

    def _query_one(self, uuid: str, domain: Any) -> None:
        domain.agentSetResponseTimeout(AGENT_TIMEOUT, 0)
        try:
            if uuid in self._addresses:
                self._found_addresses.update(read_agent_addresses(domain))
            if uuid in self._filesystems:
                info = domain.guestInfo(libvirt.VIR_DOMAIN_GUEST_INFO_FILESYSTEM, 0)
                self._found_filesystems[uuid] = parse_filesystems(info)
        finally:
            # The time-out applies to all clients of the domain, and freezing may take longer.
            domain.agentSetResponseTimeout(libvirt.VIR_DOMAIN_AGENT_RESPONSE_TIMEOUT_BLOCK, 0)


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
