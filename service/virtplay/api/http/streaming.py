"""Sends a long response in pieces, without delaying other requests."""

import asyncio
import logging
from collections.abc import Iterable
from dataclasses import dataclass

from sanic import Request

log = logging.getLogger("virtplay.api.http.streaming")

SEND_SECONDS = 60.0
"""A slower client is disconnected, because what it has not read is buffered in memory."""


BURST = 4 * 1024 * 1024
PAUSE = 0.001
"""Seconds of pause after every BURST bytes; without, the sender and the reader would each occupy a
CPU for the whole transfer."""


@dataclass(frozen=True)
class Stream:
    """What a handler returns when the text is too long for one piece."""

    pieces: Iterable[bytes]
    """Must be produced quickly: the event loop iterates over them."""
    content_type: str


async def send_stream(request: Request, stream: Stream) -> None:
    """Send all pieces; only the headers for HEAD."""
    response = await request.respond(content_type=stream.content_type)
    if response is None or request.method == "HEAD":
        return
    try:
        async with asyncio.timeout(SEND_SECONDS):
            sent = 0
            for piece in stream.pieces:
                await response.send(piece)
                sent += len(piece)
                pauses = sent >= BURST
                # Yield even without a pause: a fast reader would occupy the event loop.
                await asyncio.sleep(PAUSE if pauses else 0)
                sent = 0 if pauses else sent
    except TimeoutError:
        log.warning("disconnected %s: it read %s too slowly", request.ip, request.path)
        transport = request.transport
        assert isinstance(transport, asyncio.WriteTransport)
        transport.abort()
