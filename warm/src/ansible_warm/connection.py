"""The client's side of a connection: hands a run over to a server and lets it begin.

It imports `_socket` and `_signal`, as `socket` and `signal` take longer to start than all the rest.

1. The client sends `run` with a descriptor from which the fork reads the request.
2. The fork takes on what it can, and sends `ready PID` with a socket, or why it cannot run.
3. The client, if it still waits, sends `go` with the descriptors of the run; the fork sends
   `begun`, and begins. They are not sent before, as in the queue of a server that is stopped they
   would stay open, and a reader of the run's output would wait for its end.
4. Through the socket the server takes the numbers of signals and sends the exit status.

A client that has not read `begun` may run the plain program: the fork has done nothing and ends.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found, unused-ignore]
import _socket
import marshal
import os
import select
import sys

ANSWER_SECONDS = 5
"""How long the server may take to fork."""
PATH_BYTES = 100
"""A socket's path may have 107 bytes; a longer one is reached by its directory's descriptor."""
MOST_DESCRIPTORS = 253
"""What Linux passes in one message."""
TERMINAL = -1
"""The number that stands for /dev/tty among the descriptors of a run."""
DETACH = b"detach"
"""The message of a client whose death does not end the run."""


class Unavailable(Exception):
    """No server can take this run; the text says why."""


class NoServer(Unavailable):
    """No server listens at the socket."""


def connect(path: str) -> _socket.socket:
    """Return a connection to the server of this user at a socket; raise Unavailable."""
    server = _socket.socket(_socket.AF_UNIX, _socket.SOCK_SEQPACKET)
    word = 8 if sys.maxsize > 2**32 else 4
    wait = ANSWER_SECONDS.to_bytes(word, sys.byteorder) + bytes(word)
    # One that is stopped, with as many connections as may wait, would be waited for without end.
    server.setsockopt(_socket.SOL_SOCKET, _socket.SO_SNDTIMEO, wait)
    directory = -1
    try:
        if len(os.fsencode(path)) > PATH_BYTES:
            directory = os.open(os.path.dirname(path), os.O_PATH)
            path = f"/proc/self/fd/{directory}/{os.path.basename(path)}"
        server.connect(path)
    except (FileNotFoundError, ConnectionRefusedError) as error:
        server.close()
        raise NoServer(f"cannot reach the server: {error.strerror}") from error
    except OSError as error:
        server.close()
        raise Unavailable(f"cannot reach the server: {error.strerror}") from error
    finally:
        if directory >= 0:
            os.close(directory)
    if peer_of(server)[1] != os.geteuid():
        server.close()
        raise Unavailable("the server belongs to another user")
    return server


def peer_of(connection: _socket.socket) -> tuple[int, int]:
    """Return the process id and user id of the other end of a connection, as the kernel knows."""
    data = connection.getsockopt(_socket.SOL_SOCKET, _socket.SO_PEERCRED, 12)
    return int.from_bytes(data[:4], sys.byteorder), int.from_bytes(data[4:8], sys.byteorder)


def identity() -> list[object]:
    """Return what a process is by which it can reach hosts and files: user, groups, namespaces."""
    kinds = ("cgroup", "ipc", "mnt", "net", "pid", "user", "uts")
    root = os.stat("/")
    return [
        [os.geteuid(), os.getegid(), *sorted(os.getgroups())],
        [os.readlink(f"/proc/self/ns/{kind}") for kind in kinds],
        [root.st_dev, root.st_ino],
    ]


def properties() -> dict[str, object]:
    """Return what a program inherits from this process, except for its descriptors."""
    import resource

    numbers = {getattr(resource, name) for name in dir(resource) if name.startswith("RLIMIT_")}
    try:
        directory = os.getcwd()
    except OSError as error:
        raise Unavailable(f"cannot name the working directory: {error.strerror}") from error
    return {
        "directory": directory,
        "environment": dict(os.environ),
        "identity": identity(),
        "python": sys.executable,
        "umask": _umask(),
        "niceness": os.getpriority(os.PRIO_PROCESS, 0),
        "processors": sorted(os.sched_getaffinity(0)),
        "limits": {number: resource.getrlimit(number) for number in numbers},
        "ignored": [
            number for number in range(1, 65) if _signal.getsignal(number) == _signal.SIG_IGN
        ],
        "blocked": [int(number) for number in _signal.pthread_sigmask(_signal.SIG_BLOCK, ())],
    }


def _umask() -> int:
    """Return the umask; it could be read by setting it, which other threads would notice."""
    with open("/proc/self/status", "rb") as status:
        for line in status:
            if line.startswith(b"Umask:"):
                return int(line.split()[1], 8)
    raise Unavailable("cannot read the umask")


class Offer:
    """A fork that waits for the confirmation that its client still waits."""

    def __init__(
        self, connection: _socket.socket, request: dict[str, object], descriptors: dict[int, int]
    ) -> None:
        """Send a request to the server; raise Unavailable if it offers no fork.

        `descriptors` are those that the run gets, by their number there.
        """
        self._connection = connection
        self._descriptors = list(descriptors.values())
        self.pid = 0
        self.pidfd = self.control = -1
        if len(descriptors) > MOST_DESCRIPTORS:
            raise Unavailable(f"{len(descriptors)} descriptors are more than a message takes")
        file = _sealed({**request, "descriptors": list(descriptors)})
        try:
            self._send(b"run", [file])
            self._receive()
        except OSError as error:
            self.close()
            raise Unavailable(f"cannot reach the server: {error.strerror}") from error
        except BaseException:
            self.close()
            raise
        finally:
            os.close(file)

    def _send(self, message: bytes, descriptors: list[int]) -> None:
        data = b"".join(each.to_bytes(4, sys.byteorder) for each in descriptors)
        rights = (_socket.SOL_SOCKET, _socket.SCM_RIGHTS, data)
        self._connection.sendmsg([message], [rights])

    def _receive(self) -> None:
        poll = select.poll()
        poll.register(self._connection, select.POLLIN)
        if not poll.poll(ANSWER_SECONDS * 1000):
            raise Unavailable("the server does not respond")
        answer, ancillary, _, _ = self._connection.recvmsg(
            512, _socket.CMSG_SPACE(4), _socket.MSG_CMSG_CLOEXEC
        )
        if not answer.startswith(b"ready ") or not ancillary:
            raise Unavailable(answer.decode(errors="replace") or "the server has ended")
        self.control = int.from_bytes(ancillary[0][2][:4], sys.byteorder)
        self.pid = int(answer.split()[1])
        self.pidfd = os.pidfd_open(self.pid)  # now, as it does not end before it is told to go

    def begin(self) -> None:
        """Let the run begin; raise Unavailable if the fork has died before."""
        try:
            self._send(b"go", self._descriptors)
            begun = self._connection.recv(16)
        except OSError:
            begun = b""
        if not begun:
            self.close()
            raise Unavailable("the server has ended")
        self._connection.close()

    def close(self) -> None:
        """Give the fork up."""
        self._connection.close()
        for descriptor in (self.pidfd, self.control):
            if descriptor >= 0:
                os.close(descriptor)


def _sealed(request: dict[str, object]) -> int:
    """Return a descriptor from which the fork, and only it, reads the request."""
    file = os.memfd_create("ansible-warm")
    data = memoryview(marshal.dumps(request))
    while data:
        data = data[os.write(file, data) :]
    os.lseek(file, 0, os.SEEK_SET)
    return file
