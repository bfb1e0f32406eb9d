"""Acceptance: consoles of real guests, over SSH, through the websocket of the service."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import socket as sockets
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.typing import Origin

from lab import Lab
from lab.lab import Host
from tests import rfb
from tests.acceptance import guests
from tests.acceptance.service import PATIENCE, Api, Json, Service
from tests.tickets import draw_ticket

IDLE_CONSOLES = 200
IDLE_SECONDS = 8.0


class Stream:
    """A websocket as the RFB client reads it."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket
        self._heard = b""

    async def read(self, count: int) -> bytes:
        while len(self._heard) < count:
            self._heard += await self.socket.recv(decode=False)
        taken, self._heard = self._heard[:count], self._heard[count:]
        return taken

    async def write(self, data: bytes) -> None:
        await self.socket.send(data)

    async def until(self, mark: bytes, seconds: float = 60) -> bytes:
        """What the guest says up to a mark."""
        async with asyncio.timeout(seconds * PATIENCE):
            while mark not in self._heard:
                self._heard += await self.socket.recv(decode=False)
        end = self._heard.index(mark) + len(mark)
        said, self._heard = self._heard[:end], self._heard[end:]
        return said


class Consoles:
    """Consoles of one service."""

    def __init__(self, api: Api, service: Service) -> None:
        self.api = api
        self.origin = Origin(f"http://127.0.0.1:{service.port}")

    def open(self, vm: str, kind: str = "vnc") -> Json:
        opened: Json = self.api.get(f"/vms/{vm}/console?type={kind}")
        return opened

    def connect(self, url: str, **options: Any) -> Any:
        return connect(url, max_size=None, **{"origin": self.origin, **options})

    @contextlib.asynccontextmanager
    async def stream(self, vm: str, kind: str = "vnc") -> AsyncIterator[Stream]:
        opened = await asyncio.to_thread(self.open, vm, kind)
        async with self.connect(opened["url"]) as socket:
            yield Stream(socket)

    async def refused(self, url: str, **options: Any) -> int:
        with pytest.raises(InvalidStatus) as caught:
            async with self.connect(url, **options):
                pass
        return caught.value.response.status_code


@pytest.fixture
def consoles(api: Api, service: Service) -> Consoles:
    return Consoles(api, service)


@pytest.fixture
def vm(api: Api, one: Host) -> Json:
    """A running guest on the first host."""
    return api.create(host=one.name, autoStart=True)


@pytest.fixture
def blank(api: Api, one: Host) -> Json:
    """A running VM without an operating system on the first host."""
    return api.create(host=one.name, template="blank", autoStart=True)


async def closed(socket: ClientConnection, seconds: float) -> tuple[int | None, str | None]:
    async with asyncio.timeout(seconds * PATIENCE):
        with contextlib.suppress(ConnectionClosed):
            while True:
                await socket.recv()
    return socket.close_code, socket.close_reason


async def test_screen_shows_itself_to_who_has_the_password(
    consoles: Consoles, vm: Json, one: Host
) -> None:
    opened = consoles.open(vm["id"])
    assert opened["host"] == "127.0.0.1"
    async with consoles.connect(opened["url"], subprotocols=["binary"]) as socket:
        assert socket.subprotocol == "binary"
        stream = Stream(socket)
        screen = await rfb.shake_hands(stream.read, stream.write, opened["password"])
        assert screen.securities == [rfb.VNC_AUTHENTICATION]
        assert screen.name == f"QEMU ({vm['domain']})"
        await rfb.ask_for_update(stream.write, screen.width, screen.height, incremental=False)
        async with asyncio.timeout(120):
            rectangles = await rfb.read_update(stream.read)
        area = sum(width * height for _, _, width, height, _ in rectangles)
        assert area >= screen.width * screen.height
        pixels = {pixels[i : i + 4] for *_, pixels in rectangles for i in range(0, len(pixels), 4)}
        assert len(pixels) > 1, "the screen is of one colour"

    assert await consoles.refused(opened["url"]) == 403
    again = consoles.open(vm["id"])
    assert await consoles.refused(again["url"], origin="https://evil.example.org") == 403
    assert await consoles.refused(again["url"], origin=None) == 403
    async with consoles.connect(again["url"]) as socket:
        stream = Stream(socket)
        with pytest.raises(rfb.RfbRefused):
            await rfb.shake_hands(stream.read, stream.write, "wrongpwd")
        assert await closed(socket, 10) == (1001, "the VM has closed the connection")
    # Not reachable but through SSH.
    with pytest.raises(ConnectionRefusedError):
        sockets.create_connection((one.address, opened["port"]), 2)


async def test_two_see_one_screen_at_once(consoles: Consoles, vm: Json) -> None:
    first, second = await asyncio.gather(
        *(asyncio.to_thread(consoles.open, vm["id"]) for _ in range(2))
    )
    async with consoles.connect(first["url"]) as one, consoles.connect(second["url"]) as two:
        for opened, socket in ((first, one), (second, two)):
            stream = Stream(socket)
            assert await rfb.shake_hands(stream.read, stream.write, opened["password"])


