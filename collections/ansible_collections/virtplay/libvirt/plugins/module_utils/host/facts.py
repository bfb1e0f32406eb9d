# Copyright: Virtplay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Reads a host's facts: capacity, pools, networks, bridges, templates."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Container, Iterable
from pathlib import Path
from typing import Any

from .connection import error_text, etree, has_error_code, libvirt, version_text
from .files import PROC, boot_time, list_bridges, noted_virt_type
from .images import STORAGE_SECONDS, call_each
from .qemu_process import rfc3339
from .storage import FILE_POOLS

_TEMPLATE_KEYS = ("name", "file", "sha256", "os", "virtual_size_bytes", "created_at")
SILENT = {"error": "its file system does not respond"}
_DELETED = ("VIR_ERR_NO_NETWORK", "VIR_ERR_NO_STORAGE_POOL", "VIR_ERR_NO_STORAGE_VOL")


def read_host(connection: Any, uri: str) -> dict[str, Any]:
    """Return identity, capacity and versions of the host of a connection."""
    capabilities = etree.fromstring(connection.getCapabilities())
    arch = connection.getInfo()[0]
    # Not from nodeinfo or the NUMA cells: libvirt 9.0 reports only a part of hot-plugged memory.
    memory = connection.getMemoryStats(libvirt.VIR_NODE_MEMORY_STATS_ALL_CELLS)
    host: dict[str, Any] = {
        "hostname": connection.getHostname(),
        "uuid": capabilities.findtext("host/uuid"),
        "uri": uri,
        "arch": arch,
        **_read_virt_type(capabilities, arch),
        "cpus": connection.getCPUMap()[2],
        "memory_bytes": memory["total"] * 1024,
        "memory_free_bytes": _available_kib(memory) * 1024,
        "kernel": os.uname().release,
        "libvirt_version": version_text(connection.getLibVersion()),
        "qemu_version": version_text(connection.getVersion()),
        "booted_at": rfc3339(boot_time()),
        "observed_at": rfc3339(time.time()),
    }
    host |= {"cpu_model": _cpu_model(), "os": _os_name()}
    return {key: value for key, value in host.items() if value is not None}


def read_pools(connection: Any, warnings: list[str]) -> list[dict[str, Any]]:
    """Return the storage pools as libvirt last measured them; sizes are in bytes.

    Without libvirt's storage driver there are none, with a warning. Waits for libvirt as long as it
    reads the storage of a pool.
    """
    try:
        pools = connection.listAllStoragePools(0)
    except libvirt.libvirtError as error:
        warnings.append(f"cannot list the storage pools of the host: {error_text(error)}")
        return []
    found = read_each("storage pool", pools, _read_pool, warnings)
    return sorted(found, key=lambda pool: pool["name"])


def _read_pool(pool: Any) -> dict[str, Any]:
    root = etree.fromstring(pool.XMLDesc(0))
    _state, capacity, allocation, available = pool.info()
    return {
        "name": pool.name(),
        "type": root.get("type"),
        "path": root.findtext("target/path"),
        "active": bool(pool.isActive()),
        "autostart": bool(pool.autostart()),
        "capacity_bytes": capacity,
        "allocation_bytes": allocation,
        "available_bytes": available,
    }


def measure_pools(
    pools: Iterable[dict[str, Any]], deadline: float, silent: Container[str] = ()
) -> dict[str, dict[str, Any]]:
    """Return pool name → its present sizes, or its error, of active pools in directories.

    libvirt's own figures are as old as the pool's last refresh, which reads every volume.
    deadline is in monotonic seconds: a dead file system never responds. silent are the paths that
    are known not to respond.
    """
    paths = {
        pool["name"]: pool["path"]
        for pool in pools
        if pool["active"] and pool["type"] in FILE_POOLS and pool["path"]
    }
    asked = [path for path in paths.values() if path not in silent]
    measured = call_each(_measure, asked, deadline, patience=STORAGE_SECONDS)
    return {name: measured.get(path, SILENT) for name, path in paths.items()}


def _measure(path: str) -> dict[str, Any]:
    try:
        found = os.statvfs(path)
    except OSError as error:
        return {"error": f"{error.strerror}: {path}"}
    capacity = found.f_blocks * found.f_frsize
    # As in libvirt, blocks reserved for root count as allocated.
    available = found.f_bavail * found.f_frsize
    return {
        "capacity_bytes": capacity,
        "allocation_bytes": capacity - available,
        "available_bytes": available,
    }


