# Copyright: Virtplay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Manages a domain's volumes in libvirt's pools, and finds the templates they are based on.

A volume's name consists of the domain's UUID and the disk's target, never of a user's text.
"""

from __future__ import annotations

import errno
import json
import os
import re
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..failure import Failure
from ..units import GIB, MIB
from ..values import TEMPLATE
from .connection import error_text, etree, has_error_code, libvirt
from .images import Image, image_sizes
from .pool_watch import require_pools

TEMPLATES_DIRECTORY = Path("/var/lib/libvirt/templates")
TEMPLATES_POOL = "templates"
DEFAULT_POOL = "default"
# The least space for a new volume: qcow2's own tables.
_SMALLEST_ROOM = 4 * MIB
_REFRESH_SECONDS = 60.0
# Types of pools whose volumes are files in a directory.
FILE_POOLS = frozenset({"dir", "fs", "netfs"})
# Types of pools whose volumes have another path on the host, mostly that of a block device.
_OTHER_PATHS = frozenset({"vstorage", "logical", "disk", "iscsi", "scsi", "mpath", "zfs"})


@dataclass(frozen=True)
class Template:
    """A template that is ready on the host: its image, virtual size in bytes and guest OS.

    spec_hash is that of the options from which it was created.
    """

    name: str
    path: str
    format: str
    virtual_size: int
    os: str | None
    spec_hash: str | None = None


def disk_name(uuid: str, target: str) -> str:
    """Return the volume name of a domain's disk, e.g. <uuid>-vda.qcow2."""
    return f"{uuid}-{target}.qcow2"


def seed_name(uuid: str) -> str:
    """Return the volume name of a domain's seed."""
    return f"{uuid}-seed.iso"


def is_ours(uuid: str, path: str) -> bool:
    """Whether Virtplay created a volume for this domain, by the volume's name."""
    return os.path.basename(path).startswith(f"{uuid}-")


def find_template(name: str, directory: Path = TEMPLATES_DIRECTORY) -> Template:
    """Return a template by its manifest; raises Failure (TEMPLATE_NOT_FOUND) if it is unusable."""
    missing = Failure(f"cannot find template {name!r} on the host", "TEMPLATE_NOT_FOUND")
    if not TEMPLATE.allows(name):
        raise missing
    try:
        manifest = json.loads((directory / f"{name}.json").read_text())
        image = directory / str(manifest["file"])
        size = int(manifest["virtual_size_bytes"])
    except FileNotFoundError:
        raise missing from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise Failure(
            f"cannot read the manifest of template {name}: {error}", "TEMPLATE_NOT_FOUND"
        ) from error
    if image.parent != directory or image.is_symlink() or not image.is_file():
        raise Failure(
            f"cannot use template {name}: its image {manifest['file']!r} is not in {directory}",
            "TEMPLATE_NOT_FOUND",
        )
    return Template(
        name,
        str(image),
        manifest.get("format", "qcow2"),
        size,
        manifest.get("os"),
        manifest.get("spec_hash"),
    )


def find_pool(conn: Any, name: str) -> Any:
    """Return an active virStoragePool of files; raises Failure if the host has none of that name.

    Virtplay's volumes are qcow2 files. A pool of another type would make a raw volume of them, or
    none, and its room is not that of a file system.
    """
    require_pools(f"use storage pool {name!r}")
    try:
        pool = conn.storagePoolLookupByName(name)
    except libvirt.libvirtError as error:
        if has_error_code(error, "VIR_ERR_NO_STORAGE_POOL"):
            reason = "the host has no pool of that name"
        elif _lacks_driver(error):
            reason = "libvirt on the host has no storage driver"
        else:
            raise
        raise Failure(f"cannot use storage pool {name!r}: {reason}", "VALIDATION_ERROR") from error
    if not pool.isActive():
        raise Failure(f"cannot use storage pool {name!r}: it is not active")
    if (kind := pool_type(pool)) not in FILE_POOLS:
        raise Failure(
            f"cannot use storage pool {name!r}: it is of type {kind}, and disks are created in "
            f"pools of type {', '.join(sorted(FILE_POOLS))}",
            "VALIDATION_ERROR",
        )
    return pool


def pool_path(pool: Any) -> str:
    """Return the directory of a pool on the host."""
    return str(etree.fromstring(pool.XMLDesc(0)).findtext("target/path"))


def pool_type(pool: Any) -> str:
    """Return libvirt's type of a pool: dir, fs, netfs, logical and so on."""
    return str(etree.fromstring(pool.XMLDesc(0)).get("type"))


