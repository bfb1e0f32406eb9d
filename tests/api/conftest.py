"""Tests: fixtures that run the service, with or without playbooks, on SQLite and PostgreSQL."""

import asyncio
import contextlib
import logging
import shutil
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import asyncpg  # type: ignore[import-untyped]
import httpx
import pytest
import yaml
from sanic import Sanic
from sanic.touchup import TouchUp
from tortoise.backends.base.executor import EXECUTOR_CACHE
from virtplay import background, services
from virtplay.app import create_app
from virtplay.hosts.inventory import HostConfig, Inventory
from virtplay.hosts.observed import generations, save_observation
from virtplay.hosts.placement import Overcommit
from virtplay.jobs.launcher import Launcher
from virtplay.settings import Settings
from virtplay.snapshots.schedules import Scheduler
from virtplay.states import HostStatus
from virtplay.store.database import close_database, open_database
from virtplay.store.tokens import create_token
from virtplay.store.vms import find_host, save_host

from tests.api.fake_hosts import FakeHost, host_info
from tests.api.postgres import Cluster, find_programs
from tests.launchers import running_launcher
from tests.warm.hosts import warm_python

PROJECT = Path(__file__).parent / "project"
ADMIN = "your-token"
CATALOGUE: dict[str, dict[str, Any]] = {
    "micro": {"os": "micro", "micro": True},
    "debian12": {"os": "debian12", "url": "x"},
}
# Sanic 25.12 rewrites its own methods at each start; otherwise only the first application starts.
Sanic.test_mode = True
_touch_up = TouchUp.run


def _touch_up_once(app: Any) -> None:
    """Let Sanic rewrite its methods at the first start only; the result is always the same."""
    if not vars(Sanic).get("__touched__"):
        _touch_up(app)  # type: ignore[no-untyped-call]


TouchUp.run = _touch_up_once  # type: ignore[method-assign]
FINISHED = ("succeeded", "failed", "cancelled", "lost")
only_sqlite = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
"""For tests whose result does not depend on the database."""
only_postgres = pytest.mark.parametrize(
    "database_url", [pytest.param("postgres", marks=pytest.mark.postgres)], indirect=True
)
"""For tests of what only a database server does: it may go away."""
BODY = {"name": "web", "template": "micro", "cpu": 1, "memory": 512, "disk": 2}


@pytest.fixture(scope="session")
def postgres() -> Iterator[Cluster]:
    """A PostgreSQL server for this test worker."""
    programs = find_programs()
    if programs is None:
        pytest.fail("the test needs PostgreSQL: run make setup-lab", pytrace=False)
    with Cluster(programs) as cluster:
        yield cluster


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated, empty SQLite file that each test copies."""
    path = tmp_path_factory.mktemp("sqlite") / "template.sqlite3"

    async def make() -> None:
        await open_database(f"sqlite://{path}")
        await close_database()

    asyncio.run(make())
    return path


@pytest.fixture(scope="session")
def postgres_url(postgres: Cluster) -> str:
    """The URL of a migrated, empty database that each test leaves empty."""
    url = postgres.new_database("of_a_test")

    async def migrate() -> None:
        await open_database(url)
        await close_database()

    asyncio.run(migrate())
    return url


async def _execute(cluster: Cluster, statement: str) -> None:
    connection = await asyncpg.connect(cluster.url("postgres"))
    try:
        await connection.execute(statement)
    finally:
        await connection.close()


USED_TABLES = """
SELECT string_agg(oid::regclass::text, ', ') FROM pg_class
WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace AND pg_relation_size(oid) > 0
AND relname <> 'tortoise_migrations'
"""
DISCONNECT_OTHERS = """
SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity
WHERE datname = current_database() AND pid <> pg_backend_pid()
"""
RESTART_SEQUENCES = """
SELECT setval(format('%I.%I', schemaname, sequencename), start_value, false) FROM pg_sequences
WHERE last_value IS NOT NULL
"""


async def _empty(url: str) -> None:
    """Empty a PostgreSQL database, at a tenth of the cost of a new one."""
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(DISCONNECT_OTHERS)
        if tables := await connection.fetchval(USED_TABLES):
            await connection.execute(f"TRUNCATE {tables} CASCADE")
        await connection.execute(RESTART_SEQUENCES)
    finally:
        await connection.close()


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The URL of a migrated, empty database for this test: SQLite, then PostgreSQL."""
    # Tortoise 1.1 caches INSERT statements by connection name, not by dialect.
    EXECUTOR_CACHE.clear()
    if request.param == "sqlite":
        path = tmp_path / "state" / "virtplay.sqlite3"
        path.parent.mkdir(mode=0o700)
        shutil.copy(request.getfixturevalue("sqlite_template"), path)
        yield f"sqlite://{path}"
        return
    url: str = request.getfixturevalue("postgres_url")
    yield url
    asyncio.run(_empty(url))


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[str]:
    """The URL of the test's database, opened without the service."""
    await open_database(database_url)
    yield database_url
    await close_database()


