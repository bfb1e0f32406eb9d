# Copyright: Virtplay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Connects its standard streams to a domain's serial console (a program of its own).

`python3 -c <this text> URI UUID`: the service sends it over SSH, so that it needs nothing on the
host but python3-libvirt, and imports nothing of the collection. Bytes pass untouched both ways,
there is no escape character and no terminal. It reads no more than the other side takes. A new
client takes the console over; the one before ends. The exit status says how it ended, and the last
line on standard error says it in words.
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
# Exit statuses: the client left, wrong arguments, libvirt refused or went away, the domain stopped,
# another client took the console over.
ENDED, USAGE, FAILED, STOPPED, TAKEN = 0, 2, 3, 4, 5
# A domain that stops closes its console a moment before it counts as stopped.
STOP_SECONDS = 1.0
STOPPED_WORDS = "the VM has stopped"


class Relay:
    """The two directions between the standard streams and a libvirt stream, one block each."""

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
        """Note how it ended; the first reason counts."""
        if self.status is None:
            self.status, self.reason = status, reason

    def watch(self) -> None:
        """Ask for the events that there is room or data for."""
        readable = 0 if self.to_guest else libvirt.VIR_EVENT_HANDLE_READABLE
        libvirt.virEventUpdateHandle(self._input, readable)
        # Without data it still waits for the reader's end.
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
            # A hang-up is told without being asked for, and again and again.
            if events & (libvirt.VIR_EVENT_HANDLE_ERROR | libvirt.VIR_EVENT_HANDLE_HANGUP):
                self.end(ENDED, "the client has gone")
            return
        try:
            self.to_guest = os.read(0, BLOCK)
        except BlockingIOError:
            return
        except OSError as error:
            self.end(ENDED, str(error))
            return
        if not self.to_guest:
            self.end(ENDED, "the client has gone")

    def _on_output(self, _watch: int, _fd: int, events: int, _opaque: object) -> None:
        if events & (libvirt.VIR_EVENT_HANDLE_ERROR | libvirt.VIR_EVENT_HANDLE_HANGUP):
            self.end(ENDED, "the client has gone")
            return
        try:
            written = os.write(1, self.from_guest)
        except BlockingIOError:
            return
        except OSError:
            self.end(ENDED, "the client has gone")
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
        if received == -2:  # nothing to read after all
            return
        if not received:
            self.end(STOPPED, STOPPED_WORDS)
        self.from_guest = received


def text_of(error: Exception) -> str:
    """Return libvirt's message on one line."""
    return " ".join(str(error).split())


def main(arguments: list[str]) -> int:
    """Join the console of the domain that the arguments name; returns the exit status."""
    if len(arguments) != 2:
        sys.stderr.write("usage: console_stream URI UUID\n")
        return USAGE
    uri, uuid = arguments
    if libvirt is None:
        sys.stderr.write("cannot open the console: install python3-libvirt on the host\n")
        return FAILED
    libvirt.registerErrorHandler(lambda *_: None, None)
    libvirt.virEventRegisterDefaultImpl()
    try:
        conn = libvirt.open(uri)
        # libvirtd that goes away is noticed, also when nobody types.
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
    conn.registerCloseCallback(lambda *_: relay.end(FAILED, "libvirt has gone"), None)
    # Said before any byte of the guest, so that the service knows that the console is open.
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
    """Say whether a domain whose console was closed goes on running."""
    deadline = time.monotonic() + STOP_SECONDS
    try:
        while dom.isActive():
            if time.monotonic() > deadline:
                return True
            time.sleep(0.05)
    except libvirt.libvirtError:
        pass  # a transient one is gone when it stops
    return False


def drain(relay: Relay) -> None:
    """Write what the guest had said before it stopped."""
    os.set_blocking(1, True)
    try:
        while relay.status == STOPPED and relay.from_guest:
            relay.from_guest = relay.from_guest[os.write(1, relay.from_guest) :]
    except OSError:
        relay.from_guest = b""


if __name__ == "__main__":
    # Not through the interpreter's own end: libvirt's event loop has no part in it.
    code = main(sys.argv[1:])
    sys.stderr.flush()
    os._exit(code)
