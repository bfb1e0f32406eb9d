# Copyright: Virtplay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Observes a whole host once: its resources and all its domains."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..domain.xml import agent_is_connected, parse_domain, pending_values
from ..failure import Failure
from ..host.acceleration import doubt_kvm
from ..host.connection import (
    error_text,
    has_error_code,
    libvirt,
    open_connection,
    reason_from_code,
    saved_xml,
    state_from_code,
)
from ..host.definition import read_definition
from ..host.facts import (
    list_networks,
    read_bridges,
    read_host,
    read_networks,
)
from ..host.images import (
    Image,
    image_of,
    with_sizes,
)
from ..host.qemu_process import rfc3339, started_seconds
from ..host.silence import Silence
from ..lock.fence import Fence
from ..snapshot.list import fill_sizes, list_snapshots
from ..states import ACTIVE_STATES, DomainReason, DomainState
from .addresses import (
    Place,
    Sighting,
    addresses_since,
    booted_lately,
    choose_addresses,
    host_device,
    read_leases,
    read_neighbours,
)
from .agents import AgentQueries
from .background import Background
from .monitor import (
    STUCK_AFTER,
    MonitorResults,
    occupied_domains,
    query_disk_errors,
    query_monitors,
)
from .statistics import balloon_period, has_monitor_values, read_statistics
from .storage import StorageQueries
from .waiting import AddressWait


@dataclass
class _Found:
    """One domain as libvirtd alone describes it."""

    uuid: str
    handle: Any
    active: bool
    record: dict[str, Any]
    facts: dict[str, Any]
    has_agent: bool
    cpu_time_ns: int | None
    booted: float | None = None
    balloon_period: int = 0

    def nics(self) -> list[dict[str, Any]]:
        """Return the domain's network interfaces."""
        return list(self.facts.get("interfaces", ()))

    def disks(self) -> list[dict[str, Any]]:
        """Return the entries of the domain's disks."""
        return list(self.facts.get("disks", ()))

    def images(self) -> list[Image]:
        """Return the images of the domain's disks that are on the host."""
        return [image for disk in self.disks() if (image := image_of(disk))]

    def qcow2_paths(self) -> list[str]:
        """Return the paths of the images that may contain snapshots."""
        return [image.path for image in self.images() if image.format in {"qcow2", "auto"}]


