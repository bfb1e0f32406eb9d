"""Carries bytes between a client and a VM's console, unchanged and in order.

Each side is read only as fast as the other accepts bytes, so buffers stay small.
"""

import asyncio
from dataclasses import dataclass
from typing import Protocol

from virtplay.console.connections import STREAM_ERRORS, ConsoleStream

BLOCK = 64 * 1024
NORMAL, GOING_AWAY, POLICY, FAILED = 1000, 1001, 1008, 1011
"""Close codes of a websocket (RFC 6455, 7.4.1)."""


class Client(Protocol):
    """The client of a console stream."""

    async def receive(self) -> bytes | None:
        """Return the next bytes; None when the client has disconnected."""

    async def send(self, data: bytes) -> None:
        """Send bytes once the buffer has room; ConnectionError when the client has disconnected."""

    async def close(self, code: int = NORMAL, reason: str = "") -> None:
        """Close the connection, with a code and a few words for the client."""

    def tend(self, now: float) -> None:
        """Check that the client is alive; called every few seconds with the event loop's time."""


@dataclass(frozen=True)
class Ending:
    """Why a stream ends."""

    code: int = NORMAL
    reason: str = ""


async def relay(client: Client, stream: ConsoleStream) -> Ending:
    """Carry bytes both ways until one side ends."""
    up = asyncio.create_task(_carry_up(client, stream))
    down = asyncio.create_task(_carry_down(client, stream))
    try:
        await asyncio.wait({up, down}, return_when=asyncio.FIRST_COMPLETED)
        # The last bytes of the guest are sent by now; a disconnected client needs no reason.
        client_left = (up.done() and up.result()) or (down.done() and down.result())
        if client_left:
            return Ending()
    finally:
        for task in (up, down):
            task.cancel()
        await asyncio.wait({up, down})
    return Ending(GOING_AWAY, await stream.reason())


async def _carry_up(client: Client, stream: ConsoleStream) -> bool:
    """Carry client to guest; True when the client disconnected, False when the guest's side did."""
    while (data := await client.receive()) is not None:
        try:
            stream.writer.write(data)
            await stream.writer.drain()
        except STREAM_ERRORS:
            return False
    return True


async def _carry_down(client: Client, stream: ConsoleStream) -> bool:
    """Carry guest to client; True when the client disconnected, False when the guest's side did."""
    while True:
        try:
            data = await stream.reader.read(BLOCK)
        except STREAM_ERRORS:
            return False
        if not data:
            return False
        try:
            await client.send(data)
        except ConnectionError:
            return True
