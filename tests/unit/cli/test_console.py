"""Unit tests: virtplay vm console, in a terminal of its own."""

import json
import os
import pty
import signal
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Iterator
from http import HTTPStatus
from typing import Any

import pytest
from websockets.datastructures import Headers
from websockets.http11 import Request, Response
from websockets.sync.server import Server, ServerConnection, serve

from tests.unit.cli.conftest import Run
from tests.unit.cli.service import TOKEN, FakeService, make_vm

TICKET = "a-ticket-of-the-tests"


class Guest:
    """A service with one VM, whose serial console says what it was sent, in capitals."""

    def __init__(self) -> None:
        self.origins: list[str | None] = []
        self.received = b""
        self.refusal: dict[str, Any] | None = None
        self.connecting = threading.Event()
        self.may_connect = threading.Event()
        self.may_connect.set()
        self.url = ""

    def answer(self, _connection: ServerConnection, request: Request) -> Response | None:
        path, _, query = request.path.partition("?")
        if path == "/console/vm-001":
            assert query == f"ticket={TICKET}"
            self.connecting.set()
            assert self.may_connect.wait(120)
            self.origins.append(request.headers.get("Origin"))
            return None if self.refusal is None else _json(403, {"error": self.refusal})
        assert request.headers["Authorization"] == f"Bearer {TOKEN}"
        vm = make_vm(name="web\x1b[2J")
        if path == "/api/v1/vms/vm-001":
            return _json(200, {"success": True, "data": vm.model_dump(mode="json")})
        assert (path, query) == ("/api/v1/vms/vm-001/console", "type=serial")
        url = f"wss://elsewhere.example.org/console/vm-001?ticket={TICKET}"
        return _json(200, {"success": True, "data": {"type": "serial", "url": url}})

    def talk(self, stream: ServerConnection) -> None:
        stream.send(b"login: \xe7\xbd")
        stream.send(b"\x91\r\n")
        for frame in stream:
            assert isinstance(frame, bytes)
            self.received += frame
            match frame:
                case b"off":
                    stream.close(1001, "the VM has stopped")
                case b"broken":
                    stream.close(1011, "the host was lost")
                case _:
                    stream.send(frame.upper())


def _json(status: int, document: dict[str, Any]) -> Response:
    body = json.dumps({"success": False, **document}).encode()
    headers = {
        "Content-Type": "application/json",
        "Content-Length": str(len(body)),
        "Connection": "close",
    }
    return Response(status, HTTPStatus(status).phrase, Headers(headers), body)


@pytest.fixture
def guest() -> Iterator[Guest]:
    guest = Guest()
    server: Server
    with serve(guest.talk, "127.0.0.1", 0, process_request=guest.answer) as server:
        guest.url = f"http://127.0.0.1:{server.socket.getsockname()[1]}"
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield guest
        server.shutdown()
        thread.join()


class Terminal:
    """`virtplay vm console` in a pseudo-terminal."""

    def __init__(self, guest: Guest, *arguments: str) -> None:
        self.screen, self._inside = pty.openpty()
        self.before = termios.tcgetattr(self._inside)
        self.said = b""
        self.process = subprocess.Popen(
            [sys.executable, "-m", "virtplay.cli", "vm", "console", *arguments],
            env={**os.environ, "VIRTPLAY_URL": guest.url, "VIRTPLAY_TOKEN": TOKEN},
            stdin=self._inside,
            stdout=self._inside,
            stderr=self._inside,
        )

    def type(self, keys: bytes) -> None:
        os.write(self.screen, keys)

    def shows(self, words: bytes) -> None:
        os.set_blocking(self.screen, False)
        deadline = time.monotonic() + 120
        while words not in self.said:
            assert time.monotonic() < deadline, self.said
            try:
                self.said += os.read(self.screen, 65536)
            except BlockingIOError:
                time.sleep(0.01)

    def left(self) -> bytes:
        """What was typed and would now be read by whoever reads next."""
        os.set_blocking(self._inside, False)
        mode = termios.tcgetattr(self._inside)
        mode[3] &= ~termios.ICANON
        termios.tcsetattr(self._inside, termios.TCSANOW, mode)
        try:
            return os.read(self._inside, 4096)
        except BlockingIOError:
            return b""

    def is_raw(self) -> bool:
        return not termios.tcgetattr(self._inside)[3] & termios.ICANON

    def ends(self) -> int:
        """Wait for the end; the exit status. The terminal must be as it was."""
        status = self.process.wait(120)
        assert termios.tcgetattr(self._inside) == self.before
        return status

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self.screen)
        os.close(self._inside)


