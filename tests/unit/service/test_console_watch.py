"""Open consoles: who is ended when another client connects."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from virtplay.console.connections import ConsoleStream
from virtplay.console.watch import OpenConsole, OpenConsoles


class Client:
    """A client that sends nothing, and remembers how it was closed."""

    def __init__(self) -> None:
        self.closed: tuple[int, str] | None = None

    async def receive(self) -> bytes | None:
        await asyncio.Event().wait()
        return None

    async def send(self, data: bytes) -> None:
        raise AssertionError("the guest is silent")

    async def close(self, code: int = 1000, reason: str = "") -> None:
        self.closed = (code, reason)

    def tend(self, now: float) -> None:
        pass


class Silent:
    """Both ends of a stream on which nothing arrives, whatever becomes of its other end."""

    async def read(self, _size: int) -> bytes:
        await asyncio.Event().wait()
        return b""

    def close(self) -> None:
        pass


def silent(connected: asyncio.Event) -> Callable[[], Awaitable[ConsoleStream]]:
    async def connect() -> ConsoleStream:
        connected.set()
        return ConsoleStream(Silent(), Silent())

    return connect


@pytest.mark.parametrize(
    ("vm", "kind", "taken"),
    [
        ("vm-001", "serial", True),
        ("vm-002", "serial", False),
        ("vm-001", "vnc", False),
    ],
)
async def test_an_older_serial_console_is_ended_although_its_stream_says_nothing(
    vm: str, kind: str, taken: bool
) -> None:
    consoles, first, second = OpenConsoles(), Client(), Client()
    tasks = []
    for console in (OpenConsole("vm-001", "serial", 1, first), OpenConsole(vm, kind, 1, second)):
        connected = asyncio.Event()
        tasks.append(asyncio.create_task(consoles.carry(console, silent(connected))))
        await connected.wait()
    if taken:
        await tasks[0]
        assert first.closed == (1001, "another client has taken the console over")
    assert len(consoles) == (1 if taken else 2)
    assert second.closed is None
    await consoles.stop()
    assert second.closed == (1001, "the service is stopping")
    await asyncio.gather(*tasks)


async def test_two_screens_of_a_vm_stay_open() -> None:
    consoles, clients, tasks = OpenConsoles(), [Client(), Client()], []
    for client in clients:
        connected = asyncio.Event()
        console = OpenConsole("vm-001", "vnc", 1, client)
        tasks.append(asyncio.create_task(consoles.carry(console, silent(connected))))
        await connected.wait()
    assert [client.closed for client in clients] == [None, None]
    await consoles.stop()
    await asyncio.gather(*tasks)