class Observation:
    """Observes a whole host once, and afterwards waits for what has not responded so far.

    Leaves threads that may never end: run it in a process of its own.
    """

    def __init__(
        self,
        uri: str,
        timeout: float,
        templates_path: Path,
        *,
        startup: float = 0.0,
        filesystems: bool = True,
        awaited: Iterable[str] = (),
        wait: float = 0.0,
    ) -> None:
        """Observe the host at uri within timeout seconds after libvirt has responded.

        libvirt itself has startup seconds more. filesystems is whether agents are queried for them.
        Before, wait up to wait seconds for an address of one of the awaited domains (UUIDs).
        """
        self._awaited, self._wait = awaited, wait
        self._uri, self._timeout, self._startup = uri, timeout, startup
        self._templates_path, self._filesystems = templates_path, filesystems
        self._silence = Silence()
        self._queries: list[AgentQueries | StorageQueries] = []

    def run(self) -> dict[str, Any]:
        """Return the value of host_info; raises Failure if libvirt does not respond."""
        began = time.monotonic()
        connection = self._connect()
        try:
            # A libvirt that has just started probes QEMU for this first; it keeps the result.
            connection.getCapabilities()
            deadline = min(time.monotonic(), began + self._startup) + self._timeout
            if self._wait:
                responded = time.monotonic()
                AddressWait(connection, self._awaited).run(self._wait)
                waited = time.monotonic() - responded
                began, deadline = began + waited, deadline + waited
            observed = self._observe(connection, deadline)
        except libvirt.libvirtError as error:
            text = f"cannot observe the host at {self._uri}: {error_text(error)}"
            raise Failure(text) from error
        self._silence.write()
        observed["host"]["took_seconds"] = round(time.monotonic() - began, 3)
        return observed

    def is_done(self) -> bool:
        """Whether nothing is left to finish: all have responded, or have never been asked."""
        return self._silence.is_empty() and not any(q.is_waiting() for q in self._queries)

    def finish(self) -> None:
        """Wait some seconds for what had not responded before, and note what has."""
        for queries in self._queries:
            queries.finish()
        self._silence.write()

    def _connect(self) -> Any:
        return open_connection(self._uri)

    def _observe(self, connection: Any, deadline: float) -> dict[str, Any]:
        # The time of the counters read below, by a clock that is never set: rates depend on it.
        uptime = time.clock_gettime(time.CLOCK_BOOTTIME)
        found = _find_domains(connection)
        warnings: list[str] = []
        networks = list_networks(connection, warnings)
        host_networks = read_networks(networks, warnings)
        bridges = {network["name"]: network["bridge"] for network in host_networks}
        leases = read_leases(networks)
        with_agent = {domain.uuid: domain.handle for domain in found if domain.has_agent}
        # The agent of a stuck QEMU does not respond either.
        responsive = with_agent.keys() - occupied_domains(with_agent)
        agents_gone = self._silence.names() - with_agent.keys()
        self._silence.remove(name for name in agents_gone if not name.startswith("/"))
        agents = AgentQueries(
            self._connect,
            responsive & {domain.uuid for domain in _without_lease(found, bridges, leases)},
            responsive if self._filesystems else set(),
            deadline,
            self._silence,
        )
        storage = StorageQueries(
            self._connect,
            [disk for domain in found for disk in domain.disks()],
            [disk for domain in found if domain.facts["snapshots"] for disk in domain.disks()],
            self._templates_path,
            self._silence,
        )
        self._queries += [agents, storage]
        paused = {
            domain.uuid: domain.handle
            for domain in found
            if domain.facts["state_reason"] == DomainReason.IO_ERROR
        }
        errors = Background(lambda: query_disk_errors(self._connect, paused))
        results = query_monitors(
            self._connect,
            {domain.uuid: domain.handle for domain in found if domain.active},
            deadline,
            patience=0.4 * self._timeout,
        )
        storage.measure(self._uri, min(deadline, time.monotonic() + 0.4 * self._timeout), deadline)
        observed = {
            "host": {**read_host(connection, self._uri), "uptime_seconds": round(uptime, 3)},
            "networks": host_networks,
            "bridges": read_bridges(host_networks),
            "warnings": warnings,
        }
        addresses, systems = agents.collect()
        neighbours = read_neighbours()
        patience = max(deadline, time.monotonic() + 0.2)
        stored = storage.collect(patience, warnings)
        # A QEMU that does not respond to this must not delay the others' entries.
        disk_errors = errors.collect(min(patience + 0.2, time.monotonic() + STUCK_AFTER))
        domains = []
        for domain in found:
            domain.facts["addresses"] = choose_addresses(
                domain.nics() if domain.active else (),
                bridges,
                leases=leases,
                agent=addresses.get(domain.uuid, {}),
                neighbours=neighbours,
                booted=domain.booted,
            )
            images = [stored.images.get(path) for path in domain.qcow2_paths()]
            fill_sizes(domain.facts["snapshots"], images)
            if domain.uuid in disk_errors:
                domain.facts["disk_errors"] = disk_errors[domain.uuid]
            if domain.uuid in systems:
                domain.facts["filesystems"] = systems[domain.uuid]
            domains.append(_complete(domain, results, stored.files))
        if doubt := doubt_kvm(domains):
            warnings.append(doubt)
        found_here = {"pools": stored.pools, "templates": stored.templates, "domains": domains}
        return {**observed, **found_here}


def _find_domains(connection: Any) -> list[_Found]:
    """Return every domain, sorted by name, without a query to any QEMU."""
    groups = libvirt.VIR_DOMAIN_STATS_STATE | libvirt.VIR_DOMAIN_STATS_INTERFACE
    flags = libvirt.VIR_CONNECT_GET_ALL_DOMAINS_STATS_NOWAIT
    listed = connection.getAllDomainStats(groups, flags)
    autostart = _uuids(connection, libvirt.VIR_CONNECT_LIST_DOMAINS_AUTOSTART)
    snapshots = _uuids(connection, libvirt.VIR_CONNECT_LIST_DOMAINS_HAS_SNAPSHOT)
    saved = _uuids(connection, libvirt.VIR_CONNECT_LIST_DOMAINS_MANAGEDSAVE)
    transient = _uuids(connection, libvirt.VIR_CONNECT_LIST_DOMAINS_TRANSIENT)
    found = []
    for handle, record in listed:
        try:
            domain = _find_domain(handle, record, snapshots, saved, transient)
        except libvirt.libvirtError as error:
            if has_error_code(error, "VIR_ERR_NO_DOMAIN"):
                continue  # deleted since it was listed
            if not connection.isAlive():
                raise
            domain = _unreadable(handle, record, error)
        domain.facts["autostart"] = domain.uuid in autostart
        found.append(domain)
    return sorted(found, key=lambda domain: domain.facts["name"])


