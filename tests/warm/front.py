"""Warm Ansible: what the tests start as a program of Ansible; sends the run to a server.

It runs without site packages and without pathlib, as its purpose is a fast start.
"""
# ruff: noqa: PTH109, PTH110, PTH115, PTH118, PTH119, PTH123

import fcntl
import hashlib
import json
import marshal
import os
import signal
import socket
import sys


def main() -> None:
    """Send the run to a server, and end with the exit status or the signal of the run."""
    directory, program, *arguments = sys.argv[1:]
    umask = os.umask(0o077)
    os.umask(umask)
    request = {
        "arguments": [os.path.basename(program), *arguments],
        "directory": os.getcwd(),
        "environment": dict(os.environ),
        "umask": umask,
    }
    server = connect(directory)
    if server is None:
        os.execv(program, [program, *arguments])
    with server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        socket.send_fds(server, [marshal.dumps(request)], [0, 1, 2])
        code = int(server.recv(64) or "250")
    if code < 0:
        signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    os._exit(code)


def connect(directory: str) -> socket.socket | None:
    """Return a connection to the server for the settings of this run.

    Return None for the first run with these settings: a server costs as much as two runs, and many
    settings are used once. The second run starts the server.
    """
    if namespaces() != read(os.path.join(directory, "namespaces")):
        return None  # the server would reach other hosts and files than this process
    key = settings_key()
    path = os.path.join(directory, key)
    try:
        os.close(os.open(f"{path}.lock", os.O_CREAT | os.O_EXCL))
        return None
    except FileExistsError:
        pass
    server = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        server.connect(path)
    except FileNotFoundError:
        with open(f"{path}.lock") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not os.path.exists(path):
                start(directory, key)
        server.connect(path)
    return server


def namespaces() -> str:
    """Return what names the namespaces of this process."""
    kinds = ("ipc", "mnt", "net", "pid", "user", "uts")
    return " ".join(os.readlink(f"/proc/self/ns/{kind}") for kind in kinds)


def read(path: str) -> str:
    """Return the content of a file."""
    with open(path) as file:
        return file.read()


def is_of_one_run(name: str) -> bool:
    """Return whether plugins read an environment variable in each run, so it is not a setting."""
    return name == "ANSIBLE_CACHE_PLUGIN_CONNECTION" or name.startswith("VIRTPLAY_")


def settings_key() -> str:
    """Return a digest of everything by which Ansible's settings can differ between two runs."""
    names = (name for name in os.environ if name.startswith("ANSIBLE_") or name == "HOME")
    settings = [(name, os.environ[name]) for name in sorted(names) if not is_of_one_run(name)]
    place = os.environ.get("ANSIBLE_CONFIG") or os.getcwd()
    return hashlib.sha256(repr((settings, place)).encode()).hexdigest()[:16]


def start(directory: str, key: str) -> None:
    """Make the process of the tests start the server, and wait until it listens."""
    # Not from here: the server would be a descendant of a job, and end with the job.
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as starter:
        starter.connect(os.path.join(directory, "start"))
        settings = {name: os.environ[name] for name in os.environ if not is_of_one_run(name)}
        starter.send(json.dumps([key, os.getcwd(), settings]).encode())
        if starter.recv(64) != b"ready":
            sys.exit("cannot start warm Ansible")


main()
