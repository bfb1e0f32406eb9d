"""Acceptance tests: forwards a TCP connection over a websocket."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect
from websockets.typing import Origin


@contextmanager
def forward(url: str, origin: str) -> Iterator[int]:
    """Listen on a loopback port for one connection, and forward it over the websocket."""
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as listening:
        thread = threading.Thread(target=_carry, args=(listening, url, origin))
        thread.start()
        yield listening.getsockname()[1]
        # Stop waiting for a connection that never came.
        with contextlib.suppress(OSError):
            listening.shutdown(socket.SHUT_RDWR)
    thread.join(10)
    assert not thread.is_alive()


def _carry(listening: socket.socket, url: str, origin: str) -> None:
    try:
        client, _ = listening.accept()
    except OSError:
        return
    with client, connect(url, origin=Origin(origin), proxy=None, compression=None) as stream:
        down = threading.Thread(target=_carry_down, args=(stream, client))
        down.start()
        with contextlib.suppress(OSError, ConnectionClosed):
            while data := client.recv(65536):
                stream.send(data)
        stream.close()
        down.join()


def _carry_down(stream: ClientConnection, client: socket.socket) -> None:
    with contextlib.suppress(OSError, ConnectionClosed):
        for frame in stream:
            assert isinstance(frame, bytes)
            client.sendall(frame)
    with contextlib.suppress(OSError):
        client.shutdown(socket.SHUT_RDWR)
