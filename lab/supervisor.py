"""Lab: the supervisor, the process that starts a lab, waits, and stops it again."""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import cycle, islice
from pathlib import Path
from types import FrameType
from typing import IO

from lab.directory import DirectoryError, HostRecord, LabDirectory, Record
from lab.prepare import fill_package_cache, image_catalogue, prepare_hosts
from lab.processes import Process, adopt_orphans, children, end_descendants
from lab.releases import PROJECT, Root, lab_recipe, use_root
from lab.slot import PREFIX, Slot, claim_slot

_HOST_INIT = Path(__file__).resolve().with_name("host-init.sh")
_START_SECONDS = 60
_PROGRAMS = [
    *("dnsmasq", "ip", "iptables", "libvirtd", "virsh", "virtlogd"),
    *("qemu-img", "qemu-system-x86_64", "ssh", "ssh-keygen", "sshd"),
    *("nsenter", "setpriv", "unshare"),
]
_SBIN = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
HOST_ENVIRONMENT = {"PATH": _SBIN, "HOME": "/root", "LANG": "C.UTF-8", "USER": "root"}


class StartError(Exception):
    """The lab cannot be started; the message names what is missing or which host failed."""


class _Stop(BaseException):
    """A signal requests the end; no `except Exception` may swallow it."""


def missing_programs() -> list[str]:
    """Return the programs that a lab requires and that are not installed."""
    return [name for name in _PROGRAMS if shutil.which(name, path=_SBIN) is None]


class Supervisor:
    """One lab from start to end, in the process that calls `run`."""

    def __init__(
        self,
        directory: Path | None,
        hosts: int,
        prepare: bool,
        libvirt: bool = True,
        releases: Sequence[str] = (),
    ) -> None:
        self._path = directory
        # Hosts take the releases in turn.
        self._releases = list(islice(cycle(releases or [None]), hosts))
        self._prepare = prepare
        self._libvirt = libvirt
        self._roots: dict[str, Root] = {}
        self._used = contextlib.ExitStack()
        self._slot: Slot | None = None
        self._claim: socket.socket | None = None
        self.directory: LabDirectory | None = None
        self.hosts: list[HostRecord] = []
        self.seconds: dict[str, float] = {}

    def run(self, ready: Callable[[Supervisor], None], wait: Callable[[], None]) -> None:
        """Start the lab, call `ready`, then `wait`, and stop the lab whatever happens.

        A SIGINT, SIGTERM or SIGHUP stops the lab in any state. Raises StartError, DirectoryError
        or SlotError after stopping what it had started.
        """
        adopt_orphans()
        try:
            _stop_by_signals()
            try:
                self._up()
                ready(self)
                wait()
            finally:
                _ignore_signals()
        except _Stop:
            pass
        finally:
            self._down()

    def _up(self) -> None:
        began = time.monotonic()
        if os.geteuid() != 0:
            raise StartError("cannot start a lab: only root can create network namespaces")
        if missing := missing_programs():
            raise StartError(f"cannot start a lab without {', '.join(missing)}: run make setup-lab")
        self._slot, self._claim = claim_slot()
        if dead := self._slot.claimed_directory():
            clear_leftovers(dead)
            self._slot.remove_links()  # its directory may already be deleted
        directory = self._make_directory()
        self.hosts = [
            HostRecord(f"lab-{index}", self._slot.address(index), self._slot.veth(index), release)
            for index, release in enumerate(self._releases, 1)
        ]
        self._record("starting")
        directory.write_keys(self.hosts)
        for release in dict.fromkeys(self._releases):
            root = self._use_root(release) if release else None
            if self._prepare:  # before the start: the hosts mount the cache then
                fill_package_cache(directory.log, root)
        self._slot.create_bridge(directory.path)
        self._start_hosts()
        directory.write_inventory(self.hosts, image_catalogue())
        self.seconds["hosts"] = time.monotonic() - began
        if self._prepare:
            began = time.monotonic()
            prepare_hosts(directory.inventory, directory.log)
            self.seconds["prepare"] = time.monotonic() - began
        self._record("ready")

    def _use_root(self, release: str) -> Root:
        root = self._used.enter_context(use_root(lab_recipe(release)))
        self._roots[release] = root
        return root

    def _make_directory(self) -> LabDirectory:
        # A signal now would leave a directory that `_down` does not know to be this lab's.
        with _signals_held():
            if self._path is None:
                self._path = Path(tempfile.mkdtemp(prefix="virtplay-lab-"))
            clear_leftovers(self._path)
            directory = LabDirectory(self._path.resolve())
            directory.create()
            self.directory = directory
        return directory

    def _record(self, stage: str) -> None:
        assert self.directory is not None
        assert self._slot is not None
        supervisor = Process.of(os.getpid())
        assert supervisor is not None
        self.directory.write_record(Record(self._slot.number, supervisor, self.hosts, stage))

    def _start_hosts(self) -> None:
        """Start all hosts at once and wait until sshd and libvirtd respond on each."""
        assert self._slot is not None
        deadline = time.monotonic() + _START_SECONDS
        started = [self._start_host(host) for host in self.hosts]
        for index, (host, process) in enumerate(zip(self.hosts, started, strict=True), 1):
            host.init = self._first_process(host, process, deadline)
            self._slot.connect(index, host.init.pid)
            assert process.stdin is not None
            with contextlib.suppress(BrokenPipeError):  # it has ended; see its log, below
                process.stdin.write(b"eth0\n")
                process.stdin.close()
        self._record("starting")
        for host, process in zip(self.hosts, started, strict=True):
            assert process.stdout is not None
            if not _says_ready(process.stdout, deadline):
                raise self._host_failed(host)

    def _start_host(self, host: HostRecord) -> subprocess.Popen[bytes]:
        assert self.directory is not None
        own = self.directory.host(host.name)
        root = self._roots[host.release] if host.release else None
        with self._host_log(host).open("wb") as log:
            # The host ends with this process, even by kill -9: setpriv makes unshare end with this
            # process, and unshare the host's first process, which ends its process namespace.
            return subprocess.Popen(
                [
                    *("setpriv", "--pdeathsig", "KILL"),
                    *("unshare", "--mount", "--uts", "--ipc", "--net", "--pid", "--mount-proc"),
                    *("--fork", "--kill-child=KILL"),
                    *(str(_HOST_INIT), str(own), host.name, host.uuid, f"{host.address}/{PREFIX}"),
                    "libvirt" if self._libvirt else "no-libvirt",
                    str(PROJECT),
                    *((str(root.path), str(root.cache)) if root else ()),
                ],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env=HOST_ENVIRONMENT,
                start_new_session=True,
            )

    def _first_process(
        self, host: HostRecord, process: subprocess.Popen[bytes], deadline: float
    ) -> Process:
        while time.monotonic() < deadline and process.poll() is None:
            for pid in children(process.pid):
                if found := Process.of(pid):
                    return found
            time.sleep(0.002)
        raise self._host_failed(host)

    def _host_log(self, host: HostRecord) -> Path:
        assert self.directory is not None
        return self.directory.path / f"{host.name}.log"

    def _host_failed(self, host: HostRecord) -> StartError:
        log = self._host_log(host).read_text(errors="replace").strip()[-2000:]
        return StartError(f"cannot start {host.name}: {log or 'no output'}")

    def _down(self) -> None:
        if self.directory:
            self.directory.end_ssh_masters()
        end_descendants()
        if self._slot:
            self._slot.remove_links()
        if self.directory:
            self.directory.remove()
        self._used.close()
        if self._claim:
            self._claim.close()


