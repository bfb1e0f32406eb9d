"""Benchmarks: what a host with many VMs reports, made up, of the size and shape of a real report.

As a program, `python -S benchmarks/observed.py VMS`, it answers in place of a host's Python: it
reads the module that Ansible sends and prints what host_info would. It needs the standard library
only.
"""

import base64
import json
import os
import sys
import time
import zlib
from typing import Any

MIB = 2**20
GIB = 2**30
MEMORY = 2 * GIB
"""Of each VM, in bytes."""


def made_up_host(number: int, vms: int) -> dict[str, Any]:
    """The `host_info` of simulated host `number` with so many running VMs, at this moment."""
    now = time.time()
    return {
        "host": {
            "hostname": f"kvm{number:03d}",
            "uuid": f"{number:08x}-6000-4000-8000-{number:012x}",
            "uri": "qemu:///system",
            "arch": "x86_64",
            "virt_type": "kvm",
            "virt_reason": "a guest ran under KVM",
            "cpus": 64,
            "cpu_model": "AMD EPYC",
            "memory_bytes": 512 * GIB,
            "memory_free_bytes": 64 * GIB,
            "kernel": "6.1.0-25-amd64",
            "os": "Debian GNU/Linux 12 (bookworm)",
            "libvirt_version": "9.0.0",
            "qemu_version": "7.2.22",
            "booted_at": "2026-01-01T00:00:00.000Z",
            "uptime_seconds": time.monotonic(),
            "observed_at": time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime(now)),
            "took_seconds": 0.2,
        },
        "pools": [
            {
                "name": "default",
                "type": "dir",
                "path": "/var/lib/libvirt/images",
                "active": True,
                "autostart": True,
                "capacity_bytes": 10_000 * GIB,
                "allocation_bytes": 1_000 * GIB,
                "available_bytes": 9_000 * GIB,
            }
        ],
        "networks": [
            {
                "name": "default",
                "bridge": "virbr0",
                "active": True,
                "autostart": True,
                "forward": "nat",
            }
        ],
        "bridges": ["br0"],
        "templates": [],
        "warnings": [],
        "domains": [made_up_domain(number * vms + each, now) for each in range(vms)],
    }


def made_up_domain(number: int, now: float) -> dict[str, Any]:
    """A running VM with two vCPUs, a disk, a network card and an agent, and moving counters."""
    name = f"vm-{number + 1:05d}"
    uuid = f"{number:08x}-5000-4000-8000-{number:012x}"
    mac = "52:54:00:" + number.to_bytes(3, "big").hex(":")
    moving = int(now * 1000) + number * 7919
    return {
        "name": name,
        "uuid": uuid,
        "title": f"Web Server {number}",
        "description": None,
        "state": "running",
        "state_reason": "booted",
        "has_managed_save": False,
        "persistent": True,
        "stuck": False,
        "generation": 3,
        "restart_job": None,
        "pending": {},
        "autostart": True,
        "started_at": "2026-11-22T13:36:51.250Z",
        "vcpus": 2,
        "vcpus_max": 8,
        "memory": MEMORY // MIB,
        "memory_max": 2 * MEMORY // MIB,
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
                "pool": "default",
                "path": f"/var/lib/libvirt/images/{uuid}-vda.qcow2",
                "backing": "/var/lib/libvirt/templates/debian12-0123456789ab.qcow2",
                "size": 20.0,
                "capacity_bytes": 20 * GIB,
                "allocation_bytes": 8 * GIB,
            }
        ],
        "interfaces": [
            {
                "mac": mac,
                "type": "network",
                "source": "default",
                "model": "virtio",
                "target": f"vnet{number}",
            }
        ],
        "addresses": [
            {
                "mac": mac,
                "ip": f"10.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}",
                "source": "lease",
            }
        ],
        "filesystems": [
            {
                "device": "vda1",
                "mountpoint": "/",
                "type": "ext4",
                "total_bytes": 20 * GIB,
                "used_bytes": 2 * GIB,
            }
        ],
        "graphics": {"type": "vnc", "host": "127.0.0.1", "port": 5900},
        "metadata": {
            "id": name,
            "job": None,
            "generation": 3,
            "template": "debian12",
            "os": "debian12",
            "labels": {"tier": "web", "env": "prod"},
        },
        "stats": {
            "cpu_time_ns": moving * 1000,
            "vcpu": [
                {"vcpu": n, "state": 1, "time_ns": moving * 500, "wait_ns": 0, "delay_ns": moving}
                for n in range(2)
            ],
            "balloon": {
                "actual_bytes": MEMORY,
                "maximum_bytes": 2 * MEMORY,
                "available_bytes": MEMORY - 78_389_248,
                "usable_bytes": MEMORY - 347_250_688 - moving % 1024 * 4096,
                "unused_bytes": MEMORY - 647_483_392,
                "rss_bytes": 905_969_664,
                "swap_in_bytes": 0,
                "swap_out_bytes": 0,
                "major_fault": 1212,
                "minor_fault": moving,
            },
            "block": [
                {
                    "target": "vda",
                    **{
                        f"{way}_{what}": moving
                        for way in ("read", "write", "flush")
                        for what in ("bytes", "requests", "time_ns")
                        if (way, what) != ("flush", "bytes")
                    },
                    "capacity_bytes": 20 * GIB,
                    "allocation_bytes": 8 * GIB,
                    "physical_bytes": 8 * GIB,
                }
            ],
            "interface": [
                {
                    "target": f"vnet{number}",
                    "mac": mac,
                    **{
                        f"{way}_{what}": moving
                        for way in ("rx", "tx")
                        for what in ("bytes", "packets", "errs", "drop")
                    },
                }
            ],
        },
    }


def main() -> None:
    """Answer as the host whose address the connection has: 127.1.0.7 is host 6."""
    sys.stdin.buffer.read()
    address = os.environ["SSH_CONNECTION"].split()[2].split(".")
    number = int(address[2]) * 256 + int(address[3]) - 1
    info = made_up_host(number, int(sys.argv[1]))
    text = base64.b64encode(zlib.compress(json.dumps(info).encode())).decode()
    print(json.dumps({"changed": False, "host_info_compressed": text}))


if __name__ == "__main__":
    main()
