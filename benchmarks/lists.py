"""Benchmarks: GET /vms, memory and start of the service, with 100 to 100,000 VMs.

The service is the real one on SQLite and on PostgreSQL, except that it observes no hosts: an
observation would only add what the hosts report. Services with few and with many VMs run side by
side and are asked in turn, so that the load of the machine is the same for both.
"""

import asyncio
import http
import http.client
import json
import random
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.parse
import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Self

import httpx
import psutil

from benchmarks.measuring import Figure, medians, p99
from scripts.demo import start_service, stop_service
from tests.api.postgres import Cluster, find_programs, free_port

MODULE = "benchmarks.lists"
SIZES = (100, 1_000, 10_000, 100_000)
ROUNDS = 10
REQUESTS = 15
"""In each round, of each kind, to each service."""
WINDOWS = 5
WINDOW_SECONDS = 2.0
CONNECTIONS = 4
STARTS = 5
HOSTS = 100
PAGE = 20
TOKEN = "t" * 40
AUTHORISED = {"Authorization": f"Bearer {TOKEN}"}
WAIT_SECONDS = 180.0
APPS = (
    *("web", "api", "db", "cache", "queue", "auth", "mail", "proxy", "build", "runner"),
    *("git", "registry", "metrics", "grafana", "kafka", "etcd", "redis", "postgres"),
)
ENVIRONMENTS = {"prod": 50, "stage": 20, "test": 20, "dev": 10}
SYSTEMS = {"debian12": 45, "debian13": 15, "ubuntu2404": 15, "rocky9": 15, "alma9": 10}
STATUSES = {"running": 85, "stopped": 12, "paused": 2, "error": 1}
SORTS = ("name", "status", "host", "cpu", "memory", "disk", "createdAt", "updatedAt")
USUAL = ("first page", "status", "host", "label", "search")
"""The kinds whose requests together are the list's p99."""


def made_up_vm(number: int, draw: random.Random) -> dict[str, Any]:
    """The columns of a VM as an observation would have left them."""
    from virtplay.store.vm_index import label_text_of, search_text_of  # noqa: PLC0415
    from virtplay.store.vms import vm_ref  # noqa: PLC0415

    def one_of(shares: dict[str, int]) -> str:
        return draw.choices(list(shares), list(shares.values()))[0]

    app, environment, status = draw.choice(APPS), one_of(ENVIRONMENTS), one_of(STATUSES)
    ip = f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}"
    mac = "52:54:00:" + number.to_bytes(3, "big").hex(":")
    made = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=draw.randrange(20_000_000))
    vm: dict[str, Any] = {
        "id": number,
        "ref": vm_ref(number),
        "uuid": uuid.UUID(int=draw.getrandbits(128)),
        "name": f"{app}-{environment}-{number % 1000:03d}",
        "description": f"{app} of {environment}",
        "host": f"kvm{number % HOSTS:03d}",
        "domain": vm_ref(number),
        "status": status,
        "power": status,
        "state_reason": "booted" if status == "running" else None,
        "provisioned": True,
        "template": "debian12",
        "os": one_of(SYSTEMS),
        "cpu": draw.choice((1, 2, 4, 8)),
        "memory": draw.choice((1024, 2048, 4096, 8192)),
        "disk": draw.choice((10, 20, 40, 80)),
        "disk_pool": "default",
        "pool_size": 20 << 30,
        "disk_allocation": draw.randrange(20 << 30),
        "network": {"type": "network", "network": "default", "mac": mac, "model": "virtio"},
        "ip": ip,
        "addresses": [{"ip": ip, "mac": mac}, {"ip": f"fe80::5054:ff:fe{number:x}", "mac": mac}],
        "auto_start": True,
        "labels": {"app": app, "env": environment, "team": f"team-{draw.randrange(40)}"},
        "pending": {},
        "generation": 3,
        "snapshots": 0,
        "missed": 0,
        "started_at": made,
        "observed_at": made,
        "created_at": made,
        "updated_at": made + timedelta(seconds=draw.randrange(1_000_000)),
    }
    return vm | {
        "search_text": search_text_of(vm),
        "label_text": label_text_of(vm["labels"]),
    }


async def fill(url: str, vms: int) -> None:
    """Migrate the database, and insert VMs."""
    from virtplay.store.database import close_database, open_database  # noqa: PLC0415
    from virtplay.store.vm_index import compact_counts, renew_index  # noqa: PLC0415

    draw = random.Random(vms)  # noqa: S311 - no secret
    rows = [made_up_vm(number, draw) for number in range(1, vms + 1)]
    await open_database(url)
    await renew_index()
    await close_database()
    if url.startswith("sqlite://"):
        _fill_sqlite(url.removeprefix("sqlite://"), rows)
    else:
        await _fill_postgres(url, rows)
    await open_database(url)
    await compact_counts()
    await close_database()
    if not url.startswith("sqlite://"):
        await _vacuum(url)