def resolve_volumes(conn: Any, disks: Iterable[dict[str, Any]]) -> None:
    """Set the path of the disks of type volume: entries of `disks` that name pool and volume.

    Queries what libvirtd has in memory, and no storage. A path stays None if pool or volume are
    unknown, or if the volume is no file or device of the host.
    """
    pools: dict[str, Any] = {}
    for disk in disks:
        name = disk.get("pool")
        if disk["type"] != "volume" or not name or not disk.get("volume"):
            continue
        try:
            if name not in pools:
                pools[name] = None
                found = conn.storagePoolLookupByName(name)
                if pool_type(found) in FILE_POOLS | _OTHER_PATHS:
                    pools[name] = found
            pool = pools[name]
            if pool is None:
                continue
            # Not its XMLDesc or info: libvirtd opens the volume for them.
            path = pool.storageVolLookupByName(disk["volume"]).path()
        except libvirt.libvirtError:
            path = _path_to_be(pools[name], disk["volume"])
        if path.startswith("/"):
            disk["path"] = path


def _path_to_be(pool: Any | None, volume: str) -> str:
    """Return where a volume is that a pool does not know (yet), "" if only libvirt can tell.

    An inactive pool knows none of its volumes, and each may be what other images are based on.
    """
    with suppress(libvirt.libvirtError):  # deleted since it was found
        if pool is not None and pool_type(pool) in FILE_POOLS and "/" not in volume:
            return os.path.join(pool_path(pool), volume)
    return ""


def find_volume(pool: Any, name: str) -> Any | None:
    """Return a virStorageVol by name, also for a file that libvirt does not know yet; else None."""
    try:
        return pool.storageVolLookupByName(name)
    except libvirt.libvirtError as error:
        if not has_error_code(error, "VIR_ERR_NO_STORAGE_VOL"):
            raise
    if not os.path.lexists(os.path.join(pool_path(pool), name)):
        return None
    _refresh(pool)
    try:
        return pool.storageVolLookupByName(name)
    except libvirt.libvirtError as error:
        if not has_error_code(error, "VIR_ERR_NO_STORAGE_VOL"):
            raise
        return None


def list_volumes(conn: Any, uuid: str) -> list[Any]:
    """Return all disks and seeds made for a domain, in every active pool that can be read.

    Not all that begins with its UUID: somebody may have put a copy of a disk beside it.
    """
    made = re.compile(rf"{re.escape(uuid)}-(vd[a-z]{{1,2}}\.qcow2|seed\.iso)")
    volumes = []
    for pool in _active_pools(conn):
        # A pool that has become inactive, or a volume that was deleted since it was listed.
        with suppress(libvirt.libvirtError):
            for name in pool.listVolumes():
                if made.fullmatch(name):
                    volumes.append(pool.storageVolLookupByName(name))
    return volumes


def require_room(pool: Any, needed: int) -> None:
    """Raise Failure (INSUFFICIENT_RESOURCES) if a pool has less than needed bytes."""
    # The file system's figure: libvirt's own is as old as the pool's last refresh.
    usage = os.statvfs(pool_path(pool))
    available = usage.f_bavail * usage.f_frsize
    needed = max(needed, _SMALLEST_ROOM)
    if available < needed:
        raise Failure(
            f"cannot create a volume in pool {pool.name()}: {needed} bytes are required, "
            f"{available} are available",
            "INSUFFICIENT_RESOURCES",
        )


def create_disk(
    conn: Any, pool: Any, name: str, *, size: int, template: Template | None, clone: str
) -> Any:
    """Create a qcow2 volume of size bytes: empty, an overlay of a template (linked) or a copy."""
    if template is None or clone == "linked":
        require_room(pool, 0)
        return pool.createXML(_volume_xml(name, size, backing=template))
    image = Image(template.path, template.format)
    require_room(pool, image_sizes(image).get("allocation_bytes", 0))
    volume = pool.createXMLFrom(
        _volume_xml(name, template.virtual_size), _template_volume(conn, template), 0
    )
    if size > template.virtual_size:
        volume.resize(size, 0)
    return volume


def create_seed(conn: Any, pool: Any, name: str, content: bytes) -> Any:
    """Create a raw volume with this content; only root and the guest's QEMU may read it."""
    require_room(pool, len(content))
    volume = pool.createXML(_volume_xml(name, len(content), kind="raw"))
    stream = conn.newStream(0)
    try:
        volume.upload(stream, 0, len(content), 0)
        sent = 0
        while sent < len(content):
            sent += stream.send(content[sent : sent + 65536])
        stream.finish()
    except libvirt.libvirtError:
        stream.abort()
        volume.delete(0)
        raise
    return volume


def require_volume(conn: Any, disk: dict[str, Any]) -> Any:
    """Return the virStorageVol of a disk that no QEMU has open; raises Failure without one.

    Its format must be that of the disk: libvirt resizes what the header shows, and in a raw disk
    the guest may have written the header of a qcow2.
    """
    path = disk["path"]
    volume = find_volume_at(conn, path)
    if volume is None:
        raise Failure(
            f"cannot resize {path}: no storage pool of the host contains it; start the VM first, "
            "as QEMU can resize it",
            "VALIDATION_ERROR",
        )
    kind = etree.fromstring(volume.XMLDesc(0)).find("target/format")
    found = kind.get("type") if kind is not None else None
    wanted = disk.get("format") or ("raw" if disk.get("type") != "volume" else found)
    if found != wanted:
        raise Failure(
            f"cannot resize {path}: its content looks like {found}, but the VM has it as {wanted}; "
            "start the VM first, as QEMU can resize it",
            "VALIDATION_ERROR",
        )
    return volume


