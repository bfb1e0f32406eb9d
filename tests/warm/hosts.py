"""Warm Ansible: provides a Python for hosts that runs modules in forks of a warm process."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import sysconfig
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from lab import Lab
from lab.supervisor import HOST_ENVIRONMENT

REPOSITORY = Path(__file__).parents[2]
FRONT = Path(__file__).with_name("module_front.py")
SERVER = (
    f"import sys; sys.path[0] = {str(REPOSITORY)!r}; "
    "from tests.warm.module_server import main; main()"
)
COLD = "/usr/bin/python3"


def start(
    directory: Path, more: Path, enter: Callable[..., list[str]] = lambda *words: list(words)
) -> subprocess.Popen[bytes]:
    """Start a server for the front in a directory, by a command that enters a host.

    It serves modules that import from `more`, as `module_server.py` says, and ends at the end of
    its standard input.
    """
    paths = map(str, (directory / "socket", sysconfig.get_path("purelib"), more))
    server = subprocess.Popen(
        enter(COLD, "-c", SERVER, *paths),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=HOST_ENVIRONMENT,
        cwd="/",
        start_new_session=True,
    )
    assert server.stdout is not None
    assert server.stdout.read(5) == b"ready", "cannot start warm Python"
    return server


@contextlib.contextmanager
def warm_hosts(lab: Lab) -> Iterator[None]:
    """Make the Ansible of a lab's inventory use warm Python within the block."""
    directory = Path("/run/virtplay-warm")
    front = str(directory / "python3")
    servers = []
    for host in lab.hosts:
        host.run("mkdir", str(directory))
        host.run("tee", front, stdin=FRONT.read_text())
        host.run("chmod", "755", front)
        servers.append(start(directory, REPOSITORY / "collections", host.command))
    inventory = lab.inventory.read_text()
    assert COLD in inventory
    lab.inventory.write_text(inventory.replace(f": {COLD}\n", f": {front}\n"))
    yield
    for server in servers:
        server.communicate()


@contextlib.contextmanager
def warm_python(library: Path) -> Iterator[Path]:
    """Return a Python for a connection to this machine that runs the modules of a library."""
    with tempfile.TemporaryDirectory(prefix="virtplay-warm-") as name:
        front = Path(name, "python3")
        shutil.copy(FRONT, front)
        front.chmod(0o755)
        server = start(front.parent, library)
        yield front
        server.communicate()
