"""The manager: keeps one server at a socket, which knows the files as they are now.

`manager.py SOCKET [options]`, with the environment for whose settings the server is to run. It
starts the server, and another one when files have changed, when the server needs too much memory,
or when it has died; the server serves until the other one does. With `--idle` the manager ends
after so many seconds without a run, with `--follow-stdin` at the end of its standard input, and
by SIGTERM; the runs then get SIGTERM.

It works with `python -I -S`, and is small, as it does nothing most of the time.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import glob
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

LOOK_SECONDS = 2.0
"""Time between two looks at the files."""
WARM_SECONDS = 120.0
"""How long a server may take to get ready."""
PAUSES = (1.0, 5.0, 30.0, 120.0)
"""Pauses before a server is started again that has failed, in seconds."""
CLOCK_NS = 20_000_000
"""How far the times of files may be behind the clock, in nanoseconds."""
STALE_PAUSES = (0.0, 2.0, 5.0)
"""The same before one is replaced for files that have changed: something may write all the time."""
SETTLED_SECONDS = 60.0
"""A server that served so long was none of a row of servers that fail or become stale at once."""
RELEASE_TRIES = 20
RELEASE_SECONDS = 0.05
SAID = 4
"""How many of the last messages are not written again."""
END_SECONDS = 30.0
"""How long a server may take to end with its runs."""
START = (
    "import sys; sys.path[0] = {!r}; sys.path.append({!r}); "
    "from ansible_warm.server import main; sys.path.pop(); main()"
)
RETIRE = b"retire"
END = b"end"
ROOM = "ANSIBLE_WARM_ROOM"
"""A variable that is only there for its size: forks show their environment in its place."""
ROOM_BYTES = 64 * 1024
ARGUMENT_BYTES = 4096
Signature = list[tuple[int, int, int] | None]


class ServerProcess:
    """A server, from the manager's side."""

    def __init__(self, path: str, options: argparse.Namespace) -> None:
        """Start a server that will listen at a path."""
        here, there = socket.socketpair()
        here.setblocking(False)
        package = Path(__file__).resolve().parent
        start = START.format(str(Path(sys.executable).parent), str(package.parent))
        words = [sys.executable, "-c", start, path, str(there.fileno())]
        words += [f"--import={name}" for name in options.modules]
        words += [f"--load={name}" for name in options.load]
        words += [f"--role={directory}" for directory in options.roles]
        words += ["--runner"] if options.runner else []
        # Forks show their own arguments and environment in the room of the server's.
        with there:
            self.process = subprocess.Popen(
                [*words, "x" * ARGUMENT_BYTES],
                stdin=subprocess.DEVNULL,
                stdout=2,
                pass_fds=[there.fileno()],
                env={**os.environ, ROOM: "x" * ROOM_BYTES},
                # A key such as Ctrl-C is for the manager alone, which ends the server.
                start_new_session=True,
            )
        self.control = here
        self.began = time.monotonic()
        self._began_ns = time.time_ns() - CLOCK_NS
        self.used = 0.0
        """When it last got a run."""
        self.ready = False
        self.retired = False
        self.settled = False
        """Whether it has served for a while."""
        self.failure = ""
        """Why it could not get ready, if it could report that."""
        self._watched: list[str] = []
        self._signature: Signature = []
        self._changed = ""
        """A path that has changed since the server began, perhaps after it was read."""
        self._directory = ""
        self._read = b""

    def hear(self) -> bool:
        """Read what the server reports; return whether there was something."""
        try:
            data = self.control.recv(1 << 20)
        except OSError:  # nothing to read, or it has ended
            data = b""
        *lines, self._read = (self._read + data).split(b"\n")
        for line in lines:
            report = json.loads(line)
            if report["event"] == "run":
                self.used = time.monotonic()
            self.ready |= report["event"] == "ready"
            self._directory = report.get("directory", self._directory)
            self.failure = report.get("reason", "")
            self._watch(report.get("watched", []))
        return bool(data)

    def _watch(self, paths: list[str]) -> None:
        new = sorted(set(paths) - set(self._watched))
        self._watched += new
        self._signature += signature(new)
        for path in new:
            with contextlib.suppress(OSError):
                if os.stat(path).st_ctime_ns > self._began_ns:
                    self._changed = path

    def staleness(self, memory_mib: float) -> str:
        """Return why the server is to be replaced: a changed file, or memory above the limit."""
        if self._changed:
            return f"{self._changed} has changed since it began"
        now = signature(self._watched)
        if now != self._signature:
            changed = zip(self._watched, now, self._signature, strict=True)
            return next(f"{path} has changed" for path, new, old in changed if new != old)
        try:
            pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        except OSError:
            return ""
        used = pages * os.sysconf("SC_PAGE_SIZE") / 2**20
        return f"its memory is {used:.0f} MiB" if used > memory_mib else ""

    def has_runs(self) -> bool:
        """Return whether the server has a run."""
        pid = self.process.pid
        try:
            return bool(Path(f"/proc/{pid}/task/{pid}/children").read_text().strip())
        except OSError:
            return False

    def retire(self) -> None:
        """Make the server end once its runs have ended."""
        self.retired = True
        self._order(RETIRE)

    def end(self) -> None:
        """Make the server end its runs and itself."""
        self._order(END)

    def _order(self, order: bytes) -> None:
        with contextlib.suppress(OSError):  # it has ended
            self.control.send(order)

    def clean_up(self) -> None:
        """Remove what a server and runs that were killed have left."""
        self.control.close()
        if not self._directory:
            return
        shutil.rmtree(self._directory, ignore_errors=True)
        parent, name = os.path.split(self._directory)
        for left in glob.glob(f"{glob.escape(parent)}/ansible-local-*.{glob.escape(name)}"):
            pid = Path(left).name.split("-")[2]
            if not Path(f"/proc/{pid}").exists():
                shutil.rmtree(left, ignore_errors=True)


