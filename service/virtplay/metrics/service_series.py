"""The service's own metrics: requests, jobs, the event loop and the process."""

import asyncio
import platform
import time

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Histogram,
    Info,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4

from virtplay import __version__
from virtplay.actions import Action
from virtplay.states import FINISHED_JOB

# The `_created` series double the size, and Prometheus reads them only from another format.
disable_created_metrics()  # type: ignore[no-untyped-call]

METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE"})
OTHER = "other"
"""The label of an unknown method or route, so that arbitrary requests create no series."""

LAG_SECONDS = 0.05
"""Seconds between two measurements of the event loop's lag; they cost 0.1 % of a core."""

REGISTRY = CollectorRegistry()
"""The registry of this process; its counters start at zero with the process."""

_BUILD = Info("virtplay_build", "Version of the service and of its Python.", registry=REGISTRY)
_BUILD.info({"version": __version__, "python": platform.python_version()})
_JOBS = Counter(
    "virtplay_jobs_total",
    "Finished jobs since the service started, by action and outcome.",
    ("action", "status"),
    registry=REGISTRY,
)
_JOB_SECONDS = Histogram(
    "virtplay_job_duration_seconds",
    "Duration of jobs from start to end, excluding the time in the queue.",
    ("action",),
    buckets=(0.5, 1, 2, 5, 10, 30, 60, 120, 300, 600, 1800),
    registry=REGISTRY,
)
_REPORTED_JOBS = Counter(
    "virtplay_reported_jobs_total",
    "Finished runs reported from a shell since the service started, by outcome.",
    ("status",),
    registry=REGISTRY,
)
_FALLBACKS = Counter(
    "virtplay_launcher_fallbacks_total",
    "Programs that were started because the launcher could not fork, by program.",
    ("program",),
    registry=REGISTRY,
)
_REQUEST_SECONDS = Histogram(
    "virtplay_http_request_duration_seconds",
    "Time from the arrival of a request to the start of its response, by route.",
    ("method", "route", "status"),
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
    registry=REGISTRY,
)
_LOOP_LAG = Histogram(
    "virtplay_event_loop_lag_seconds",
    "How much later than asked the event loop ran a timer; what holds the loop delays all clients.",
    buckets=(0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1),
    registry=REGISTRY,
)
ProcessCollector(registry=REGISTRY)

FALLBACK_PROGRAMS = ("job", "ansible-playbook")
"""The process of a job, and ansible-playbook in it."""
for _program in FALLBACK_PROGRAMS:
    _FALLBACKS.labels(_program)
for _status in sorted(FINISHED_JOB):
    _REPORTED_JOBS.labels(_status)
for _action in Action:
    # A first failure is an increase only if there was a 0 before it.
    _JOB_SECONDS.labels(_action)
    for _status in sorted(FINISHED_JOB):
        _JOBS.labels(_action, _status)


def count_job(action: str, status: str, seconds: float | None) -> None:
    """Count a job that ended with `status`; `seconds` since its start, None if it had none."""
    _JOBS.labels(action, status).inc()
    if seconds is not None:
        _JOB_SECONDS.labels(action).observe(seconds)


def count_reported_job(status: str) -> None:
    """Count a run from a shell that ended with `status`; its playbook may be anybody's."""
    _REPORTED_JOBS.labels(status).inc()


def count_fallback(program: str) -> None:
    """Count a program (of FALLBACK_PROGRAMS) that the launcher could not fork."""
    _FALLBACKS.labels(program).inc()


def count_request(method: str, route: str | None, status: int, seconds: float) -> None:
    """Count a request to a route, given as its template (/api/v1/vms/{id})."""
    known = method if method in METHODS else OTHER
    _REQUEST_SECONDS.labels(known, route or OTHER, status).observe(seconds)


async def watch_loop() -> None:
    """Measure the lag of the running event loop every LAG_SECONDS, until cancelled."""
    while True:
        asked = time.monotonic() + LAG_SECONDS
        await asyncio.sleep(LAG_SECONDS)
        # The loop rounds its timers to milliseconds, also down.
        _LOOP_LAG.observe(max(0.0, time.monotonic() - asked))


CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4
"""What the text is called in HTTP."""


def service_text() -> bytes:
    """Return the series that the process counts itself."""
    return generate_latest(REGISTRY)