async def test_serial_console_is_a_shell_and_one_at_a_time(
    consoles: Consoles, vm: Json, one: Host
) -> None:
    guests.booted(one, vm["domain"])
    async with consoles.stream(vm["id"], "serial") as first:
        await first.write(b"\n")
        await first.until(b"# ")
        await first.write(b"echo mark-$((6 * 7))\n")
        await first.until(b"mark-42")
        # Eight bits, and no character that ends it.
        await first.write(b"cat | od -An -tx1\n")
        await first.until(b"\n")
        async with consoles.stream(vm["id"], "serial") as second:
            code, reason = await closed(first.socket, 20)
            assert (code, reason) == (1001, "another client has taken the console over")
            await second.write(b"\x1d\xc3\xa9~.\n\x04")
            await second.until(b"1d c3 a9 7e 2e 0a")


async def test_streams_end_when_the_vm_stops(consoles: Consoles, api: Api, blank: Json) -> None:
    opened = consoles.open(blank["id"])
    async with (
        consoles.connect(opened["url"]) as screen,
        consoles.stream(blank["id"], "serial") as text,
    ):
        stopping = api.send("POST", f"/vms/{blank['id']}/stop", {"force": True})
        for socket in (screen, text.socket):
            assert await closed(socket, 30) == (1001, "the VM has stopped")
        await asyncio.to_thread(api.succeeded, stopping["jobId"])
    answer = api.ask("GET", f"/vms/{blank['id']}/console")
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "VM_ALREADY_STOPPED")


async def test_streams_end_with_the_ssh_connection(
    consoles: Consoles, blank: Json, one: Host, lab: Lab
) -> None:
    async with consoles.stream(blank["id"]) as screen:
        await screen.read(12)
        # From OpenSSH 9.8 on, the process of a connection has a name of its own.
        sessions = one.run("sh", "-c", "pgrep -x 'sshd(-session)?' | tail -n +2").stdout.split()
        one.run("kill", "-9", *sessions, check=False)
        code, reason = await closed(screen.socket, 30)
        assert (code, reason) == (1001, "the SSH connection to the host was lost")
    async with asyncio.timeout(30 * PATIENCE):
        while not await greeted(consoles, blank["id"]):  # noqa: ASYNC110
            await asyncio.sleep(0.2)


async def greeted(consoles: Consoles, ref: str) -> bool:
    """Whether a screen can be opened: not while the host is unreachable for its observer, too."""
    answer = await asyncio.to_thread(consoles.api.ask, "GET", f"/vms/{ref}/console?type=vnc")
    if answer.status_code == 503:
        return False
    assert answer.status_code == 200, answer.text
    try:
        async with consoles.connect(answer.json()["data"]["url"]) as socket:
            return bool(await Stream(socket).read(12))
    except InvalidStatus as error:
        if error.response.status_code != 503:
            raise
        return False


def memory_of(pid: int) -> int:
    """Resident bytes of a process."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def seconds_of(pid: int) -> float:
    """CPU seconds that a process itself has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def test_idle_consoles_cost_nothing_and_deaf_ones_little(
    consoles: Consoles, service: Service, vm: Json, one: Host
) -> None:
    """200 open screens, and a client that asks for many updates and reads none of them."""
    pid = service.pid
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 4096), hard))
    async with contextlib.AsyncExitStack() as stack:
        opened = await asyncio.to_thread(consoles.open, vm["id"])
        await asyncio.sleep(4)
        before = await measure(pid)
        memory = memory_of(pid)
        for _ in range(IDLE_CONSOLES):
            ticket = await asyncio.to_thread(draw_ticket, service.state)
            url = f"{opened['url'].split('=')[0]}={ticket}"
            socket = await stack.enter_async_context(
                consoles.connect(url, ping_interval=None, compression=None)
            )
            assert await Stream(socket).read(12)
        # Some measurements contain what the service does at times, for example an observation.
        shares = [await measure(pid)]
        while shares[-1] - before >= 0.02 and len(shares) < PATIENCE:
            shares.append(await measure(pid))
        during = shares[-1]
        each = (memory_of(pid) - memory) / IDLE_CONSOLES
        print(f"\nCPU of the service: {before:.2%} without, {during:.2%} with {IDLE_CONSOLES}")
        print(f"memory of a console: {each / 1024:.0f} KiB")
        assert during - before < 0.02
        assert each < 512 * 1024


async def measure(pid: int) -> float:
    """The share of a CPU that the service itself takes; not its jobs."""
    begun, used = time.monotonic(), seconds_of(pid)
    await asyncio.sleep(IDLE_SECONDS)
    return (seconds_of(pid) - used) / (time.monotonic() - begun)
