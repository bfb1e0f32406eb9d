"""API tests: consoles, with a TCP server as VNC on this machine, which is the hypervisor."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import random
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from virtplay.api.http import websocket
from virtplay.console import opening, watch
from virtplay.hosts.inventory import HostConfig, Inventory, load_inventory
from virtplay.hosts.placement import Overcommit
from virtplay.states import VmStatus
from virtplay.store.models import AuditEntry, ConsoleTicket, Job, Token, Vm
from virtplay.store.tickets import create_ticket, forget_tickets
from virtplay.store.tokens import create_token, revoke_token, valid_tokens
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.typing import Origin, Subprotocol

from tests.api.conftest import CATALOGUE, Service, only_sqlite, write_inventory
from tests.api.fake_hosts import foreign_domain
from tests.api.test_vms import put_vm

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
LOCAL = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable}


async def repeat(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()


@asynccontextmanager
async def vnc_server(serve: Serve) -> AsyncIterator[tuple[int, asyncio.Server]]:
    """A server on a loopback port in QEMU's place."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            await serve(reader, writer)
        writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1], server
    finally:
        server.close()


class Console:
    """A VM with a VNC server, and tickets for it."""

    def __init__(self, service: Service, vm: Vm, token: Token, port: int) -> None:
        self.service = service
        self.vm = vm
        self.token = token
        self.port = port

    async def ticket(self, kind: str = "vnc") -> str:
        return (await create_ticket(self.vm.id, self.token.id, kind, self.port))[0]

    def url(self, ticket: str | None, vm: str | None = None) -> str:
        base = self.service.address.replace("http", "ws", 1)
        query = f"?ticket={ticket}" if ticket is not None else ""
        return f"{base}/console/{vm or self.vm.ref}{query}"

    def connect(self, ticket: str | None, **options: Any) -> Any:
        options.setdefault("origin", Origin(self.service.address))
        return connect(self.url(ticket, options.pop("vm", None)), max_size=None, **options)

    async def refused(self, ticket: str | None, **options: Any) -> tuple[int, str]:
        """Status and code of an attempt that must be answered in the envelope."""
        with pytest.raises(InvalidStatus) as caught:
            async with self.connect(ticket, **options):
                pass
        response = caught.value.response
        body = json.loads(response.body)
        assert body["success"] is False
        assert len(ticket or "") < 43 or str(ticket) not in response.body.decode()
        return response.status_code, body["error"]["code"]


async def seen_vm(service: Service, **values: Any) -> Vm:
    domain = foreign_domain(**values)
    await service.see(domains=[domain])
    return await Vm.get(uuid=domain["uuid"])


@asynccontextmanager
async def console_of(service: Service, serve: Serve = repeat) -> AsyncIterator[Console]:
    hosts = {n: HostConfig(n, Overcommit(), CATALOGUE, LOCAL) for n in ("kvm1", "kvm2")}
    service.app.ctx.services.consoles.inventory = Inventory(hosts)
    await create_token("looker", "operator")
    async with vnc_server(serve) as (port, _):
        yield Console(service, await seen_vm(service), await Token.get(name="looker"), port)


async def rest_of(socket: ClientConnection, seconds: float = 120) -> tuple[bytes, int, str]:
    """What still comes on a stream, and the code and reason with which the service closes it."""
    heard = bytearray()
    with contextlib.suppress(ConnectionClosed):
        async with asyncio.timeout(seconds):
            while True:
                heard.extend(await socket.recv(decode=False))
    assert socket.close_code is not None
    return bytes(heard), socket.close_code, socket.close_reason or ""


async def ending(socket: ClientConnection) -> tuple[int, str]:
    """Code and reason with which the service closes a stream."""
    return (await rest_of(socket))[1:]


@only_sqlite
async def test_bytes_pass_both_ways_in_their_order(service: Service) -> None:
    rng = random.Random(7)
    sent = rng.randbytes(6 * 1024 * 1024)
    async with console_of(service) as console, console.connect(await console.ticket()) as socket:
        received = bytearray()

        async def read() -> None:
            while len(received) < len(sent):
                received.extend(await socket.recv())

        reading = asyncio.create_task(read())
        position = 0
        while position < len(sent):
            size = rng.choice((1, 100, 5000, 65536))
            # Fragments of one message, and pings between, are nothing special.
            piece = sent[position : position + size]
            await socket.send([piece[:10], piece[10:]] if size == 5000 else piece)
            position += size
            if size == 1:
                await socket.ping()
        async with asyncio.timeout(60):
            await reading
    assert hashlib.sha256(received).digest() == hashlib.sha256(sent).digest()


