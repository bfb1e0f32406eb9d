"""API: /metrics and /prometheus/targets, which Prometheus itself reads."""

import asyncio
import itertools
import json
import logging
from collections.abc import Iterator
from urllib.parse import urlsplit

from sanic import HTTPResponse

from virtplay.api.console import HOST
from virtplay.api.http.requests import ApiRequest
from virtplay.api.http.streaming import Stream
from virtplay.api.schemas.metrics import MetricsPart, TargetGroup, TargetList
from virtplay.metrics.exposition import in_chunks
from virtplay.metrics.service_series import CONTENT_TYPE, Queue, service_text
from virtplay.store import jobs as job_store
from virtplay.store.database import DatabaseError
from virtplay.store.vms import find_host, list_hosts

log = logging.getLogger("virtplay.api.prometheus")


async def get_exposition(request: ApiRequest) -> Stream:
    """GET /metrics: what the last observations showed; no host is asked."""
    host, part = request.query.host, request.query.part
    if host is not None:
        host = (await find_host(host)).name
    own = b""
    if host is None and part != MetricsPart.HOSTS:
        own = await asyncio.to_thread(service_text, await _queue())
    seen: Iterator[bytes] = iter(())
    if part != MetricsPart.SERVICE:
        seen = request.services.exposition.text(host)
    pieces = in_chunks(itertools.chain([own], seen))

    return Stream(pieces, CONTENT_TYPE)


async def _queue() -> Queue | None:
    """The queue as it is now; None when the database does not say."""
    try:
        length, oldest = await job_store.queue_state()
    except (DatabaseError, OSError) as error:
        log.warning("cannot count the jobs that wait: %s", error)
        return None
    return Queue(length, oldest)


async def list_targets(request: ApiRequest) -> HTTPResponse:
    """GET /prometheus/targets: each host as a target of its own, for http_sd."""
    groups = [
        TargetGroup(
            targets=[_address(request)],
            labels={
                # All targets have one address: without this, their `up` would be one series.
                "instance": host.name,
                "__metrics_path__": "/metrics",
                "__param_host": host.name,
                **_scheme(request),
            },
        )
        for host in await list_hosts()
    ]
    body = json.dumps(TargetList(groups).model_dump(), ensure_ascii=False) + "\n"
    return HTTPResponse(body, content_type="application/json; charset=utf-8")


def _address(request: ApiRequest) -> str:
    """host:port at which Prometheus reaches the service: as it is set, else as it was called."""
    settings = request.services.settings
    if settings.public_url:
        parts = urlsplit(settings.public_url)
        port = parts.port or {"http": 80, "https": 443}[parts.scheme]
        return f"{parts.netloc.rpartition(':')[0] if parts.port else parts.netloc}:{port}"
    if HOST.fullmatch(request.address):
        return request.address
    return f"{settings.host}:{settings.port}"


def _scheme(request: ApiRequest) -> dict[str, str]:
    """The label that says how to speak to it, where that is known; else the scrape's setting."""
    settings = request.services.settings
    if settings.public_url:
        return {"__scheme__": urlsplit(settings.public_url).scheme}
    return {"__scheme__": "https"} if settings.scheme == "https" else {}
