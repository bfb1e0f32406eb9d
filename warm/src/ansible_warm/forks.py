"""A server that forks for each run.

It never reads a request: the fork does, so that nothing of a run is ever in the server's memory.
`connection.py` has the protocol.
"""

from __future__ import annotations

import contextlib
import gc
import marshal
import os
import select
import selectors
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from ansible_warm import process
from ansible_warm.connection import DETACH, MOST_DESCRIPTORS, identity, peer_of
from ansible_warm.process import Refused

Request = dict[str, Any]
REQUEST_SECONDS = 10.0
"""How long a fork waits for its request, and for the confirmation that its client still waits."""
END_SECONDS = 20.0
"""How long runs may take to end after SIGTERM, when the server ends."""
BACKLOG = 1024
"""Connections that may wait to be accepted; Linux lowers it to net.core.somaxconn."""
CROWDED_SECONDS = 0.1
"""Pause when a connection cannot be accepted, as for too many open files."""
FLUSH_FAILED = 120
"""Python's exit status when its standard output cannot be flushed at its end."""


@dataclass
class Run:
    """A run, and the socket to the client that waits for its end."""

    pid: int
    client: socket.socket
    detached: bool = False
    """Whether it sees to its own end, when its client or this server ends."""


class Server:
    """Accepts connections at a socket and runs each in a fork, until it has retired."""

    def __init__(
        self,
        listener: socket.socket,
        run: Callable[[Request], int],
        *,
        check: Callable[[Request], None] = lambda _: None,
        begun: Callable[[], None] = lambda: None,
        ended: Callable[[int, int], None] = lambda _pid, _code: None,
    ) -> None:
        """Serve at `listener`; see `listen`.

        `run` is called in the fork and returns the exit status; `check` is called before in the
        fork and may raise Refused. `begun`, and `ended` with process id and exit status, are called
        in the server.
        """
        self._run = run
        self._check = check
        self._begun = begun
        self._ended = ended
        self._identity = identity()
        self._runs: dict[int, Run] = {}
        self._selector = selectors.DefaultSelector()
        self._listener: socket.socket | None = listener
        self._selector.register(self._listener, selectors.EVENT_READ, self._accept)
        self._wakes, self._wake = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(self._wake, warn_on_full_buffer=False)
        for number in (signal.SIGCHLD, signal.SIGTERM):
            signal.signal(number, lambda *_: None)
        self._selector.register(self._wakes, selectors.EVENT_READ, self._reap)

    def watch(self, descriptor: int, callback: Callable[[], None]) -> None:
        """Call back whenever a descriptor is readable."""
        self._selector.register(descriptor, selectors.EVENT_READ, callback)

    def forget(self, descriptor: int) -> None:
        """Call back no more for a descriptor."""
        self._selector.unregister(descriptor)

    def serve(self) -> None:
        """Serve until it has retired and all its runs have ended."""
        self._reap()  # what has ended before this process knew of it
        while self._listener or self._runs:
            for key, _ in self._selector.select():
                key.data()

    def retire(self) -> None:
        """Accept no further connection; those that wait already are served."""
        if self._listener is None:
            return
        while self._waiting() and self._accept():
            pass
        self._selector.unregister(self._listener)
        self._listener.close()
        self._listener = None

    def end(self) -> None:
        """Retire, and end the runs that do not see to their end themselves."""
        self.retire()
        for run in self._attached():
            with contextlib.suppress(ProcessLookupError):
                os.kill(run.pid, signal.SIGTERM)
        signal.signal(signal.SIGALRM, lambda *_: self._kill_all())
        signal.setitimer(signal.ITIMER_REAL, END_SECONDS)

    def _kill_all(self) -> None:
        for run in self._attached():
            kill_tree(run.pid)

    def _attached(self) -> list[Run]:
        return [run for run in self._runs.values() if not run.detached]

    def _waiting(self) -> bool:
        assert self._listener is not None
        poll = select.poll()
        poll.register(self._listener, select.POLLIN)
        return bool(poll.poll(0))

    def _accept(self) -> bool:
        """Accept a connection and fork for it; return whether one was accepted."""
        if self._listener is None:  # retired since this event
            return False
        try:
            connection, _ = self._listener.accept()
        except OSError:
            time.sleep(CROWDED_SECONDS)
            return False
        with connection:
            client, user = peer_of(connection)
            if user != os.geteuid():
                return True
            try:
                here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            except OSError:
                return True
            with there:
                parent = os.getpid()
                try:
                    pid = os.fork()
                except OSError as error:
                    with contextlib.suppress(OSError):
                        connection.send(f"cannot fork: {error.strerror}".encode())
                    here.close()
                    return True
                if pid == 0:
                    self._become_run(parent, client, connection, here, there)
        run = Run(pid, here)
        self._runs[pid] = run
        self._selector.register(here, selectors.EVENT_READ, lambda: self._hear(run))
        self._begun()
        return True

    def _become_run(
        self,
        parent: int,
        client: int,
        connection: socket.socket,
        here: socket.socket,
        there: socket.socket,
    ) -> NoReturn:
        """Read the request and run it; the server's own descriptors are closed."""
        code = 1
        try:
            process.die_with_parent(parent)
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            for each in (key.fd for key in list(self._selector.get_map().values())):
                os.close(each)
            os.close(self._wake)
            self._selector.close()
            here.close()
            code = self._serve_client(client, connection, there)
        except KeyboardInterrupt:
            end_by_interrupt()
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code if flushed() else FLUSH_FAILED)

    def _serve_client(self, client: int, connection: socket.socket, there: socket.socket) -> int:
        """Receive a request, offer this process, and run it once the client has confirmed."""
        connection.settimeout(REQUEST_SECONDS)
        try:
            _, files, _, _ = socket.recv_fds(connection, 16, 1)
            if not files:
                return 1
            with os.fdopen(files[0], "rb") as reader:
                request: Request = marshal.loads(reader.read())  # noqa: S302 - from the same user
            try:
                if request["identity"] != self._identity:
                    raise Refused("the server has other groups, namespaces or another root")
                self._check(request)
                process.take_on(request)
            except Refused as reason:
                connection.send(str(reason).encode()[:500])
                return 1
            socket.send_fds(connection, [b"ready %d" % os.getpid()], [there.fileno()])
            message, descriptors, _, _ = socket.recv_fds(connection, 16, MOST_DESCRIPTORS)
            if message != b"go":
                return 1
            if "call" in request:
                process.outlive_parent()
            connection.send(b"begun")
        except OSError:  # the client has died, or waits no longer
            return 1
        finally:
            connection.close()
            there.close()
        gc.freeze()
        process.take_descriptors(request, descriptors, client)
        return self._run(request)

    def _hear(self, run: Run) -> None:
        """Send a signal for the client, or end the run of one that has died."""
        if run.pid not in self._runs:  # it has ended since this event
            return
        message = b""
        with contextlib.suppress(OSError):
            message = run.client.recv(64)
        if message == DETACH:
            run.detached = True
            self._selector.unregister(run.client)
            return
        if not message:
            self._selector.unregister(run.client)
            run.client.close()
            kill_tree(run.pid)
            return
        with contextlib.suppress(OSError, ValueError):
            # The run leads its process group, as a shell's job does.
            os.killpg(run.pid, int(message))

    def _reap(self) -> None:
        with contextlib.suppress(BlockingIOError):
            if signal.SIGTERM in os.read(self._wakes, 4096):
                self.end()
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if not pid:
                return
            if (run := self._runs.pop(pid, None)) is None:
                continue
            code = os.waitstatus_to_exitcode(status)
            with contextlib.suppress(KeyError, ValueError):
                self._selector.unregister(run.client)
            with contextlib.suppress(OSError):
                run.client.send(str(code).encode())
            run.client.close()
            try:
                self._ended(pid, code)
            except Exception:  # the other runs must not end for it
                traceback.print_exc()


