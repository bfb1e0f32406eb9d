"""Tests: runs of ansible-playbook, plain and through a server of the tests' own."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from ansible_warm import client, manager

BIN = Path(sys.prefix, "bin")
PLAYBOOK = BIN / "ansible-playbook"
BEGIN = PLAYBOOK.read_text().split("\n", 2)
# Below a path with a blank a virtual environment's programs begin with a line for sh, which runs
# Python: that line is left out, as sh is not what the tests compare with.
SH = re.match("'''exec' \"(.+?)\"", BEGIN[1])
PYTHON = SH[1] if SH else BEGIN[0].removeprefix("#!")
"""The interpreter under the name that it has for the plain ansible-playbook."""
PLAIN = [PYTHON, str(PLAYBOOK)] if SH else [str(PLAYBOOK)]
CLIENT = [PYTHON, "-I", "-S", client.__file__]
MARK = "ANSIBLE_WARM_TESTED"
"""A variable in the environment of all that a test starts, by which it finds what is left."""
WAIT_SECONDS = 60.0
"""How long an event may take that is awaited, on a busy machine."""
LOCAL = ("-i", "localhost,", "-c", "local")


@dataclass
class Done:
    """How a run has ended."""

    code: int
    out: str
    err: str


def wait_for(condition: Callable[[], Any], what: str = "") -> Any:
    """Wait until a condition is true; return what it returned."""
    deadline = time.monotonic() + WAIT_SECONDS
    while not (found := condition()):
        assert time.monotonic() < deadline, f"it has not happened: {what}"
        time.sleep(0.02)
    return found


def write_play(path: Path, *tasks: Mapping[str, Any], **keywords: Any) -> Path:
    """Write a playbook with one play of localhost."""
    play = {"hosts": "localhost", "gather_facts": False, "tasks": list(tasks), **keywords}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump([play], sort_keys=False))
    return path


def processes_with(text: str, command: str = "") -> list[int]:
    """Return the processes with a text in their environment or command line, but not this one.

    If a command is given, only those that begin with it.
    """
    found = []
    for directory in Path("/proc").iterdir():
        if not directory.name.isdecimal() or int(directory.name) == os.getpid():
            continue
        with contextlib.suppress(OSError):
            shown = (directory / "environ").read_bytes() + (directory / "cmdline").read_bytes()
            state = (directory / "stat").read_text().rpartition(")")[2].split()[0]
            commands = (directory / "cmdline").read_bytes().startswith(command.encode())
            if text.encode() in shown and state != "Z" and commands:
                found.append(int(directory.name))
    return found


def is_running(pid: int) -> bool:
    """Return whether a process exists and has not ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


class Place:
    """Directories and an environment that are nobody else's."""

    def __init__(self, directory: Path, **environment: str) -> None:
        self.directory = directory
        self.home = directory / "home"
        self.runtime = directory / "run"
        self.project = directory / "project"
        for each in (self.home, self.runtime, self.project):
            each.mkdir(parents=True, mode=0o700, exist_ok=True)
        self.mark = f"{directory}/"
        self.fallbacks = directory / "fallbacks"
        self.configuration = directory / "ansible.cfg"
        self.configuration.touch()
        self.environment = {
            "PATH": f"{BIN}:/usr/local/bin:/usr/bin:/bin",
            "HOME": str(self.home),
            "LANG": "C.UTF-8",
            "XDG_RUNTIME_DIR": str(self.runtime),
            "ANSIBLE_CONFIG": str(self.configuration),
            "ANSIBLE_WARM_FALLBACKS": str(self.fallbacks),
            # Its discovery takes longer than most runs.
            "ANSIBLE_PYTHON_INTERPRETER": PYTHON,
            MARK: self.mark,
            **environment,
        }

    def reasons(self) -> list[str]:
        """Return why runs were passed to the plain program, since this was called."""
        try:
            return self.fallbacks.read_text().splitlines()
        except FileNotFoundError:
            return []
        finally:
            self.fallbacks.unlink(missing_ok=True)

    def run(self, program: Sequence[str], *arguments: str | Path, **options: Any) -> Done:
        """Run a program in this place and return how it ended; see `start`."""
        given = options.pop("input", None)
        process = self.start(program, *arguments, **options)
        out, err = process.communicate(given, timeout=WAIT_SECONDS)
        return Done(process.returncode, out or "", err or "")

    def start(
        self, program: Sequence[str], *arguments: str | Path, **options: Any
    ) -> subprocess.Popen[str]:
        """Start a program in this place, with further variables `more`."""
        options = {
            "cwd": self.project,
            "stdin": subprocess.DEVNULL,
            "stdout": subprocess.PIPE,
            "stderr": subprocess.PIPE,
            "text": True,
            "env": {**self.environment, **options.pop("more", {})},
            **options,
        }
        return subprocess.Popen([*program, *map(str, arguments)], **options)

    def assert_nothing_left(self) -> None:
        """Assert that no process is left, and no file of a server or a run."""
        wait_for(lambda: not processes_with(self.mark), "end of the processes")
        wait_for(lambda: not list(self.home.glob(".ansible/tmp/*")), "removal of directories")
        assert list(self.runtime.rglob("ansible-warm/*")) == []