def signature(paths: list[str]) -> Signature:
    """Return what tells that paths have changed: inode, size, and time of change in nanoseconds.

    None stands for a path that cannot be read.
    """
    found: Signature = []
    for path in paths:
        try:
            state = os.stat(path)
        except OSError:
            found.append(None)
        else:
            found.append((state.st_ino, state.st_size, state.st_mtime_ns))
    return found


class Manager:
    """Keeps one server ready, and those that retire until their runs have ended."""

    def __init__(self, options: argparse.Namespace) -> None:
        """Prepare for the options of the command line; see `main`."""
        self._options = options
        self._path = options.socket
        self._servers: list[ServerProcess] = []
        self._row = 0
        """How many servers in a row have failed or become stale at once."""
        self._next_start = 0.0
        self._used = time.monotonic()
        """When a server last got a run, or this manager began."""
        self._said: list[str] = []
        self._ended = False
        self._wakes, wake = os.pipe()
        os.set_blocking(wake, False)
        signal.set_wakeup_fd(wake)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self._end)

    def _end(self, *_: object) -> None:
        self._ended = True

    def run(self) -> None:
        """Keep a server until this manager is to end; then end the servers."""
        while not self._ended and not self._is_idle():
            self._keep_one()
            self._wait(LOOK_SECONDS)
            self._bury()
        for each in self._servers:
            each.retire()  # a run may have begun since the last look
        while not self._ended and self._servers:
            self._wait(LOOK_SECONDS)
            self._bury()
        for each in self._servers:
            each.end()
        deadline = time.monotonic() + END_SECONDS
        for each in self._servers:
            try:
                each.process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                each.process.kill()
                each.process.wait()
            each.clean_up()

    def _keep_one(self) -> None:
        serving = [each for each in self._servers if not each.retired]
        ready = [each for each in serving if each.ready]
        for older in ready[:-1]:
            older.retire()
        now = time.monotonic()
        if late := [each for each in serving if not each.ready]:
            for each in late:
                if now - each.began > WARM_SECONDS:
                    each.process.kill()
            return
        if ready and not ready[-1].settled and now - ready[-1].began > SETTLED_SECONDS:
            ready[-1].settled = True
            self._row = 0
        if now < self._next_start:
            return
        reason = ready[-1].staleness(self._options.memory) if ready else ""
        if reason:
            self._say(f"the server is replaced: {reason}")
            self._pause(STALE_PAUSES)
        if reason or not ready:
            try:
                self._servers.append(ServerProcess(self._path, self._options))
            except OSError as error:  # Python was removed, or there is no memory
                self._say(f"cannot start a server: {error}")
                self._pause(PAUSES)

    def _pause(self, pauses: tuple[float, ...]) -> None:
        """Set when the next server may start, the later the more of them do not last."""
        self._next_start = time.monotonic() + pauses[min(self._row, len(pauses) - 1)]
        self._row += 1

    def _wait(self, seconds: float) -> None:
        watched = {each.control.fileno(): each for each in self._servers}
        poll = select.poll()
        for descriptor in (self._wakes, *watched, *((0,) if self._options.follow_stdin else ())):
            poll.register(descriptor, select.POLLIN)
        for descriptor, _ in poll.poll(seconds * 1000):
            if descriptor == self._wakes:
                os.read(self._wakes, 512)
            elif descriptor in watched:
                server = watched[descriptor]
                server.hear()
                self._used = max(self._used, server.used)
            elif not os.read(0, 512):
                self._ended = True

    def _bury(self) -> None:
        """Forget servers that have ended; one that served or got warm is replaced after a pause."""
        for each in list(self._servers):
            if each.process.poll() is None:
                continue
            while each.hear():
                pass
            self._servers.remove(each)
            each.clean_up()
            if not each.retired:
                self._pause(PAUSES)
                self._report(each)

    def _report(self, server: ServerProcess) -> None:
        """Write why a server has ended."""
        code = server.process.returncode
        self._say(server.failure.rstrip() or f"the server has ended with {code}")

    def _say(self, text: str) -> None:
        """Write a message once, however often its reason remains."""
        if text not in self._said:
            print(text, file=sys.stderr, flush=True)
        self._said = [text, *self._said][:SAID]

    def _is_idle(self) -> bool:
        limit = self._options.idle
        if limit is None or any(each.has_runs() for each in self._servers):
            return False
        return bool(time.monotonic() - self._used > limit)


