"""API: /vms/{id}/metrics."""

import asyncio
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

from virtplay.api.http.envelope import ApiResponse
from virtplay.api.http.requests import ApiRequest
from virtplay.api.schemas.metrics import (
    STEPS,
    CpuUse,
    DiskPoint,
    DiskUse,
    MemoryUse,
    NetworkPoint,
    NetworkUse,
    Point,
    VmMetrics,
    VmMetricsQuery,
)
from virtplay.metrics.rates import Counters, Usage
from virtplay.store.lookup import find_vm
from virtplay.store.models import Vm
from virtplay.store.samples import Sample
from virtplay.times import time_text
from virtplay.units import MIB

FEW_POINTS = 500
"""With more points, JSON is rendered in a thread."""


async def get_metrics(request: ApiRequest) -> ApiResponse:
    """GET /vms/{id}/metrics."""
    query: VmMetricsQuery = request.query
    vm = await find_vm(request.path["id"])
    since, until = query.span(time.time())
    step = STEPS[query.interval]
    past = await request.services.past.read({"id": vm.id, "uuid": str(vm.uuid)}, since, until, step)
    latest = request.services.history.latest(str(vm.uuid))
    if len(past) > FEW_POINTS:
        return ApiResponse(await asyncio.to_thread(_show, vm, query, latest, past))
    return ApiResponse(_show(vm, query, latest, past))


def _show(
    vm: Vm, query: VmMetricsQuery, latest: tuple[Usage, Counters] | None, past: Sequence[Sample]
) -> dict[str, Any]:
    use, counters = latest if latest else (Usage(), None)
    used, total = use.memory_used, use.memory_total
    shown = VmMetrics(
        cpu=CpuUse(
            usage=_percent(use.cpu),
            history=_points(past, lambda sample: _hundredth(sample.cpu)),
        ),
        memory=MemoryUse(
            used=round(used / MIB) if used is not None else None,
            total=total // MIB if total is not None else vm.memory,
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