def update_pools(
    pools: Iterable[dict[str, Any]], measured: dict[str, dict[str, Any]], warnings: list[str]
) -> None:
    """Set what measure_pools returned; a pool with an error has no sizes, and a warning."""
    for pool in pools:
        found = measured.get(pool["name"], {})
        if "error" in found:
            for size in ("capacity_bytes", "allocation_bytes", "available_bytes"):
                del pool[size]
            warnings.append(f"cannot measure storage pool {pool['name']}: {found['error']}")
        pool.update(found)


def set_pools(pools: Iterable[dict[str, Any]], disks: Iterable[dict[str, Any]]) -> None:
    """Set the pool of each disk: the active pool whose directory contains it; None without one."""
    names = {pool["path"]: pool["name"] for pool in pools if pool["active"] and pool["path"]}
    for disk in disks:
        path = os.path.normpath(disk["path"]) if disk["path"] else ""
        disk["pool"] = disk.get("pool") or names.get(os.path.dirname(path))


def list_networks(connection: Any, warnings: list[str]) -> list[Any]:
    """Return the virNetworks of a host; none, with a warning, without libvirt's network driver."""
    try:
        return list(connection.listAllNetworks(0))
    except libvirt.libvirtError as error:
        warnings.append(f"cannot list the networks of the host: {error_text(error)}")
        return []


def read_networks(networks: Iterable[Any], warnings: list[str]) -> list[dict[str, Any]]:
    """Return the virtual networks; forward is libvirt's mode, "isolated" without one."""
    found = read_each("network", networks, _read_network, warnings)
    return sorted(found, key=lambda network: network["name"])


def _read_network(network: Any) -> dict[str, Any]:
    root = etree.fromstring(network.XMLDesc(0))
    bridge = root.find("bridge")
    forward = root.find("forward")
    return {
        "name": network.name(),
        "bridge": bridge.get("name") if bridge is not None else None,
        "active": bool(network.isActive()),
        "autostart": bool(network.autostart()),
        "forward": forward.get("mode", "nat") if forward is not None else "isolated",
    }


def read_each(
    kind: str,
    objects: Iterable[Any],
    read: Callable[[Any], dict[str, Any]],
    warnings: list[str],
) -> list[dict[str, Any]]:
    """Return what read returns for each of libvirt's objects of a kind ("network").

    One that cannot be read is left out with a warning, one that was deleted meanwhile without.
    """
    found = []
    for one in objects:
        try:
            found.append(read(one))
        except libvirt.libvirtError as error:
            if not has_error_code(error, *_DELETED):
                warnings.append(f"cannot read {kind} {one.name()}: {error_text(error)}")
    return found


def read_bridges(networks: Iterable[dict[str, Any]]) -> list[str]:
    """Return the host's own bridges, without those that libvirt created for its networks."""
    libvirts = {network["bridge"] for network in networks if network["forward"] != "bridge"}
    return sorted(list_bridges() - libvirts)


def read_templates(directory: Path) -> list[dict[str, Any]]:
    """Return the templates that are ready: with a readable manifest and the image in it."""
    templates = []
    for path in sorted(directory.glob("*.json")):
        try:
            manifest = json.loads(path.read_bytes())
            if (directory / manifest["file"]).is_file():
                templates.append({key: manifest.get(key) for key in _TEMPLATE_KEYS})
        except (OSError, ValueError, KeyError, TypeError):
            continue  # incomplete, or not a manifest
    return templates


def _read_virt_type(capabilities: Any, arch: str) -> dict[str, str]:
    """Return how guests run: as the host's preparation found by a trial, otherwise a guess."""
    if noted := noted_virt_type():
        return {"virt_type": noted[0], "virt_reason": noted[1]}
    kinds = {
        domain.get("type") for domain in capabilities.iterfind(f"guest/arch[@name='{arch}']/domain")
    }
    return {
        "virt_type": "kvm" if "kvm" in kinds else "qemu",
        "virt_reason": "reported by libvirt, not tried: the host has not been prepared",
    }


def _available_kib(memory: dict[str, int]) -> int:
    """Return the memory available to guests: the kernel's estimate, else free and cached."""
    try:
        for line in (PROC / "meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1])
    except (OSError, ValueError, IndexError):
        pass
    return memory["free"] + memory.get("buffers", 0) + memory.get("cached", 0)


def _cpu_model() -> str | None:
    try:
        for line in (PROC / "cpuinfo").read_text().splitlines():
            key, _colon, value = line.partition(":")
            if key.strip() == "model name":
                return value.strip()
    except OSError:
        pass
    return None


def _os_name() -> str | None:
    try:
        for line in Path("/etc/os-release").read_text().splitlines():
            key, _sign, value = line.partition("=")
            if key == "PRETTY_NAME":
                return value.strip().strip("\"'")
    except OSError:
        pass
    return None
