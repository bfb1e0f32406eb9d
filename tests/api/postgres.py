"""Tests: a temporary PostgreSQL cluster on a free loopback port."""

import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Self


def find_programs() -> Path | None:
    """Return the directory of Debian's newest PostgreSQL programs, or of those on PATH, if any."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"))
    if found:
        return found[-1].parent
    program = shutil.which("postgres")
    return Path(program).parent if program else None


def free_port() -> int:
    """Return a free loopback TCP port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Cluster:
    """A running PostgreSQL server; if the tests run as root, the user postgres runs it."""

    def __init__(self, programs: Path) -> None:
        self._programs = programs
        self._user = "postgres" if os.geteuid() == 0 else None
        self._folder = Path(tempfile.mkdtemp(prefix="virtplay-pg-", dir="/tmp"))
        self._password = secrets.token_hex(16)
        self._port = free_port()
        self._server: subprocess.Popen[bytes] | None = None

    def url(self, name: str) -> str:
        """Return the URL of the database `name`."""
        return f"postgres://virtplay:{self._password}@127.0.0.1:{self._port}/{name}"

    def __enter__(self) -> Self:
        word = self._folder / "password"
        word.write_text(self._password)
        if self._user:
            owner = pwd.getpwnam(self._user)
            for path in (self._folder, word):
                os.chown(path, owner.pw_uid, owner.pw_gid)
        data = self._folder / "data"
        subprocess.run(
            [*self._as_user(), self._programs / "initdb", "-D", data, "-U", "virtplay", "-A",
             "scram-sha-256", "--pwfile", word, "-E", "UTF8", "--locale=C.UTF-8", "--no-sync"],
            check=True,
            stdout=subprocess.DEVNULL,
            cwd="/",
        )  # fmt: skip
        self.start()
        return self

    def start(self) -> None:
        """Start the server and wait until it accepts connections."""
        data = self._folder / "data"
        self._server = subprocess.Popen(
            [*self._as_user("--pdeathsig", "INT"), self._programs / "postgres", "-D", data, "-p",
             str(self._port), "-c", "listen_addresses=127.0.0.1", "-c",
             f"unix_socket_directories={self._folder}", "-c", "fsync=off", "-c",
             "max_connections=300", "-c", "shared_buffers=32MB", "-c", "log_min_messages=fatal"],
            cwd="/",
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )  # fmt: skip
        self._wait()

    def stop(self) -> None:
        """Stop the server, which ends all connections."""
        if self._server is not None:
            self._server.send_signal(signal.SIGINT)
            try:
                self._server.wait(20)
            except subprocess.TimeoutExpired:
                self._server.send_signal(signal.SIGQUIT)
                self._server.wait()

    def new_database(self, name: str, like: str = "template1") -> str:
        """Create a copy of the database `like`, by default an empty one, and return its URL.

        Connections to `like` are ended: with one, PostgreSQL copies no database.
        """
        self._execute(
            "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity"
            f" WHERE datname = '{like}'",
            f"CREATE DATABASE {name} TEMPLATE {like}",
        )
        return self.url(name)

    def cut_connections(self) -> None:
        """End all connections of clients; the server runs on."""
        self._execute(
            "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity"
            " WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
        )

    def __exit__(self, *_: object) -> None:
        self.stop()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _execute(self, *statements: str) -> None:
        """Run statements, each by itself, beside all connections of the tests."""
        words = [word for statement in statements for word in ("-c", statement)]
        subprocess.run(
            [self._programs / "psql", "-q", "-v", "ON_ERROR_STOP=1", self.url("postgres"), *words],
            check=True,
            stdout=subprocess.DEVNULL,
            cwd="/",
        )

    def _as_user(self, *options: str) -> list[str]:
        words = ["setpriv", *options]
        if self._user:
            words += ["--reuid", self._user, "--regid", self._user, "--init-groups"]
        return words if len(words) > 1 else []

    def _wait(self) -> None:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            ready = subprocess.run(
                [self._programs / "pg_isready", "-q", "-h", "127.0.0.1", "-p", str(self._port)],
                check=False,
            )
            if ready.returncode == 0:
                return
            assert self._server is not None
            if self._server.poll() is not None:
                raise RuntimeError(f"cannot start PostgreSQL: exit status {self._server.poll()}")
            time.sleep(0.1)
        raise TimeoutError("cannot start PostgreSQL within 60 s")