class QuietDispatcher:
    """A dispatcher that records jobs and runs none."""

    def __init__(self, *_: object) -> None:
        self.enqueued: list[int] = []
        self._stopped = asyncio.Event()

    def enqueue(self, job_id: int) -> None:
        """Record a committed job."""
        self.enqueued.append(job_id)

    async def run(self) -> None:
        """Wait until stopped."""
        await self._stopped.wait()

    async def stop(self) -> None:
        """End `run`."""
        self._stopped.set()


class QuietObserver:
    """An observer that observes nothing: the test saves observations."""

    def __init__(
        self, _settings: Settings, _launcher: Launcher, inventory: Inventory, *_: object
    ) -> None:
        self.inventory = inventory
        self.has_observed = True
        self._stopped = asyncio.Event()

    async def run(self) -> None:
        """Wait until stopped."""
        await self._stopped.wait()

    async def first_observation(self) -> None:
        """Return at once: the test saves the first observation."""

    def follow_start(self, _job: object) -> None:
        """Wait for no address: the test saves it."""

    def stop(self) -> None:
        """End `run`."""
        self._stopped.set()


class QuietScheduler(Scheduler):
    """A scheduler that takes no turn: the test takes them."""

    async def run(self) -> None:
        """Wait until stopped."""
        await self._stopping.wait()


@dataclass
class Service:
    """The service on a loopback port, and a client with an admin's token."""

    client: httpx.AsyncClient
    address: str
    port: int
    settings: Settings
    app: Any
    logs: list[str]
    hosts: dict[str, FakeHost] = field(default_factory=dict)

    async def get(self, path: str, **query: Any) -> Any:
        """Return `data` of GET /api/v1{path}, which must succeed."""
        answer = await self.client.get(f"/api/v1{path}", params=query)
        assert answer.status_code == 200, answer.text
        body = answer.json()
        assert body["success"] is True
        return body["data"]

    async def post(self, path: str, body: Any = None, **query: Any) -> httpx.Response:
        """Send POST /api/v1{path} and return the response."""
        return await self.client.post(f"/api/v1{path}", json=body, params=query)

    async def create(self, **values: Any) -> Any:
        """Return `data` of POST /vms with BODY updated by `values`, which must be accepted."""
        answer = await self.post("/vms", {**BODY, **values})
        assert answer.status_code == 202, answer.text
        return answer.json()["data"]

    async def act(self, vm: str, action: str, body: Any = None) -> Any:
        """Return `data` of POST /vms/{vm}/{action}, which must be accepted."""
        answer = await self.post(f"/vms/{vm}/{action}", body)
        assert answer.status_code == 202, answer.text
        return answer.json()["data"]

    async def wait(self, job: str, seconds: float = 300) -> Any:
        """Wait until the job has ended and return it."""
        async with asyncio.timeout(seconds):
            while (found := await self.get(f"/jobs/{job}", wait=20))["status"] not in FINISHED:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        return found

    async def succeed(self, job: str) -> Any:
        """Wait until the job has ended, which must succeed, and return it."""
        found = await self.wait(job)
        assert found["status"] == "succeeded", found
        return found

    async def until(self, path: str, test: Callable[[Any], object], seconds: float = 300) -> Any:
        """Send GET `path` until its data passes `test`, and return the data."""
        async with asyncio.timeout(seconds):
            while not test(found := await self.get(path)):  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        return found

    async def see(self, host: str = "kvm1", **values: Any) -> None:
        """Save `host_info(**values)` as an observation of the host."""
        await save_observation(host, host_info(**values), await generations(host))

    async def mark(self, host: str, status: HostStatus, message: str = "") -> None:
        """Set the status of a host."""
        await save_host(await find_host(host), status, message)

    async def as_role(self, role: str, **values: Any) -> dict[str, str]:
        """Create a token with that role and return the headers of its requests."""
        text = await create_token(f"{role}-{values.get('name', 'one')}", role)
        return {"Authorization": f"Bearer {text}"}


