"""API: /metrics and /prometheus/targets, for Prometheus."""

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
from virtplay.metrics.database_series import database_text
from virtplay.metrics.exposition import in_chunks
from virtplay.metrics.service_series import CONTENT_TYPE, service_text
from virtplay.store.database import DatabaseError
from virtplay.store.vms import find_host, list_hosts

log = logging.getLogger("virtplay.api.prometheus")


async def get_exposition(request: ApiRequest) -> Stream:
    """GET /metrics: return the metrics of the last observations, without contacting a host."""
    host, part = request.query.host, request.query.part
    if host is not None:
        host = (await find_host(host)).name
    own = b""
    if host is None and part != MetricsPart.HOSTS:
        own = await asyncio.to_thread(service_text) + await _of_database(request)
    seen: Iterator[bytes] = iter(())
    if part != MetricsPart.SERVICE:
        seen = request.services.exposition.text(host)
    pieces = in_chunks(itertools.chain([own], seen))

    return Stream(pieces, CONTENT_TYPE)


async def _of_database(request: ApiRequest) -> bytes:
    """Return what the database knows now; nothing when it does not respond."""
    try:
        return await database_text(request.services.settings.last_backup)
    except (DatabaseError, OSError) as error:
        log.warning("cannot read the queue, VMs, schedules and tokens: %s", error)
        return b""


async def list_targets(request: ApiRequest) -> HTTPResponse:
    """GET /prometheus/targets: return one target per host, for http_sd."""
    groups = [
        TargetGroup(
            targets=[_address(request)],
            labels={
                # All targets share one address: without this label, `up` would be one series.
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
    """Return host:port at which Prometheus reaches the service: the setting, or the Host header."""
    settings = request.services.settings
    if settings.public_url:
        parts = urlsplit(settings.public_url)
        port = parts.port or {"http": 80, "https": 443}[parts.scheme]
        return f"{parts.netloc.rpartition(':')[0] if parts.port else parts.netloc}:{port}"
    if HOST.fullmatch(request.address):
        return request.address
    return f"{settings.host}:{settings.port}"


def _scheme(request: ApiRequest) -> dict[str, str]:
    """Return the label of the scheme if it is known; else the setting of the scrape applies."""
    settings = request.services.settings
    if settings.public_url:
        return {"__scheme__": urlsplit(settings.public_url).scheme}
    return {"__scheme__": "https"} if settings.scheme == "https" else {}
