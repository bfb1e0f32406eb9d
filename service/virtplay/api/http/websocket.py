"""A stream of bytes over the binary frames of a websocket, on a connection of Sanic.

Sanic's own websocket handles each received block in a separate task, so bytes that follow a ping
can overtake others while a write is blocked, and a blocked writer stops its pings from timing out.
This class processes frames in order, with the I/O-free protocol of the websockets library. Seen
with Sanic 25.12, whose websocket came with https://github.com/sanic-org/sanic/pull/2158; no issue
is known.
"""

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import Any, cast

from sanic import Request
from sanic.server.protocols.base_protocol import SanicProtocol
from sanic.server.protocols.websocket_protocol import WebSocketProtocol
from websockets.datastructures import Headers
from websockets.exceptions import InvalidHandshake
from websockets.frames import Opcode
from websockets.http11 import Request as Handshake
from websockets.protocol import State
from websockets.server import ServerProtocol
from websockets.typing import Subprotocol

from virtplay.errors import ValidationFailed

FRAME_LIMIT = 64 * 1024
"""The largest message from a client, in bytes; a larger one closes the websocket with 1009."""
HELD_LIMIT = 128 * 1024
"""Bytes from a client that may wait for the guest before reading pauses."""
CLOSE_SECONDS = 2.0
"""How long a client may take to read pending data and to confirm the close."""
QUIET_SECONDS = 25.0
"""A ping is sent after this long without data, so that no proxy closes an idle stream."""
SILENT_SECONDS = 90.0
"""A client that has sent nothing for this long is gone, or does not read."""
UNSUPPORTED_DATA = 1003
REASON_BYTES = 123


class Websocket:
    """The server side of one websocket; the connection of Sanic calls it on every event."""

    def __init__(self, connection: WebSocketProtocol, protocol: ServerProtocol) -> None:
        self.loop = asyncio.get_running_loop()
        self.ws_proto = protocol
        self._connection = connection
        self._transport: Any = connection.transport
        self._waiting: deque[bytes] = deque()
        self._held = 0
        self._paused = False
        self._news = asyncio.Event()
        self._lost = asyncio.Event()
        self._heard = self._pinged = self.loop.time()

    @property
    def is_open(self) -> bool:
        """Whether bytes can still be sent."""
        return self.ws_proto.state is State.OPEN and not self._lost.is_set()

    # --- what the relay calls ---

    async def receive(self) -> bytes | None:
        """Return the next bytes in order; None once the client has closed the websocket."""
        while not self._waiting:
            if not self.is_open:
                return None
            self._news.clear()
            await self._news.wait()
        data = self._waiting.popleft()
        self._held -= len(data)
        if self._paused and self._held <= HELD_LIMIT // 2:
            self._paused = False
            self._transport.resume_reading()
        return data

    async def send(self, data: bytes) -> None:
        """Send a frame once the buffer has room; raise ConnectionError when the client is gone."""
        await self._room()
        if not self.is_open:
            raise ConnectionResetError("the client is gone")
        self.ws_proto.send_binary(data)
        self._flush()

    async def close(self, code: int = 1000, reason: str = "") -> None:
        """Close the websocket and wait up to CLOSE_SECONDS for the client to confirm."""
        self._send_close(code, reason)
        try:
            async with asyncio.timeout(CLOSE_SECONDS):
                await self._lost.wait()
        except TimeoutError:
            self._transport.abort()

    def tend(self, now: float) -> None:
        """Ping an idle client, and disconnect one that has been silent too long."""
        if self._paused:
            self._heard = now  # the guest, not the client, is slow
        if now - self._heard > SILENT_SECONDS:
            self._transport.abort()
        elif now - self._pinged > QUIET_SECONDS and self.is_open:
            self._pinged = now
            self.ws_proto.send_ping(b"")
            self._flush()

    def begin(self) -> None:
        """Resume reading, which Sanic may have paused during the request."""
        self._transport.resume_reading()

    # --- what Sanic's connection calls ---

    def data_received(self, data: bytes) -> None:
        """Process received bytes."""
        self._heard = self.loop.time()
        self.ws_proto.receive_data(data)
        for frame in self.ws_proto.events_received():
            opcode = frame.opcode  # type: ignore[union-attr]
            if opcode is Opcode.TEXT:
                self.ws_proto.fail(UNSUPPORTED_DATA, "only binary frames are supported")
                break
            # A message may be fragmented; for a stream of bytes, all fragments are alike.
            if opcode in (Opcode.BINARY, Opcode.CONT) and frame.data:  # type: ignore[union-attr]
                self._waiting.append(bytes(frame.data))  # type: ignore[union-attr]
                self._held += len(frame.data)  # type: ignore[union-attr]
        if self._held > HELD_LIMIT and not self._paused:
            self._paused = True
            self._transport.pause_reading()
        self._flush()
        self._news.set()

    def eof_received(self) -> bool:
        """Handle the end of the client's side."""
        self.ws_proto.receive_eof()
        self._flush()
        self._news.set()
        return False

    def connection_lost(self, _error: Exception | None) -> None:
        """Handle the loss of the connection."""
        self._lost.set()
        self._news.set()

    def end_connection(self, code: int = 1001, reason: str = "") -> None:
        """Close the websocket without waiting."""
        self._send_close(code, reason)
        if not self._lost.is_set():
            self.loop.call_later(CLOSE_SECONDS, self._transport.abort)

    # --- inside ---

    async def _room(self) -> None:
        # Writing b"" only waits for the buffer to drain.
        await _write(self._connection, b"")

    def _send_close(self, code: int, reason: str) -> None:
        if self.ws_proto.state is State.OPEN:
            short = reason.encode()[:REASON_BYTES].decode(errors="ignore")
            self.ws_proto.send_close(code, short)
            self._flush()

    def _flush(self) -> None:
        """Write what the protocol has queued; an empty block marks the end."""
        if self._lost.is_set() or self._transport.is_closing():
            return
        full = self._transport.get_write_buffer_size() > 2 * FRAME_LIMIT
        for block in self.ws_proto.data_to_send():
            if not block:
                self._transport.close()
                self.loop.call_later(CLOSE_SECONDS, self._transport.abort)
            elif not (full and block[0] & 0x0F == Opcode.PONG):
                # A client that sends pings but never reads gets no pongs.
                self._transport.write(block)


