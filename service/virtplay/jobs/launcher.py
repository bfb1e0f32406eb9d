"""Starts job processes as forks of a process that has loaded ansible-runner and Ansible.

The only importer of ansible_warm beside `play`. A start of Python, ansible-runner and Ansible takes
more than a second of CPU; a fork of a process that has done it takes a hundredth of that. While the
launcher cannot fork, jobs start as programs of their own.
"""

import asyncio
import contextlib
import logging
import os
import secrets
import shutil
import signal
import socket
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

import ansible_warm
from ansible_warm.client import Unavailable, begin_call

from virtplay.jobs.ansible_settings import job_settings
from virtplay.jobs.processes import MARK
from virtplay.metrics.service_series import count_fallback
from virtplay.settings import Settings

log = logging.getLogger("virtplay.jobs.launcher")

PLAY = "virtplay.jobs.play"
PLUGINS = (
    "action:virtplay.libvirt.check_arguments",
    "action:virtplay.libvirt.domain",
    "callback:virtplay.libvirt.vms_summary",
    "filter:virtplay.libvirt.devices",
    "filter:virtplay.libvirt.spec_hashes",
)
"""Plugins that most playbooks of the project use."""
ROLES = ("roles/libvirt_domain", "roles/libvirt_snapshot")
"""Roles of most jobs, below the project's directory, in which the launcher starts."""
DIRECTORY = "launcher"
SOCKET = "socket"
STOP_SECONDS = 35.0
"""How long the launcher may take to end; it has no runs any more when it is stopped."""
RESTART_SECONDS = 5.0
UNKNOWN = -9
"""The return code of a fork whose server has died before it: nobody knows how it ended."""


class Process(Protocol):
    """A job process: a program of its own, or a fork."""

    @property
    def pid(self) -> int:
        """The process id."""

    @property
    def returncode(self) -> int | None:
        """Exit code, minus the signal that killed it; None while it runs."""

    async def wait(self) -> int:
        """Wait for its end and return the exit code."""

    def terminate(self) -> None:
        """Send SIGTERM; raise ProcessLookupError if it has ended."""

    def kill(self) -> None:
        """Send SIGKILL; raise ProcessLookupError if it has ended."""


class Fork:
    """A job process that the launcher has forked."""

    def __init__(self, pid: int, pidfd: int, control: socket.socket) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._pidfd = pidfd
        self._control = control
        control.setblocking(False)
        self._ended = asyncio.create_task(self._follow(), name=f"fork {pid}")

    async def _follow(self) -> int:
        code = b""
        try:
            with contextlib.suppress(OSError):
                code = await asyncio.get_running_loop().sock_recv(self._control, 64)
            if not code:  # the server has died, and the fork goes on
                await _readable(self._pidfd)
        finally:
            self.returncode = int(code or UNKNOWN)
            self._control.close()
            os.close(self._pidfd)
        return self.returncode

    async def wait(self) -> int:
        """Wait for its end and return the exit code."""
        return await asyncio.shield(self._ended)

    def terminate(self) -> None:
        """Send SIGTERM; raise ProcessLookupError if it has ended."""
        self._send(signal.SIGTERM)

    def kill(self) -> None:
        """Send SIGKILL; raise ProcessLookupError if it has ended."""
        self._send(signal.SIGKILL)

    def _send(self, number: signal.Signals) -> None:
        if self.returncode is not None:
            raise ProcessLookupError(f"process {self.pid} has ended")
        signal.pidfd_send_signal(self._pidfd, number)


def manager_command(path: Path, memory: int) -> list[str]:
    """Return the command of a manager whose server forks jobs at the socket `path`.

    It ends at the end of its standard input.
    """
    manager = Path(ansible_warm.__file__).with_name("manager.py")
    return [
        *(sys.executable, "-I", "-S", str(manager), str(path), "--follow-stdin"),
        f"--memory={memory}",
        "--runner",
        f"--import={PLAY}",
        *(f"--load={plugin}" for plugin in PLUGINS),
        *(f"--role={role}" for role in ROLES),
    ]