def clear_leftovers(path: Path) -> None:
    """Remove what a lab in this directory left behind if its supervisor was killed.

    Raises DirectoryError if the lab in this directory is running.
    """
    directory = LabDirectory(path.resolve())
    record = directory.read_record()
    if record is None:
        return
    if record.supervisor.alive():
        raise DirectoryError(f"cannot use {path}: process {record.supervisor.pid} runs a lab in it")
    for host in record.hosts:
        if host.init and host.init.send(signal.SIGKILL):
            host.init.wait(10)
    directory.end_ssh_masters()
    slot = Slot(record.slot)
    if slot.claimed_directory() == directory.path:
        slot.remove_links()
    directory.remove()


def _says_ready(stream: IO[bytes], deadline: float) -> bool:
    """Read until the line "ready"; return False at the end of the stream or at the deadline."""
    said = b""
    while select.select([stream], [], [], max(0, deadline - time.monotonic()))[0]:
        chunk = os.read(stream.fileno(), 4096)
        said += chunk
        if b"ready\n" in said:
            return True
        if not chunk:
            return False
    return False


_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def _stop_by_signals() -> None:
    """Raise _Stop at the first SIGINT, SIGTERM or SIGHUP, and ignore those after it."""

    def stop(_number: int, _frame: FrameType | None) -> None:
        _ignore_signals()
        raise _Stop

    for number in _SIGNALS:
        signal.signal(number, stop)


def _ignore_signals() -> None:
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_IGN)


@contextlib.contextmanager
def _signals_held() -> Iterator[None]:
    """Delay signals that arrive during the block until its end."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
