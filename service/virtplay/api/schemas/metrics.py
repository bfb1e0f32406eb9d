"""Schemas: the metrics of a VM, and what Prometheus requests."""

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
    """The service's own metrics."""
    HOSTS = "hosts"
    """The metrics of all hosts and their VMs."""


class ExpositionQuery(Query):
    """The query of GET /metrics."""

    host: str | None = Field(
        None,
        max_length=255,
        description="only this host and its VMs, without the service's own metrics",
    )
    part: MetricsPart | None = Field(
        None, description="service: the service's own metrics; hosts: all hosts and VMs"
    )

    @model_validator(mode="after")
    def _one_of_them(self) -> Self:
        if self.host is not None and self.part is not None:
            raise ValueError("host and part are mutually exclusive")
        return self


class TargetGroup(BaseModel):
    """One host in the format of Prometheus' http_sd."""

    targets: list[str]
    labels: dict[str, str]


class TargetList(RootModel[list[TargetGroup]]):
    """All hosts in the format of Prometheus' http_sd."""


STEPS = {"1m": 60, "5m": 300, "1h": 3600}
POINTS_MAX = 10_000
DEFAULT_SPAN = 3600
LATEST = datetime(9000, 1, 1, tzinfo=UTC)
PLUS_LOST = re.compile(r" (?=\d{2}(:?\d{2})?$)")
"""The space before an offset whose + was not escaped in the query string."""


def read_moment(text: str) -> int:
    """Return the seconds since the epoch of an ISO 8601 time with offset; raise ValueError."""
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
    interval: Literal["1m", "5m", "1h"] = Field("1m", description="time between two points")
    history: Literal["cpu", "all"] = Field(
        "cpu", description="cpu: CPU history only; all: history of every resource"
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
        """Return from and to in seconds since the epoch, aligned to the interval."""
        step = STEPS[self.interval]
        until = read_moment(self.to) if self.to is not None else int(now) + 1
        since = read_moment(self.from_) if self.from_ is not None else until - DEFAULT_SPAN
        return since - since % step, until


class Point(BaseModel):
    """One point of a history."""

    timestamp: str
    value: float


class CpuUse(BaseModel):
    """The usage of all vCPUs."""

    usage: float | None = Field(description="percent of all vCPUs in the last interval")
    history: list[Point]


class MemoryUse(BaseModel):
    """The usage of memory."""

    used: int | None = Field(description="MiB used by the guest; null if it does not report")
    total: int | None = Field(description="MiB")
    usage: float | None = Field(description="percent")
    history: list[Point] | None = Field(None, description="usage")


class DiskPoint(BaseModel):
    """The disk usage in one interval."""

    timestamp: str
    read: int | None
    write: int | None
    usage: float | None


class DiskUse(BaseModel):
    """The usage of all disks."""

    read: int | None = Field(description="bytes per second in the last interval")
    write: int | None = Field(description="bytes per second in the last interval")
    usage: float | None = Field(
        description="used percent of the guest's file systems; without an agent, of the images"
    )
    readTotal: int | None = Field(description="bytes since the start of the VM")  # noqa: N815
    writeTotal: int | None = Field(description="bytes since the start of the VM")  # noqa: N815
    history: list[DiskPoint] | None = None


class NetworkPoint(BaseModel):
    """The network usage in one interval."""

    timestamp: str
    rx: int | None
    tx: int | None


class NetworkUse(BaseModel):
    """The usage of all network cards."""

    rx: int | None = Field(description="bytes per second received in the last interval")
    tx: int | None = Field(description="bytes per second sent in the last interval")
    rxTotal: int | None = Field(description="bytes since the start of the VM")  # noqa: N815
    txTotal: int | None = Field(description="bytes since the start of the VM")  # noqa: N815
    history: list[NetworkPoint] | None = None


class VmMetrics(BaseModel):
    """The current and past usage of a VM; unknown values are null, unknown points are omitted."""

    cpu: CpuUse
    memory: MemoryUse
    disk: DiskUse
    network: NetworkUse
    interval: str
    observedAt: str | None  # noqa: N815
