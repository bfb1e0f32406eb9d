# Copyright: Virtplay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A fork server: a Python that has imported Ansible's files and libvirt, and forks for each task.

To start Python and to import these takes several times longer than what most tasks do. So the
first task of a host leaves this program behind, and the tasks of the next minutes run in forks of
it. Each fork takes over the environment, directory, umask and descriptors of the process that
Ansible has started (fork_client.py), which waits for it and exits with its status. All else that
a process inherits, such as limits, namespaces and the audit's login, is the same, or the client
finds another server. A fork uses only files that are those in its own zip (bytecode.py).
"""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import gc
import marshal
import os
import select
import signal
import socket
import struct
import sys
import tempfile
import time
import types
from typing import Any, NoReturn

SECONDS = 600.0
"""How long a server takes tasks."""
# How often to see whether the server is still wanted.
_LOOK_SECONDS = 10.0
# How long to wait for descriptors if there are too many.
_REST_SECONDS = 0.1
_READY = b"r"
# struct ucred: pid, uid, gid
_CREDENTIALS = struct.Struct("3i")


def main() -> None:
    """Serve; in a fork, run the program of its client and exit."""
    path, bytecode, loaded = marshal.load(sys.stdin.buffer)
    os.umask(0o077)
    lock = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return  # another one serves
    with open("/proc/self/comm", "w") as name:
        name.write("virtplay-fork")
    runtime: dict[str, Any] = {}
    exec(bytecode, runtime)
    preloaded = runtime["preload"](*loaded)
    with contextlib.suppress(ImportError):
        import pycdlib  # noqa: F401, PLC0415 - new VMs need it, and it costs 10 ms
    gc.freeze()
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(path)
        listener.listen(64)
        connection = _Server(listener, path, lock).serve()
    if connection:
        runtime["use_bytecode"](loaded[0], preloaded)
        _run(connection)


class _Server:
    """Forks for each connection, and tells each client how its fork has ended."""

    def __init__(self, listener: socket.socket, path: str, lock: int) -> None:
        self._listener = listener
        self._path = path
        self._inode = os.lstat(path).st_ino
        self._lock = lock
        self._connections: dict[int, socket.socket] = {}
        self._reader, self._writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)

    def serve(self) -> socket.socket | None:
        """Return the connection to the client in a fork, and None at the end of the server."""
        signal.set_wakeup_fd(self._writer)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        deadline = time.monotonic() + SECONDS
        while self._is_wanted() and (rest := deadline - time.monotonic()) > 0:
            both = [self._listener.fileno(), self._reader]
            ready = select.select(both, [], [], min(rest, _LOOK_SECONDS))[0]
            if self._reader in ready:
                self._reap()
            if self._listener.fileno() in ready and (connection := self._accept()):
                return connection
        if self._is_there():
            os.unlink(self._path)
        self._listener.close()
        os.close(self._lock)  # the next server may start
        while self._connections:
            select.select([self._reader], [], [])
            self._reap()
        return None

    def _is_wanted(self) -> bool:
        """Return False after an uninstallation, and after an upgrade of a library in use."""
        with open("/proc/self/maps") as file:
            upgraded = any(".so" in line and line.endswith("(deleted)\n") for line in file)
        return self._is_there() and not upgraded

    def _is_there(self) -> bool:
        try:
            return os.lstat(self._path).st_ino == self._inode
        except OSError:
            return False

    def _accept(self) -> socket.socket | None:
        try:
            connection = self._listener.accept()[0]
        except OSError:
            time.sleep(_REST_SECONDS)  # too many descriptors are open
            return None
        try:
            pid = os.fork()
        except OSError:
            connection.close()  # the client runs the program itself
            return None
        if pid:
            self._connections[pid] = connection
            return None
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        for descriptor in (self._reader, self._writer, self._lock):
            os.close(descriptor)
        for other in self._connections.values():
            other.close()
        return connection

    def _reap(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while os.read(self._reader, 4096):
                pass
        while self._connections:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if not pid:
                return
            code = os.waitstatus_to_exitcode(status)
            with self._connections.pop(pid) as connection:
                _answer(connection, code if code >= 0 else 128 - code)


def _run(connection: socket.socket) -> NoReturn:
    """Run a client's program as its process would, and end this process."""
    os.setsid()
    connection.send(_READY)
    environment, directory, umask, arguments, program = _receive(connection)
    os.environ.clear()
    os.environ.update(environment)
    time.tzset()
    tempfile.tempdir = None
    os.chdir(directory)
    os.umask(umask)
    sys.argv[:] = arguments
    # Who has logged in is seen from the client's ancestors (lock/file_lock.py).
    peer = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    vars(sys)["virtplay_client"] = _CREDENTIALS.unpack(peer)[0]
    _end_with(connection)
    module = types.ModuleType("__main__")
    sys.modules["__main__"] = module
    status = 1
    try:
        exec(compile(program, "<what Ansible sent>", "exec", dont_inherit=True), vars(module))
        status = 0
    except SystemExit as end:
        status = _status(end.code)
    except BaseException:
        sys.excepthook(*sys.exc_info())
    # As Python does at its end, without the time that it takes to delete all objects.
    if threading := sys.modules.get("threading"):
        threading._shutdown()
    with contextlib.suppress(Exception):
        atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    _answer(connection, status)
    os._exit(status)


def _answer(connection: socket.socket, status: int) -> None:
    """Tell a client how its fork has ended; what the fork has left behind outlives the client."""
    flags = fcntl.fcntl(connection, fcntl.F_GETFL)
    fcntl.fcntl(connection, fcntl.F_SETFL, flags & ~os.O_ASYNC)
    with contextlib.suppress(OSError):
        connection.send(bytes([status]))


def _receive(connection: socket.socket) -> Any:
    """Return a client's request, and take over its descriptors; exits if it has gone."""
    header, descriptors, _flags, _address = socket.recv_fds(connection, 8, 3)
    request = bytearray()
    length = int.from_bytes(header, "big")
    while header and len(request) < length:
        piece = connection.recv(min(length - len(request), 1 << 20))
        if not piece:
            break
        request += piece
    if len(descriptors) != 3 or len(request) != length:
        os._exit(1)
    for number, descriptor in enumerate(descriptors):
        os.dup2(descriptor, number)
        os.close(descriptor)
    return marshal.loads(request)


def _end_with(connection: socket.socket) -> None:
    """End this process and its children as soon as its client ends, whatever they wait for."""
    fcntl.fcntl(connection, fcntl.F_SETOWN, -os.getpid())  # the group
    fcntl.fcntl(connection, fcntl.F_SETSIG, signal.SIGKILL)
    flags = fcntl.fcntl(connection, fcntl.F_GETFL)
    fcntl.fcntl(connection, fcntl.F_SETFL, flags | os.O_ASYNC)
    if select.select([connection], [], [], 0)[0]:
        os._exit(1)  # it had ended before


def _status(code: Any) -> int:
    """Return the exit status that Python gives a SystemExit."""
    if code is None or isinstance(code, int):
        return (code or 0) & 0xFF
    sys.stderr.write(f"{code}\n")
    return 1


if __name__ == "__main__":
    main()
