"""API: /vms/{id}/metrics."""

import asyncio
import re
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any, Literal, Self

from pydantic import BaseModel, Field, field_validator, model_validator

from virtplay.api.calls import Call
from virtplay.api.envelope import Answer
from virtplay.api.schemas import Query
from virtplay.rates import Counters, Use
from virtplay.store.models import Vm
from virtplay.store.samples import Sample
from virtplay.store.vms import find_vm
from virtplay.times import time_text

STEPS = {"1m": 60, "5m": 300, "1h": 3600}
POINTS_MAX = 10_000
DEFAULT_SPAN = 3600
FEW_POINTS = 500
"""More are put into JSON in a thread."""
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


class MetricsQuery(Query):
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


async def get_metrics(call: Call) -> Answer:
    """GET /vms/{id}/metrics."""
    query: MetricsQuery = call.query
    vm = await find_vm(call.path["id"])
    since, until = query.span(time.time())
    step = STEPS[query.interval]
    past = await call.parts.past.read({"id": vm.id, "uuid": str(vm.uuid)}, since, until, step)
    latest = call.parts.history.latest(str(vm.uuid))
    if len(past) > FEW_POINTS:
        return Answer(await asyncio.to_thread(_show, vm, query, latest, past))
    return Answer(_show(vm, query, latest, past))


def _show(
    vm: Vm, query: MetricsQuery, latest: tuple[Use, Counters] | None, past: Sequence[Sample]
) -> dict[str, Any]:
    use, counters = latest if latest else (Use(), None)
    used, total = use.memory_used, use.memory_total
    shown = VmMetrics(
        cpu=CpuUse(
            usage=_percent(use.cpu),
            history=_points(past, lambda sample: _hundredth(sample.cpu)),
        ),
        memory=MemoryUse(
            used=round(used / 1024**2) if used is not None else None,
            total=total // 1024**2 if total is not None else vm.memory,
            usage=_percent(used / total * 100 if used is not None and total else None),
        ),
        disk=DiskUse(
            read=_whole(use.disk_read),
            write=_whole(use.disk_write),
            usage=_percent(use.disk_usage),
            readTotal=counters.disk_read if counters else None,
            writeTotal=counters.disk_write if counters else None,
        ),
        network=NetworkUse(
            rx=_whole(use.network_rx),
            tx=_whole(use.network_tx),
            rxTotal=counters.network_rx if counters else None,
            txTotal=counters.network_tx if counters else None,
        ),
        interval=query.interval,
        observedAt=time_text(vm.observed_at),
    )
    if query.history != "all":
        return shown.model_dump(mode="json", exclude=HISTORIES)
    shown.memory.history = _points(past, _memory_usage)
    shown.disk.history = [
        DiskPoint(
            timestamp=_moment(sample),
            read=sample.disk_read,
            write=sample.disk_write,
            usage=_hundredth(sample.disk_usage),
        )
        for sample in past
    ]
    shown.network.history = [
        NetworkPoint(timestamp=_moment(sample), rx=sample.network_rx, tx=sample.network_tx)
        for sample in past
    ]
    return shown.model_dump(mode="json")


HISTORIES = {"memory": {"history"}, "disk": {"history"}, "network": {"history"}}


def _points(past: Sequence[Sample], value_of: Callable[[Sample], float | None]) -> list[Point]:
    return [
        Point(timestamp=_moment(sample), value=value)
        for sample in past
        if (value := value_of(sample)) is not None
    ]


def _moment(sample: Sample) -> str:
    return time_text(datetime.fromtimestamp(sample.at, UTC)) or ""


def _memory_usage(sample: Sample) -> float | None:
    if sample.memory_used is None or not sample.memory_total:
        return None
    return round(sample.memory_used / sample.memory_total * 100, 2)


def _percent(value: float | None) -> float | None:
    return round(value, 2) if value is not None else None


def _hundredth(value: int | None) -> float | None:
    return value / 100 if value is not None else None


def _whole(value: float | None) -> int | None:
    return round(value) if value is not None else None
