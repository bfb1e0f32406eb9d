"""Lab: the files in a lab's directory: record, SSH keys and configuration, and inventory."""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import sys
import tempfile
import uuid
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import yaml

from lab.processes import Process

# A Unix socket's path has 107 bytes; ssh adds "/cp/198.51.100.111.0123456789abcdef".
_LONGEST_DIRECTORY = 70
GUEST_NETWORK = "203.0.113.0/24"


class DirectoryError(Exception):
    """The requested directory cannot hold a lab; the message contains the reason."""


@dataclass
class HostRecord:
    """One host: its name, addresses and UUID, and its first process once it runs.

    `release` is the Debian release of its file system, None if it has this machine's.
    """

    name: str
    address: str
    veth: str
    release: str | None = None
    uuid: str = field(default_factory=lambda: str(uuid.uuid4()))
    init: Process | None = None


@dataclass
class Record:
    """The state of a lab that cleans it up even after its supervisor was killed."""

    slot: int
    supervisor: Process
    hosts: list[HostRecord]
    stage: str = "starting"


class LabDirectory:
    """The directory of one lab and the files in it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.inventory = path / "inventory.yml"
        self.log = path / "lab.log"
        self.key = path / "id_ed25519"
        self.ssh = path / "ssh"
        self.control = path / "cp"
        self._record = path / "lab.json"
        self._known_hosts = path / "known_hosts"

    def host(self, name: str) -> Path:
        """Return the directory that holds a host's own files."""
        return self.path / name

    def create(self) -> None:
        """Create the directory; raise DirectoryError if it is not empty."""
        if len(str(self.path)) > _LONGEST_DIRECTORY:
            raise DirectoryError(
                f"cannot use {self.path}: its path is longer than {_LONGEST_DIRECTORY} bytes, "
                "too long for the sockets in it"
            )
        if self.path.exists() and (not self.path.is_dir() or any(self.path.iterdir())):
            raise DirectoryError(f"cannot use {self.path}: it is not an empty directory")
        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.path.chmod(0o700)
        self.control.mkdir(mode=0o700)

    def write_record(self, record: Record) -> None:
        """Replace the record atomically."""
        with tempfile.NamedTemporaryFile("w", dir=self.path, delete=False) as new:
            json.dump(asdict(record), new)
        Path(new.name).replace(self._record)

    def read_record(self) -> Record | None:
        """Return the record, or None if this directory contains no lab."""
        try:
            stored: dict[str, Any] = json.loads(self._record.read_text())
        except (FileNotFoundError, NotADirectoryError):
            return None
        hosts = [
            HostRecord(**{**host, "init": host["init"] and Process(**host["init"])})
            for host in stored.pop("hosts")
        ]
        return Record(hosts=hosts, supervisor=Process(**stored.pop("supervisor")), **stored)

    def remove(self) -> None:
        """Delete the directory with everything in it. Its hosts must have ended.

        The record is deleted last: if this process is killed before, the directory is still
        recognised as a lab's.
        """
        for entry in self.path.iterdir():
            if entry == self._record:
                continue
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            else:
                entry.unlink()
        self._record.unlink(missing_ok=True)
        self.path.rmdir()

    def write_keys(self, hosts: list[HostRecord]) -> None:
        """Create the client's key, a key for each host, and the files by which ssh checks them."""
        _make_key(self.key, "virtplay-lab")
        known: list[str] = []
        for host in hosts:
            keys = self.host(host.name) / "keys"
            keys.mkdir(parents=True)
            _make_key(keys / "host_key", host.name)
            shutil.copy(self.key.with_suffix(".pub"), keys / "authorized_keys")
            public = (keys / "host_key.pub").read_text()
            known.append(f"{host.name},{host.address} {public}")
        self._known_hosts.write_text("".join(known))
        config = self.path / "ssh_config"
        config.write_text(
            "".join(f"Host {host.name}\n  HostName {host.address}\n" for host in hosts)
            + "Host *\n  User root\n"
            + "".join(f"  {name} {value}\n" for name, value in self._host_key_options().items())
            + f"  IdentityFile {self.key}\n  IdentitiesOnly yes\n"
        )
        self.ssh.write_text(f'#!/bin/sh\nexec ssh -F "{config}" "$@"\n')
        self.ssh.chmod(0o755)

    def write_inventory(self, hosts: list[HostRecord], catalogue: dict[str, Any]) -> None:
        """Write the inventory: group `hypervisors`, its connection variables and the lab's."""
        settings = self._host_key_options() | {"ControlPath": f"{self.control}/%h"}
        options = " ".join(f"-o {name}={value}" for name, value in settings.items())
        inventory = {
            "hypervisors": {
                "hosts": {host.name: {"ansible_host": host.address} for host in hosts},
                "vars": {
                    "ansible_user": "root",
                    "ansible_python_interpreter": "/usr/bin/python3",
                    "ansible_ssh_private_key_file": str(self.key),
                    "ansible_ssh_common_args": options,
                    "libvirt_host_networks": [
                        {
                            "name": "default",
                            "cidr": GUEST_NETWORK,
                            "bridge": "virbr0",
                            "forward": "nat",
                        }
                    ],
                    "libvirt_image_catalogue_extra": catalogue,
                },
            }
        }
        head = "# The inventory of a running lab; it is deleted with the lab.\n---\n"
        self.inventory.write_text(head + yaml.safe_dump(inventory, sort_keys=False, width=1000))

    def end_ssh_masters(self) -> None:
        """Stop the ssh processes that hold shared connections to the lab's hosts open."""
        for control in self.control.glob("*"):
            with contextlib.suppress(subprocess.TimeoutExpired):  # suspended; not ours to kill
                subprocess.run(
                    ["ssh", "-O", "exit", "-o", f"ControlPath={control}", "lab"],
                    capture_output=True,
                    check=False,
                    timeout=5,
                )

    def _host_key_options(self) -> dict[str, str]:
        return {
            "UserKnownHostsFile": str(self._known_hosts),
            "GlobalKnownHostsFile": "/dev/null",
            "StrictHostKeyChecking": "yes",
        }


def _make_key(path: Path, comment: str) -> None:
    subprocess.run(
        ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", comment, "-f", str(path)],
        check=True,
        stdin=subprocess.DEVNULL,
        stdout=sys.stderr,
    )
