"""Benchmarks: how long something of the service holds its event loop, under load.

The load: 100 simulated hosts of 100 VMs are observed, /metrics is scraped, lists are read and jobs
run. A task in the service's own loop wakes up every millisecond; what it misses is a hold. A bare
loop in a process of its own does the same at the same time: the machine itself holds both.
"""

import asyncio
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from typing import Any

import httpx
import uvloop

from benchmarks.fleet import simulated_hosts
from benchmarks.measuring import PORT, Figure, Service, serving
from benchmarks.observe import VMS, wait_for_round

HOSTS = 100
ROUNDS = 3
TICK = 0.001
LONG = 0.02
"""What nothing may hold the loop for, in seconds."""
LOAD: tuple[tuple[str, str, float], ...] = (
    ("GET", "/metrics", 15.0),
    ("GET", "/api/v1/vms?limit=100", 0.2),
    ("GET", "/api/v1/vms?limit=100&page=50&sort=name", 0.5),
    ("GET", "/api/v1/vms?search=server+77", 0.5),
    ("GET", "/api/v1/hosts", 1.0),
    # The simulated hosts know no modules but one, so these jobs fail on the host.
    ("POST", "/api/v1/vms/{vm}/restart", 2.0),
    ("GET", "/api/v1/jobs?limit=100", 1.0),
)
"""Method, path, and the seconds between two such requests."""


@dataclass
class Lag:
    """What a task that wakes up every TICK has missed."""

    ticks: int = 0
    longest_s: float = 0.0
    longest_cpu_s: float = 0.0
    """The most CPU of the loop's thread between two wake-ups: what others hold is not in it."""
    over: int = 0
    """Holds longer than LONG."""

    async def measure(self) -> None:
        """Measure until cancelled."""
        began, cpu = time.monotonic(), time.thread_time()
        while True:
            await asyncio.sleep(TICK)
            now, used = time.monotonic(), time.thread_time()
            held = now - began - TICK
            self.ticks += 1
            self.longest_s = max(self.longest_s, held)
            self.longest_cpu_s = max(self.longest_cpu_s, used - cpu)
            self.over += held > LONG
            began, cpu = now, used


def bench(*, quick: bool) -> Iterator[Figure]:
    """The longest hold of the service's loop and of a bare one, and how many were long."""
    hosts, rounds, interval = (3, 2, 5) if quick else (HOSTS, ROUNDS, 60)
    settings = {"VIRTPLAY_OBSERVE_INTERVAL": str(interval)}
    program = ("-m", __name__, "serve")
    with (
        simulated_hosts(hosts, VMS) as inventory,
        serving(inventory, settings, program) as service,
        bare_loop() as bare,
    ):
        last = wait_for_round(service, wait_for_round(service))
        service.http.get("/bench/lag").raise_for_status()
        bare()
        with loading(service, hosts * VMS):
            for _ in range(rounds):
                last = wait_for_round(service, last)
        ours, theirs = service.http.get("/bench/lag").raise_for_status().json(), bare()
    yield {
        "bench": "loop_lag",
        "vms": hosts * VMS,
        "longest_s": round(ours["longest_s"], 4),
        "longest_cpu_s": round(ours["longest_cpu_s"], 4),
        "share_over_20_ms": round(ours["over"] / ours["ticks"], 7),
        "bare_s": round(theirs["longest_s"], 4),
        "bare_share_over_20_ms": round(theirs["over"] / theirs["ticks"], 7),
        "runs": ours["ticks"],
    }


@contextmanager
def loading(service: Service, vms: int) -> Iterator[None]:
    """Send the requests of LOAD, each by a thread of its own, until the block ends."""
    ended = threading.Event()

    def send(method: str, path: str, pause: float) -> None:
        number = 0
        with httpx.Client(base_url=service.http.base_url, headers=service.http.headers) as client:
            while not ended.wait(pause):
                number = number % vms + 1
                # A job may still run, or its VM be in error: that is load too.
                with suppress(httpx.HTTPError):
                    client.request(method, path.format(vm=f"vm-{number:03d}"), timeout=60)

    threads = [threading.Thread(target=send, args=line) for line in LOAD]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        ended.set()
        for thread in threads:
            thread.join()


@contextmanager
def bare_loop() -> Iterator[Callable[[], dict[str, Any]]]:
    """Run an event loop that does nothing; yield what returns its lag since the last call."""
    process = subprocess.Popen(
        [sys.executable, "-m", __name__, "bare"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    stdin, stdout = process.stdin, process.stdout

    def read() -> dict[str, Any]:
        stdin.write("\n")
        stdin.flush()
        return dict(json.loads(stdout.readline()))

    try:
        yield read
    finally:
        stdin.close()
        process.wait()


def serve() -> None:
    """The service with the task in its loop, and a route that returns and resets its lag."""
    from sanic import HTTPResponse, Request  # noqa: PLC0415
    from virtplay.app import create_app  # noqa: PLC0415
    from virtplay.logs import set_up_logging  # noqa: PLC0415
    from virtplay.settings import Settings  # noqa: PLC0415

    settings = Settings()
    set_up_logging(settings.log_level)
    app = create_app(settings)

    async def measure(app: Any) -> None:
        app.ctx.lag = Lag()
        app.ctx.measuring = asyncio.create_task(app.ctx.lag.measure())

    async def answer(request: Request) -> HTTPResponse:
        lag = request.app.ctx.lag
        text = json.dumps(asdict(lag))
        lag.__init__()
        return HTTPResponse(text, content_type="application/json")

    app.after_server_start(measure)
    app.add_route(answer, "/bench/lag")
    app.run(host="127.0.0.1", port=int(PORT), single_process=True, access_log=False, motd=False)


async def run_bare() -> None:
    """Measure; print the lag and reset it at each line of the input."""
    lag = Lag()
    task = asyncio.create_task(lag.measure())
    while await asyncio.to_thread(sys.stdin.readline):
        print(json.dumps(asdict(lag)), flush=True)
        lag.__init__()  # type: ignore[misc]
    task.cancel()


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["serve"]:
            serve()
        case _:
            uvloop.run(run_bare())
