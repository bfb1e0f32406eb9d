# Copyright: Virtplay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Runs what Ansible sends in a process that a fork server has ready, if there is one on this host.

Otherwise this process runs it, and leaves a fork server behind for the tasks that follow. The
action of the modules puts this file's source in front of what Ansible sends. See fork_server.py.
"""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import marshal
import os
import socket
import stat
import sys
import zlib
from collections.abc import Mapping
from typing import Any

DIRECTORY = "/run/virtplay/modules"
MOST_SERVERS = 8
"""More than the logins and environments that a host's tasks usually have."""
READY = b"r"
# A server is on this machine and only forks; a task waits no longer for a suspended one.
_PATIENCE = 1.0
# Variables that Python, libvirt and the libraries below it may have read before a module starts.
_READ_EARLY = (
    *("G_", "GLIBC_", "GNUTLS_", "LANG", "LC_", "LD_", "LIBVIRT_", "MALLOC_", "OPENSSL_"),
    *("PYTHON", "VIR_"),
)
_READ_EARLY_TOO = frozenset({"HOME", "PATH", "TMPDIR", "TZ"})
_NAMESPACES = ("cgroup", "ipc", "mnt", "net", "pid", "time", "user", "uts")
_ATTRIBUTES = ("attr/current", "limits", "loginuid", "oom_score_adj")
# Not the signals that are caught: no program inherits a handler, and glibc has some of its own.
_STATUS = (
    *("Uid", "Gid", "Groups", "SigBlk", "SigIgn", "Cap", "NoNewPrivs", "Seccomp"),
    *("Cpus_allowed:", "Mems_allowed:"),
)
_LOAD = "exec(marshal.load(sys.stdin.buffer))"
_SERVE = f"import marshal, sys; sys.path[:] = filter(len, sys.path); {_LOAD}"


def run(program: str, bytecode: str, server: str | None, directory: str = DIRECTORY) -> None:
    """Run a program, what Ansible sends; exit with its status if a fork of a server has run it.

    bytecode and server are the sources of bytecode.py and of fork_server.py; without that of the
    server, there is none. Root alone has a server, and compiled files, in a directory that is
    created with mode 0700.
    """
    if os.geteuid() == 0 and _is_private(directory):
        # An argument is that of a person who looks at what Ansible has sent.
        name = _name(bytecode, server) if server is not None and len(sys.argv) == 1 else None
        runtime: dict[str, Any] = {}
        if server is not None and name is not None:
            status = _ask(os.path.join(directory, name), program)
            if status is not None:
                os._exit(status)
            # The first to be registered is the last to run: the module has ended then.
            atexit.register(_start_server, directory, name, bytecode, server, runtime)
        exec(bytecode, runtime)
        runtime["finder"] = runtime["use_bytecode"](os.path.join(directory, "bytecode"))
    main = vars(sys.modules["__main__"])
    exec(compile(program, "<what Ansible sent>", "exec", dont_inherit=True), main)


def _is_private(directory: str) -> bool:
    """Return whether a directory and the one above are root's alone; creates both."""
    both = [(os.path.dirname(directory), 0o755), (directory, 0o700)]
    try:
        for path, mode in both:
            with contextlib.suppress(FileExistsError):
                os.mkdir(path)
                os.chmod(path, mode)  # whatever the umask is
        found = [os.lstat(path) for path, _mode in both]
    except OSError:
        return False
    return all(state.st_uid == 0 and not state.st_mode & 0o022 for state in found)


def _name(bytecode: str, server: str) -> str | None:
    """Return the name of the server for this process; None if it may have none."""
    try:
        words = "\n".join((bytecode, server, *_inherited()))
        return f"{zlib.crc32(words.encode(errors='surrogateescape')):08x}"
    except OSError:
        return None  # without /proc


def _inherited() -> list[str]:
    """Return what a process has from its parent, and a fork of a server could not take over."""
    root = os.stat("/")
    parts = [sys.executable, sys.version, str(sys.flags), f"{root.st_dev} {root.st_ino}"]
    parts.append(str(os.getpriority(os.PRIO_PROCESS, 0)))
    parts += [f"{name}={value}" for name, value in sorted(_environment().items())]
    for name in _NAMESPACES:
        with contextlib.suppress(FileNotFoundError):  # an older kernel does not have it
            parts.append(os.readlink(f"/proc/self/ns/{name}"))
    for name in _ATTRIBUTES:
        with contextlib.suppress(OSError), open(f"/proc/self/{name}") as file:
            parts.append(file.read())
    with open("/proc/self/status") as file:
        parts += [line for line in file if line.startswith(_STATUS)]
    return parts


def _environment() -> Mapping[str, str]:
    return {
        name: value
        for name, value in os.environ.items()
        if name in _READ_EARLY_TOO or name.startswith(_READ_EARLY)
    }


def _ask(path: str, program: str) -> int | None:
    """Let the server at path run the program; returns its exit status, None if it has not begun."""
    umask = os.umask(0o077)
    os.umask(umask)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        if connection.fileno() < 3:
            return None  # a standard stream is closed
        connection.settimeout(_PATIENCE)
        try:
            request = marshal.dumps((dict(os.environ), os.getcwd(), umask, sys.argv, program))
            connection.connect(path)
            if connection.recv(1) != READY:
                return None
            socket.send_fds(connection, [len(request).to_bytes(8, "big")], [0, 1, 2])
            # The program begins when all of it is there.
            connection.sendall(request)
        except OSError:
            return None
        connection.settimeout(None)
        try:
            status = connection.recv(1)
        except OSError:
            status = b""
    if not status:
        message = "cannot tell how the module ended: its process and the fork server were killed"
        raise SystemExit(message)
    return status[0]


def _count_servers(directory: str) -> int:
    """Count the servers; remove the sockets of those that were killed."""
    count = 0
    for entry in os.scandir(directory):
        if not stat.S_ISSOCK(entry.stat(follow_symlinks=False).st_mode):
            continue
        with contextlib.suppress(OSError), open(f"{entry.path}.lock") as lock:
            count += 1
            # A server has it as long as it serves.
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
            os.unlink(entry.path)
            count -= 1
    return count


def _start_server(
    directory: str, name: str, bytecode: str, server: str, runtime: dict[str, Any]
) -> None:
    """Start a fork server that imports the files that this process has."""
    if sys.modules.get("libvirt") is None or sys.modules.get("lxml.etree") is None:
        return  # the module has found another Python that has them, or there is none
    if name != _name(bytecode, server):
        return  # the module has changed what the server would inherit
    if _count_servers(directory) >= MOST_SERVERS:
        return
    import subprocess  # noqa: PLC0415 - it costs 4 ms, and most tasks have a server

    flags = subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined]
    command = [sys.executable, *flags, "-c", _SERVE, "virtplay-fork-server"]
    if os.path.isdir("/run/systemd/system"):
        # It must not end with the SSH session, nor keep that open.
        scope = ("--scope", "--quiet", "--collect", "--description=Virtplay's fork server")
        command = ["systemd-run", *scope, *command]
    with contextlib.suppress(OSError):
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
            env=_environment(),
            start_new_session=True,
        )
        path = os.path.join(directory, name)
        if process.stdin:
            with process.stdin as pipe:
                pipe.write(marshal.dumps(server))
                pipe.write(marshal.dumps((path, bytecode, runtime["finder"].loaded)))
        # It lives on: Python is not to warn of that.
        process.returncode = 0
