"""HTTP: one checked request, as a handler gets it."""

from dataclasses import dataclass
from typing import Any

from virtplay.jobs.submission import Caller
from virtplay.services import Services


@dataclass(frozen=True)
class ApiRequest:
    """One checked request: who, what, with which path values, query and body."""

    services: Services
    caller: Caller
    path: dict[str, str]
    query: Any
    body: Any
    address: str = ""
    """What the client calls the service: its Host header, not checked."""
