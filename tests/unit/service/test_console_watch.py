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
    ("older", "newer", "taken"),
    [
        (("vm-001", "serial"), ("vm-001", "serial"), True),
        (("vm-001", "serial"), ("vm-002", "serial"), False),
        (("vm-001", "serial"), ("vm-001", "vnc"), False),
        (("vm-001", "vnc"), ("vm-001", "serial"), False),
        (("vm-001", "vnc"), ("vm-001", "vnc"), False),
    ],
)
async def test_a_new_serial_console_ends_the_older_one_whose_stream_says_nothing(
    older: tuple[str, str], newer: tuple[str, str], taken: bool
) -> None:
    consoles, clients, tasks = OpenConsoles(), [Client(), Client()], []
    for client, console in zip(clients, (older, newer), strict=True):
        connected = asyncio.Event()
        opened = OpenConsole(*console, 1, client)
        tasks.append(asyncio.create_task(consoles.carry(opened, silent(connected))))
        await connected.wait()
    if taken:
        await tasks[0]
        assert len(consoles) == 1
    await consoles.stop()
    await asyncio.gather(*tasks)
    # The first reason counts: one that was to be ended before would have another.
    stopping = (1001, "the service is stopping")
    first = (1001, "another client has taken the console over") if taken else stopping
    assert [client.closed for client in clients] == [first, stopping]
