"""Benchmarks: simulated hosts, which cost the controller what real ones do.

The service observes them with its own playbook, Ansible and SSH. Each has an address of
127.1.0.0/16, behind which one sshd answers; what stands for the host's Python prints a made-up
report. Hosts are outside the service's process tree: their CPU and memory are not counted.
"""

import getpass
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import yaml

from benchmarks import observed

START_SECONDS = 10.0


@contextmanager
def simulated_hosts(hosts: int, vms: int) -> Iterator[Path]:
    """Run so many hosts with so many VMs each; yield their inventory."""
    with tempfile.TemporaryDirectory(prefix="virtplay-fleet-") as name:
        directory = Path(name)
        with _sshd(directory) as port:
            path = directory / "hosts.yml"
            path.write_text(yaml.safe_dump(_inventory(directory, port, hosts, vms)))
            yield path


@contextmanager
def _sshd(directory: Path) -> Iterator[int]:
    """Run an sshd that accepts a key in the directory; yield its port."""
    for key in ("host_key", "key"):
        subprocess.run(
            ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", directory / key], check=True
        )
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = int(free.getsockname()[1])
    Path("/run/sshd").mkdir(exist_ok=True)
    options = {
        "Port": port,
        "ListenAddress": "0.0.0.0",  # noqa: S104 - every address of 127.1.0.0/16, by a key of ours
        "HostKey": directory / "host_key",
        "AuthorizedKeysFile": directory / "key.pub",
        "StrictModes": "no",
        "PidFile": "none",
        # All hosts connect at once.
        "MaxStartups": "1000",
    }
    arguments = [text for key, value in options.items() for text in ("-o", f"{key}={value}")]
    server = subprocess.Popen(
        [shutil.which("sshd") or "/usr/sbin/sshd", "-D", "-f", "none", *arguments]
    )
    try:
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            with suppress(OSError), socket.create_connection(("127.1.0.1", port)):
                break
            time.sleep(0.05)
        else:
            raise RuntimeError(f"sshd did not start within {START_SECONDS:.0f} s")
        yield port
    finally:
        server.terminate()
        server.wait()


def _inventory(directory: Path, port: int, hosts: int, vms: int) -> object:
    python = directory / "python3"
    command = shlex.join([sys.executable, "-S", observed.__file__, str(vms)])
    python.write_text(f"#!/bin/sh\nexec {command}\n")
    python.chmod(0o700)
    names = {
        f"kvm{number:03d}": {"ansible_host": f"127.1.{(number + 1) >> 8}.{(number + 1) & 255}"}
        for number in range(hosts)
    }
    settings = {
        "ansible_port": port,
        "ansible_user": getpass.getuser(),
        "ansible_ssh_private_key_file": str(directory / "key"),
        "ansible_ssh_common_args": "-o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null",
        "ansible_python_interpreter": str(python),
    }
    return {"hypervisors": {"hosts": names, "vars": settings}}
