# Copyright: Virtplay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Waits, before an observation, until a guest that was started has an IP address.

On the host, as a look at its leases costs a thousandth of an observation from the controller.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

from ..domain.xml import agent_is_connected, parse_domain
from ..failure import Failure
from ..host.connection import libvirt
from ..host.definition import read_definition
from ..host.facts import list_networks, read_networks
from ..host.qemu_process import started_seconds
from ..lock.agent import agent_answers_within, hold_agent
from .addresses import (
    Address,
    booted_lately,
    choose_addresses,
    read_agent_addresses,
    read_leases,
    read_neighbours,
)

POLL_SECONDS = 0.2
# An agent that takes longer is not asked again by this wait.
AGENT_SECONDS = 1


class AddressWait:
    """Looks again and again which running domains have an address."""

    def __init__(self, connection: Any, awaited: Iterable[str]) -> None:
        """Wait for the domains with these UUIDs."""
        self._connection = connection
        self._awaited = set(awaited)
        self._nics: dict[str, list[dict[str, Any]]] = {}
        self._silent: set[str] = set()
        self._networks = list_networks(connection, [])
        found = read_networks(self._networks, [])
        self._bridges = {network["name"]: network["bridge"] for network in found}

    def run(self, seconds: float) -> None:
        """Return when an awaited domain has an address or another one gets one; or after seconds.

        Return at once if no awaited domain can get one: it is stopped, or has no network card.
        """
        deadline = time.monotonic() + seconds
        lacking: set[str] = set()
        while True:
            having, now_lacking = self._look()
            if having & (self._awaited | lacking) or not now_lacking & self._awaited:
                return
            lacking |= now_lacking
            left = deadline - time.monotonic()
            if left <= 0:
                return
            time.sleep(min(POLL_SECONDS, left))

    def _look(self) -> tuple[set[str], set[str]]:
        """Return the UUIDs of the running domains that have an address, and of those that lack it.

        Only the agents of awaited domains are asked.
        """
        leases, neighbours = read_leases(self._networks), read_neighbours()
        having, lacking = set(), set()
        for handle in self._connection.listAllDomains(libvirt.VIR_CONNECT_LIST_DOMAINS_ACTIVE):
            uuid = handle.UUIDString()
            try:
                nics = self._nics_of(uuid, handle)
                booted = booted_lately(started_seconds(handle.name()))
                if booted and handle.state()[1] != libvirt.VIR_DOMAIN_RUNNING_BOOTED:
                    booted = None
            except (libvirt.libvirtError, Failure, ValueError, TypeError, AttributeError):
                continue  # it has just stopped, or its definition cannot be read
            known = choose_addresses(
                nics,
                self._bridges,
                leases=leases,
                agent={},
                neighbours=neighbours,
                booted=booted,
            )
            if known or (uuid in self._awaited and self._ask_agent(uuid, handle)):
                having.add(uuid)
            elif nics:
                lacking.add(uuid)
        return having, lacking

    def _nics_of(self, uuid: str, handle: Any) -> list[dict[str, Any]]:
        if uuid not in self._nics:
            self._nics[uuid] = parse_domain(read_definition(handle, active=True))["interfaces"]
        return self._nics[uuid]

    def _ask_agent(self, uuid: str, handle: Any) -> dict[str, list[Address]]:
        if uuid in self._silent:
            return {}
        began = time.monotonic()
        # No agent, it does not respond, a snapshot uses it, or what it says is no text.
        with suppress(libvirt.libvirtError, Failure, OSError, ValueError, TypeError):
            if not agent_is_connected(read_definition(handle, active=True)):
                return {}
            with hold_agent(handle, 0), agent_answers_within(handle, AGENT_SECONDS):
                return read_agent_addresses(handle)
        if time.monotonic() - began >= AGENT_SECONDS:
            self._silent.add(uuid)
        return {}
