"""What a fork takes on before its run, so that it behaves like a program that was just started."""

from __future__ import annotations

import ctypes
import fcntl
import os
import resource
import signal
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ansible_warm import terminal
from ansible_warm.connection import TERMINAL

Request = Mapping[str, Any]
PR_SET_PDEATHSIG = 1
PR_SET_NAME = 15
PYTHON_IGNORES = (signal.SIGPIPE, signal.SIGXFSZ)
"""What each Python ignores from its start on."""


class Refused(Exception):
    """The fork cannot run this request; the text says why."""


def die_with_parent(parent: int) -> None:
    """Receive SIGKILL when the parent dies; end now if it has died already."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)


def outlive_parent() -> None:
    """Receive no signal when the parent dies."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, 0, 0, 0, 0)


def _highest(request: Request) -> int:
    """Return the highest descriptor that `take_descriptors` needs: it moves them above all."""
    return max(request["descriptors"], default=0) + len(request["descriptors"]) + 1


def take_on(request: Request) -> None:
    """Give this process the directory, environment and so on of a request, or raise Refused.

    Nobody sees any of it before `take_descriptors`.
    """
    os.setsid()
    _take_signals(request)
    if (more := request["niceness"] - os.getpriority(os.PRIO_PROCESS, 0)) != 0:
        _or_refuse("priority", lambda: os.nice(more))
    if set(request["processors"]) != os.sched_getaffinity(0):
        _or_refuse("processors", lambda: os.sched_setaffinity(0, request["processors"]))
    for number, limits in request["limits"].items():
        if resource.getrlimit(number) != limits:
            _or_refuse("limits", lambda n=number, both=limits: resource.setrlimit(n, both))
    most, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if most != resource.RLIM_INFINITY and _highest(request) >= most:
        raise Refused("the run has too many descriptors for its limit")
    os.umask(request["umask"])
    _or_refuse("directory", lambda: os.chdir(request["directory"]))
    take_name(request["program"], request["environment"])


def take_name(program: Sequence[str], environment: Mapping[str, str]) -> None:
    """Give this process a command line and an environment."""
    os.environ.clear()
    os.environ.update(environment)
    time.tzset()
    tempfile.tempdir = None  # it depends on TMPDIR
    show(program, environment)


def reset_signals() -> None:
    """Give the signals that this program handles what they have at a start of Python."""
    signal.set_wakeup_fd(-1)
    for number in signal.valid_signals():
        if callable(signal.getsignal(number)):
            signal.signal(number, signal.SIG_DFL)
    if signal.getsignal(signal.SIGINT) == signal.SIG_DFL:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _or_refuse(what: str, change: Any) -> None:
    try:
        change()
    except (OSError, ValueError) as error:
        raise Refused(f"the server cannot have the run's {what}: {error}") from error


def _take_signals(request: Request) -> None:
    ignored = {*request["ignored"], *PYTHON_IGNORES}
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        if number in ignored:
            signal.signal(number, signal.SIG_IGN)
        elif number == signal.SIGINT:
            signal.signal(number, signal.default_int_handler)
        elif signal.getsignal(number) != signal.SIG_DFL:
            signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, request["blocked"])


def take_descriptors(request: Request, received: Sequence[int], client: int) -> None:
    """Give this process the descriptors of a request, and only these.

    `received` are what the process `client` has sent, in the order of the request.
    """
    numbers = request["descriptors"]
    # Above all of them, so that none is in the place of another.
    above = max(*numbers, *received, 2) + 1
    moved = [fcntl.fcntl(each, fcntl.F_DUPFD_CLOEXEC, above) for each in received]
    for each in {*received, 0, 1, 2} - set(numbers):
        os.close(each)
    for number, descriptor in zip(numbers, moved, strict=True):
        if number == TERMINAL:
            terminal.borrow(descriptor, client)
        else:
            os.dup2(descriptor, number)
            os.close(descriptor)
    if 0 not in numbers:  # closed, for which Python has None
        sys.stdin = sys.__stdin__ = None  # type: ignore[misc]
    buffer_output()


def buffer_output() -> None:
    """Buffer standard output as Python does at its start; errors are always line-buffered."""
    sys.stdout.reconfigure(line_buffering=sys.stdout.isatty())  # type: ignore[union-attr]


def show(arguments: Sequence[str], environment: Mapping[str, str]) -> None:
    """Show arguments and environment of this process in /proc, as far as there is room.

    They replace those with which the server was started. `os.environ.clear()` must have come
    before, as nothing may use the old ones any more.
    """
    # The name is that of the script, as where the kernel has started one.
    program = next(each for each in (*arguments[1:2], arguments[0]) if not each.startswith("-"))
    ctypes.CDLL(None).prctl(PR_SET_NAME, os.fsencode(os.path.basename(program)), 0, 0, 0)
    fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    arguments_start, arguments_end, environment_start, environment_end = map(int, fields[45:49])
    _write(environment_start, environment_end, [f"{k}={v}" for k, v in environment.items()])
    _write(arguments_start, arguments_end, arguments)


def _write(start: int, end: int, texts: Sequence[str]) -> None:
    data = b"".join(os.fsencode(text) + b"\0" for text in texts)[: end - start - 1]
    if 0 < start < end:
        ctypes.memmove(start, data.ljust(end - start, b"\0"), end - start)
