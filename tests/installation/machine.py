"""Tests: a Debian of its own with systemd as its first process, in namespaces of this machine.

By hand: python -m tests.installation.machine DIRECTORY [--beside ADDRESS] [--kind KIND]
[--release RELEASE] brings one up until Ctrl-C, on the network of a running lab's host, or on this
machine's own. It may reboot. Its file system is kept for a day (lab/releases.py).
"""

from __future__ import annotations

import argparse
import contextlib
import ipaddress
import json
import os
import shlex
import shutil
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from lab.releases import RELEASES, Recipe, use_root, wanted_by_role

PROJECT = Path(__file__).parents[2]
PYTHONS = {"python3.11": "bookworm", "python3.13": "trixie", "python3.14": "forky"}
"""The Debian release of a Python, as the library directory of a virtual environment names it."""
BASE = ("systemd", "systemd-sysv", "dbus", "openssh-server", "openssh-client", "python3")


@dataclass(frozen=True)
class Kind:
    """What a machine has before a role comes: installed, in the archive that apt asks, and off."""

    installed: tuple[str, ...]
    offered: tuple[str, ...] = ()
    off: tuple[str, ...] = ()


KINDS = {
    "service": Kind(
        installed=(
            *BASE,
            *("python3-apt", "python3-venv", "ca-certificates", "iproute2", "procps"),
            *("nginx-light", "postgresql"),
        ),
        off=("nginx", "postgresql"),
    ),
    # What a person has who begins with the README.
    "bare": Kind(installed=(*BASE, "iproute2", "procps", "git", "make")),
    # What a person has who installs the wheel, as a user with sudo.
    "single": Kind(
        installed=(*BASE, "ifupdown", "iproute2", "procps", "python3-venv", "sudo"),
        offered=wanted_by_role(),
    ),
    # As bare as can be: even what Ansible's apt module needs is brought by Ansible.
    "hypervisor": Kind(
        installed=(*BASE, "ifupdown", "iproute2", "procps"), offered=wanted_by_role()
    ),
}
INIT = Path(__file__).with_name("machine-init.sh")
ARCHIVE = Path(__file__).with_name("machine-archive.sh")
CGROUPS = (Path("/sys/fs/cgroup/unified"), Path("/sys/fs/cgroup"))
ADDRESS_INDEX = 29
"""The machine's place in the network of a lab, whose hosts begin at 11."""
START_SECONDS = 60


class MachineError(Exception):
    """The machine cannot be had here; the message says why."""


def find_cgroups() -> Path:
    """The version 2 hierarchy of control groups; MachineError without one."""
    for path in CGROUPS:
        if (path / "cgroup.procs").exists() and (path / "cgroup.subtree_control").exists():
            return path
    raise MachineError("cannot run systemd in a namespace: there are no control groups version 2")


def release_of(kind: str) -> str:
    """The release for a kind if none is named: some kinds get wheels for the Python of .venv."""
    if kind not in ("service", "single"):
        return "bookworm"
    (python,) = [path.name for path in (PROJECT / ".venv/lib").glob("python3.*")] or ["no Python"]
    if python not in PYTHONS:
        raise MachineError(f"cannot install the service of .venv: no Debian release has {python}")
    return PYTHONS[python]


def recipe(kind: Kind, release: str) -> Recipe:
    """Return the recipe of a machine's file system."""
    hooks = []
    if kind.off:  # there, but turned on by the role alone
        hooks.append(f'chroot "$1" systemctl disable --quiet {" ".join(kind.off)}')
    if kind.offered:
        hooks.append(f'{shlex.quote(str(ARCHIVE))} "$1" {" ".join(kind.offered)}')
    return Recipe(release, kind.installed, tuple(hooks), (ARCHIVE,) if kind.offered else ())


