"""Lab: the handle with which tests and benchmarks start a lab, control its hosts, and stop it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from lab.directory import HostRecord, LabDirectory
from lab.processes import Process
from lab.supervisor import HOST_ENVIRONMENT

_REPOSITORY = Path(__file__).resolve().parents[1]
_END_SECONDS = 40
_POOL = "/var/lib/libvirt/images"


class LabError(Exception):
    """An operation on the lab has failed; the message contains the reason."""


def start_supervisor(
    arguments: list[str], stdin: int, said: IO[str], pass_fds: Sequence[int] = ()
) -> subprocess.Popen[str]:
    """Start `up --until-eof` as a process in a session of its own.

    The process writes one JSON line to its standard output when the lab is ready, or the reason to
    `said` if it cannot start the lab. It stops the lab at the end of `stdin` or on a signal.
    """
    return subprocess.Popen(
        [sys.executable, "-m", "lab", "up", "--until-eof", *arguments],
        stdin=stdin,
        stdout=subprocess.PIPE,
        stderr=said,
        text=True,
        start_new_session=True,  # Ctrl-C reaches only the user of the lab, who stops it
        pass_fds=pass_fds,
        env={**os.environ, "PYTHONPATH": str(_REPOSITORY)},
    )


class Host:
    """One hypervisor of a running lab."""

    def __init__(self, record: HostRecord, directory: LabDirectory) -> None:
        if record.init is None:
            raise LabError(f"cannot act on {record.name}: it has not started")
        self.name = record.name
        self.address = record.address
        self.uuid = record.uuid
        self.release = record.release
        self.init: Process = record.init
        self._veth = record.veth
        self._directory = directory

    def run(
        self, *command: str, check: bool = True, stdin: str | None = None, timeout: float = 60
    ) -> subprocess.CompletedProcess[str]:
        """Run a command inside the host without its network, so even if the host is disconnected.

        Raises LabError with the command's output if it fails and `check` is set.
        """
        if not self.init.alive():
            raise LabError(f"cannot run {command[0]} on {self.name}: the host has ended")
        return self._run(self.command(*command), check, stdin, timeout)

    def command(self, *command: str) -> list[str]:
        """Return the command of this machine that runs a command inside the host."""
        enter = ["nsenter", "-t", str(self.init.pid), "-m", "-u", "-i", "-n", "-p", "--"]
        return [*enter, *command]

    def ssh(
        self, command: str, *, check: bool = True, stdin: str | None = None, timeout: float = 60
    ) -> subprocess.CompletedProcess[str]:
        """Run a shell command on the host over SSH, with the lab's key and known hosts."""
        return self._run([str(self._directory.ssh), self.name, command], check, stdin, timeout)

    def cut(self) -> None:
        """Disconnect the host's network; open connections hang until they time out."""
        self._machine("ip", "link", "set", self._veth, "down")

    def mend(self) -> None:
        """Connect the host's network again."""
        self._machine("ip", "link", "set", self._veth, "up")

    def kill(self) -> None:
        """Kill all processes of the host, as a power failure does. It cannot be started again."""
        self.init.send(signal.SIGKILL)
        if not self.init.wait(10):
            raise LabError(f"cannot end {self.name}")

    def kill_libvirtd(self) -> None:
        """Kill the host's libvirtd by SIGKILL; domains continue to run."""
        kill = 'pid=$(cat /run/libvirtd.pid); kill -9 "$pid"; while [ -d /proc/$pid ]; do :; done'
        self.run("sh", "-ec", kill)

    def start_libvirtd(self) -> None:
        """Start libvirtd again after it was killed."""
        self.run("libvirtd", "-d")

    def freeze(self, domain: str) -> None:
        """Suspend the QEMU process of a running domain by SIGSTOP: its monitor does not respond."""
        self._signal_qemu(domain, "STOP")

    def thaw(self, domain: str) -> None:
        """Resume the QEMU process of a frozen domain."""
        self._signal_qemu(domain, "CONT")

    @contextlib.contextmanager
    def small_pool(self, size: int) -> Iterator[None]:
        """Mount an empty file system of `size` bytes as the host's image pool for the block.

        The former content of the pool is hidden, not lost; volumes created meanwhile are lost.
        """
        self.run("mount", "-t", "tmpfs", "-o", f"size={size},mode=711", "tmpfs", _POOL)
        try:
            self._refresh_pool()
            yield
        finally:
            self.run("umount", "-l", _POOL)
            self._refresh_pool()

    def fill_pool(self, leave: int = 0) -> None:
        """Fill the pool, except `leave` bytes. Allowed only inside `small_pool`."""
        shown = self.run("findmnt", "-n", "-o", "FSTYPE", "-M", _POOL, check=False)
        if shown.stdout.strip() != "tmpfs":
            raise LabError(f"cannot fill the pool of {self.name}: it is not a small_pool")
        free = int(self.run("df", "--output=avail", "-B1", _POOL).stdout.split()[-1])
        if free > leave:
            self.run("fallocate", "-l", str(free - leave), f"{_POOL}/filler")

    def _refresh_pool(self) -> None:
        # A bare host has no pool yet, and a test may have killed libvirtd.
        self.run("virsh", "-q", "pool-refresh", "default", check=False)

    def _signal_qemu(self, domain: str, name: str) -> None:
        # The signal reaches QEMU's threads one by one: wait until its state changes.
        script = """
            pid=$(cat "/run/libvirt/qemu/$1.pid"); kill -"$2" "$pid"
            until grep -q "^State:.$3" "/proc/$pid/status"; do sleep 0.01; done"""
        state = {"STOP": "T", "CONT": "[^T]"}[name]
        self.run("sh", "-ec", script, "sh", domain, name, state)

    def _machine(self, *command: str) -> None:
        self._run(list(command), True, None, 60)

    def _run(
        self, command: list[str], check: bool, stdin: str | None, timeout: float
    ) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            command,
            input="" if stdin is None else stdin,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
            env=HOST_ENVIRONMENT,
        )
        if check and done.returncode != 0:
            said = (done.stderr or done.stdout).strip()
            raise LabError(f"cannot run {' '.join(command)} for {self.name}: {said}")
        return done


