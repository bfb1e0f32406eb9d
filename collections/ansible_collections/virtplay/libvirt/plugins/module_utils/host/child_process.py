# Copyright: Virtplay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Runs a function in a child process that is abandoned at a deadline.

A call that waits inside libvirtd, or for a dead file system, can be neither cancelled nor joined,
and a process with such a thread would hang at its own end. Killing the child ends all of it.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import time
from collections.abc import Callable
from typing import Any, NoReturn

from ..failure import Failure

# A child that does more than this after its report ends all the same.
_LATEST = 10


def run_in_child(
    function: Callable[[], Any], timeout: float, finish: Callable[[], None] | None = None
) -> Any:
    """Return what function returns (plain JSON data) from a forked child.

    The child calls finish when it has reported, be it a failure, and nobody waits for that. Raises
    the child's Failure, TimeoutError after timeout seconds, and RuntimeError for every other end of
    the child. Call it before the process starts threads.
    """
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reader)
        _run(function, writer, finish)
    os.close(writer)
    output = b""
    try:
        output = _read_all(reader, time.monotonic() + timeout)
    finally:
        os.close(reader)
        if not output or finish is None:
            _end(pid)
        else:
            # Mostly nothing is left to finish. Not every host reaps the orphans of a dead parent.
            _reap(pid, 5)
    if not output:
        raise RuntimeError("the observing process died without a result")
    outcome = json.loads(output)
    if "failure" in outcome:
        raise Failure(outcome["failure"], outcome["code"])
    if "crash" in outcome:
        raise RuntimeError(outcome["crash"])
    return outcome["result"]


def _run(function: Callable[[], Any], writer: int, finish: Callable[[], None] | None) -> NoReturn:
    """Run the child: write one outcome to the pipe, finish, exit without waiting for threads."""
    # A child that cannot be killed (in D state) must not keep the SSH session's pipes open.
    with open(os.devnull, "r+b") as null:
        for descriptor in (0, 1, 2):
            os.dup2(null.fileno(), descriptor)
    try:
        outcome = {"result": function()}
    except Failure as failure:
        outcome = {"failure": failure.message, "code": failure.code}
    except Exception as error:
        outcome = {"crash": f"{type(error).__name__}: {error}"}
    if finish is not None:
        # The end of its parent, and of that one's terminal, must not end it.
        os.setsid()
    with contextlib.suppress(OSError), os.fdopen(writer, "w") as pipe:
        json.dump(outcome, pipe)
    if finish is not None:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(_LATEST)
        with contextlib.suppress(Exception):
            finish()
    os._exit(0)


def _read_all(reader: int, deadline: float) -> bytes:
    """Read the pipe to its end; raises TimeoutError at the deadline (monotonic seconds)."""
    pieces: list[bytes] = []
    while True:
        ready = select.select([reader], [], [], max(0.0, deadline - time.monotonic()))[0]
        if not ready:
            raise TimeoutError
        piece = os.read(reader, 1 << 20)
        if not piece:
            return b"".join(pieces)
        pieces.append(piece)


def _end(pid: int) -> None:
    """Kill and reap the child; init reaps a child that does not end on SIGKILL at once."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    _reap(pid, 50)


def _reap(pid: int, attempts: int) -> None:
    for _attempt in range(attempts):
        if os.waitpid(pid, os.WNOHANG)[0] == pid:
            return
        time.sleep(0.002)
