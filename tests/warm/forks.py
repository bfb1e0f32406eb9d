"""Warm Ansible: a server that forks for each run, and what a fork does before its run.

A front sends a marshalled dictionary with its working directory, environment and umask, and its
three standard streams; it receives the exit status of the run, negative for a signal.
"""

from __future__ import annotations

import contextlib
import marshal
import os
import selectors
import signal
import socket
import tempfile
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

REQUEST_BYTES = 1 << 20
Request = dict[str, Any]


@dataclass
class Run:
    """A forked run, and the connection of the front that waits for its end."""

    pid: int
    front: socket.socket


def serve(
    path: Path, ready: int, run: Callable[[Request], int], end: Callable[[int], None]
) -> None:
    """Serve on the socket `path` until the end of standard input.

    "ready" is written to the descriptor `ready` when the socket exists; then it is closed. Each
    request is `run` in a fork, which exits with the returned status. `end` kills a run by its
    process id.
    """
    ended_read, ended_write = os.pipe()
    os.set_blocking(ended_write, False)
    signal.set_wakeup_fd(ended_write)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    runs: dict[int, Run] = {}
    with (
        socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener,
        selectors.DefaultSelector() as selector,
    ):
        new = path.with_suffix(".new")
        listener.bind(str(new))
        listener.listen(64)
        new.rename(path)
        os.write(ready, b"ready")
        os.close(ready)
        selector.register(0, selectors.EVENT_READ)
        selector.register(listener, selectors.EVENT_READ)
        selector.register(ended_read, selectors.EVENT_READ)
        while True:
            for key, _ in selector.select():
                if key.fd == 0:
                    for begun in runs.values():
                        end(begun.pid)
                    return
                if key.fd == listener.fileno():
                    begun = accept(listener, run)
                    runs[begun.pid] = begun
                    selector.register(begun.front, selectors.EVENT_READ, begun)
                elif key.fd == ended_read:
                    os.read(ended_read, 4096)
                elif key.data.pid in runs:  # its front has ended, so nothing needs the run
                    selector.unregister(key.data.front)
                    end(key.data.pid)
            for pid, status in reaped():
                if pid not in runs:
                    continue  # the warm-up's
                begun = runs.pop(pid)
                with contextlib.suppress(KeyError):
                    selector.unregister(begun.front)
                with contextlib.suppress(OSError):
                    begun.front.send(str(os.waitstatus_to_exitcode(status)).encode())
                begun.front.close()


def accept(listener: socket.socket, run: Callable[[Request], int]) -> Run:
    """Accept a request and fork for it."""
    front, _ = listener.accept()
    data, streams, _, _ = socket.recv_fds(front, REQUEST_BYTES, 3)
    pid = os.fork()
    if pid == 0:
        listener.close()
        front.close()
        begin(marshal.loads(data), streams, run)
    for stream in streams:
        os.close(stream)
    return Run(pid, front)


def begin(request: Request, streams: list[int], run: Callable[[Request], int]) -> NoReturn:
    """Run with the front's streams, directory, environment and umask, and exit."""
    code = 250
    try:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.setsid()
        for target, stream in enumerate(streams):
            os.dup2(stream, target)
            os.close(stream)
        os.umask(request["umask"])
        os.chdir(request["directory"])
        os.environ.clear()
        os.environ.update(request["environment"])
        tempfile.tempdir = None  # it is TMPDIR's at the warm-up
        code = run(request)
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def reaped() -> list[tuple[int, int]]:
    """Return the children that have ended, with their wait status."""
    found = []
    with contextlib.suppress(ChildProcessError):
        while (ended := os.waitpid(-1, os.WNOHANG))[0]:
            found.append(ended)
    return found
