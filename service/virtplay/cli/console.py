"""Command line: a VM's serial console in the terminal of the command."""

import contextlib
import json
import os
import select
import sys
import termios
import threading
import tty
from typing import TYPE_CHECKING, Literal, Self
from urllib.parse import urlsplit

from virtplay.cli.client import Client, path_of
from virtplay.cli.connection import is_loopback
from virtplay.cli.faults import CannotChoose, CannotReach, Refused
from virtplay.cli.screen import is_dialogue, plain, unwound_by_signals
from virtplay.cli.transport import CONNECT_SECONDS

if TYPE_CHECKING:
    from websockets.sync.client import ClientConnection

ESCAPE = b"\x1d"
"""Ctrl-], which disconnects, as in telnet and virsh console."""
GOOD_CODES = (1000, 1001)
"""Close codes of a console stream that ended without an error."""


def attach(client: Client, vm: str) -> None:
    """Connect this terminal to the serial console until Ctrl-], or until the stream ends.

    CannotChoose without a terminal; Refused and CannotReach when the service rejects it.
    """
    if not is_dialogue():
        raise CannotChoose(
            "cannot open the console: standard input and output must be a terminal;"
            " --page prints the URL of the console page"
        )
    with unwound_by_signals(), _Terminal() as terminal:
        print(
            f"Connecting to the serial console of {plain(vm)} …; what you type now is sent once"
            " it is connected, Ctrl-C cancels.",
            file=sys.stderr,
        )
        shown = client.get(path_of("vms", vm))
        vm_id = shown["id"]
        ticket = client.get(path_of("vms", vm_id, "console"), {"type": "serial"})
        query = urlsplit(ticket["url"]).query
        with _connect(client, f"{path_of('console', vm_id)}?{query}") as stream:
            label = f"{vm_id} ({plain(shown['name'])})"
            print(
                f"Connected to the serial console of {label}; press Ctrl-] to disconnect.",
                file=sys.stderr,
            )
            terminal.pass_keys()
            ended_here = _exchange(stream)
    _print_end(stream, ended_here)


def _connect(client: Client, path: str) -> "ClientConnection":
    """Open a websocket at a path of the service."""
    from websockets.exceptions import InvalidStatus, WebSocketException  # noqa: PLC0415
    from websockets.sync.client import connect  # noqa: PLC0415 - other commands need none
    from websockets.typing import Origin  # noqa: PLC0415

    parts = urlsplit(client.url)
    proxy: Literal[True] | None = None if is_loopback(client.url) else True
    try:
        return connect(
            f"ws{client.url.removeprefix('http')}{path}",
            # The service accepts a websocket only with the origin of its own pages.
            origin=Origin(f"{parts.scheme}://{parts.netloc}"),
            proxy=proxy,
            compression=None,
            open_timeout=CONNECT_SECONDS,
            close_timeout=2,
        )
    except InvalidStatus as error:
        raise _refusal(client, error.response.status_code, error.response.body) from None
    except (OSError, WebSocketException) as error:
        raise CannotReach(f"cannot open the console of {client.url}: {error}") from None


def _refusal(client: Client, status: int, body: bytes | bytearray | None) -> Exception:
    """Return the error of a rejected upgrade: the API's own, if there is one."""
    try:
        error = json.loads(body or b"")["error"]
        return Refused(str(error["code"]), str(error["message"]))
    except (ValueError, LookupError, TypeError):
        return CannotReach(
            f"cannot open the console of {client.url}: HTTP {status} and no websocket;"
            " check that proxies on the way support websockets"
        )


class _Terminal:
    """The terminal of the command, which is as it was afterwards.

    Until pass_keys it keeps what is typed, without showing it, and Ctrl-C ends the command. What
    no guest has got then is dropped: the shell must not run it.
    """

    def __init__(self) -> None:
        self._number = sys.stdin.fileno()
        self._passes = False

    def __enter__(self) -> Self:
        self._before = termios.tcgetattr(self._number)
        # Never with a flush, which would drop what has been typed.
        tty.setraw(self._number, termios.TCSADRAIN)
        mode = termios.tcgetattr(self._number)
        mode[tty.OFLAG] |= termios.OPOST
        mode[tty.LFLAG] |= termios.ISIG
        termios.tcsetattr(self._number, termios.TCSADRAIN, mode)
        return self

    def pass_keys(self) -> None:
        """From now on every key is for the guest."""
        tty.setraw(self._number, termios.TCSADRAIN)
        self._passes = True

    def __exit__(self, *_: object) -> None:
        # A terminal that was closed needs no restoring.
        with contextlib.suppress(termios.error):
            if not self._passes:
                termios.tcflush(self._number, termios.TCIFLUSH)
            termios.tcsetattr(self._number, termios.TCSADRAIN, self._before)


def _exchange(stream: "ClientConnection") -> bool:
    """Carry bytes both ways; True when the user disconnected, False when the service did."""
    from websockets.exceptions import ConnectionClosed  # noqa: PLC0415

    ended, closing = os.pipe()
    reader = threading.Thread(target=_show, args=(stream, closing), daemon=True)
    reader.start()
    keyboard = sys.stdin.fileno()
    try:
        while True:
            ready, _, _ = select.select([keyboard, ended], [], [])
            if ended in ready:
                return False
            typed = os.read(keyboard, 4096)
            before, escape, _ = typed.partition(ESCAPE)
            if before:
                stream.send(before)
            if escape or not typed:
                return True
    except ConnectionClosed:
        return False
    finally:
        stream.close()
        reader.join(2)
        os.close(ended)


def _show(stream: "ClientConnection", closing: int) -> None:
    """Print what the guest sends until the stream ends; then close `closing`."""
    from websockets.exceptions import ConnectionClosed  # noqa: PLC0415

    try:
        for frame in stream:
            sys.stdout.buffer.write(frame if isinstance(frame, bytes) else frame.encode())
            sys.stdout.buffer.flush()
    except (ConnectionClosed, OSError):
        pass  # the close code has the reason, and a closed terminal shows nothing
    finally:
        os.close(closing)


def _print_end(stream: "ClientConnection", ended_here: bool) -> None:
    """Print the reason of the end; CannotReach when it was an error."""
    if ended_here:
        print("\nDisconnected.", file=sys.stderr)
        return
    code, reason = stream.close_code, plain(stream.close_reason or "")
    if code not in GOOD_CODES:
        print(file=sys.stderr)
        raise CannotReach(f"console connection failed: {reason or 'the connection was lost'}")
    print(f"\nDisconnected{f': {reason}' if reason else ''}.", file=sys.stderr)