async def _readable(descriptor: int) -> None:
    """Wait until a descriptor is readable."""
    loop = asyncio.get_running_loop()
    readable = asyncio.Event()
    loop.add_reader(descriptor, readable.set)
    try:
        await readable.wait()
    finally:
        loop.remove_reader(descriptor)


class _Pipe:
    """A pipe to which nobody writes: its reader's end tells forks that the service has died."""

    def __init__(self) -> None:
        self.reader, self._writer = os.pipe2(os.O_CLOEXEC)
        self._is_open = True

    def close(self) -> None:
        if self._is_open:
            self._is_open = False
            os.close(self.reader)
            os.close(self._writer)

    __del__ = close


class Launcher:
    """Keeps a manager of ansible_warm while the service runs, and starts job processes."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._directory = settings.state_dir / DIRECTORY
        self._socket = None if settings.launcher in ("on", "off") else Path(settings.launcher)
        """Where the manager's server listens; None without one."""
        self._stopping = asyncio.Event()
        self._alive = _Pipe()

    async def run(self) -> None:
        """Keep a manager until stopped, if this service is to have one of its own."""
        if self._settings.launcher != "on":
            return
        while not self._stopping.is_set():
            await asyncio.to_thread(shutil.rmtree, self._directory, ignore_errors=True)
            place = self._directory / secrets.token_hex(4)
            await asyncio.to_thread(place.mkdir, 0o700, parents=True)
            manager = await self._start_manager(place / SOCKET)
            self._socket = place / SOCKET
            stop = asyncio.create_task(self._stopping.wait())
            ended = asyncio.create_task(manager.wait())
            try:
                await asyncio.wait((stop, ended), return_when=asyncio.FIRST_COMPLETED)
                self._socket = None
                if not self._stopping.is_set():
                    log.error("the launcher has ended with %s; starting it again", ended.result())
                    with contextlib.suppress(TimeoutError):
                        await asyncio.wait_for(self._stopping.wait(), RESTART_SECONDS)
            finally:
                stop.cancel()
                await self._end(manager)
        await asyncio.to_thread(shutil.rmtree, self._directory, ignore_errors=True)

    def stop(self) -> None:
        """End the launcher."""
        self._stopping.set()

    def close(self) -> None:
        """Close what forks of job processes watch; none can be started from now on."""
        self._alive.close()

    async def start(self, directory: Path, environment: Mapping[str, str]) -> Process:
        """Start the job process whose specification is in `directory`."""
        words = [str(directory)]
        path = self._socket  # it is None as soon as the manager has ended
        if path is not None:
            try:
                return await self._fork(path, words, environment)
            except (Unavailable, OSError) as reason:
                count_fallback("job")
                # It takes some seconds to start, which is no fault.
                level = logging.WARNING if path.exists() else logging.DEBUG
                log.log(level, "cannot fork the process of %s: %s", directory.name, reason)
        return await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            PLAY,
            *words,
            str(os.getpid()),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=None,
            start_new_session=True,
            env=environment,
        )

    async def _fork(self, path: Path, words: Sequence[str], environment: Mapping[str, str]) -> Fork:
        program = [sys.executable, "-m", PLAY, *words]
        return Fork(
            *await asyncio.to_thread(
                begin_call,
                str(path),
                PLAY,
                list(words),
                program,
                dict(environment),
                self._alive.reader,
            )
        )

    async def _start_manager(self, path: Path) -> asyncio.subprocess.Process:
        project = self._settings.project_dir
        return await asyncio.create_subprocess_exec(
            *manager_command(path, self._settings.launcher_memory),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=None,
            cwd=project,
            env={**os.environ, **job_settings(project), MARK: str(self._directory)},
            start_new_session=True,
        )

    async def _end(self, manager: asyncio.subprocess.Process) -> None:
        assert manager.stdin is not None
        manager.stdin.close()
        try:
            await asyncio.wait_for(manager.wait(), STOP_SECONDS)
        except TimeoutError:
            manager.kill()
            await manager.wait()
