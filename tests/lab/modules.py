"""Lab: runs a module of the collection on a host without Ansible, and can crash it at a step."""

from __future__ import annotations

import json
import subprocess
import sysconfig
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import psutil

from lab.lab import Host
from lab.processes import Process
from lab.supervisor import HOST_ENVIRONMENT
from tests.lab.plays import REPOSITORY

Run = tuple[dict[str, Any], int]
"""A module's arguments, and the number of the step after which it crashes (0: none)."""


def run_module(host: Host, module: str, **arguments: Any) -> dict[str, Any]:
    """Run a module once, and return its result; a failed one has "failed"."""
    (result,) = _run(host, module, [(arguments, 0)])
    assert result is not None
    return result


def run_each(host: Host, module: str, arguments: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Run a module once per dictionary of arguments, and return the results; some may be failed."""
    results = _run(host, module, [(each, 0) for each in arguments])
    return [result for result in results if result is not None]


def run_modules(host: Host, *runs: Run, module: str = "snapshot") -> list[dict[str, Any] | None]:
    """Run a module without Ansible once per run; return the results, None for a crashed run."""
    results = _run(host, module, runs)
    assert [result for result in results if result and result.get("failed")] == []
    return results


@contextmanager
def start_module(
    host: Host, module: str, **arguments: Any
) -> Iterator[Callable[[], dict[str, Any]]]:
    """Run a module beside other runs on the host; yield what waits for its result.

    At the end of the block, a module that still runs is killed.
    """
    program = _start(host)
    try:
        assert program.stdin is not None
        program.stdin.write(json.dumps({"module": module, "runs": [(arguments, 0)]}) + "\n")
        program.stdin.flush()

        def result() -> dict[str, Any]:
            (only,) = json.loads(program.communicate(timeout=300)[0])
            return dict(only)

        yield result
    finally:
        if program.poll() is None:
            kill_with_descendants(psutil.Process(program.pid))
        program.communicate()


def kill_with_descendants(process: psutil.Process) -> None:
    """Kill a process and what it has started, such as a module that is a fork below nsenter."""
    for each in (process, *process.children(recursive=True)):
        with suppress(psutil.NoSuchProcess):
            each.kill()


def _run(host: Host, module: str, runs: Sequence[Run]) -> list[dict[str, Any] | None]:
    server = _server(host)
    assert server.stdin is not None
    assert server.stdout is not None
    server.stdin.write(json.dumps({"module": module, "runs": runs}) + "\n")
    server.stdin.flush()
    results: list[dict[str, Any] | None] = json.loads(server.stdout.readline())
    return results


_servers: dict[Process, subprocess.Popen[str]] = {}
"""The first process of a host → the program on it that runs modules."""


def _server(host: Host) -> subprocess.Popen[str]:
    """Return the host's program that runs modules, which ends with the host."""
    if host.init not in _servers:
        _servers[host.init] = _start(host)
    return _servers[host.init]


def _start(host: Host) -> subprocess.Popen[str]:
    paths = (str(REPOSITORY / "collections"), sysconfig.get_path("purelib"))
    return subprocess.Popen(
        host.command("python3", str(REPOSITORY / "tests/lab/crash.py"), *paths),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=HOST_ENVIRONMENT,
        cwd="/",
    )
