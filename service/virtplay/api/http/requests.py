"""A validated request, as handlers receive it."""

from dataclasses import dataclass
from typing import Any

from virtplay.jobs.submission import Caller
from virtplay.services import Services


@dataclass(frozen=True)
class ApiRequest:
    """A validated request: the caller, the path values, the query and the body."""

    services: Services
    caller: Caller
    path: dict[str, str]
    query: Any
    body: Any
    address: str = ""
    """The Host header of the client, not validated."""
