"""Warm Ansible: creates a copy of pytest's virtual environment, except for Ansible's programs."""

from __future__ import annotations

import contextlib
import json
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

import pytest

from tests.warm import PROGRAMS

FRONT = Path(__file__).with_name("front.py")
# Not by -m: Ansible reads its settings from the working directory, which must be that of the run.
SERVER = (
    f"import sys; sys.path[0] = {str(Path(__file__).parents[2])!r}; "
    "from tests.warm.server import main; main()"
)
REAL = sys.executable
ENVIRONMENT = pytest.StashKey["Environment"]()


class Environment:
    """A directory that is a virtual environment for every program that starts its Python."""

    def __init__(self) -> None:
        self._directory = Path(tempfile.mkdtemp(prefix="virtplay-warm-"))
        self.python = self._directory / "bin/python"
        programs = self.python.parent
        programs.mkdir()
        for program in Path(REAL).parent.iterdir():
            (programs / program.name).symlink_to(program)
        (self._directory / "lib").symlink_to(Path(sys.prefix, "lib"))
        shutil.copy(Path(sys.prefix, "pyvenv.cfg"), self._directory)
        servers = self._directory / "servers"
        servers.mkdir()
        kinds = ("ipc", "mnt", "net", "pid", "user", "uts")
        names = [str(Path("/proc/self/ns", kind).readlink()) for kind in kinds]
        (servers / "namespaces").write_text(" ".join(names))
        for name in PROGRAMS:
            front = programs / name
            front.unlink()
            real = str(Path(REAL).with_name(name))
            command = shlex.join([REAL, "-I", "-S", str(FRONT), str(servers), real])
            front.write_text(f'#!/bin/sh\nexec {command} "$@"\n')
            front.chmod(0o755)
        self._servers: list[subprocess.Popen[bytes]] = []
        self._starter = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._starter.bind(str(servers / "start"))
        self._starter.listen()
        threading.Thread(target=self._start_servers, args=(servers,), daemon=True).start()

    def _start_servers(self, directory: Path) -> None:
        while True:
            try:
                front, _ = self._starter.accept()
            except OSError:  # closed
                return
            with front, contextlib.suppress(BrokenPipeError):  # a test has killed the front
                key, cwd, settings = json.loads(front.recv(1 << 20))
                front.send(self._start(directory, key, cwd, settings))

    def _start(self, directory: Path, key: str, cwd: str, settings: dict[str, str]) -> bytes:
        """Start a server; return b"ready" when it listens, or b"" if it ends instead."""
        if (directory / key).exists():  # the front that first wanted it was killed meanwhile
            return b"ready"
        log = directory / f"{key}.log"
        with log.open("wb") as output:
            server = subprocess.Popen(
                [REAL, "-c", SERVER, str(directory), key],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=output,
                cwd=cwd,
                env=settings,
                start_new_session=True,
            )
        self._servers.append(server)
        assert server.stdout is not None
        if not (answer := server.stdout.read()):
            sys.stderr.write(log.read_text())
        return answer

    def close(self) -> None:
        """Stop the servers."""
        self._starter.shutdown(socket.SHUT_RDWR)
        self._starter.close()
        for server in self._servers:
            server.communicate()
        shutil.rmtree(self._directory, ignore_errors=True)


def pytest_configure(config: pytest.Config) -> None:
    """Make the tests of this process use programs of the warm environment."""
    if not Path(REAL).with_name("ansible-playbook").exists():
        return
    if hasattr(config, "workerinput"):
        sys.executable = config.workerinput["warm_python"]
        return
    environment = Environment()
    config.stash[ENVIRONMENT] = environment
    if not config.getoption("numprocesses", None):  # else its workers run the tests
        sys.executable = str(environment.python)


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Give every worker of pytest-xdist the same servers."""
    node.workerinput["warm_python"] = str(node.config.stash[ENVIRONMENT].python)


def pytest_unconfigure(config: pytest.Config) -> None:
    """Stop the servers."""
    if environment := config.stash.get(ENVIRONMENT, None):
        environment.close()


@pytest.fixture
def cold_ansible(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make this test start the real ansible-playbook."""
    monkeypatch.setattr(sys, "executable", REAL)
