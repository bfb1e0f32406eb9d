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
# How often to look for the end of a killed child, every 2 ms.
_ATTEMPTS = 250


def run_in_child(
    function: Callable[[], Any],
    timeout: float,
    *,
    is_done: Callable[[], bool] = lambda: True,
    finish: Callable[[], None] = lambda: None,
) -> Any:
    """Return what function returns (plain JSON data) from a forked child.

    If is_done then returns False, be it after a failure, the child calls finish when it has
    reported, and nobody waits for that. Raises the child's Failure, TimeoutError after timeout
    seconds, and RuntimeError for every other end of the child. Call it before the process starts
    threads.
    """
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reader)
        _run(function, writer, is_done, finish)
    os.close(writer)
    outcome: dict[str, Any] = {"is_done": True}
    try:
        if output := _read_all(reader, time.monotonic() + timeout):
            outcome = json.loads(output)
    finally:
        os.close(reader)
        if outcome["is_done"]:
            _end(pid)
    if "failure" in outcome:
        raise Failure(outcome["failure"], outcome["code"])
    if "crash" in outcome:
        raise RuntimeError(outcome["crash"])
    if "result" not in outcome:
        raise RuntimeError("the observing process died without a result")
    return outcome["result"]


def _run(
    function: Callable[[], Any],
    writer: int,
    is_done: Callable[[], bool],
    finish: Callable[[], None],
) -> NoReturn:
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
    outcome["is_done"] = is_done()
    if not outcome["is_done"]:
        # The end of its parent, and of that one's terminal, must not end it.
        os.setsid()
    with contextlib.suppress(OSError), os.fdopen(writer, "w") as pipe:
        json.dump(outcome, pipe)
    if not outcome["is_done"]:
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
    for _attempt in range(_ATTEMPTS):
        if os.waitpid(pid, os.WNOHANG)[0] == pid:
            return
        time.sleep(0.002)
