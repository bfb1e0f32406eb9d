"""Carries bytes between a client and a guest's console, untouched and in order.

Nothing is kept but what is under way: each side is read only as far as the other takes it.
"""

import asyncio
from dataclasses import dataclass
from typing import Protocol

from virtplay.console.reach import LINE_ERRORS, Line

BLOCK = 64 * 1024
NORMAL, GOING_AWAY, POLICY, FAILED = 1000, 1001, 1008, 1011
"""Codes of a websocket's end (RFC 6455, 7.4.1)."""


class Client(Protocol):
    """The client's end of a stream."""

    async def receive(self) -> bytes | None:
        """The next bytes; None when the client is gone."""

    async def send(self, data: bytes) -> None:
        """Send bytes once there is room; ConnectionError when the client is gone."""

    async def close(self, code: int = NORMAL, reason: str = "") -> None:
        """End it, with a code and a few words for the client."""

    def tend(self, now: float) -> None:
        """See that it is alive: called every few seconds, with the event loop's time."""


@dataclass(frozen=True)
class Ending:
    """Why a stream ends."""

    code: int = NORMAL
    reason: str = ""


async def relay(client: Client, line: Line) -> Ending:
    """Carry bytes both ways until one side ends."""
    up = asyncio.create_task(_carry_up(client, line))
    down = asyncio.create_task(_carry_down(client, line))
    try:
        await asyncio.wait({up, down}, return_when=asyncio.FIRST_COMPLETED)
        # What the guest said last is sent by now; a client that went needs no reason.
        client_went = (up.done() and up.result()) or (down.done() and down.result())
        if client_went:
            return Ending()
    finally:
        for task in (up, down):
            task.cancel()
        await asyncio.wait({up, down})
    return Ending(GOING_AWAY, await line.reason())


async def _carry_up(client: Client, line: Line) -> bool:
    """Client to guest; True when the client went, False when the guest's side did."""
    while (data := await client.receive()) is not None:
        try:
            line.writer.write(data)
            await line.writer.drain()
        except LINE_ERRORS:
            return False
    return True


async def _carry_down(client: Client, line: Line) -> bool:
    """Guest to client; True when the client went, False when the guest's side did."""
    while True:
        try:
            data = await line.reader.read(BLOCK)
        except LINE_ERRORS:
            return False
        if not data:
            return False
        try:
            await client.send(data)
        except ConnectionError:
            return True
