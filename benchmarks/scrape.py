"""Benchmarks: /metrics with many VMs, and what a scrape costs those who ask for something else.

The observations are made up: hosts with 100 VMs each. The service that serves them is the real one,
in a process of its own; so are the scraper, the client whose waiting is measured, and a bare Sanic
that serves the same bytes from memory.
"""

import http.client
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from benchmarks.measuring import NEVER, NOWHERE, PORT, Figure, medians, p99, serving, timed
from benchmarks.observed import made_up_host

HOSTS = 100
VMS = 100
"""On each host."""
GROWTH = (1, 10, 100, 1000)
"""Numbers of hosts for the plot."""
WINDOWS = 5
WINDOW_SECONDS = 6.0
DOWNLOADS = 5
"""Scrapes and files in each window, in turns."""
PAUSE = 0.002
"""Seconds between two requests of the client, so that it is no load of its own."""
FILE_PORT = "3198"
OPEN = {**NEVER, "VIRTPLAY_METRICS_OPEN": "true"}


def bench(*, quick: bool) -> Iterator[Figure]:
    """One scrape beside a file of its size, and p99 of GET /healthz idle and during scrapes."""
    hosts, windows, seconds = (10, 1, 1.0) if quick else (HOSTS, WINDOWS, WINDOW_SECONDS)
    idle, during, scrapes, files = [], [], [], []
    with serving(NOWHERE, OPEN, program(hosts)), serving_file(get_metrics()) as size:
        for _ in range(windows):
            for _ in range(DOWNLOADS):
                scrapes.append(timed(lambda: download(PORT)))
                files.append(timed(lambda: download(FILE_PORT)))
            idle.append(p99(wait_for_answers(seconds)))
            with scraping():
                during.append(p99(wait_for_answers(seconds)))
    yield {
        "bench": "scrape_10k",
        "vms": hosts * VMS,
        "scrape_mb": round(size / 1e6, 1),
        **medians(scrape=scrapes, file=files),
        **medians(healthz_p99_idle=idle, healthz_p99_during=during),
        "runs": len(scrapes),
        "growth": {
            "x": "VMs",
            "unit": "s",
            "series": {"scrape": [growth_at(each) for each in GROWTH[: 2 if quick else None]]},
        },
    }


def growth_at(hosts: int) -> list[float]:
    """The number of VMs, and the median seconds of a scrape."""
    with serving(NOWHERE, OPEN, program(hosts)):
        took = [timed(lambda: download(PORT)) for _ in range(DOWNLOADS)]
    return [hosts * VMS, medians(scrape=took)["scrape_s"]]


def program(hosts: int) -> tuple[str, ...]:
    """The service with so many made-up hosts."""
    return ("-m", __name__, "serve", str(hosts))


def get_metrics() -> bytes:
    """The text of one scrape."""
    pieces: list[bytes] = []
    download(PORT, pieces)
    return b"".join(pieces)


def download(port: str, pieces: list[bytes] | None = None) -> None:
    """Read /metrics to its end; append it to `pieces`, if given."""
    connection = http.client.HTTPConnection("127.0.0.1", int(port), timeout=60)
    connection.request("GET", "/metrics")
    answer = connection.getresponse()
    while piece := answer.read(256 * 1024):
        if pieces is not None:
            pieces.append(piece)
    connection.close()


@contextmanager
def serving_file(text: bytes) -> Iterator[int]:
    """Serve the bytes by a bare Sanic of its own process, from its memory; yield their number."""
    with tempfile.NamedTemporaryFile() as file:
        file.write(text)
        file.flush()
        server = subprocess.Popen([sys.executable, "-m", __name__, "file", file.name])
        try:
            deadline = time.monotonic() + 20
            while True:
                with suppress(OSError):
                    download(FILE_PORT)
                    break
                if time.monotonic() > deadline:
                    raise RuntimeError("the server of the file did not start within 20 s")
                time.sleep(0.1)
            yield len(text)
        finally:
            server.terminate()
            server.wait()


@contextmanager
def scraping() -> Iterator[None]:
    """Scrape all the time, from the first scrape's end on, in a process of its own."""
    scraper = subprocess.Popen(
        [sys.executable, "-m", __name__, "scrape"], stdout=subprocess.PIPE, text=True
    )
    assert scraper.stdout is not None
    scraper.stdout.readline()
    reader = threading.Thread(target=scraper.stdout.read)
    reader.start()
    try:
        yield
    finally:
        scraper.terminate()
        scraper.wait()
        reader.join()


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
    """Scrape again and again, as fast as the service answers; a line for each."""
    while True:
        download(PORT)
        print("scraped", flush=True)


def serve(hosts: int) -> None:
    """The service, with made-up observations in place of an observer's."""
    from virtplay.app import create_app  # noqa: PLC0415
    from virtplay.logs import set_up_logging  # noqa: PLC0415
    from virtplay.settings import Settings  # noqa: PLC0415

    settings = Settings()
    set_up_logging(settings.log_level)
    app = create_app(settings)

    async def fill(app: Any) -> None:
        for number in range(hosts):
            take_made_up(app.ctx.services.exposition, number)

    app.after_server_start(fill)
    app.run(host="127.0.0.1", port=int(PORT), single_process=True, access_log=False, motd=False)


def take_made_up(exposition: Any, number: int) -> None:
    """Give the exposition an observation of a host that does not exist."""
    from virtplay.metrics.host_series import VmLabels  # noqa: PLC0415

    info = made_up_host(number, VMS)
    refs = {
        domain["uuid"]: VmLabels(domain["name"], domain["title"], "debian12", "debian12")
        for domain in info["domains"]
    }
    exposition.take(f"kvm{number:03d}", info, refs, time.time(), 0.1)


def serve_file(file: str) -> None:
    """A bare Sanic that answers with the bytes of a file, which it has read before."""
    from sanic import HTTPResponse, Request, Sanic  # noqa: PLC0415

    content = Path(file).read_bytes()
    app = Sanic("file", configure_logging=False)

    async def answer(_request: Request) -> HTTPResponse:
        return HTTPResponse(content)

    app.add_route(answer, "/metrics")
    app.run(
        host="127.0.0.1", port=int(FILE_PORT), single_process=True, access_log=False, motd=False
    )


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["serve", hosts]:
            serve(int(hosts))
        case ["file", file]:
            serve_file(file)
        case _:
            scrape()
