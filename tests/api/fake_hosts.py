"""Tests: fake hypervisors, each stored in a JSON file."""

import contextlib
import fcntl
import json
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

GIB = 1024**3
MIB = 1024**2


def host_info(
    *,
    cpus: int = 4,
    memory: int = 8192,
    disk_free: int = 100,
    domains: list[dict[str, Any]] | None = None,
    **values: Any,
) -> dict[str, Any]:
    """Return a result of the module host_info; memory in MiB, disk_free of pool default in GiB."""
    info: dict[str, Any] = {
        "host": {
            "hostname": "fake",
            "uuid": "0157c680-d8f0-4d2a-855a-94a165065017",
            "uri": "qemu:///system",
            "arch": "x86_64",
            "virt_type": "qemu",
            "virt_reason": "there is no /dev/kvm",
            "cpus": cpus,
            "cpu_model": "Fake CPU",
            "memory_bytes": memory * MIB,
            "memory_free_bytes": memory * MIB // 2,
            "kernel": "6.1.0",
            "os": "Debian GNU/Linux 12 (bookworm)",
            "libvirt_version": "9.0.0",
            "qemu_version": "7.2.22",
            "booted_at": "2026-11-22T13:21:00.000Z",
            "uptime_seconds": 1141.25,
            "observed_at": "2026-11-22T13:40:01.250Z",
            "took_seconds": 0.043,
        },
        "pools": [
            {
                "name": "default",
                "type": "dir",
                "path": "/pool",
                "active": True,
                "autostart": True,
                "capacity_bytes": disk_free * GIB,
                "allocation_bytes": 0,
                "available_bytes": disk_free * GIB,
            }
        ],
        "networks": [
            {
                "name": "default",
                "bridge": "virbr0",
                "active": True,
                "autostart": True,
                "forward": "nat",
            },
            {
                "name": "asleep",
                "bridge": "virbr9",
                "active": False,
                "autostart": False,
                "forward": "nat",
            },
        ],
        "bridges": ["br0"],
        "warnings": [],
        "templates": [
            {
                "name": "micro",
                "file": "micro-0123456789ab.qcow2",
                "sha256": "0123456789ab",
                "os": "micro",
                "virtual_size_bytes": 1 * GIB,
                "created_at": "2026-11-22T13:30:00Z",
            }
        ],
        "domains": domains or [],
    }
    for domain in info["domains"]:
        # Only host_info knows the pools.
        domain["disks"] = [{"pool": "default", **disk} for disk in domain.get("disks", ())]
    return {**info, **values}


def foreign_domain(name: str = "old-server", **values: Any) -> dict[str, Any]:
    """Return a domain created with virsh, in the format of host_info."""
    domain: dict[str, Any] = {
        "uuid": str(uuid.uuid4()),
        "name": name,
        "title": None,
        "description": None,
        "state": "running",
        "state_reason": "booted",
        "has_managed_save": False,
        "persistent": True,
        "stuck": False,
        "autostart": False,
        "vcpus": 2,
        "vcpus_max": 2,
        "memory": 1024,
        "memory_max": 1024,
        "firmware": "bios",
        "virt_type": "kvm",
        "machine": "pc-q35-7.2",
        "snapshots": [],
        "disks": [
            {
                "target": "vda",
                "type": "file",
                "device": "disk",
                "format": "qcow2",
                "read_only": False,
                "shareable": False,
                "source": None,
                "path": "/pool/old.qcow2",
                "backing": None,
                "size": 10.0,
                "capacity_bytes": 10 * GIB,
                "allocation_bytes": 3 * GIB,
            }
        ],
        "interfaces": [
            {
                "mac": "52:54:00:00:00:99",
                "type": "network",
                "source": "default",
                "model": "virtio",
                "target": "vnet9",
            }
        ],
        "addresses": [{"mac": "52:54:00:00:00:99", "ip": "203.0.113.99", "source": "lease"}],
        "graphics": {"type": "vnc", "host": "127.0.0.1", "port": 5909},
        "metadata": None,
        "started_at": "2026-11-22T13:00:00.000Z",
        "stats": {"cpu_time_ns": 1, "block": [], "interface": []},
    }
    return {**domain, **values}


def snapshot_entry(name: str, **values: Any) -> dict[str, Any]:
    """Return a snapshot in the format of host_info; by default one created with virsh."""
    return {
        "name": name,
        "title": name,
        "description": None,
        "origin": "found",
        "expires_at": None,
        "job": None,
        "parent": None,
        "current": False,
        "has_memory": False,
        "state": "stopped",
        "kind": "internal",
        "size_bytes": 0,
        "frozen": None,
        "created_at": "2026-11-22T13:00:00Z",
        **values,
    }


class FakeHost:
    """A hypervisor stored in a file, which the modules in project/library read and write."""

    def __init__(self, name: str, folder: Path, python: Path | None = None) -> None:
        self.name = name
        self.python = python
        self.path = folder / f"{name}.json"
        self._gates = folder / f"{name}-gates"
        self._gates.mkdir()
        info = host_info()
        del info["domains"]
        content = {"info": info, "domains": {}, "orders": {}, "calls": [], "done": []}
        self.path.write_text(json.dumps(content))

    def read(self) -> dict[str, Any]:
        """Return the content of the file."""
        return dict(json.loads(self.path.read_text()))

    @contextlib.contextmanager
    def change(self) -> Iterator[dict[str, Any]]:
        """Yield the content of the locked file, and write the changed content back."""
        with Path(f"{self.path}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            content = self.read()
            yield content
            written = self.path.with_suffix(".new")
            written.write_text(json.dumps(content))
            written.replace(self.path)

    def order(self, action: str, **order: Any) -> None:
        """Make the modules behave so at `action`: fail=…, lie="stopped", answer=…, probed=…."""
        with self.change() as content:
            content["orders"][action] = order

    def hold(self, action: str) -> Path:
        """Make the modules wait at `action` until the returned file is deleted."""
        gate = self._gates / action
        gate.touch()
        self.order(action, hold=str(gate))
        return gate

    def put(self, domain: dict[str, Any]) -> dict[str, Any]:
        """Define a domain, as virsh would, and return it."""
        with self.change() as content:
            content["domains"][domain["uuid"]] = domain
        return domain

    def domains(self) -> list[dict[str, Any]]:
        """Return the domains of the host."""
        return list(self.read()["domains"].values())

    def calls(self, action: str | None = None) -> list[dict[str, Any]]:
        """Return the module calls in order, or only those of `action`."""
        return [c for c in self.read()["calls"] if action in (None, c["action"])]
