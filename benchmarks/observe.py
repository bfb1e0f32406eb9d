"""Benchmarks: what it costs the controller to observe simulated hosts once a minute.

The CPU seconds are those of the service and of all that it starts, ended processes included: job
processes, ansible-playbook and its forks, ssh. The hosts are outside this tree.
"""

import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing

from benchmarks.fleet import simulated_hosts
from benchmarks.measuring import Figure, Service, cpu_seconds, serving

MINUTE = 60
VMS = 100
"""On each host."""
HOSTS = (1, 10, 100)
ROUNDS = 5
WAIT_SECONDS = 600.0


def bench(*, quick: bool) -> Iterator[Figure]:
    """CPU seconds for one look at every host, and how they grow with the number of hosts."""
    counts, interval, rounds = ((1, 3), 5, 2) if quick else (HOSTS, MINUTE, ROUNDS)
    spent = [[hosts, round(spent_in_a_round(hosts, interval, rounds), 3)] for hosts in counts]
    hosts, cpu = spent[-1]
    yield {
        "bench": "observe",
        "hosts": hosts,
        "vms": hosts * VMS,
        "cpu_s": cpu,
        "minute_s": interval,
        "share_of_a_core": round(cpu / interval, 4),
        "runs": rounds,
        "growth": {
            "x": "hosts of 100 VMs",
            "unit": "CPU seconds a minute",
            "series": {"controller": spent},
        },
    }


def spent_in_a_round(hosts: int, interval: int, rounds: int) -> float:
    """CPU seconds of the controller for a round of all hosts, after the first ones."""
    settings = {"VIRTPLAY_OBSERVE_INTERVAL": str(interval)}
    with simulated_hosts(hosts, VMS) as inventory, serving(inventory, settings) as service:
        # The first ones create the VMs, and start the plays.
        last = wait_for_round(service, wait_for_round(service))
        before = cpu_seconds(service.pid)
        for _ in range(rounds):
            last = wait_for_round(service, last)
        return (cpu_seconds(service.pid) - before) / rounds


def wait_for_round(service: Service, after: str = "") -> str:
    """Wait until every host was observed later than `after`; return when the last one was.

    Both are times as the database writes them. It is read here, as each request would cost the
    service what is to be measured.
    """
    deadline = time.monotonic() + WAIT_SECONDS
    with closing(sqlite3.connect(service.state / "virtplay.sqlite3", timeout=30)) as database:
        while time.monotonic() < deadline:
            least, most = database.execute(
                "SELECT min(coalesce(observed_at, '')), max(observed_at) FROM host"
            ).fetchone()
            if least > after:
                return str(most)
            time.sleep(0.5)
    raise RuntimeError(f"not all hosts were observed within {WAIT_SECONDS:.0f} s")
