"""Reads the usage history of VMs from a Prometheus that scrapes this service."""

import asyncio
from collections.abc import Mapping
from typing import Any

import httpx

from virtplay.errors import HistoryNotAvailable
from virtplay.store.samples import Sample

TIMEOUT = 20.0
STALE_SECONDS = 60
"""Rates span at least four observations, so that one may be missing."""


def expressions(uuid: str, step: int) -> dict[str, str]:
    """Return the PromQL expression for each column of Sample; `step` in seconds."""
    of = f'{{uuid="{uuid}"}}'
    span = f"[{max(step, STALE_SECONDS)}s]"
    gone = f"[{step}s]"

    def rate(name: str) -> str:
        return f"sum by (uuid) (rate({name}{of}{span}))"

    def average(name: str) -> str:
        return f"sum by (uuid) (avg_over_time({name}{of}{gone}))"

    cpus = average("libvirt_domain_info_virtual_cpus")
    allocation = average("libvirt_domain_block_stats_allocation_bytes")
    # A block device or a disk on the network has no allocation.
    both = " and ".join(
        f"avg_over_time(libvirt_domain_block_stats_{name}_bytes{of}{gone})"
        for name in ("capacity", "allocation")
    )
    capacity = f"sum by (uuid) ({both})"
    return {
        "cpu": f"10000 * {rate('libvirt_domain_info_cpu_time_seconds_total')} / {cpus}",
        "memory_used": f"{average('libvirt_domain_memory_used_bytes')} / 1024",
        "memory_total": f"{average('libvirt_domain_memory_stats_actual_balloon_bytes')} / 1024",
        "disk_usage": f"10000 * {allocation} / {capacity}",
        "disk_read": rate("libvirt_domain_block_stats_read_bytes_total"),
        "disk_write": rate("libvirt_domain_block_stats_write_bytes_total"),
        "network_rx": rate("libvirt_domain_interface_stats_receive_bytes_total"),
        "network_tx": rate("libvirt_domain_interface_stats_transmit_bytes_total"),
    }


class PrometheusHistory:
    """The history from the query API of a Prometheus."""

    def __init__(self, url: str) -> None:
        self._url = url.rstrip("/")

    async def read(self, vm: Mapping[str, Any], since: int, until: int, step: int) -> list[Sample]:
        """Return averages over spans of `step` seconds; raise HistoryNotAvailable on failure."""
        queries = expressions(str(vm["uuid"]), step)
        # A span is evaluated at its end, and identified by its start.
        params = {"start": since + step, "end": until - until % step, "step": step}
        async with httpx.AsyncClient(timeout=TIMEOUT) as client:
            answers = await asyncio.gather(
                *(self._ask(client, {**params, "query": query}) for query in queries.values())
            )
        spans: dict[int, dict[str, int]] = {}
        for column, points in zip(queries, answers, strict=True):
            for moment, text in points:
                value = float(text)
                if value == value:  # noqa: PLR0124 - NaN means no value
                    spans.setdefault(int(moment) - step, {})[column] = round(value)
        return [Sample(at=at, **values) for at, values in sorted(spans.items())]

    async def _ask(self, client: httpx.AsyncClient, params: dict[str, Any]) -> list[Any]:
        try:
            answer = await client.get(f"{self._url}/api/v1/query_range", params=params)
            document = answer.json()
        except (httpx.HTTPError, ValueError) as error:
            raise HistoryNotAvailable(
                f"cannot read the history from Prometheus: {type(error).__name__}: {error}"
            ) from error
        if document.get("status") != "success":
            raise HistoryNotAvailable(
                f"cannot read the history from Prometheus: {document.get('error')}"
            )
        result = document["data"]["result"]
        return list(result[0]["values"]) if result else []