class Machine:
    """The machine while the `with` block runs; root gets in by SSH with `key`."""

    def __init__(
        self,
        directory: Path,
        neighbour: str | None = None,
        kind: str = "service",
        release: str | None = None,
    ) -> None:
        self.directory = directory
        self.name = kind
        self.release = release or release_of(kind)
        self.root = directory / "root"
        self.key = directory / "key"
        self.address = "127.0.0.1"
        self.port = 22
        self._neighbour = neighbour
        self._group = find_cgroups() / f"virtplay-{os.getpid()}-{kind}"
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.directory.mkdir(parents=True, exist_ok=True)
        self._make_root()
        try:
            self._start()
            self._wait()
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        self._end()

    @property
    def ssh_options(self) -> list[str]:
        """The options with which ssh reaches it."""
        return [
            *("-i", str(self.key), "-o", "IdentitiesOnly=yes", "-o", f"Port={self.port}"),
            *("-o", f"UserKnownHostsFile={self.directory / 'known_hosts'}"),
            *("-o", "ControlMaster=auto", "-o", f"ControlPath={self.directory / 'cp'}"),
        ]

    def run(self, *command: str, check: bool = True, text: str = "") -> str:
        """Run a command on it by SSH; its standard output, or AssertionError when it fails."""
        answer = subprocess.run(
            ["ssh", *self.ssh_options, f"root@{self.address}", shlex.join(command)],
            capture_output=True,
            check=False,
            text=True,
            input=text,
            timeout=300,
        )
        assert not check or answer.returncode == 0, (
            f"{shlex.join(command)} failed with {answer.returncode}\n{answer.stdout}{answer.stderr}"
        )
        return answer.stdout

    def keep(self) -> None:
        """Start it again whenever it reboots itself; return when it powers itself off."""
        while self._process and self._process.wait() == -signal.SIGHUP:
            self._remove_group()
            self._start()

    def _make_root(self) -> None:
        shutil.rmtree(self.root, ignore_errors=True)
        with use_root(recipe(KINDS[self.name], self.release)) as made:
            subprocess.run(["cp", "-a", made.path, self.root], check=True)
        for file in (self.key, self.key.with_suffix(".pub")):
            file.unlink(missing_ok=True)
        _make_key(self.key)
        host_key = self.root / "etc/ssh/ssh_host_ed25519_key"
        _make_key(host_key)
        authorized = self.root / "root/.ssh/authorized_keys"
        authorized.parent.mkdir(mode=0o700, exist_ok=True)
        shutil.copy(self.key.with_suffix(".pub"), authorized)
        (self.root / "etc/hostname").write_text(f"{self.name}\n")
        (self.root / "etc/hosts").write_text(f"127.0.0.1 localhost {self.name}\n")
        shutil.copy("/etc/resolv.conf", self.root / "etc/resolv.conf")
        prefix = ""
        if self._neighbour:
            self._bridge, network = _bridge_of(self._neighbour)
            self.address = str(network[ADDRESS_INDEX])
            prefix = f"/{network.prefixlen}"
        else:
            self.port = 2222
        self._given = f"{self.address}{prefix}" if prefix else ""
        (self.root / "etc/ssh/sshd_config.d/tests.conf").write_text(
            f"Port {self.port}\nListenAddress {self.address}\nUseDNS no\nMaxSessions 50\n"
        )
        public = host_key.with_suffix(".pub").read_text()
        name = self.address if self.port == 22 else f"[{self.address}]:{self.port}"
        (self.directory / "known_hosts").write_text(f"{name} {public}")

    def _start(self) -> None:
        self._group.mkdir()
        spaces = [
            "--mount",
            "--uts",
            "--ipc",
            "--pid",
            "--cgroup",
            *(["--net"] * bool(self._given)),
        ]
        # The shell puts itself into the control group first: it is the root of the namespace's.
        words = ["sh", "-c", 'echo $$ > "$0/cgroup.procs" && exec "$@"', str(self._group)]
        words += ["unshare", *spaces, "--fork", "--kill-child=KILL"]
        words += [str(INIT), str(self.root), self.name, *([self._given] * bool(self._given))]
        self._process = subprocess.Popen(
            words, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, start_new_session=True
        )
        if self._given:
            deadline = time.monotonic() + 10
            while not (pid := _child_in_namespace(self._process.pid)):
                if time.monotonic() > deadline:
                    raise MachineError("cannot start the machine: its first process did not appear")
                time.sleep(0.05)
            veth = f"vm{os.getpid()}"
            # That of the machine before a reboot goes with its network namespace, but when?
            subprocess.run(["ip", "link", "delete", veth], capture_output=True, check=False)
            # The NIC is the same one after a reboot: else neighbours go on sending to the old one.
            mac = bytes([2, 0, *ipaddress.IPv4Address(self.address).packed]).hex(":")
            peer = ("peer", "name", "eth0", "address", mac, "netns", str(pid))
            _ip("link", "add", veth, "type", "veth", *peer)
            _ip("link", "set", veth, "master", self._bridge, "addrgenmode", "none", "up")
        assert self._process.stdin
        self._process.stdin.write(b"\n")
        self._process.stdin.close()

    def _wait(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while True:
            assert self._process
            if self._process.poll() is not None:
                raise MachineError(f"cannot start the machine: {self._process.returncode}")
            if "running" in self.run("systemctl", "is-system-running", "--wait", check=False):
                return
            if time.monotonic() > deadline:
                failed = self.run("systemctl", "--failed", "--no-pager", check=False)
                raise MachineError(f"the machine is not up after {START_SECONDS} s: {failed}")
            time.sleep(0.2)

    def _end(self) -> None:
        subprocess.run(
            ["ssh", *self.ssh_options, "-O", "exit", f"root@{self.address}"],
            capture_output=True,
            check=False,
        )
        if self._process is not None:
            # Its child is the machine's first process, which ends with it and takes all others.
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()
        self._remove_group()
        shutil.rmtree(self.root, ignore_errors=True)

    def _remove_group(self) -> None:
        deadline = time.monotonic() + 10
        while self._group.exists() and time.monotonic() < deadline:
            for path in sorted(self._group.rglob("*"), reverse=True):
                if path.is_dir():
                    _remove(path)
            _remove(self._group)
            time.sleep(0.05)


def _remove(group: Path) -> None:
    try:
        group.rmdir()
    except OSError:
        time.sleep(0.01)  # its last process has not gone yet


def _child_in_namespace(parent: int) -> int | None:
    """The one child of unshare, as soon as it has a network of its own."""
    shown = subprocess.run(
        ["pgrep", "--parent", str(parent)], capture_output=True, text=True, check=False
    )
    for word in shown.stdout.split():
        try:
            if Path(f"/proc/{word}/ns/net").readlink() != Path("/proc/self/ns/net").readlink():
                return int(word)
        except OSError:
            continue
    return None


def _make_key(path: Path) -> None:
    subprocess.run(
        ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "tests", "-f", str(path)], check=True
    )


def _bridge_of(address: str) -> tuple[str, ipaddress.IPv4Network]:
    """The bridge of this machine in whose network the address is, and that network."""
    shown = subprocess.run(["ip", "-json", "-4", "address"], capture_output=True, check=True)
    for link in json.loads(shown.stdout):
        for found in link.get("addr_info", []):
            network = ipaddress.IPv4Interface(f"{found['local']}/{found['prefixlen']}").network
            if ipaddress.IPv4Address(address) in network:
                return link["ifname"], network
    raise MachineError(f"cannot put the machine beside {address}: no interface has its network")


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)


def main() -> None:
    """Bring a machine up, say how to reach it, and end it on Ctrl-C or SIGTERM."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("directory", type=Path)
    parser.add_argument(
        "--beside", help="an address of a lab's host; default: this machine's network"
    )
    parser.add_argument("--kind", choices=KINDS, default="service")
    parser.add_argument("--release", choices=RELEASES)
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: (_ for _ in ()).throw(KeyboardInterrupt()))
    with Machine(given.directory, given.beside, given.kind, given.release) as machine:
        print(f"ssh {' '.join(machine.ssh_options)} root@{machine.address}", flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            machine.keep()


if __name__ == "__main__":
    main()