@pytest.mark.slow
@only_sqlite
async def test_serial_console_of_a_local_host(service: Service) -> None:
    async with (
        console_of(service) as console,
        console.connect(await console.ticket("serial")) as socket,
    ):
        await socket.send(bytes(range(256)))
        assert await socket.recv() == bytes(range(256))
        await socket.send(b"stop")
        assert await ending(socket) == (1001, "the VM has stopped")


@only_sqlite
async def test_subprotocol_is_agreed_to_when_it_is_asked_for(service: Service) -> None:
    async with console_of(service) as console:
        for asked, given in (
            (["binary"], "binary"),
            (["base64", "binary"], "binary"),
            (None, None),
        ):
            names = [Subprotocol(name) for name in asked] if asked else None
            async with console.connect(await console.ticket(), subprotocols=names) as socket:
                assert socket.subprotocol == given


async def test_ticket_is_good_for_one_connection(service: Service) -> None:
    async with console_of(service) as console:
        ticket = await console.ticket()
        async with console.connect(ticket):
            assert await console.refused(ticket) == (403, "FORBIDDEN")
        assert await console.refused(ticket) == (403, "FORBIDDEN")
        ticket = await console.ticket()

        async def attempt() -> bool:
            try:
                async with console.connect(ticket):
                    return True
            except InvalidStatus:
                return False

        assert sum(await asyncio.gather(*(attempt() for _ in range(10)))) == 1


async def test_tickets_that_are_not_good_are_refused(service: Service) -> None:
    async with console_of(service) as console:
        for wrong in (None, "", "x", "x" * 43, "%F0%9F", "a&ticket=b"):
            assert await console.refused(wrong) == (403, "FORBIDDEN"), wrong
        ticket = await console.ticket()
        assert await console.refused(ticket, vm="vm-999") == (403, "FORBIDDEN")
        # The URL of a ticket has the id; who has no token learns nothing by other names.
        assert await console.refused(ticket, vm=str(console.vm.domain)) == (403, "FORBIDDEN")
        other = await seen_vm(service, name="other")
        await service.see(domains=[foreign_domain(uuid=str(vm.uuid)) for vm in await Vm.all()])
        assert await console.refused(ticket, vm=str(other.ref)) == (403, "FORBIDDEN")
        # None of that has used it up.
        async with console.connect(ticket):
            pass
        old = await console.ticket()
        await ConsoleTicket.all().update(expires_at=datetime.now(UTC) - timedelta(seconds=1))
        assert await console.refused(old) == (403, "FORBIDDEN")
        await forget_tickets()
        assert await ConsoleTicket.all().count() == 0
        late = await console.ticket()
        await revoke_token("looker")
        assert await console.refused(late) == (403, "FORBIDDEN")


async def test_only_the_hash_of_a_ticket_is_kept(service: Service) -> None:
    async with console_of(service) as console:
        before = datetime.now(UTC)
        text = await console.ticket()
        ticket = await ConsoleTicket.get()
        assert ticket.digest == hashlib.sha256(text.encode()).hexdigest()
        lasts = timedelta(seconds=40)
        assert before + lasts <= ticket.expires_at <= datetime.now(UTC) + lasts


@only_sqlite
@pytest.mark.parametrize(
    "origin",
    [
        None,
        "null",
        "",
        "http://evil.example.org",
        "ftp://{own}",
        "http://{own}.example.org",
        "{own}",
    ],
)
async def test_foreign_origins_are_refused(service: Service, origin: str | None) -> None:
    async with console_of(service) as console:
        own = service.address.removeprefix("http://")
        given = Origin(origin.format(own=own)) if origin is not None else None
        ticket = await console.ticket()
        assert await console.refused(ticket, origin=given) == (403, "FORBIDDEN")
        twice = {"Origin": service.address}
        if given is not None:
            refused = await console.refused(ticket, origin=given, additional_headers=twice)
            assert refused[0] in (400, 403)
        async with console.connect(ticket):
            pass