def find_volume_at(conn: Any, path: str) -> Any | None:
    """Return the virStorageVol of a path, also of a file that libvirt does not know yet; else None.

    Refreshes at most the pool whose directory contains the path; if that fails, it has no volume.
    """
    require_pools(f"find the volume {path}")
    volume = volume_of(conn, path)
    if volume is not None:
        return volume
    pool = find_pool_at(conn, os.path.dirname(os.path.normpath(path)))
    if pool is None:
        return None
    try:
        _refresh(pool)
    except libvirt.libvirtError:
        return None
    return volume_of(conn, path)


def find_pool_at(conn: Any, directory: str) -> Any | None:
    """Return the active virStoragePool with that target path; None without one."""
    for pool in _active_pools(conn):
        with suppress(libvirt.libvirtError):  # deleted since it was listed
            if pool_path(pool) == directory:
                return pool
    return None


def _active_pools(conn: Any) -> list[Any]:
    try:
        return list(conn.listAllStoragePools(libvirt.VIR_CONNECT_LIST_STORAGE_POOLS_ACTIVE))
    except libvirt.libvirtError as error:
        if _lacks_driver(error):
            return []
        raise


def _lacks_driver(error: Any) -> bool:
    """Whether a libvirtError says that libvirt on the host has no storage driver.

    A libvirtd in parts has no socket of virtstoraged then; one that is down leaves it there.
    """
    absent = has_error_code(error, "VIR_ERR_SYSTEM_ERROR") and error.get_int1() == errno.ENOENT
    return absent or has_error_code(error, "VIR_ERR_NO_SUPPORT")


def volume_of(conn: Any, path: str) -> Any | None:
    """Return the virStorageVol of a path; None if no active pool contains it."""
    try:
        return conn.storageVolLookupByPath(path)
    except libvirt.libvirtError as error:
        gone = has_error_code(error, "VIR_ERR_NO_STORAGE_VOL", "VIR_ERR_NO_STORAGE_POOL")
        if gone or _lacks_driver(error):
            return None
        raise


def wanted_size(disk: dict[str, Any], template: Template | None) -> int:
    """Return the size of a new disk in bytes; raises Failure if the template is larger."""
    size = disk.get("size")
    if template is None:
        if size is None:
            raise Failure(
                f"cannot create disk {disk['target']}: a size or a template is required",
                "VALIDATION_ERROR",
            )
        return int(size) * GIB
    if size is None:
        return template.virtual_size
    if size * GIB < template.virtual_size:
        raise Failure(
            f"cannot create a disk of {size} GiB from template {template.name}: "
            f"at least {template.virtual_size / GIB:g} GiB are required",
            "VALIDATION_ERROR",
        )
    return int(size) * GIB


def _refresh(pool: Any) -> None:
    deadline = time.monotonic() + _REFRESH_SECONDS
    while True:
        try:
            pool.refresh()
        except libvirt.libvirtError as error:
            # libvirt 9.0 refuses while it creates a volume in the pool for another client:
            # https://github.com/virt-manager/virt-manager/issues/498
            if "asynchronous jobs" not in error_text(error) or time.monotonic() > deadline:
                raise
            time.sleep(0.2)
        else:
            return


def _template_volume(conn: Any, template: Template) -> Any:
    volume = volume_of(conn, template.path)
    if volume is None:
        _refresh(find_pool(conn, TEMPLATES_POOL))
        volume = volume_of(conn, template.path)
    if volume is None:
        raise Failure(
            f"cannot copy template {template.name}: no storage pool contains {template.path}",
            "TEMPLATE_NOT_FOUND",
        )
    return volume


def _volume_xml(
    name: str, capacity: int, *, kind: str = "qcow2", backing: Template | None = None
) -> str:
    root = etree.Element("volume")
    etree.SubElement(root, "name").text = name
    etree.SubElement(root, "capacity", unit="bytes").text = str(capacity)
    target = etree.SubElement(root, "target")
    etree.SubElement(target, "format", type=kind)
    etree.SubElement(etree.SubElement(target, "permissions"), "mode").text = "0600"
    if kind == "qcow2":
        etree.SubElement(root, "allocation", unit="bytes").text = "0"
        etree.SubElement(target, "compat").text = "1.1"
    if backing is not None:
        store = etree.SubElement(root, "backingStore")
        etree.SubElement(store, "path").text = backing.path
        etree.SubElement(store, "format", type=backing.format)
    return str(etree.tostring(root, encoding="unicode"))
