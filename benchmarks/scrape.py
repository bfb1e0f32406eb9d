"""Benchmarks: /metrics with many VMs, and what a scrape costs those who ask for something else.

The observations are made up: 100 hosts with 100 VMs each, of two vCPUs, one disk and one network
card. The service that serves them is the real one, in a process of its own; so are the scraper and
the client whose waiting is measured.
"""

import http.client
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

from benchmarks.measuring import NEVER, NOWHERE, PORT, Figure, medians, p99, serving, timed

HOSTS = 100
VMS = 100
"""On each host."""
WINDOWS = 5
WINDOW_SECONDS = 6.0
PAUSE = 0.002
"""Seconds between two requests of the client, so that it is no load of its own."""


def bench(*, quick: bool) -> Iterator[Figure]:
    """One scrape's seconds and size, and p99 of GET /healthz idle and while scrapes go on."""
    hosts, windows, seconds = (10, 1, 1.0) if quick else (HOSTS, WINDOWS, WINDOW_SECONDS)
    settings = {**NEVER, "VIRTPLAY_METRICS_OPEN": "true"}
    program = ("-m", __name__, "serve", str(hosts), str(VMS))
    idle, during, scrapes = [], [], []
    size = 0
    with serving(NOWHERE, settings, program):
        for _ in range(windows):
            idle.append(p99(wait_for_answers(seconds)))
            scraper = subprocess.Popen(
                [sys.executable, "-m", __name__, "scrape"], stdout=subprocess.PIPE, text=True
            )
            assert scraper.stdout is not None
            lines: list[str] = []
            reader = threading.Thread(target=lines.extend, args=(scraper.stdout,))
            scraper.stdout.readline()  # the first one has been scraped
            reader.start()
            during.append(p99(wait_for_answers(seconds)))
            scraper.terminate()
            scraper.wait()
            reader.join()
            for line in lines:
                took, size = float(line.split()[0]), int(line.split()[1])
                scrapes.append(took)
    yield {
        "bench": "scrape",
        "vms": hosts * VMS,
        "scrape_mb": round(size / 1e6, 1),
        **medians(scrape=scrapes, healthz_p99_idle=idle, healthz_p99_during=during),
        "runs": len(scrapes),
    }


def wait_for_answers(seconds: float) -> list[float]:
    """How long each GET /healthz took, one after the other on one connection, in seconds."""
    connection = http.client.HTTPConnection("127.0.0.1", int(PORT), timeout=30)

    def ask() -> None:
        connection.request("GET", "/healthz")
        connection.getresponse().read()

    took = []
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        took.append(timed(ask))
        time.sleep(PAUSE)
    connection.close()
    return took


def scrape() -> None:
    """Scrape again and again, as fast as the service answers; seconds and bytes of each."""
    while True:
        began = time.monotonic()
        size = 0
        connection = http.client.HTTPConnection("127.0.0.1", int(PORT))
        connection.request("GET", "/metrics")
        answer = connection.getresponse()
        while piece := answer.read(256 * 1024):
            size += len(piece)
        connection.close()
        print(time.monotonic() - began, size, flush=True)


def serve(hosts: int, vms: int) -> None:
    """The service, with made-up observations in place of an observer's."""
    from virtplay.app import create_app  # noqa: PLC0415
    from virtplay.logs import set_up_logging  # noqa: PLC0415
    from virtplay.settings import Settings  # noqa: PLC0415

    settings = Settings()
    set_up_logging(settings.log_level)
    app = create_app(settings)

    async def fill(app: Any) -> None:
        for number in range(hosts):
            take_made_up(app.ctx.services.exposition, number, vms)

    app.after_server_start(fill)
    app.run(host="127.0.0.1", port=int(PORT), single_process=True, access_log=False, motd=False)


def take_made_up(exposition: Any, number: int, vms: int) -> None:
    """Give the exposition an observation of a host that does not exist."""
    from virtplay.metrics.host_series import VmLabels  # noqa: PLC0415

    host = f"kvm{number:03d}"
    domains = [made_up_domain(number * vms + each) for each in range(vms)]
    refs = {
        domain["uuid"]: VmLabels(domain["name"], domain["title"], "debian12", "debian12")
        for domain in domains
    }
    facts = {"cpus": 64, "memory_bytes": 2**38, "memory_free_bytes": 2**36}
    sizes = {"capacity_bytes": 10**13, "allocation_bytes": 10**12, "available_bytes": 9 * 10**12}
    pools = [{"name": "default", **sizes}]
    info = {"host": facts, "pools": pools, "domains": domains}
    exposition.take(host, info, refs, time.time(), 0.1)


def made_up_domain(number: int) -> dict[str, Any]:
    """A domain as host_info would show it, with counters of usual lengths."""
    moving = 123_456_789_012 + number * 7919
    return {
        "name": f"vm-{number:05d}",
        "title": f"Web Server {number}",
        "uuid": f"{number:08x}-5000-4000-8000-{number:012x}",
        "state": "running",
        "vcpus": 2,
        "memory": 2048,
        "memory_max": 4096,
        "stats": {
            "cpu_time_ns": moving,
            "vcpu": [
                {"vcpu": n, "state": 1, "time_ns": moving, "wait_ns": 0, "delay_ns": moving}
                for n in range(2)
            ],
            "balloon": {
                "actual_bytes": 2**31,
                "maximum_bytes": 2**32,
                "available_bytes": 2_069_094_400,
                "usable_bytes": 1_800_232_960 - number * 4096,
                "unused_bytes": 1_500_000_256,
                "rss_bytes": 905_969_664,
                "swap_in_bytes": 0,
                "swap_out_bytes": 0,
                "major_fault": 1212,
                "minor_fault": 9_823_141,
            },
            "block": [
                {
                    "target": "vda",
                    **{
                        f"{way}_{what}": moving
                        for way in ("read", "write", "flush")
                        for what in ("bytes", "requests", "time_ns")
                    },
                    "capacity_bytes": 21_474_836_480,
                    "allocation_bytes": 8_589_934_592,
                    "physical_bytes": 8_589_934_592,
                }
            ],
            "interface": [
                {
                    "target": f"vnet{number}",
                    "mac": "52:54:00:" + number.to_bytes(3, "big").hex(":"),
                    **{
                        f"{way}_{what}": moving
                        for way in ("rx", "tx")
                        for what in ("bytes", "packets", "errs", "drop")
                    },
                }
            ],
        },
    }


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["serve", hosts, vms]:
            serve(int(hosts), int(vms))
        case _:
            scrape()
