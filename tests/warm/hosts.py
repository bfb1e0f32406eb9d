"""Warm Ansible: gives the hosts of a lab a Python that runs modules in forks of a warm process."""

from __future__ import annotations

import subprocess
import sysconfig
from pathlib import Path
from types import TracebackType
from typing import Self

from lab import Host, Lab
from lab.supervisor import HOST_ENVIRONMENT

REPOSITORY = Path(__file__).parents[2]
FRONT = Path(__file__).with_name("module_front.py")
SERVER = (
    f"import sys; sys.path[0] = {str(REPOSITORY)!r}; "
    "from tests.warm.module_server import main; main()"
)
COLD = "/usr/bin/python3"
WARM = "/run/virtplay-warm/python3"


class WarmHosts:
    """Makes the Ansible of a lab's inventory use warm Python within a `with` block."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab
        self._servers: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Self:
        """Start a server on each host, and name its front in the inventory."""
        self._servers = [self._start(host) for host in self._lab.hosts]
        for server in self._servers:
            assert server.stdout is not None
            assert server.stdout.read(5) == b"ready", "cannot start warm Python on a host"
        inventory = self._lab.inventory.read_text()
        assert COLD in inventory
        self._lab.inventory.write_text(inventory.replace(f": {COLD}\n", f": {WARM}\n"))
        return self

    def _start(self, host: Host) -> subprocess.Popen[bytes]:
        place = Path(WARM).parent
        host.run("mkdir", str(place))
        host.run("tee", WARM, stdin=FRONT.read_text())
        host.run("chmod", "755", WARM)
        paths = [str(REPOSITORY / "collections"), sysconfig.get_path("purelib")]
        return subprocess.Popen(
            host.command(COLD, "-c", SERVER, *paths, f"{place}/socket"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=HOST_ENVIRONMENT,
            cwd="/",
            start_new_session=True,
        )

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Stop the servers."""
        for server in self._servers:
            server.communicate()