@only_sqlite
async def test_listed_origins_may_open_consoles(service: Service) -> None:
    settings = service.app.ctx.services.settings
    settings.console_origins = "https://ui.example.org,http://other.example.org:8080"
    settings.public_url = "https://virt.example.org"
    async with console_of(service) as console:
        for origin in (*settings.console_origins.split(","), settings.public_url):
            async with console.connect(await console.ticket(), origin=Origin(origin)):
                pass
        forged = {"X-Forwarded-Host": "evil.example.org", "X-Forwarded-Proto": "https"}
        origin = Origin("https://evil.example.org")
        ticket = await console.ticket()
        assert (await console.refused(ticket, origin=origin, additional_headers=forged))[0] == 403


async def test_stopped_vm_is_refused_and_its_ticket_stays(service: Service) -> None:
    async with console_of(service) as console:
        ticket = await console.ticket()
        stopped = foreign_domain(uuid=str(console.vm.uuid), state="stopped")
        await service.see(domains=[stopped])
        assert await console.refused(ticket) == (400, "VM_ALREADY_STOPPED")
        for kind in ("vnc", "serial"):
            answer = await service.client.get(
                f"/api/v1/vms/{console.vm.ref}/console", params={"type": kind}
            )
            assert answer.status_code == 400
            assert answer.json()["error"]["code"] == "VM_ALREADY_STOPPED"
        await service.see(domains=[foreign_domain(uuid=str(console.vm.uuid))])
        async with console.connect(ticket):
            pass


@only_sqlite
async def test_what_is_no_handshake_is_answered_in_the_envelope(service: Service) -> None:
    async with console_of(service) as console:
        ticket = await console.ticket()
        path = f"/console/{console.vm.ref}?ticket={ticket}"
        origin = {"Origin": service.address}
        halves = {**origin, "Connection": "Upgrade", "Upgrade": "websocket"}
        for headers in ({}, origin, halves, {**halves, "Sec-WebSocket-Key": "x"}):
            answer = await service.client.get(path, headers=headers)
            assert answer.status_code == 400, headers
            assert answer.json()["error"]["code"] == "VALIDATION_ERROR"
        assert (await service.client.post(path, headers=origin)).status_code == 405
        async with console.connect(ticket):
            pass


@only_sqlite
async def test_wrong_frames_close_the_stream(service: Service) -> None:
    async with console_of(service) as console:
        async with console.connect(await console.ticket()) as socket:
            await socket.send("text")
            assert (await ending(socket))[0] == 1003
        async with console.connect(await console.ticket()) as socket:
            await socket.send(b"x" * 65537)
            assert (await ending(socket))[0] == 1009
        async with console.connect(await console.ticket()) as socket:
            await socket.send([b"x" * 60000, b"x" * 60000])
            assert (await ending(socket))[0] == 1009
        async with console.connect(await console.ticket()) as socket:
            socket.transport.write(b"\xff\xff\xff\xff")
            assert (await ending(socket))[0] == 1002