def _find_domain(
    handle: Any,
    record: dict[str, Any],
    snapshots: set[str],
    saved: set[str],
    transient: set[str],
) -> _Found:
    uuid = handle.UUIDString()
    active = bool(handle.isActive())
    persistent = uuid not in transient
    state = state_from_code(record.get("state.state"))
    reason = reason_from_code(state, record.get("state.reason"), has_managed_save=uuid in saved)
    text = read_definition(handle, active=active)
    facts: dict[str, Any] = {"uuid": uuid, "name": handle.name(), "snapshots": []}
    try:
        later = None
        if active and persistent:
            later = read_definition(handle, active=True, inactive=True)
        elif reason == DomainReason.SAVED and (at_start := saved_xml(handle)):
            text, later = at_start, text
        facts |= parse_domain(text)
        if later is not None:
            config = parse_domain(later)
            if pending := pending_values(facts, config):
                facts["pending"] = pending
        if uuid in snapshots:
            facts["snapshots"] = list_snapshots(handle)[0]
    except (Failure, ValueError, TypeError, AttributeError) as error:
        # One domain with an unknown kind of definition must not hide all others.
        facts["unreadable"] = f"cannot read the definition of domain {handle.name()}: {error}"
    # The fence may record a higher generation than the metadata, which power actions do not update.
    metadata = facts.get("metadata") or {}
    fenced = Fence(uuid, label=facts["name"]).recall()
    facts["generation"] = max(fenced.get("generation") or 0, metadata.get("generation") or 0)
    facts["restart_job"] = (fenced.get("restart") or {}).get("job")
    facts["state"] = str(state)
    facts["state_reason"] = str(reason)
    facts["has_managed_save"] = uuid in saved
    facts["persistent"] = persistent
    started = started_seconds(handle.name()) if active else None
    facts["started_at"] = None if started is None else rfc3339(started)
    return _Found(
        uuid=uuid,
        handle=handle,
        active=active,
        record=record,
        facts=facts,
        has_agent=state is DomainState.RUNNING and agent_is_connected(text),
        cpu_time_ns=handle.info()[4] if active else None,
        booted=booted_lately(started) if reason == DomainReason.BOOTED else None,
        balloon_period=balloon_period(text),
    )


def _unreadable(handle: Any, record: dict[str, Any], error: Exception) -> _Found:
    """Return a domain for which libvirt reports an error; it must not hide others or seem gone."""
    state = state_from_code(record.get("state.state"))
    return _Found(
        uuid=handle.UUIDString(),
        handle=handle,
        active=state in ACTIVE_STATES,
        record=record,
        facts={
            "uuid": handle.UUIDString(),
            "name": handle.name(),
            "state": str(state),
            "state_reason": str(DomainReason.UNKNOWN),
            "snapshots": [],
            "unreadable": f"cannot read domain {handle.name()}: {error_text(error)}",
        },
        has_agent=False,
        cpu_time_ns=None,
    )


def _uuids(connection: Any, flags: int) -> set[str]:
    return {domain.UUIDString() for domain in connection.listAllDomains(flags)}


def _without_lease(
    found: list[_Found], bridges: dict[str, str], leases: dict[Place, list[Sighting]]
) -> list[_Found]:
    """Return the domains with an agent and an interface without a lease."""
    return [
        domain
        for domain in found
        if domain.has_agent
        and any(
            nic["mac"]
            and not addresses_since(
                leases.get((host_device(nic, bridges) or "", nic["mac"].lower()), ()),
                domain.booted,
            )
            for nic in domain.nics()
        )
    ]


def _complete(
    domain: _Found, results: MonitorResults, files: Mapping[Image, dict[str, int]]
) -> dict[str, Any]:
    """Return the domain's entry in host_info."""
    record = domain.record | results.records.get(domain.uuid, {})
    if not domain.active:
        # libvirt 9.0 counts its own CPU time as that of each stopped domain.
        record = {}
    macs = {nic["target"]: nic["mac"] for nic in domain.nics()}
    stats = read_statistics(
        record, domain.cpu_time_ns, macs, now=time.time(), period=domain.balloon_period
    )
    sizes = {block.get("target"): block for block in stats["block"]}
    for disk in domain.disks():
        block = sizes.get(disk.get("target"), {})
        image = image_of(disk)
        measured = dict(files.get(image, {})) if image else {}
        if "capacity_bytes" in block:
            measured["capacity_bytes"] = block["capacity_bytes"]
        if "allocation_bytes" not in measured:
            # libvirt's figure is the end of the last write since the start: 0 for a disk that is
            # full of old data.
            block.pop("allocation_bytes", None)
        disk.update(with_sizes(disk, measured))
        if not domain.active and measured:
            # As QEMU reports it: what a file occupies, or the size of a device.
            occupied = measured.get("allocation_bytes", measured.get("capacity_bytes"))
            entry = {"target": disk.get("target"), **measured, "physical_bytes": occupied}
            stats["block"].append(entry)
    stuck = domain.active and domain.uuid in results.stuck and not has_monitor_values(record)
    return domain.facts | {"stuck": stuck, "stats": stats}
