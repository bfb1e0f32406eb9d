"""API: an answer that is sent in pieces, while others get theirs."""

import asyncio
import logging
from collections.abc import Iterable
from dataclasses import dataclass

from sanic import Request

log = logging.getLogger("virtplay.api.http.streaming")

SEND_SECONDS = 60.0
"""Who reads more slowly is cut off: what a client has not read is kept in memory for it."""


BURST = 1024 * 1024
PAUSE = 0.001
"""Seconds after each piece of a long text, once BURST bytes are sent: sender and reader would take
two CPUs from everybody else for as long as it lasts."""


@dataclass(frozen=True)
class Stream:
    """What a handler returns for text that is too long for one piece."""

    pieces: Iterable[bytes]
    """Made before they are asked for, or quickly: the event loop asks."""
    content_type: str


async def send_stream(request: Request, stream: Stream) -> None:
    """Send it all; nothing for HEAD but the headers."""
    response = await request.respond(content_type=stream.content_type)
    if response is None or request.method == "HEAD":
        return
    try:
        async with asyncio.timeout(SEND_SECONDS):
            sent = 0
            for piece in stream.pieces:
                await response.send(piece)
                sent += len(piece)
                # Also without a pause: a fast reader would keep the event loop to itself.
                await asyncio.sleep(PAUSE if sent > BURST else 0)
    except TimeoutError:
        log.warning("cut off %s, which did not read %s", request.ip, request.path)
        transport = request.transport
        assert isinstance(transport, asyncio.WriteTransport)
        transport.abort()