def end_by_interrupt() -> None:
    """End as Python does by a KeyboardInterrupt that nobody handles."""
    traceback.print_exc()
    flushed()
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    os.kill(os.getpid(), signal.SIGINT)


def flushed() -> bool:
    """Flush standard output and error, where they are open; return whether that was possible."""
    done = True
    for stream in (sys.stdout, sys.stderr):
        if stream is None or stream.closed:
            continue
        try:
            stream.flush()
        except OSError:
            done = False
    return done


def listen(path: Path) -> socket.socket:
    """Return a socket that listens at a path, in the place of what was there."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    # By the descriptor of its directory, as the path of a socket is limited to 107 bytes.
    directory = os.open(path.parent, os.O_PATH)
    try:
        new = f"{path.name[:60]}.{os.getpid()}"
        listener.bind(f"/proc/self/fd/{directory}/{new}")
        listener.listen(BACKLOG)
        os.rename(new, path.name, src_dir_fd=directory, dst_dir_fd=directory)
    finally:
        os.close(directory)
    return listener


def kill_tree(pid: int) -> None:
    """Kill a process with all its descendants."""
    found = [pid]
    for parent in found:
        with contextlib.suppress(OSError):  # it has ended, or sudo made it another user's
            os.kill(parent, signal.SIGSTOP)  # so that it starts no further child
            for task in Path(f"/proc/{parent}/task").iterdir():
                found += map(int, (task / "children").read_text().split())
    for each in found:
        with contextlib.suppress(OSError):
            os.kill(each, signal.SIGKILL)
