"""API: what a handler gets to work with."""

from dataclasses import dataclass
from typing import Any

from virtplay.console.opening import Consoles
from virtplay.history import History, HistorySource
from virtplay.jobs import Caller
from virtplay.metrics.exposition import Exposition
from virtplay.observation import Observer
from virtplay.settings import Settings
from virtplay.snapshots import Snapshots
from virtplay.vms import Vms


@dataclass
class Parts:
    """The parts of the running service that handlers call."""

    settings: Settings
    vms: Vms
    snapshots: Snapshots
    consoles: Consoles
    observer: Observer
    exposition: Exposition
    history: History
    past: HistorySource
    """Where a VM's past use is read: the history itself, or a Prometheus."""


@dataclass(frozen=True)
class Call:
    """One checked request: who, what, with which path values, query and body."""

    parts: Parts
    caller: Caller
    path: dict[str, str]
    query: Any
    body: Any
    address: str = ""
    """What the client calls the service: its Host header, not checked."""