@pytest.fixture
def terminal(guest: Guest) -> Iterator[Terminal]:
    terminal = Terminal(guest, "vm-001")
    yield terminal
    terminal.close()


def test_bytes_go_both_ways_until_the_escape(guest: Guest, terminal: Terminal) -> None:
    terminal.shows("login: 网".encode())
    assert b"serial console of vm-001 (web\\x1b[2J); press Ctrl-] to disconnect" in terminal.said
    assert terminal.is_raw()
    # Ctrl-C is the guest's.
    terminal.type(b"a\x03b")
    terminal.shows(b"A\x03B")
    terminal.type(b"c\x1dnever sent")
    terminal.shows(b"Disconnected.")
    assert terminal.ends() == 0
    assert guest.received == b"a\x03bc"
    assert guest.origins == [guest.url]


def test_what_is_typed_while_it_connects_is_sent(guest: Guest, terminal: Terminal) -> None:
    guest.may_connect.clear()
    terminal.shows(b"Connecting to the serial console of vm-001")
    assert guest.connecting.wait(120)
    terminal.type(b"early\r\x04")
    assert terminal.is_raw()
    guest.may_connect.set()
    terminal.shows(b"EARLY\r\x04")
    assert guest.received == b"early\r\x04"
    # Not shown before it was the guest's to show.
    assert b"early" not in terminal.said
    terminal.type(b"\x1d")
    assert terminal.ends() == 0


def test_what_was_typed_for_a_guest_that_cannot_be_reached_is_no_command(guest: Guest) -> None:
    guest.refusal = {"code": "FORBIDDEN", "message": "cannot take this ticket"}
    guest.may_connect.clear()
    terminal = Terminal(guest, "vm-001")
    try:
        assert guest.connecting.wait(120)
        terminal.type(b"poweroff\r")
        guest.may_connect.set()
        assert terminal.ends() == 1
        assert terminal.left() == b""
    finally:
        terminal.close()


def test_an_attempt_to_connect_can_be_cancelled(guest: Guest, terminal: Terminal) -> None:
    guest.may_connect.clear()
    assert guest.connecting.wait(120)
    terminal.process.send_signal(signal.SIGINT)
    assert terminal.ends() == 130
    guest.may_connect.set()


def test_end_of_the_stream_is_said(terminal: Terminal) -> None:
    terminal.shows(b"login: ")
    terminal.type(b"off")
    terminal.shows(b"Disconnected: the VM has stopped.")
    assert terminal.ends() == 0


def test_broken_stream_is_an_error(terminal: Terminal) -> None:
    terminal.shows(b"login: ")
    terminal.type(b"broken")
    terminal.shows(b"virtplay: console connection failed: the host was lost")
    assert terminal.ends() == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_signal_restores_the_terminal(terminal: Terminal, number: signal.Signals) -> None:
    terminal.shows(b"login: ")
    terminal.process.send_signal(number)
    assert terminal.ends() == 128 + number


def test_refused_ticket_is_one_line(guest: Guest) -> None:
    guest.refusal = {"code": "FORBIDDEN", "message": "cannot take this ticket"}
    terminal = Terminal(guest, "vm-001")
    try:
        terminal.shows(b"virtplay: cannot take this ticket (FORBIDDEN)")
        assert terminal.ends() == 1
    finally:
        terminal.close()


def test_without_a_terminal_nothing_is_asked(service: FakeService, run: Run) -> None:
    result = run("vm", "console", "vm-001")
    assert result.status == 1
    assert result.err.startswith("virtplay: cannot open the console: ")
    assert "must be a terminal" in result.err
    assert service.requests == []


def test_page_is_an_address_without_a_ticket(service: FakeService, run: Run) -> None:
    service.reply_vms(make_vm(name="web"))
    result = run("vm", "console", "web", "--page")
    assert (result.status, result.out) == (0, f"{service.url}/vms/vm-001/console\n")
    assert [path for path, _, _ in service.asked("GET")] == ["/vms/vm-001"]
