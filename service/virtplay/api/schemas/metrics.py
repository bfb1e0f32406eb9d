"""Schemas: a VM's metrics, and what Prometheus asks for."""

import re
import time
from datetime import UTC, datetime
from enum import StrEnum
from typing import Literal, Self

from pydantic import BaseModel, Field, RootModel, field_validator, model_validator

from virtplay.api.schemas.fields import Query


class MetricsPart(StrEnum):
    """A part of the metrics."""

    SERVICE = "service"
    """What the service counts of itself."""
    HOSTS = "hosts"
    """All hosts and their VMs."""


class ExpositionQuery(Query):
    """The query of GET /metrics."""

    host: str | None = Field(
        None, max_length=255, description="this host and its VMs only, nothing of the service"
    )
    part: MetricsPart | None = Field(
        None, description="service: what the service counts of itself; hosts: all hosts and VMs"
    )

    @model_validator(mode="after")
    def _one_of_them(self) -> Self:
        if self.host is not None and self.part is not None:
            raise ValueError("host and part exclude each other")
        return self


class TargetGroup(BaseModel):
    """One host as Prometheus' http_sd wants it."""

    targets: list[str]
    labels: dict[str, str]


class TargetList(RootModel[list[TargetGroup]]):
    """All hosts, in http_sd's own shape."""


STEPS = {"1m": 60, "5m": 300, "1h": 3600}
POINTS_MAX = 10_000
DEFAULT_SPAN = 3600
LATEST = datetime(9000, 1, 1, tzinfo=UTC)
PLUS_LOST = re.compile(r" (?=\d{2}(:?\d{2})?$)")
"""An offset whose + was not escaped in the query string, and so arrived as a space."""


def read_moment(text: str) -> int:
    """Seconds since the epoch of an ISO 8601 text with its offset; ValueError."""
    try:
        moment = datetime.fromisoformat(PLUS_LOST.sub("+", text))
    except ValueError:
        raise ValueError("must be an ISO 8601 time such as 2024-01-01T12:00:00Z") from None
    if moment.tzinfo is None:
        raise ValueError("must have an offset from UTC, as in 2024-01-01T12:00:00Z")
    if not datetime.fromtimestamp(0, UTC) <= moment < LATEST:
        raise ValueError("must be after 1970 and before 9000")
    return int(moment.timestamp())


class VmMetricsQuery(Query):
    """The query of GET /vms/{id}/metrics."""

    from_: str | None = Field(
        None, alias="from", max_length=64, description="ISO 8601; default: an hour before `to`"
    )
    to: str | None = Field(None, max_length=64, description="ISO 8601; default: now")
    interval: Literal["1m", "5m", "1h"] = Field("1m", description="from one point to the next")
    history: Literal["cpu", "all"] = Field(
        "cpu", description="whose history is given: only cpu's, or also memory's, disk's, network's"
    )

    @field_validator("from_", "to")
    @classmethod
    def _readable(cls, value: str | None) -> str | None:
        if value is not None:
            read_moment(value)
        return value

    @model_validator(mode="after")
    def _bounded(self) -> Self:
        since, until = self.span(time.time())
        if since >= until:
            raise ValueError("from must be before to")
        if (until - since) / STEPS[self.interval] > POINTS_MAX:
            raise ValueError(f"from, to and interval must not give more than {POINTS_MAX} points")
        return self

    def span(self, now: float) -> tuple[int, int]:
        """From and to in seconds since the epoch, on whole intervals."""
        step = STEPS[self.interval]
        until = read_moment(self.to) if self.to is not None else int(now) + 1
        since = read_moment(self.from_) if self.from_ is not None else until - DEFAULT_SPAN
        return since - since % step, until


class Point(BaseModel):
    """One value of a history."""

    timestamp: str
    value: float


class CpuUse(BaseModel):
    """Use of all vCPUs."""

    usage: float | None = Field(description="percent of all vCPUs in the last interval")
    history: list[Point]


class MemoryUse(BaseModel):
    """Use of memory."""

    used: int | None = Field(description="MiB that the guest uses; null if it does not report")
    total: int | None = Field(description="MiB")
    usage: float | None = Field(description="percent")
    history: list[Point] | None = Field(None, description="usage")


class DiskPoint(BaseModel):
    """The disks' use over one interval."""

    timestamp: str
    read: int | None
    write: int | None
    usage: float | None


class DiskUse(BaseModel):
    """Use of all disks."""

    read: int | None = Field(description="bytes a second in the last interval")
    write: int | None = Field(description="bytes a second in the last interval")
    usage: float | None = Field(
        description="percent of the guest's file systems as its agent says, else of the images"
    )
    readTotal: int | None = Field(description="bytes since it was started")  # noqa: N815
    writeTotal: int | None = Field(description="bytes since it was started")  # noqa: N815
    history: list[DiskPoint] | None = None


class NetworkPoint(BaseModel):
    """The network cards' use over one interval."""

    timestamp: str
    rx: int | None
    tx: int | None


class NetworkUse(BaseModel):
    """Use of all network cards."""

    rx: int | None = Field(description="bytes a second received in the last interval")
    tx: int | None = Field(description="bytes a second sent in the last interval")
    rxTotal: int | None = Field(description="bytes since it was started")  # noqa: N815
    txTotal: int | None = Field(description="bytes since it was started")  # noqa: N815
    history: list[NetworkPoint] | None = None


class VmMetrics(BaseModel):
    """What a VM uses, and used; null where nothing is known, and no point where there is none."""

    cpu: CpuUse
    memory: MemoryUse
    disk: DiskUse
    network: NetworkUse
    interval: str
    observedAt: str | None  # noqa: N815