class Warm(Place):
    """A place with a manager, whose server the client of a run uses."""

    def __init__(self, directory: Path, *options: str, **environment: str) -> None:
        super().__init__(directory, **environment)
        self.socket = self.runtime / "socket"
        self.log = directory / "log"
        self.options = options
        self.start_manager()

    def start_manager(self) -> None:
        """Start the manager and wait until its server is ready."""
        with self.log.open("a") as log:
            self.manager = self.start(
                [PYTHON, "-I", "-S", manager.__file__],
                self.socket,
                *self.options,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self.environment["ANSIBLE_WARM_SOCKET"] = str(self.socket)
        wait_for(lambda: self.socket.exists() or self.manager.poll() is not None, "server")
        assert self.socket.exists(), self.log.read_text()

    def servers(self) -> list[int]:
        """Return the process ids of the manager's servers."""
        return children(self.manager.pid)

    def server(self) -> int:
        """Return the process id of the only server."""
        return int(wait_for(lambda: self.servers() if len(self.servers()) == 1 else 0)[0])

    def forks(self) -> list[int]:
        """Return the process ids of the servers' runs."""
        return [run for server in self.servers() for run in children(server)]

    def run_in(self, directory: Path) -> int:
        """Wait for the run of a playbook in a directory; return its process id.

        It need not be the only one: the run of the test before may not have ended yet.
        """

        def find() -> int:
            for run in self.forks():
                with contextlib.suppress(OSError):
                    if f"{directory}/".encode() in Path(f"/proc/{run}/cmdline").read_bytes():
                        return run
            return 0

        return int(wait_for(find, f"run of a playbook in {directory}"))

    def serve(self, *arguments: str | Path, **options: Any) -> Done:
        """Run a playbook through the server."""
        done = self.run(CLIENT, *arguments, **options)
        assert self.reasons() == [], self.log.read_text()
        return done

    def remove_strays(self) -> None:
        """Remove the processes and directories that the plain program leaves when it is killed."""
        servers = self.servers()
        for pid in processes_with(self.mark):
            if pid not in (self.manager.pid, *servers):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        for left in self.home.glob(".ansible/tmp/*"):
            if not left.name.startswith(tuple(f"ansible-local-{pid}" for pid in servers)):
                shutil.rmtree(left, ignore_errors=True)

    def renewed(self, server: int) -> int:
        """Wait until another server has taken the place of one; return its process id."""
        wait_for(lambda: not is_running(server), f"end of {server}")
        return self.server()

    def close(self) -> None:
        """End the manager; nothing may be left."""
        if self.manager.poll() is None:
            self.manager.terminate()
        assert self.manager.stdin
        self.manager.stdin.close()
        self.manager.wait(WAIT_SECONDS)
        self.assert_nothing_left()
        assert sorted(self.runtime.iterdir()) == []


@contextlib.contextmanager
def warm(directory: Path, *options: str, **environment: str) -> Iterator[Warm]:
    """Keep a server within the block, and end it and all that it has started."""
    place = Warm(directory, *options, **environment)
    try:
        yield place
    except BaseException:
        sys.stderr.write(place.log.read_text())
        place.manager.terminate()
        place.manager.wait(WAIT_SECONDS)
        raise
    else:
        place.close()
    finally:
        for pid in processes_with(place.mark):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def children(pid: int) -> list[int]:
    """Return the children of a process."""
    try:
        return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def both(place: Warm, *arguments: str | Path, **options: Any) -> tuple[Done, Done]:
    """Run a playbook plain and through the server; return both, without what differs anyway."""
    plain = place.run(PLAIN, *arguments, **options)
    return comparable(plain), comparable(place.serve(*arguments, **options))


def comparable(done: Done) -> Done:
    """Return how a run ended, without its times and the names of temporary files."""
    return Done(done.code, without_times(done.out), without_times(done.err))


def without_times(text: str) -> str:
    text = re.sub(r"ansible-(local|tmp)-[\w.-]+", r"ansible-\1", text)
    text = re.sub(r"\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d\.\d+", "TIME", text)
    return re.sub(r"0:00:\d\d\.\d+", "DURATION", text)


def copy_place(place: Place, name: str) -> Path:
    """Return a new directory for a test in a place that several tests use."""
    directory = place.directory / name
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir()
    return directory
