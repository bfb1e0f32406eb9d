# Copyright: Virtplay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Observes a whole host once: its resources and all its domains."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..domain.view import agent_is_connected, pending_values
from ..domain.xml import parse_domain
from ..failure import Failure
from ..host.connection import (
    DomainState,
    error_text,
    has_error_code,
    libvirt,
    open_connection,
    state_from_code,
)
from ..host.facts import (
    measure_pools,
    read_bridges,
    read_host,
    read_networks,
    read_pools,
    read_templates,
)
from ..host.qemu_process import file_sizes, started_at
from ..lock.fence import Fence
from ..snapshot.change import fill_sizes, list_snapshots
from ..snapshot.qcow2 import Qcow2Image, read_image
from ..units import GIB
from .addresses import choose_addresses, read_leases, read_neighbours
from .agents import AgentQuestions
from .monitor import MonitorAnswers, ask_monitors, occupied_domains
from .statistics import answered_by_monitor, read_statistics


@dataclass
class _Seen:
    """One domain as libvirtd alone can describe it."""

    uuid: str
    handle: Any
    active: bool
    record: dict[str, Any]
    facts: dict[str, Any]
    has_agent: bool
    cpu_time_ns: int | None

    def macs(self) -> list[str]:
        """Return the MAC addresses of its interfaces."""
        return [nic["mac"] for nic in self.facts.get("interfaces", ()) if nic.get("mac")]

    def paths(self) -> list[str]:
        """Return the paths of its disks."""
        return [disk["path"] for disk in self.facts.get("disks", ()) if disk.get("path")]


def observe(
    uri: str, timeout: float, templates_path: Path, *, filesystems: bool = True
) -> dict[str, Any]:
    """Return the value of host_info; raises Failure when libvirt does not answer at uri.

    Ends after timeout seconds with what is known by then. Leaves threads behind that may never
    end: call it in a process of its own.
    """
    began = time.monotonic()
    connection = open_connection(uri)
    try:
        observed = _observe(
            connection,
            uri,
            timeout=timeout,
            deadline=began + timeout,
            templates_path=templates_path,
            filesystems=filesystems,
        )
    except libvirt.libvirtError as error:
        raise Failure(f"cannot observe the host at {uri}: {error_text(error)}") from error
    observed["host"]["took_seconds"] = round(time.monotonic() - began, 3)
    return observed


def _observe(
    connection: Any,
    uri: str,
    *,
    timeout: float,
    deadline: float,
    templates_path: Path,
    filesystems: bool,
) -> dict[str, Any]:
    def connect() -> Any:
        return open_connection(uri)

    # What is counted is read from here on; the clock that nobody sets tells how long that took.
    uptime = time.clock_gettime(time.CLOCK_BOOTTIME)
    seen = _see_domains(connection)
    networks = connection.listAllNetworks(0)
    leases = read_leases(networks)
    with_agent = {domain.uuid: domain.handle for domain in seen if domain.has_agent}
    # The agent of a stuck QEMU does not answer either.
    answering = with_agent.keys() - occupied_domains(with_agent)
    agents = AgentQuestions(
        connect,
        answering & {domain.uuid for domain in _without_lease(seen, leases)},
        answering if filesystems else set(),
    )
    answers = ask_monitors(
        connect,
        {domain.uuid: domain.handle for domain in seen},
        {domain.uuid for domain in seen if not domain.active},
        deadline,
        patience=0.4 * timeout,
    )
    pools = read_pools(connection)
    sizes = _Late(lambda: measure_pools(pools))
    files = _Late(lambda: _measure_disks(seen))
    images = _Late(lambda: _read_images(seen))
    host_networks = read_networks(networks)
    observed = {
        "host": {**read_host(connection, uri), "uptime_seconds": round(uptime, 3)},
        "networks": host_networks,
        "bridges": read_bridges(host_networks),
        "templates": read_templates(templates_path),
    }
    addresses, systems = agents.collect(deadline)
    sources = (leases, addresses, read_neighbours())
    patience = max(deadline, time.monotonic() + 0.2)
    for name, measured in sizes.collect(patience).items():
        next(pool for pool in pools if pool["name"] == name).update(measured)
    measured_files = files.collect(patience)
    read = images.collect(patience)
    domains = []
    for domain in seen:
        domain.facts["addresses"] = (
            choose_addresses(domain.macs(), sources) if domain.active else []
        )
        fill_sizes(domain.facts["snapshots"], (read.get(path) for path in domain.paths()))
        if domain.uuid in systems:
            domain.facts["filesystems"] = systems[domain.uuid]
        domains.append(_complete(domain, answers, measured_files))
    return {**observed, "pools": pools, "domains": domains}