class Lab:
    """A lab that runs for the duration of a `with` block.

    `prepare` runs the playbooks that turn the bare hosts into hypervisors with the `micro`
    template; without `libvirt`, the daemons are not even started. Hosts take the `releases` of
    Debian in turn; without any they have this machine's file system. A separate process runs the
    lab and stops it when this process ends in any way.
    """

    def __init__(
        self,
        *,
        hosts: int = 2,
        prepare: bool = True,
        directory: Path | None = None,
        releases: Sequence[str] = (),
        libvirt: bool = True,
    ) -> None:
        self._arguments = ["--hosts", str(hosts), *([] if prepare else ["--bare"])]
        if not libvirt:
            self._arguments.append("--without-libvirt")
        if releases:
            self._arguments += ["--release", ",".join(releases)]
        if directory:
            self._arguments += ["--dir", str(directory)]
        self._supervisor: subprocess.Popen[str] | None = None
        self._said = tempfile.TemporaryFile("w+")  # noqa: SIM115 - lives as long as the lab
        self.hosts: list[Host] = []
        self.directory = Path()
        self.seconds: dict[str, float] = {}

    def __enter__(self) -> Self:
        """Start the lab; raise LabError with the reason if that fails."""
        self._supervisor = start_supervisor(self._arguments, subprocess.PIPE, self._said)
        try:
            assert self._supervisor.stdout is not None
            line = self._supervisor.stdout.readline()
            if not line:
                raise LabError(self._last_words())
            ready = json.loads(line)
            self.seconds = ready["seconds"]
            self._attach(Path(ready["directory"]))
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Stop the lab; raise LabError if its supervisor reports that something remains."""
        code = self._end()
        if code != 0 and error is None:
            raise LabError(self._last_words())

    @property
    def inventory(self) -> Path:
        """The inventory of the lab's hosts, in group `hypervisors`."""
        return LabDirectory(self.directory).inventory

    @property
    def ssh_program(self) -> Path:
        """A program that runs ssh with the lab's keys: `ssh lab-1`, `virsh -c …?command=`."""
        return LabDirectory(self.directory).ssh

    def _attach(self, path: Path) -> None:
        directory = LabDirectory(path)
        record = directory.read_record()
        if record is None:
            raise LabError(f"cannot read the record of the lab in {path}")
        self.directory = path
        self.hosts = [Host(host, directory) for host in record.hosts]

    def _end(self) -> int:
        """Stop the supervisor and return its exit status."""
        if self._supervisor is None:
            return 0
        self._supervisor.terminate()
        try:
            return self._supervisor.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            self._supervisor.kill()  # its hosts end with it; the next lab removes the rest
            self._supervisor.wait()
            raise LabError(f"cannot stop the lab: {self._last_words()}") from None
        finally:
            for stream in (self._supervisor.stdin, self._supervisor.stdout):
                if stream:
                    stream.close()

    def _last_words(self) -> str:
        self._said.seek(0)
        return self._said.read().strip()[-6000:] or "cannot start the lab: no output"
