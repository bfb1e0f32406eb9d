"""Tests: the running service, with and without plays, on either database."""

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
from tortoise.backends.base.executor import EXECUTOR_CACHE
from virtplay import background, services
from virtplay.app import create_app
from virtplay.hosts.inventory import HostConfig, Inventory
from virtplay.hosts.observed import generations, save_observation
from virtplay.hosts.placement import Overcommit
from virtplay.settings import Settings
from virtplay.states import HostStatus
from virtplay.store.database import close_database, open_database
from virtplay.store.tokens import create_token
from virtplay.store.vms import find_host, save_host

from tests.api.fake_hosts import FakeHost, host_info
from tests.api.postgres import Cluster, find_programs

PROJECT = Path(__file__).parent / "project"
ADMIN = "your-token"
CATALOGUE: dict[str, dict[str, Any]] = {
    "micro": {"os": "micro", "micro": True},
    "debian12": {"os": "debian12", "url": "x"},
}
# Sanic 25.12 rewrites its own methods at each start; else only the first application starts.
Sanic.test_mode = True
FINISHED = ("succeeded", "failed", "cancelled", "lost")
only_sqlite = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
"""For what no database can make different."""
BODY = {"name": "web", "template": "micro", "cpu": 1, "memory": 512, "disk": 2}


@pytest.fixture(scope="session")
def postgres() -> Iterator[Cluster]:
    """A PostgreSQL server of this worker's own."""
    programs = find_programs()
    if programs is None:
        pytest.fail("the test needs PostgreSQL: run make setup-lab", pytrace=False)
    with Cluster(programs) as cluster:
        yield cluster


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated, empty SQLite file, to be copied."""
    path = tmp_path_factory.mktemp("sqlite") / "template.sqlite3"

    async def make() -> None:
        await open_database(f"sqlite://{path}")
        await close_database()

    asyncio.run(make())
    return path


@pytest.fixture(scope="session")
def postgres_template(postgres: Cluster) -> str:
    """The name of a migrated, empty database, to be copied."""

    async def make() -> None:
        await _execute(postgres, "CREATE DATABASE template_of_tests")
        await open_database(postgres.url("template_of_tests"))
        await close_database()

    asyncio.run(make())
    return "template_of_tests"


async def _execute(cluster: Cluster, statement: str) -> None:
    connection = await asyncpg.connect(cluster.url("postgres"))
    try:
        await connection.execute(statement)
    finally:
        await connection.close()


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A migrated, empty database of this test's own: SQLite, then PostgreSQL."""
    # Tortoise 1.1 keeps the text of inserts by connection name, whatever the dialect.
    EXECUTOR_CACHE.clear()
    if request.param == "sqlite":
        path = tmp_path / "state" / "virtplay.sqlite3"
        path.parent.mkdir(mode=0o700)
        shutil.copy(request.getfixturevalue("sqlite_template"), path)
        yield f"sqlite://{path}"
        return
    cluster: Cluster = request.getfixturevalue("postgres")
    template = request.getfixturevalue("postgres_template")
    asyncio.run(_execute(cluster, f"CREATE DATABASE of_this_test TEMPLATE {template}"))
    yield cluster.url("of_this_test")
    asyncio.run(_execute(cluster, "DROP DATABASE of_this_test WITH (FORCE)"))


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[str]:
    """The test's database, open, without a service."""
    await open_database(database_url)
    yield database_url
    await close_database()


class QuietDispatcher:
    """Takes note of jobs and never runs one."""

    def __init__(self, *_: object) -> None:
        self.enqueued: list[int] = []
        self._stopped = asyncio.Event()

    def enqueue(self, job_id: int) -> None:
        """Take note of a committed job."""
        self.enqueued.append(job_id)

    async def run(self) -> None:
        """Wait until stopped."""
        await self._stopped.wait()

    async def stop(self) -> None:
        """End `run`."""
        self._stopped.set()


class QuietObserver:
    """Never looks: the test says what was seen."""

    def __init__(self, _settings: Settings, inventory: Inventory, *_: object) -> None:
        self.inventory = inventory
        self.has_observed = True
        self._stopped = asyncio.Event()

    async def run(self) -> None:
        """Wait until stopped."""
        await self._stopped.wait()

    async def first_observation(self) -> None:
        """Wait for nothing: what the test says was seen, was."""

    def stop(self) -> None:
        """End `run`."""
        self._stopped.set()


