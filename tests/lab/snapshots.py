"""Lab: writes marks into a guest's memory and onto its disk, and reads marks and snapshots."""

from __future__ import annotations

import json
from typing import Any

from lab.lab import Host
from tests.acceptance.guests import in_guest
from tests.lab.plays import IMAGES

# A sector that no file of the guest uses.
SECTOR = 1_800_000


def write_mark(host: Host, domain: str, mark: str) -> None:
    """Write a mark into the guest's memory, where its root file system is, and onto its disk."""
    script = (
        f"echo {mark} > /mark;"
        f"echo {mark} | dd of=/dev/vda bs=512 seek={SECTOR} conv=notrunc,fsync 2>/dev/null; sync"
    )
    in_guest(host, domain, "/bin/sh", "-c", script)


def read_marks(host: Host, domain: str) -> tuple[str, str]:
    """Return the marks in memory and on the disk, the latter without the page cache."""
    script = (
        "cat /mark 2>/dev/null || echo none; echo 3 > /proc/sys/vm/drop_caches;"
        f"dd if=/dev/vda bs=512 skip={SECTOR} count=1 2>/dev/null | head -n 1 | tr -d '\\0'"
    )
    memory, _, disk = in_guest(host, domain, "/bin/sh", "-c", script).partition("\n")
    return memory.strip(), disk.strip()


def tree(result: dict[str, Any]) -> dict[str, str | None]:
    """Return snapshot name → parent of a result."""
    return {entry["name"]: entry["parent"] for entry in result["snapshots"]}


def held(host: Host, identity: str, disk: str = "vda") -> list[str]:
    """Return the names of the snapshots in an image, whether or not libvirt lists them."""
    listed = host.run(
        "qemu-img", "info", "-U", "--output=json", f"{IMAGES}/{identity}-{disk}.qcow2"
    )
    return [found["name"] for found in json.loads(listed.stdout).get("snapshots", [])]


def known(host: Host, identity: str) -> list[str]:
    """Return the names of the snapshots that libvirt lists."""
    names = host.run("virsh", "-q", "snapshot-list", identity, "--name").stdout
    return [name for name in names.splitlines() if name]