def _see_domains(connection: Any) -> list[_Seen]:
    """Describe every domain without a question to any QEMU, in order of names."""
    groups = libvirt.VIR_DOMAIN_STATS_STATE | libvirt.VIR_DOMAIN_STATS_INTERFACE
    flags = libvirt.VIR_CONNECT_GET_ALL_DOMAINS_STATS_NOWAIT
    listed = connection.getAllDomainStats(groups, flags)
    autostart = _uuids(connection, libvirt.VIR_CONNECT_LIST_DOMAINS_AUTOSTART)
    snapshots = _uuids(connection, libvirt.VIR_CONNECT_LIST_DOMAINS_HAS_SNAPSHOT)
    seen = []
    for handle, record in listed:
        try:
            domain = _see_domain(handle, record, snapshots)
        except libvirt.libvirtError as error:
            if has_error_code(error, "VIR_ERR_NO_DOMAIN"):
                continue  # deleted since it was listed
            raise
        domain.facts["autostart"] = domain.uuid in autostart
        seen.append(domain)
    return sorted(seen, key=lambda domain: domain.facts["name"])


def _see_domain(handle: Any, record: dict[str, Any], snapshots: set[str]) -> _Seen:
    uuid = handle.UUIDString()
    active = bool(handle.isActive())
    state = state_from_code(record.get("state.state"))
    text = handle.XMLDesc(0)
    facts: dict[str, Any] = {"uuid": uuid, "name": handle.name()}
    try:
        facts |= parse_domain(text)
        if active and handle.isPersistent():
            config = parse_domain(handle.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE))
            if pending := pending_values(facts, config):
                facts["pending"] = pending
    except (Failure, ValueError, TypeError, AttributeError) as error:
        # Somebody else's domain of a kind that we do not know must not hide all others.
        facts["unreadable"] = f"cannot read the definition of domain {handle.name()}: {error}"
    # The fence may have seen more generations than the metadata, which power actions leave alone.
    metadata = facts.get("metadata") or {}
    fenced = Fence(uuid, label=facts["name"]).recall().get("generation")
    facts["generation"] = max(fenced or 0, metadata.get("generation") or 0)
    facts["state"] = str(state)
    facts["snapshots"] = list_snapshots(handle)[0] if uuid in snapshots else []
    facts["started_at"] = started_at(handle.name()) if active else None
    return _Seen(
        uuid=uuid,
        handle=handle,
        active=active,
        record=record,
        facts=facts,
        has_agent=state is DomainState.RUNNING and agent_is_connected(text),
        cpu_time_ns=handle.info()[4] if active else None,
    )


def _uuids(connection: Any, flags: int) -> set[str]:
    return {domain.UUIDString() for domain in connection.listAllDomains(flags)}


def _without_lease(seen: list[_Seen], leases: dict[str, Any]) -> list[_Seen]:
    """Return the domains whose agent is worth a question."""
    return [
        domain
        for domain in seen
        if domain.has_agent and any(mac.lower() not in leases for mac in domain.macs())
    ]


def _measure_disks(seen: list[_Seen]) -> dict[str, dict[str, int]]:
    """Return the sizes of all disk files, by path.

    For a running QEMU libvirt's "allocation" is the end of the last write, not space in use.
    """
    return {path: file_sizes(path) for domain in seen for path in domain.paths()}


def _read_images(seen: list[_Seen]) -> dict[str, Qcow2Image | None]:
    """Return the images of the domains that have snapshots, by path."""
    with_snapshots = [domain for domain in seen if domain.facts["snapshots"]]
    return {path: read_image(path) for domain in with_snapshots for path in domain.paths()}


def _complete(
    domain: _Seen, answers: MonitorAnswers, files: dict[str, dict[str, int]]
) -> dict[str, Any]:
    """Return the domain's entry in host_info."""
    record = domain.record | answers.records.get(domain.uuid, {})
    if not domain.active:
        # Of a guest that is off only the sizes are facts.
        record = {key: value for key, value in record.items() if key.startswith("block.")}
    macs = {nic.get("target"): nic["mac"] for nic in domain.facts.get("interfaces", ())}
    stats = read_statistics(record, domain.cpu_time_ns, macs)
    sizes = {block.get("target"): block for block in stats["block"]}
    for disk in domain.facts.get("disks", ()):
        in_file = files.get(disk.get("path"), {})
        from_libvirt = sizes.get(disk.get("target"), {})
        for key, first, second in (
            ("capacity_bytes", from_libvirt, in_file),
            ("allocation_bytes", in_file, from_libvirt),
        ):
            if key in first or key in second:
                disk[key] = first.get(key, second.get(key))
        if "capacity_bytes" in disk:
            disk["size"] = round(disk["capacity_bytes"] / GIB, 3)
    stuck = domain.active and domain.uuid in answers.stuck and not answered_by_monitor(record)
    return domain.facts | {"stuck": stuck, "stats": stats}


class _Late:
    """A question to file systems, in a thread because a dead one never answers."""

    def __init__(self, call: Callable[[], dict[str, Any]]) -> None:
        self._answer: dict[str, Any] = {}
        self._call = call
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        self._answer = self._call()

    def collect(self, deadline: float) -> dict[str, Any]:
        """Return the answer, {} when there is none at the deadline (monotonic seconds)."""
        self._thread.join(max(0.0, deadline - time.monotonic()))
        return self._answer