@dataclass
class Service:
    """The service, answering on a loopback port, and an admin's client of it."""

    client: httpx.AsyncClient
    address: str
    port: int
    settings: Settings
    app: Any
    logs: list[str]
    hosts: dict[str, FakeHost] = field(default_factory=dict)

    async def get(self, path: str, **query: Any) -> Any:
        """`data` of GET /api/v1{path}."""
        answer = await self.client.get(f"/api/v1{path}", params=query)
        assert answer.status_code == 200, answer.text
        body = answer.json()
        assert body["success"] is True
        return body["data"]

    async def post(self, path: str, body: Any = None, **query: Any) -> httpx.Response:
        """POST /api/v1{path}."""
        return await self.client.post(f"/api/v1{path}", json=body, params=query)

    async def create(self, **values: Any) -> Any:
        """`data` of an accepted POST /vms with `values` over BODY."""
        answer = await self.post("/vms", {**BODY, **values})
        assert answer.status_code == 202, answer.text
        return answer.json()["data"]

    async def act(self, vm: str, action: str, body: Any = None) -> Any:
        """`data` of an accepted POST /vms/{vm}/{action}."""
        answer = await self.post(f"/vms/{vm}/{action}", body)
        assert answer.status_code == 202, answer.text
        return answer.json()["data"]

    async def wait(self, job: str, seconds: float = 300) -> Any:
        """The job once it has ended."""
        async with asyncio.timeout(seconds):
            while (found := await self.get(f"/jobs/{job}"))["status"] not in FINISHED:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        return found

    async def succeed(self, job: str) -> Any:
        """The job, which must succeed."""
        found = await self.wait(job)
        assert found["status"] == "succeeded", found
        return found

    async def until(self, path: str, test: Callable[[Any], object], seconds: float = 300) -> Any:
        """GET `path` until its data passes `test`."""
        async with asyncio.timeout(seconds):
            while not test(found := await self.get(path)):  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        return found

    async def see(self, host: str = "kvm1", **values: Any) -> None:
        """Let an observation of the host answer `host_info(**values)`."""
        await save_observation(host, host_info(**values), await generations())

    async def mark(self, host: str, status: HostStatus, message: str = "") -> None:
        """Give a host that status."""
        await save_host(await find_host(host), status, message)

    async def as_role(self, role: str, **values: Any) -> dict[str, str]:
        """The headers of a new token with that role."""
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
    """Every log line as the service would print it."""
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
        # Without TLS, the many certificates need not be read.
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


@pytest.fixture
def settings(tmp_path: Path, database_url: str) -> Settings:
    """Settings on the test's own state directory and database."""
    return Settings(
        project_dir=PROJECT,
        inventory=str(tmp_path / "hosts.yml"),
        state_dir=tmp_path / "state",
        database_url=database_url,
        bootstrap_token=ADMIN,
        observe_interval=300,
        observe_timeout=120,
        shutdown_grace=0,
    )


@pytest.fixture
async def service(
    settings: Settings, log_lines: list[str], monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Service]:
    """The service with two hosts that were seen once; jobs stay queued, nobody looks."""
    hosts = {name: HostConfig(name, Overcommit(), CATALOGUE) for name in ("kvm1", "kvm2")}

    async def load(_settings: Settings) -> Inventory:
        return Inventory(hosts)

    for module in (background, services):
        monkeypatch.setattr(module, "load_inventory", load)
    monkeypatch.setattr(services, "LocalDispatcher", QuietDispatcher)
    monkeypatch.setattr(services, "Observer", QuietObserver)
    async with _serve(settings, log_lines) as running:
        for name in hosts:
            await running.see(name)
        yield running


def write_inventory(path: Path, hosts: dict[str, FakeHost], **more: dict[str, Any]) -> None:
    """An inventory of fake hosts; `more` are host variables by host name."""
    entries = {
        name: {
            "ansible_connection": "local",
            "fake_hypervisor": str(host.path),
            **more.get(name, {}),
        }
        for name, host in hosts.items()
    }
    path.write_text(yaml.safe_dump({"hypervisors": {"hosts": entries}}))


@pytest.fixture
def fake_hosts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, FakeHost]:
    """One hypervisor in a file, named in the test's inventory."""
    folder = tmp_path / "hypervisors"
    folder.mkdir()
    # A module that is killed leaves what it was unpacked to.
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    hosts = {"kvm1": FakeHost("kvm1", folder)}
    write_inventory(tmp_path / "hosts.yml", hosts)
    return hosts


@pytest.fixture
async def playing(
    settings: Settings, log_lines: list[str], fake_hosts: dict[str, FakeHost]
) -> AsyncIterator[Service]:
    """The whole service: jobs are real plays on the fake hosts, which are observed."""
    async with _serve(settings, log_lines) as running:
        running.hosts = fake_hosts
        await running.until("/hosts", lambda d: all(h["status"] == "ready" for h in d["hosts"]))
        yield running