def _fill_sqlite(path: str, rows: Sequence[dict[str, Any]]) -> None:
    def plain(value: Any) -> Any:
        if isinstance(value, dict | list):
            return json.dumps(value, separators=(",", ":"))
        return str(value) if isinstance(value, uuid.UUID | datetime) else value

    columns = ", ".join(rows[0])
    with closing(sqlite3.connect(path)) as database, database:
        database.executemany(
            f"INSERT INTO vm ({columns}) VALUES ({', '.join('?' * len(rows[0]))})",  # noqa: S608
            [[plain(value) for value in row.values()] for row in rows],
        )


async def _fill_postgres(url: str, rows: Sequence[dict[str, Any]]) -> None:
    import asyncpg  # type: ignore[import-untyped] # noqa: PLC0415

    def plain(value: Any) -> Any:
        return json.dumps(value) if isinstance(value, dict | list) else value

    connection = await asyncpg.connect(url)
    await connection.copy_records_to_table(
        "vm",
        columns=list(rows[0]),
        records=[[plain(value) for value in row.values()] for row in rows],
    )
    await connection.execute("SELECT setval(pg_get_serial_sequence('vm', 'id'), $1)", len(rows))
    await connection.close()


async def _vacuum(url: str) -> None:
    """Do what autovacuum does in the minutes after so many changes."""
    import asyncpg  # noqa: PLC0415

    connection = await asyncpg.connect(url)
    for table in ("vm", "vm_label", "vm_count"):
        await connection.execute(f"VACUUM ANALYZE {table}")
    await connection.close()


@dataclass(frozen=True)
class Site:
    """A state directory and a database with VMs, on which the service is started."""

    vms: int
    folder: Path
    database: str

    def start(self) -> "Running":
        """Start the service; its `ready_s` is how long it took until it answered."""
        names = (f"kvm{number:03d}" for number in range(HOSTS))
        inventory = self.folder / "hosts.yml"
        inventory.write_text(json.dumps({"hypervisors": {"hosts": {name: {} for name in names}}}))
        port = str(free_port())
        began = time.perf_counter()
        process = start_service(
            inventory,
            self.folder,
            TOKEN,
            port,
            settings={"VIRTPLAY_DATABASE_URL": self.database},
            program=("-m", MODULE, "serve"),
        )
        while not _answers(port):
            if process.poll() is not None or time.perf_counter() - began > WAIT_SECONDS:
                stop_service(process)
                raise RuntimeError("the service does not start")
            time.sleep(0.01)
        return Running(process, port, time.perf_counter() - began)


def _answers(port: str) -> bool:
    with suppress(httpx.TransportError):
        return httpx.get(f"http://127.0.0.1:{port}/healthz", timeout=30).status_code == 200
    return False


@dataclass(frozen=True)
class Running:
    """A service that has answered, or a bare Sanic."""

    process: "subprocess.Popen[bytes]"
    port: str
    ready_s: float = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        stop_service(self.process)

    def memory_mb(self) -> float:
        """The resident memory of the process alone."""
        return float(psutil.Process(self.process.pid).memory_info().rss / 1e6)


