# Copyright: Virtplay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Connects its standard streams to a domain's serial console (a program of its own).

`python3 -c <this text> URI UUID`: the service sends it over SSH. So it needs only python3-libvirt
on the host, and imports nothing of the collection. Bytes pass unchanged both ways: there is no
escape character and no terminal. It reads no more than the other side accepts. A new client takes
the console over, and the client before is disconnected. The exit status shows how the connection
ended, and the last line on standard error gives the reason in words.
"""

from __future__ import annotations

import fcntl
import os
import sys
import time
from typing import Any

try:
    import libvirt
except ImportError:
    libvirt = None

BLOCK = 16 * 1024
# Exit statuses: the client disconnected, wrong arguments, an error of libvirt or a lost connection
# to it, the domain stopped, another client took the console over.
ENDED, USAGE, FAILED, STOPPED, TAKEN = 0, 2, 3, 4, 5
# A domain closes its console up to this long before its state is stopped.
STOP_SECONDS = 1.0
STOPPED_WORDS = "the VM has stopped"
CLIENT_GONE = "the client has disconnected"


class Relay:
    """Bytes between the standard streams and a libvirt stream, with one block per direction."""

    def __init__(self, stream: Any) -> None:
        self.stream = stream
        self.to_guest = b""
        self.from_guest = b""
        self.status: int | None = None
        self.reason = ""
        self._input = libvirt.virEventAddHandle(
            0, libvirt.VIR_EVENT_HANDLE_READABLE, self._on_input, None
        )
        self._output = libvirt.virEventAddHandle(1, 0, self._on_output, None)
        stream.eventAddCallback(libvirt.VIR_STREAM_EVENT_READABLE, self._on_stream, None)

    def end(self, status: int, reason: str) -> None:
        """Record how the connection ended; only the first reason counts."""
        if self.status is None:
            self.status, self.reason = status, reason

    def watch(self) -> None:
        """Register for the events that can be handled now: there is free space, or data."""
        readable = 0 if self.to_guest else libvirt.VIR_EVENT_HANDLE_READABLE
        libvirt.virEventUpdateHandle(self._input, readable)
        # Without data, errors and hang-ups are still reported.
        writable = libvirt.VIR_EVENT_HANDLE_WRITABLE if self.from_guest else 0
        libvirt.virEventUpdateHandle(self._output, writable)
        events = 0
        if not self.from_guest:
            events |= libvirt.VIR_STREAM_EVENT_READABLE
        if self.to_guest:
            events |= libvirt.VIR_STREAM_EVENT_WRITABLE
        self.stream.eventUpdateCallback(events)

    def _on_input(self, _watch: int, _fd: int, events: int, _opaque: object) -> None:
        if self.to_guest:
            # A hang-up is always reported, repeatedly, without registration.
            if events & (libvirt.VIR_EVENT_HANDLE_ERROR | libvirt.VIR_EVENT_HANDLE_HANGUP):
                self.end(ENDED, CLIENT_GONE)
            return
        try:
            self.to_guest = os.read(0, BLOCK)
        except BlockingIOError:
            return
        except OSError as error:
            self.end(ENDED, str(error))
            return
        if not self.to_guest:
            self.end(ENDED, CLIENT_GONE)

    def _on_output(self, _watch: int, _fd: int, events: int, _opaque: object) -> None:
        if events & (libvirt.VIR_EVENT_HANDLE_ERROR | libvirt.VIR_EVENT_HANDLE_HANGUP):
            self.end(ENDED, CLIENT_GONE)
            return
        try:
            written = os.write(1, self.from_guest)
        except BlockingIOError:
            return
        except OSError:
            self.end(ENDED, CLIENT_GONE)
            return
        self.from_guest = self.from_guest[written:]

    def _on_stream(self, stream: Any, events: int, _opaque: object) -> None:
        try:
            if events & libvirt.VIR_STREAM_EVENT_READABLE and not self.from_guest:
                self._receive(stream)
            if events & libvirt.VIR_STREAM_EVENT_WRITABLE and self.to_guest:
                sent = stream.send(self.to_guest)
                if sent > 0:
                    self.to_guest = self.to_guest[sent:]
        except libvirt.libvirtError as error:
            self.end(STOPPED, text_of(error))
            return
        if events & (libvirt.VIR_STREAM_EVENT_ERROR | libvirt.VIR_STREAM_EVENT_HANGUP):
            self.end(STOPPED, STOPPED_WORDS)

    def _receive(self, stream: Any) -> None:
        received = stream.recv(BLOCK)
        if received == -2:  # no data available
            return
        if not received:
            self.end(STOPPED, STOPPED_WORDS)
        self.from_guest = received


def text_of(error: Exception) -> str:
    """Return libvirt's message on one line."""
    return " ".join(str(error).split())


def main(arguments: list[str]) -> int:
    """Connect to the console of a domain; arguments are URI and UUID; returns the exit status."""
    if len(arguments) != 2:
        sys.stderr.write("usage: console_stream URI UUID\n")
        return USAGE
    uri, uuid = arguments
    if libvirt is None:
        sys.stderr.write(
            "cannot open the console: libvirt for Python is missing; "
            "install python3-libvirt on the host\n"
        )
        return FAILED
    libvirt.registerErrorHandler(lambda *_: None, None)
    libvirt.virEventRegisterDefaultImpl()
    try:
        conn = libvirt.open(uri)
        # A lost connection to libvirtd is noticed even without input.
        conn.setKeepAlive(5, 3)
        dom = conn.lookupByUUIDString(uuid)
        stream = conn.newStream(libvirt.VIR_STREAM_NONBLOCK)
        dom.openConsole(None, stream, libvirt.VIR_DOMAIN_CONSOLE_FORCE)
    except libvirt.libvirtError as error:
        sys.stderr.write(f"cannot open the console: {text_of(error)}\n")
        return FAILED
    for descriptor in (0, 1):
        flags = fcntl.fcntl(descriptor, fcntl.F_GETFL)
        fcntl.fcntl(descriptor, fcntl.F_SETFL, flags | os.O_NONBLOCK)
    relay = Relay(stream)
    conn.registerCloseCallback(
        lambda *_: relay.end(FAILED, "the connection to libvirt was lost"), None
    )
    # Written before any byte of the guest, so that the service knows that the console is open.
    sys.stderr.write("open\n")
    sys.stderr.flush()
    while relay.status is None:
        libvirt.virEventRunDefaultImpl()
        if relay.status is None:
            relay.watch()
    drain(relay)
    if relay.status == STOPPED and still_runs(dom):
        relay.status, relay.reason = TAKEN, "another client has taken the console over"
    sys.stderr.write(f"{relay.reason}\n")
    return relay.status


def still_runs(dom: Any) -> bool:
    """Whether a domain whose console was closed is still running."""
    deadline = time.monotonic() + STOP_SECONDS
    try:
        while dom.isActive():
            if time.monotonic() > deadline:
                return True
            time.sleep(0.05)
    except libvirt.libvirtError:
        pass  # a transient domain is gone once it has stopped
    return False


def drain(relay: Relay) -> None:
    """Write what the guest had sent before it stopped."""
    os.set_blocking(1, True)
    try:
        while relay.status == STOPPED and relay.from_guest:
            relay.from_guest = relay.from_guest[os.write(1, relay.from_guest) :]
    except OSError:
        relay.from_guest = b""


if __name__ == "__main__":
    # Not sys.exit: the interpreter's finalization does not know libvirt's event loop.
    code = main(sys.argv[1:])
    sys.stderr.flush()
    os._exit(code)
