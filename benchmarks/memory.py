"""Benchmarks: the memory of the service and of all its processes, with VMs on simulated hosts."""

import threading
from collections.abc import Iterator

from benchmarks.fleet import simulated_hosts
from benchmarks.measuring import Figure, memory, serving
from benchmarks.observe import HOSTS, MINUTE, VMS, wait_for_round

SAMPLE_SECONDS = 0.5


def bench(*, quick: bool) -> Iterator[Figure]:
    """MiB at the highest moment of a round, by part, and how they grow with the VMs."""
    counts, interval = ((1, 3), 5) if quick else (HOSTS, MINUTE)
    empty = highest(1, 0, interval)
    found = {hosts: highest(hosts, VMS, interval) for hosts in counts}
    most = found[counts[-1]]
    yield {
        "bench": "memory",
        "hosts": counts[-1],
        "vms": counts[-1] * VMS,
        **{f"{part}_mb": round(mib, 1) for part, mib in most.items()},
        "empty_mb": round(empty["total"], 1),
        "growth": {
            "x": "VMs",
            "unit": "MiB",
            "series": {
                part: [[hosts * VMS, round(parts[part], 1)] for hosts, parts in found.items()]
                for part in ("total", "service", "observer")
            },
        },
    }


def highest(hosts: int, vms: int, interval: int) -> dict[str, float]:
    """MiB of each part, and in total, at the moment of a whole round when the total is highest."""
    settings = {"VIRTPLAY_OBSERVE_INTERVAL": str(interval)}
    samples: list[dict[str, float]] = []
    ended = threading.Event()

    def sample() -> None:
        while not ended.wait(SAMPLE_SECONDS):
            samples.append(memory(service.pid))

    with simulated_hosts(hosts, vms) as inventory, serving(inventory, settings) as service:
        last = wait_for_round(service, wait_for_round(service))
        sampler = threading.Thread(target=sample)
        sampler.start()
        try:
            wait_for_round(service, wait_for_round(service, last))
        finally:
            ended.set()
            sampler.join()
    parts = max(samples, key=lambda each: sum(each.values()))
    return {"total": sum(parts.values()), **parts}