@contextmanager
def sites(kind: str, sizes: Sequence[int]) -> Iterator[list[Site]]:
    """A site of each size on `sqlite` or `postgresql`, deleted with the block."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="virtplay-bench-")))
        cluster = None
        if kind == "postgresql":
            programs = find_programs()
            if programs is None:
                raise RuntimeError("cannot find PostgreSQL: run make setup-lab")
            cluster = stack.enter_context(Cluster(programs))
        made = []
        for vms in sizes:
            state = folder / str(vms)
            state.mkdir()
            url = cluster.new_database(f"of_{vms}") if cluster else f"sqlite://{state}/vms.sqlite3"
            # In a process of its own: Tortoise caches statements by connection, not by dialect.
            subprocess.run([sys.executable, "-m", MODULE, "fill", url, str(vms)], check=True)
            made.append(Site(vms, state, url))
        yield made


def paths(vms: int) -> dict[str, list[str]]:
    """Kind of list → requests of that kind, drawn from what the VMs have."""
    draw = random.Random(7)  # noqa: S311 - no secret
    rows = [made_up_vm(number, draw) for number in range(1, 200)]
    pages = -(-vms // PAGE)

    def each(queries: Iterable[dict[str, Any]]) -> list[str]:
        return [f"/api/v1/vms?{urllib.parse.urlencode({'limit': PAGE, **q})}" for q in queries]

    numbers = [draw.randrange(1, vms + 1) for _ in rows]
    addresses = [f"10.{n >> 16}.{n >> 8 & 255}.{n & 255}" for n in numbers]
    return {
        "first page": each([{}]),
        "status": each({"status": row["status"]} for row in rows),
        "host": each({"host": row["host"]} for row in rows),
        "label": each({"label": f"team={row['labels']['team']}"} for row in rows),
        "search": each(
            {"search": text}
            for row, ip, number in zip(rows, addresses, numbers, strict=True)
            for text in (row["name"], ip, f"vm-{number:03d}", row["name"][-8:].upper())
        ),
        "common label": each([{"label": "env=prod"}, {"label": "env"}]),
        "common search": each([{"search": "debian"}, {"search": "prod"}]),
        "search of two characters": each([{"search": "42"}, {"search": "we"}, {"search": "虚拟"}]),
        "sorted": each({"sort": sign + sort} for sort in SORTS for sign in ("", "-")),
        "status, sorted by name": each({"status": s, "sort": "name"} for s in STATUSES),
        "middle page": each([{"page": pages // 2 + 1}]),
        "last page": each([{"page": pages}, {"page": pages, "sort": "name"}]),
    }


def ask(running: Running, path: str) -> float:
    """How long one GET takes, in seconds, on a connection that stays."""
    connection = CONNECTED.get(running.port)
    if connection is None:
        connection = CONNECTED[running.port] = http.client.HTTPConnection(
            "127.0.0.1", int(running.port), timeout=60
        )
    began = time.perf_counter()
    connection.request("GET", path, headers=AUTHORISED)
    answer = connection.getresponse()
    answer.read()
    took = time.perf_counter() - began
    if answer.status != http.HTTPStatus.OK:
        raise RuntimeError(f"GET {path}: status {answer.status}")
    return took


CONNECTED: dict[str, http.client.HTTPConnection] = {}
"""Port → the connection to it."""


def bench(*, quick: bool) -> Iterator[Figure]:
    """The lists, then memory, a fixed body, and starts, on each database."""
    sizes = (20, 200) if quick else SIZES
    rounds, windows, starts = (1, 1, 1) if quick else (ROUNDS, WINDOWS, STARTS)
    for kind in ("sqlite", "postgresql"):
        with sites(kind, sizes) as made:
            with ExitStack() as stack:
                running = [stack.enter_context(site.start()) for site in made]
                yield {"bench": f"lists on {kind}", **lists(running, sizes, rounds)}
                few, many = running[0].memory_mb(), running[-1].memory_mb()
                yield {
                    "bench": f"memory on {kind}",
                    "vms": sizes[-1],
                    "few_mb": round(few, 1),
                    "many_mb": round(many, 1),
                    "ratio": round(many / few, 2),
                }
                yield {"bench": f"list beside a fixed body on {kind}", **beside(running, windows)}
            few_s: list[float] = []
            many_s: list[float] = []
            for _ in range(starts):
                for site, seconds in ((made[0], few_s), (made[-1], many_s)):
                    with site.start() as started:
                        seconds.append(started.ready_s)
            yield {
                "bench": f"start on {kind}",
                "vms": sizes[-1],
                **medians(few=few_s, many=many_s),
                "ratio": round(statistics.median(many_s) / statistics.median(few_s), 2),
                "runs": starts,
            }


def lists(running: Sequence[Running], sizes: Sequence[int], rounds: int) -> Figure:
    """p50 and p99 of each kind of list at each size, in milliseconds."""
    kinds = {size: paths(size) for size in sizes}
    took: dict[int, dict[str, list[float]]] = {
        size: {kind: [] for kind in kinds[size]} for size in sizes
    }
    for turn in range(rounds):
        for kind in kinds[sizes[0]]:
            for number in range(REQUESTS):
                for size, one in zip(sizes, running, strict=True):
                    asked = kinds[size][kind]
                    path = asked[(turn * REQUESTS + number) % len(asked)]
                    took[size][kind].append(ask(one, path))
    growth = {
        str(size): {kind: in_milliseconds(each) for kind, each in of_kind.items()}
        | {"usual": in_milliseconds([one for kind in USUAL for one in of_kind[kind]])}
        for size, of_kind in took.items()
    }
    few, many = growth[str(sizes[0])], growth[str(sizes[-1])]
    return {
        "vms": sizes[-1],
        "few_p99_s": few["usual"]["p99_ms"] / 1000,
        "many_p99_s": many["usual"]["p99_ms"] / 1000,
        "ratio": round(many["usual"]["p99_ms"] / few["usual"]["p99_ms"], 2),
        "growth": {
            "x": "VMs",
            "unit": "ms, median",
            "series": {
                kind: [[int(size), of_kind[kind]["p50_ms"]] for size, of_kind in growth.items()]
                for kind in few
            },
        },
        "runs": rounds * REQUESTS,
    }


def in_milliseconds(seconds: Sequence[float]) -> dict[str, float]:
    """p50 and p99."""
    return {
        "p50_ms": round(statistics.median(seconds) * 1000, 2),
        "p99_ms": round(p99(seconds) * 1000, 2),
    }


def beside(running: Sequence[Running], windows: int) -> Figure:
    """Requests a second of the first page, at both ends of the sizes, and of a fixed body."""
    [path] = paths(1)["first page"]
    rates: dict[str, list[float]] = {"few": [], "many": [], "static": []}
    size = len(httpx.get(url(running[-1], path), headers=AUTHORISED).content)
    with bare_sanic(size) as bare:
        for _ in range(windows):
            for name, one in (("few", running[0]), ("static", bare), ("many", running[-1])):
                rates[name].append(asyncio.run(requests_a_second(one, path)))
    medians_of = {f"{name}_a_s": round(statistics.median(each)) for name, each in rates.items()}
    return {
        "vms": "first page of the fewest and of the most",
        "body_kb": round(size / 1000, 1),
        "connections": CONNECTIONS,
        **medians_of,
        "ratio": round(medians_of["many_a_s"] / medians_of["static_a_s"], 2),
        "runs": windows,
    }


def url(running: Running, path: str) -> str:
    """The address of a path."""
    return f"http://127.0.0.1:{running.port}{path}"


async def requests_a_second(running: Running, path: str) -> float:
    """How many GETs are answered in a second on CONNECTIONS connections at once."""
    request = f"GET {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\n\r\n".encode()
    began = time.perf_counter()
    done = 0

    async def ask_on() -> None:
        nonlocal done
        reader, writer = await asyncio.open_connection("127.0.0.1", int(running.port))
        while time.perf_counter() < began + WINDOW_SECONDS:
            writer.write(request)
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            if b" 200 " not in head.partition(b"\r\n")[0]:
                raise RuntimeError(f"GET {path}: {head!r}")
            await reader.readexactly(int(head.split(b"content-length: ")[1].split(b"\r\n")[0]))
            done += 1
        writer.close()
        await writer.wait_closed()

    await asyncio.gather(*(ask_on() for _ in range(CONNECTIONS)))
    return done / (time.perf_counter() - began)


@contextmanager
def bare_sanic(size: int) -> Iterator[Running]:
    """Sanic alone, which answers GET /api/v1/vms with a fixed body of that size."""
    port = str(free_port())
    program = [sys.executable, "-m", MODULE, "static", port, str(size)]
    with Running(subprocess.Popen(program), port) as running:
        deadline = time.monotonic() + WAIT_SECONDS
        while not _answers(port):
            if running.process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError("bare Sanic does not start")
            time.sleep(0.1)
        yield running


def serve_static(port: int, size: int) -> None:
    """Serve the fixed body."""
    from sanic import HTTPResponse, Sanic  # noqa: PLC0415

    app: Any = Sanic("static", configure_logging=False)
    body = "x" * size

    async def answer(_request: Any) -> HTTPResponse:
        return HTTPResponse(body, content_type="application/json")

    for number, path in enumerate(("/api/v1/vms", "/healthz")):
        app.add_route(answer, path, name=f"route_{number}")
    app.run(host="127.0.0.1", port=port, single_process=True, access_log=False, motd=False)


def serve() -> None:
    """The service, which observes no hosts."""
    from virtplay.cli import main  # noqa: PLC0415
    from virtplay.hosts.observer import Observer  # noqa: PLC0415

    async def run(self: Observer) -> None:
        await self._stopping.wait()

    Observer.run = run  # type: ignore[method-assign]
    sys.argv = ["virtplay", "serve"]
    main()


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["serve"]:
            serve()
        case ["static", port, size]:
            serve_static(int(port), int(size))
        case ["fill", database, vms]:
            asyncio.run(fill(database, int(vms)))
        case words:
            for figure in bench(quick="--quick" in words):
                print(json.dumps(figure), flush=True)