@only_sqlite
async def test_what_the_guest_says_last_arrives_before_the_end(service: Service) -> None:
    last = random.Random(3).randbytes(1_000_000)

    async def say(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(last)
        await writer.drain()

    async with (
        console_of(service, say) as console,
        console.connect(await console.ticket()) as socket,
    ):
        assert await rest_of(socket) == (last, 1001, "the VM has closed the connection")


@only_sqlite
async def test_stream_says_when_nobody_answers(service: Service) -> None:
    async with console_of(service) as console:
        async with vnc_server(repeat) as (port, server):
            console.port = port
            server.close()
            await server.wait_closed()
            async with console.connect(await console.ticket()) as socket:
                code, reason = await ending(socket)
        assert code == 1011
        assert "cannot reach port" in reason


@pytest.mark.slow
@pytest.mark.parametrize("how", ["revoked", "expired"])
async def test_stream_ends_with_its_token(service: Service, how: str) -> None:
    async with console_of(service) as console:
        await create_token("stays", "operator")
        stays = Console(service, console.vm, await Token.get(name="stays"), console.port)
        async with (
            console.connect(await console.ticket()) as socket,
            stays.connect(await stays.ticket()) as other,
        ):
            await socket.send(b"x")
            assert await socket.recv() == b"x"
            if how == "revoked":
                await revoke_token("looker")
            else:
                await Token.filter(name="looker").update(expires_at=datetime.now(UTC))
            code, reason = await ending(socket)
            assert (code, "revoked or has expired" in reason) == (1008, True)
            await other.send(b"y")
            assert await other.recv() == b"y"


@pytest.mark.slow
@only_sqlite
async def test_stream_that_opens_while_tokens_are_looked_at_stays(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, go, ended = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def slow(ids: Collection[int]) -> set[int]:
        if asked.is_set():
            ended.set()
        asked.set()
        await go.wait()
        return await valid_tokens(ids)

    monkeypatch.setattr(watch, "valid_tokens", slow)
    async with console_of(service) as console:
        await create_token("late", "operator")
        late = Console(service, console.vm, await Token.get(name="late"), console.port)
        async with console.connect(await console.ticket()):
            await asked.wait()
            async with late.connect(await late.ticket()) as socket:
                await socket.send(b"x")
                assert await socket.recv() == b"x"
                go.set()
                await ended.wait()
                await socket.send(b"y")
                assert await socket.recv() == b"y"


@pytest.mark.slow
@only_sqlite
async def test_streams_end_when_the_service_stops(service: Service) -> None:
    async def flood(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            writer.write(b"x" * 65536)
            await writer.drain()

    async with console_of(service, flood) as console:
        async with (
            console.connect(await console.ticket()) as first,
            console.connect(await console.ticket("serial")) as second,
            console.connect(await console.ticket()) as deaf,
        ):
            await first.recv()
            deaf.transport.pause_reading()
            stopping = asyncio.create_task(service.app.ctx.services.consoles.stop())
            for socket in (first, second):
                assert await ending(socket) == (1001, "the service is stopping")
            await stopping
            deaf.transport.abort()
        async with console.connect(await console.ticket()) as late:
            assert await ending(late) == (1001, "the service is stopping")


@pytest.mark.slow
@only_sqlite
async def test_client_that_never_reads_holds_up_the_guest_and_not_the_service(
    service: Service,
) -> None:
    sent = 0

    async def flood(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        while True:
            writer.write(b"x" * 65536)
            await writer.drain()
            sent += 65536

    async with (
        console_of(service, flood) as console,
        console.connect(await console.ticket()) as socket,
    ):
        socket.transport.pause_reading()
        stalled = -1
        while sent > stalled:
            stalled = sent
            await asyncio.sleep(1)
        # Most of it is in the buffers of two loopback sockets.
        assert stalled < 32 * 1024 * 1024
        assert (await service.client.get("/healthz")).status_code == 200
        socket.transport.abort()


@pytest.mark.slow
@only_sqlite
async def test_guest_that_never_reads_holds_up_the_client(service: Service) -> None:
    async def deaf(_reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        await asyncio.Event().wait()

    sent = 0

    async def send(socket: ClientConnection) -> None:
        nonlocal sent
        while True:
            await socket.send(b"x" * 65536)
            sent += 65536

    async with (
        console_of(service, deaf) as console,
        console.connect(await console.ticket(), ping_interval=None) as socket,
    ):
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(send(socket), 3)
        assert sent < 32 * 1024 * 1024
        socket.transport.abort()


@pytest.mark.slow
@only_sqlite
async def test_silent_client_is_given_up_and_a_quiet_one_is_not(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(websocket, "QUIET_SECONDS", 1.0)
    monkeypatch.setattr(websocket, "SILENT_SECONDS", 12.0)
    async with (
        console_of(service) as console,
        console.connect(await console.ticket(), ping_interval=None) as quiet,
        console.connect(await console.ticket(), ping_interval=None) as silent,
    ):
        silent.transport.pause_reading()
        streams = service.app.ctx.services.consoles._open
        async with asyncio.timeout(120):
            while len(streams) == 2:  # noqa: ASYNC110
                await asyncio.sleep(0.1)
        await asyncio.sleep(3)
        await quiet.send(b"x")
        assert await quiet.recv() == b"x"
        silent.transport.abort()


# --- with plays ---


@asynccontextmanager
async def playing_vm(playing: Service, **graphics: Any) -> AsyncIterator[str]:
    made = await playing.create(autoStart=True)
    await playing.succeed(made["jobId"])
    with playing.hosts["kvm1"].change() as content:
        for each in content["domains"].values():
            each["graphics"] = {"type": "vnc", "host": "127.0.0.1", **graphics}
    yield made["id"]


@pytest.mark.slow
async def test_console_is_opened_by_a_job_that_keeps_the_password(playing: Service) -> None:
    async with vnc_server(repeat) as (port, _), playing_vm(playing, port=port) as vm:
        opened = await playing.get(f"/vms/{vm}/console")
        assert opened.keys() == {
            "type",
            "host",
            "port",
            "password",
            "url",
            "expiresAt",
            "jobId",
        }
        assert (opened["type"], opened["host"], opened["port"]) == ("vnc", "127.0.0.1", port)
        assert len(opened["password"]) == 8
        assert opened["url"].startswith(f"ws://127.0.0.1:{playing.port}/console/{vm}?ticket=")
        job = await playing.get(f"/jobs/{opened['jobId']}")
        assert (job["action"], job["status"]) == ("console_open", "succeeded")
        listed = [(await playing.get("/jobs", **q))["jobs"] for q in ({}, {"consoles": "false"})]
        assert listed[0] == [job, *listed[1]]
        async with connect(opened["url"], origin=Origin(playing.address)) as socket:
            await socket.send(b"RFB")
            assert await socket.recv() == b"RFB"

        # Two people at once: the second's job must not shut the first one out.
        both = await asyncio.gather(*(playing.get(f"/vms/{vm}/console") for _ in range(2)))
        assert {each["password"] for each in both} == {opened["password"]}
        assert len({each["url"] for each in both}) == 2
        for each in both:
            async with connect(each["url"], origin=Origin(playing.address)):
                pass
        calls = playing.hosts["kvm1"].calls("console")
        digest = hashlib.sha256(opened["password"].encode()).hexdigest()
        assert [call["given"]["password"] for call in calls] == [digest] * 3

        for place in (
            json.dumps(await playing.get("/jobs", limit=100)),
            (await playing.client.get(f"/api/v1/jobs/{opened['jobId']}/log")).text,
            "\n".join(playing.logs),
        ):
            assert opened["password"] not in place
            assert opened["url"].split("=")[1] not in place
        for path in playing.settings.state_dir.rglob("*"):
            # What a job leaves for itself goes as soon as it has been read.
            with contextlib.suppress(FileNotFoundError, IsADirectoryError):
                assert opened["password"].encode() not in path.read_bytes(), path

        serial = await playing.get(f"/vms/{vm}/console", type="serial")
        assert [serial[key] for key in ("type", "host", "port", "password")] == [
            "serial",
            None,
            None,
            None,
        ]


@pytest.fixture
async def direct(playing: Service, tmp_path: Path) -> Service:
    """The service, with consoles that open without a job."""
    own = {"libvirt_console_uri": str(playing.hosts["kvm1"].path)}
    write_inventory(tmp_path / "hosts.yml", playing.hosts, kvm1={**LOCAL, **own})
    playing.app.ctx.services.consoles.inventory = await load_inventory(playing.settings)
    return playing


@pytest.mark.slow
async def test_console_opens_without_a_job_over_its_own_connection(direct: Service) -> None:
    async with vnc_server(repeat) as (port, _), playing_vm(direct, port=port) as vm:
        before = await Job.all().count()
        opened = await direct.get(f"/vms/{vm}/console")
        assert (opened["port"], opened["jobId"]) == (port, None)
        assert len(opened["password"]) == 8
        async with connect(opened["url"], origin=Origin(direct.address)) as socket:
            await socket.send(b"RFB")
            assert await socket.recv() == b"RFB"
        serial = await direct.get(f"/vms/{vm}/console", type="serial")
        assert [serial[key] for key in ("port", "password", "jobId")] == [None] * 3
        # Nothing in the list of changes, but who has opened what is in the audit.
        assert await Job.all().count() == before
        entries = await AuditEntry.filter(action="console_open").order_by("id")
        assert [(e.actor, e.vm_ref, e.job_ref, e.address) for e in entries] == [
            ("bootstrap", vm, None, "127.0.0.1")
        ] * 2
        assert entries[0].request_id != entries[1].request_id
        assert opened["password"] not in "\n".join(direct.logs)


@pytest.mark.slow
@only_sqlite
async def test_what_the_host_refuses_is_refused_without_a_job(direct: Service) -> None:
    async with playing_vm(direct, port=5900) as vm:
        before = await Job.all().count()
        for code, status, words in (
            ("CONSOLE_NOT_AVAILABLE", 409, "it has no screen"),
            ("VM_ALREADY_STOPPED", 400, "it is stopped"),
            ("VM_NOT_FOUND", 404, "it is not defined on its host"),
        ):
            direct.hosts["kvm1"].order("console", fail={"code": code, "msg": words})
            answer = await direct.client.get(f"/api/v1/vms/{vm}/console")
            error = answer.json()["error"]
            assert (answer.status_code, error["code"]) == (status, code)
            assert error["message"] == f"cannot open a console of VM web ({vm}): {words}"
        assert await Job.all().count() == before
        assert await AuditEntry.filter(action="console_open").count() == 0


@pytest.mark.slow
async def test_console_needs_no_lock(playing: Service) -> None:
    async with playing_vm(playing, port=5900) as vm:
        gate = playing.hosts["kvm1"].hold("pause")
        pausing = await playing.act(vm, "pause")
        opened = await playing.get(f"/vms/{vm}/console")
        assert opened["port"] == 5900
        status = await playing.get(f"/vms/{vm}/status")
        assert (status["status"], status["job"]["id"]) == ("pausing", pausing["jobId"])
        gate.unlink()
        await playing.succeed(pausing["jobId"])


@pytest.mark.slow
@only_sqlite
async def test_console_waits_for_no_job_that_holds_a_vm(playing: Service) -> None:
    playing.settings.job_workers = playing.settings.jobs_per_host = 1
    async with playing_vm(playing, port=5900) as vm:
        gate = playing.hosts["kvm1"].hold("pause")
        pausing = await playing.act(vm, "pause")
        both = await asyncio.gather(*(playing.get(f"/vms/{vm}/console") for _ in range(2)))
        assert [opened["port"] for opened in both] == [5900, 5900]
        gate.unlink()
        await playing.succeed(pausing["jobId"])


@pytest.mark.slow
@only_sqlite
async def test_console_that_finds_no_worker_is_not_opened_later(
    playing: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    playing.settings.job_workers = 1
    async with playing_vm(playing, port=5900) as vm:
        monkeypatch.setattr(opening, "JOB_SECONDS", 3.0)
        gate = playing.hosts["kvm1"].hold("console")
        path = f"/api/v1/vms/{vm}/console"
        answers = await asyncio.gather(*(playing.client.get(path) for _ in range(2)))
        [queued] = [a.json()["error"] for a in answers if a.status_code == 409]
        assert queued["code"] == "CONSOLE_NOT_AVAILABLE"
        assert "no worker was free" in queued["message"]
        ref = queued["details"]["jobId"]
        assert (await playing.get(f"/jobs/{ref}"))["status"] == "cancelled"
        assert not (playing.settings.state_dir / "jobs" / ref).exists()
        gate.unlink()
        monkeypatch.undo()
        assert (await playing.get(f"/vms/{vm}/console"))["port"] == 5900
        assert len(playing.hosts["kvm1"].calls("console")) == 2


@pytest.mark.slow
@only_sqlite
@pytest.mark.parametrize(
    ("code", "status", "answer"),
    [
        ("CONSOLE_NOT_AVAILABLE", 409, "CONSOLE_NOT_AVAILABLE"),
        ("VM_ALREADY_STOPPED", 400, "VM_ALREADY_STOPPED"),
        ("GUEST_NOT_RESPONDING", 409, "CONSOLE_NOT_AVAILABLE"),
    ],
)
async def test_failed_job_is_the_answer(
    playing: Service, code: str, status: int, answer: str
) -> None:
    async with playing_vm(playing, port=5900) as vm:
        playing.hosts["kvm1"].order("console", fail={"msg": "cannot do it", "code": code})
        got = await playing.client.get(f"/api/v1/vms/{vm}/console")
        assert (got.status_code, got.json()["error"]["code"]) == (status, answer)
        assert got.json()["error"]["message"] == "cannot do it"
        assert (await playing.get(f"/vms/{vm}"))["status"] == "running"


async def test_who_may_open_consoles_and_of_what(service: Service) -> None:
    vm = await seen_vm(service)
    path = f"/api/v1/vms/{vm.ref}/console"
    viewer = await service.as_role("viewer")
    assert (await service.client.get(path, headers=viewer)).status_code == 403
    assert (await service.client.get("/api/v1/vms/vm-999/console")).status_code == 404
    for query in ({"type": "spice"}, {"type": ""}, {"kind": "vnc"}):
        assert (await service.client.get(path, params=query)).status_code == 400
    for host in ("a b", "evil.example.org/x", "x@evil.example.org", "[::1", "evil\u00e9"):
        answer = await service.client.get(path, headers={b"Host": host.encode()})
        assert answer.status_code == 400, host


async def test_a_head_request_opens_no_console(service: Service) -> None:
    vm = await put_vm(VmStatus.RUNNING)
    answer = await service.client.head(f"/api/v1/vms/{vm.ref}/console")
    assert answer.status_code == 405
    assert await Job.all().count() == 0