class _Lines(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(self.format(record))


@pytest.fixture
def log_lines() -> Iterator[list[str]]:
    """The log lines of the test, formatted as the service writes them."""
    from virtplay.logs import set_up_logging

    root = logging.getLogger()
    before, level = list(root.handlers), root.level
    set_up_logging("INFO")
    printer = root.handlers[0]
    lines = _Lines()
    lines.setFormatter(printer.formatter)
    for each in printer.filters:
        lines.addFilter(each)
    root.handlers = [*before, lines]
    yield lines.lines
    root.handlers = before
    root.setLevel(level)


@contextlib.asynccontextmanager
async def _serve(settings: Settings, lines: list[str]) -> AsyncIterator[Service]:
    app = create_app(settings)
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    port = int(listener.getsockname()[1])
    server: Any = await app.create_server(sock=listener, return_asyncio_server=True)
    await server.startup()
    try:
        await server.before_start()
        await server.after_start()
        await server.start_serving()
        address = f"http://127.0.0.1:{port}"
        headers = {"Authorization": f"Bearer {ADMIN}"}
        # Without TLS, loading the CA certificates would only take time.
        async with httpx.AsyncClient(
            base_url=address, headers=headers, timeout=300, verify=False
        ) as client:
            yield Service(client, address, port, settings, app, lines)
    finally:
        await server.before_stop()
        await server.close()
        for connection in list(server.connections or ()):
            connection.close()
        await server.after_stop()
        Sanic.unregister_app(app)


@pytest.fixture(scope="session")
def launcher() -> Iterator[Path]:
    """The socket of a launcher for the services of this test worker."""
    with running_launcher(PROJECT) as path:
        yield path


@pytest.fixture
def settings(tmp_path: Path, database_url: str) -> Settings:
    """Settings with the test's own state directory and database, without a launcher."""
    return Settings(
        launcher="off",
        project_dir=PROJECT,
        inventory=str(tmp_path / "hosts.yml"),
        state_dir=tmp_path / "state",
        database_url=database_url,
        bootstrap_token=ADMIN,
        observe_interval=300,
        observe_timeout=120,
        observe_address_timeout=0,
        shutdown_grace=0,
    )


@pytest.fixture
async def service(
    settings: Settings, log_lines: list[str], monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Service]:
    """The service with two hosts that were observed once.

    It runs no jobs, observes no hosts, and takes no turns of schedules.
    """
    hosts = {name: HostConfig(name, Overcommit(), CATALOGUE) for name in ("kvm1", "kvm2")}

    async def load(_settings: Settings) -> Inventory:
        return Inventory(hosts)

    for module in (background, services):
        monkeypatch.setattr(module, "load_inventory", load)
    monkeypatch.setattr(services, "LocalDispatcher", QuietDispatcher)
    monkeypatch.setattr(services, "Observer", QuietObserver)
    monkeypatch.setattr(services, "Scheduler", QuietScheduler)
    async with _serve(settings, log_lines) as running:
        for name in hosts:
            await running.see(name)
        yield running


@pytest.fixture(scope="session")
def python() -> Iterator[Path]:
    """The Python that runs the modules of the fake hosts."""
    with warm_python(PROJECT / "library") as python:
        yield python


def write_inventory(path: Path, hosts: dict[str, FakeHost], **more: dict[str, Any]) -> None:
    """Write an inventory of fake hosts; `more` maps host names to further host variables."""
    entries = {
        name: {
            "ansible_connection": "local",
            "fake_hypervisor": str(host.path),
            # No environment variable: each worker has another path, and settings of its own.
            **({"ansible_python_interpreter": str(host.python)} if host.python else {}),
            **more.get(name, {}),
        }
        for name, host in hosts.items()
    }
    path.write_text(yaml.safe_dump({"hypervisors": {"hosts": entries}}))


@pytest.fixture
def fake_hosts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, python: Path
) -> dict[str, FakeHost]:
    """A fake hypervisor, which the test's inventory lists."""
    folder = tmp_path / "hypervisors"
    folder.mkdir()
    # A killed module leaves the directory with its unpacked files.
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    hosts = {"kvm1": FakeHost("kvm1", folder, python)}
    write_inventory(tmp_path / "hosts.yml", hosts)
    return hosts


@pytest.fixture
def way(launcher: Path) -> str:
    """How jobs are started: the socket of a launcher, or "off"."""
    return str(launcher)


@pytest.fixture
async def playing(
    settings: Settings, log_lines: list[str], fake_hosts: dict[str, FakeHost], way: str
) -> AsyncIterator[Service]:
    """The whole service: it runs real playbooks on the fake hosts and observes them."""
    settings.launcher = way
    async with _serve(settings, log_lines) as running:
        running.hosts = fake_hosts
        await running.until("/hosts", lambda d: all(h["status"] == "ready" for h in d["hosts"]))
        yield running