def prepare(request: Request, subprotocols: Sequence[str]) -> ServerProtocol:
    """Validate the websocket handshake of a request; raise ValidationFailed when there is none."""
    protocol = ServerProtocol(
        subprotocols=[Subprotocol(name) for name in subprotocols],
        # A client that offers no subprotocol gets none.
        select_subprotocol=lambda _self, offered: next(
            (name for name in offered if name in subprotocols), None
        ),
        max_size=FRAME_LIMIT,
        state=State.OPEN,
    )
    try:
        handshake = Handshake(path=request.path, headers=Headers(request.headers.items()))
        response = protocol.accept(handshake)
    except (InvalidHandshake, ValueError) as error:
        raise ValidationFailed(f"cannot open a websocket: {error}") from error
    if response.status_code != 101:
        reason = protocol.handshake_exc or "the request is no websocket handshake"
        raise ValidationFailed(f"cannot open a websocket: {reason}")
    request.ctx.handshake = response
    return protocol


async def accept(request: Request, protocol: ServerProtocol) -> Websocket:
    """ApiResponse a prepared request with 101 and take its connection over."""
    connection = cast(WebSocketProtocol, request.transport.get_protocol())
    response = request.ctx.handshake
    head = [f"HTTP/1.1 {response.status_code} {response.reason_phrase}"]
    head += [f"{name}: {value}" for name, value in response.headers.raw_items()]
    await _write(connection, "\r\n".join([*head, "", ""]).encode())
    websocket = Websocket(connection, protocol)
    connection.websocket = cast(Any, websocket)
    early = bytes(connection.recv_buffer)
    connection.recv_buffer.clear()
    websocket.begin()
    if early:
        websocket.data_received(early)
    return websocket


async def _write(connection: WebSocketProtocol, data: bytes) -> None:
    """Write without dispatching Sanic's signals, once the buffer has room."""
    await SanicProtocol.send(connection, data)  # type: ignore[no-untyped-call]