def take_lock(path: str) -> int | None:
    """Lock the file that stands for the manager of a socket; return None where one runs."""
    while True:
        lock = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(lock), os.stat(f"{path}.lock")):
                return lock
        except BlockingIOError:
            os.close(lock)
            return None
        except FileNotFoundError:
            pass
        os.close(lock)  # the file was removed meanwhile


def clean_up(path: str) -> None:
    """Remove the files of a socket whose manager has died, unless another one runs."""
    for _ in range(RELEASE_TRIES):
        if (lock := take_lock(path)) is not None:
            remove(path, lock)
            return
        # The kernel closes the files of a process that has died one by one, the lock perhaps last.
        time.sleep(RELEASE_SECONDS)


def remove(path: str, lock: int) -> None:
    """Remove the files of a socket, and give up the lock."""
    for left in (path, f"{path}.log", f"{path}.lock"):
        with contextlib.suppress(OSError):
            os.unlink(left)
    os.close(lock)


def main() -> None:
    """Parse the command line and run the manager; a second one at a socket ends at once."""
    parser = argparse.ArgumentParser(
        description="Keep a server at a socket, for the settings of this environment."
    )
    parser.add_argument("socket", type=os.path.abspath)
    parser.add_argument(
        "--idle", type=float, metavar="SECONDS", help="end after so long without a run"
    )
    parser.add_argument(
        "--follow-stdin", action="store_true", help="end at the end of standard input"
    )
    parser.add_argument(
        "--memory",
        type=float,
        default=400.0,
        metavar="MIB",
        help="resident memory above which the server is replaced (default: %(default)s)",
    )
    parser.add_argument(
        "--import",
        dest="modules",
        action="append",
        default=[],
        metavar="MODULE",
        help="a Python module to import, for begin_call",
    )
    parser.add_argument(
        "--load",
        action="append",
        default=[],
        metavar="TYPE:NAME",
        help="a plugin to load, such as action:my.collection.name",
    )
    parser.add_argument(
        "--role",
        dest="roles",
        action="append",
        default=[],
        metavar="DIRECTORY",
        help="a role; the templates in its tasks, defaults and variables are compiled",
    )
    parser.add_argument(
        "--runner", action="store_true", help="have the settings that ansible-runner sets"
    )
    options = parser.parse_args()
    # What blocked them may have started this; the server inherits it.
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    if (lock := take_lock(options.socket)) is None:
        sys.exit(f"cannot manage {options.socket}: another manager does")
    try:
        Manager(options).run()
    finally:
        remove(options.socket, lock)


if __name__ == "__main__":
    main()
