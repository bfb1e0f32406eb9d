# Copyright: Virtplay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Measures disk images through the kernel alone, with the patience that storage may require.

An image is read as what the definition says it is: the content of a raw disk belongs to the guest,
which could write the header of another format there.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
import stat
import struct
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from ..failure import Failure
from ..units import GIB

MOUNTS = Path("/proc/self/mounts")
Item = TypeVar("Item")
Result = TypeVar("Result")

# The qcow2 header (docs/interop/qcow2.txt in QEMU): magic, then the virtual size at byte 24.
_QCOW2_HEADER = struct.Struct(">4s20xQ")
_QCOW2_MAGIC = b"QFI\xfb"
# Magic, version, the place of the backing file's name, its length, bits of a cluster.
_BACKING_HEADER = struct.Struct(">4sIQII")
_LONGEST_NAME = 4096
# Extensions follow the header, in its cluster; that of version 2 has no length of its own.
_LONGEST_HEADER = 65536
_V2_LENGTH = 72
_EXTENSION = struct.Struct(">II")
_DATA_FILE = 0x44415441
_UNREADABLE = {errno.EACCES, errno.EPERM, errno.EIO, errno.ESTALE}
_LONGEST_CHAIN = 256
# LUKS, version 1, which is QEMU's: magic, version, then the start of the payload in sectors.
_LUKS_HEADER = struct.Struct(">6sH96xI")
_LUKS_MAGIC = b"LUKS\xba\xbe"
_SECTOR = 512
# QEMU locks single bytes of an open image, for permissions from 100 on and for what others may do
# from 200 on (block/file-posix.c in QEMU). Python has no name for these locks (OFD).
_LOCK_BYTES = (100, 164)
_F_OFD_GETLK = 36
_FLOCK = struct.Struct("hhqqi4x")
# A call that takes longer than this counts as hanging: another thread continues.
_HANGS_AFTER = 0.05
_MOST_HANGING = 64
# For how long an observation waits for storage when nothing else is left to wait for.
STORAGE_SECONDS = 1.0


class Image(NamedTuple):
    """The image of a disk on the host: its path, and as what it is to be read."""

    path: str
    format: str
    encrypted: bool = False


def image_of(disk: Mapping[str, Any]) -> Image | None:
    """Return the image of a disk (an entry of `disks`); None for a disk without a path."""
    if not disk.get("path"):
        return None
    # Without a format libvirt takes that of the volume, which the pool has read from its header.
    # All other disks without one are raw.
    default = "auto" if disk.get("type") == "volume" else "raw"
    if disk.get("sliced"):
        # The disk is a part of the image, whose size is not that of the disk.
        return Image(disk["path"], "slice")
    return Image(disk["path"], disk.get("format") or default, bool(disk.get("encrypted")))


def image_place(image: Image) -> str:
    """Return the mount point of an image: storage that does not respond is one for all in it."""
    return place_of(image.path)


@cache
def place_of(path: str) -> str:
    """Return the mount point of a path by its text alone, without a call that may hang."""
    return next((point for point in _mount_points() if path.startswith(f"{point}/")), "/")


@cache
def _mount_points() -> list[str]:
    """Return the mount points, those within others first."""
    try:
        lines = MOUNTS.read_text(errors="replace").splitlines()
    except OSError:
        return []
    points = (line.split()[1] for line in lines)
    # Only blanks, line ends and backslashes are escaped, as octal numbers (proc(5)).
    plain = {re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), each) for each in points}
    return sorted(plain - {"/"}, key=len, reverse=True)


def image_sizes(image: Image) -> dict[str, int]:
    """Return what is known of capacity_bytes and allocation_bytes; {} if it cannot be read.

    A block device has no allocation: it takes its whole size. May wait for ever for storage that
    does not respond.
    """
    sizes: dict[str, int] = {}
    try:
        found = os.stat(image.path)
        is_file = stat.S_ISREG(found.st_mode)
        if not is_file and not stat.S_ISBLK(found.st_mode):
            return {}
        if is_file:
            sizes["allocation_bytes"] = found.st_blocks * _SECTOR
        elif image.format == "auto":
            # Only pools of files read the format from the header.
            image = image._replace(format="raw")
        # A pipe in its place would block the open, were it not for O_NONBLOCK.
        descriptor = os.open(image.path, os.O_RDONLY | os.O_NONBLOCK)
        try:
            # st_size of a device is 0.
            capacity = _capacity(descriptor, image, os.lseek(descriptor, 0, os.SEEK_END))
        finally:
            os.close(descriptor)
    except (OSError, ValueError):
        return sizes
    return sizes if capacity is None else {"capacity_bytes": capacity, **sizes}


def with_sizes(disk: Mapping[str, Any], sizes: Mapping[str, int]) -> dict[str, Any]:
    """Return a disk with its sizes in bytes as far as they are known, and its size in GiB."""
    shown = {**disk, **sizes}
    if "capacity_bytes" in sizes:
        shown["size"] = round(sizes["capacity_bytes"] / GIB, 3)
    return shown


def _capacity(descriptor: int, image: Image, length: int) -> int | None:
    """Return the size of the guest's disk; None if the header of the image does not tell."""
    if image.format in {"qcow2", "auto"}:
        header = os.pread(descriptor, _QCOW2_HEADER.size, 0)
        if len(header) == _QCOW2_HEADER.size:
            magic, size = _QCOW2_HEADER.unpack(header)
            if magic == _QCOW2_MAGIC:
                return int(size)
        return length if image.format == "auto" else None
    if image.format == "luks" or (image.format == "raw" and image.encrypted):
        header = os.pread(descriptor, _LUKS_HEADER.size, 0)
        if len(header) < _LUKS_HEADER.size:
            return None
        magic, version, start = _LUKS_HEADER.unpack(header)
        return length - start * _SECTOR if (magic, version) == (_LUKS_MAGIC, 1) else None
    return length if image.format == "raw" else None


def backing_chain(image: Image) -> list[str]:
    """Return the real paths of an image and of all files that it is based on; may wait for ever.

    Raises OSError if one of them is there and cannot be read.
    """
    found: list[str] = []
    waiting = [(image.path, image.format)]
    while waiting and len(found) < _LONGEST_CHAIN:
        path, form = waiting.pop()
        real = os.path.realpath(path)
        if real not in found:
            found.append(real)
            # A file too many is only kept; so the format of a backing file may be guessed.
            if form != "raw":
                waiting += [(name, "auto") for name in _backing_files(path)]
    return found


def file_id(path: str) -> str:
    """Return a text that all paths of a file have in common, bind mounts included."""
    try:
        found = os.stat(path)
    except OSError:
        return os.path.realpath(path)
    return f"{found.st_dev}:{found.st_ino}"


def is_locked(path: str) -> bool:
    """Whether a QEMU program has an image open, here or on another host with the same storage.

    False for storage without locks. May wait for ever.
    """
    question = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, *_LOCK_BYTES, 0)
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        try:
            answer = fcntl.fcntl(descriptor, _F_OFD_GETLK, question)
        finally:
            os.close(descriptor)
    except OSError:
        return False
    return bool(_FLOCK.unpack(answer)[0] != fcntl.F_UNLCK)


def _backing_files(path: str) -> list[str]:
    """Return the paths in the header of a qcow2 image, relative ones as seen from the image.

    Raises OSError for an image that is there and cannot be read: nobody knows what it is based on.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        try:
            names = _header_names(descriptor)
        finally:
            os.close(descriptor)
    except (OSError, ValueError) as error:
        if isinstance(error, OSError) and error.errno in _UNREADABLE:
            raise
        return []
    return [os.path.join(os.path.dirname(path), name) for name in names]


def _header_names(descriptor: int) -> list[str]:
    header = os.pread(descriptor, _LONGEST_HEADER, 0)
    if len(header) < _BACKING_HEADER.size:
        return []
    magic, version, offset, length, cluster_bits = _BACKING_HEADER.unpack_from(header)
    if magic != _QCOW2_MAGIC:
        return []
    names = []
    if offset and length <= _LONGEST_NAME:
        names.append(os.fsdecode(os.pread(descriptor, length, offset)))
    # Extensions of the header: type, length, content padded to 8 bytes.
    position, end = _V2_LENGTH, min(len(header), offset or 1 << min(cluster_bits, 16))
    if version > 2:
        position = int.from_bytes(header[100:104], "big") or end
    while position + _EXTENSION.size <= end:
        kind, size = _EXTENSION.unpack_from(header, position)
        if kind == 0:
            break
        position += _EXTENSION.size
        if kind == _DATA_FILE:
            names.append(os.fsdecode(header[position : position + size]))
        position += (size + 7) // 8 * 8
    return [found for name in names for found in _files_of(name)]


def _files_of(name: str) -> list[str]:
    if not name.startswith("json:"):
        return [name[len("file:") :] if name.startswith("file:") else name]
    try:
        return _file_names(json.loads(name[len("json:") :]))
    except (ValueError, RecursionError):
        return []


def _file_names(value: Any) -> list[str]:
    """Return the file names in QEMU's description of an image (json:)."""
    if not isinstance(value, Mapping):
        return []
    names = [str(text) for key, text in value.items() if key.rpartition(".")[2] == "filename"]
    return names + [name for part in value.values() for name in _file_names(part)]


def require_response(paths: Iterable[str], doing: str, seconds: float = 5.0) -> None:
    """Raise Failure ("cannot <doing>: …") if the storage of a path does not respond.

    libvirtd would wait for it, and with it everybody who needs the same pool.
    """
    paths = list(paths)
    found = call_each(os.path.lexists, paths, time.monotonic() + seconds)
    for path in paths:
        if path not in found:
            raise Failure(f"cannot {doing}: the storage of {path} does not respond")


def require_files(paths: Iterable[str], doing: str) -> None:
    """Raise Failure ("cannot <doing>: …") if one of these files is missing or does not respond."""
    paths = list(paths)
    require_response(paths, doing)
    for path in paths:
        try:
            os.stat(path)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise Failure(f"cannot {doing}: {path} does not exist") from error
        except OSError:
            continue  # QEMU may be allowed to read what this process is not


def call_each(
    call: Callable[[Item], Result],
    items: Iterable[Item],
    deadline: float,
    *,
    place: Callable[[Item], str] = str,
    patience: float = float("inf"),
) -> dict[Item, Result]:
    """Return item → call(item) for the items whose call returns before deadline (monotonic).

    A call that hangs takes nothing from the others: another thread continues with them, first with
    those of another place. When only calls are left that have taken patience seconds, or as many
    as may hang have, they are given up, with all that waits. The hanging threads are left behind.
    """
    return _Calls(call, items, place).collect(deadline, patience)


class _Calls:
    """Calls in as many threads as hang, and one more."""

    def __init__(
        self, call: Callable[[Any], Any], items: Iterable[Any], place: Callable[[Any], str]
    ) -> None:
        self._call, self._place = call, place
        self._waiting = list(dict.fromkeys(items))
        self._waiting.reverse()  # taken from the end
        self._running: dict[int, tuple[Any, float]] = {}
        self._results: dict[Any, Any] = {}
        self._changed = threading.Condition()

    def collect(self, deadline: float, patience: float) -> dict[Any, Any]:
        with self._changed:
            threads = 0
            while self._waiting or self._running:
                now = time.monotonic()
                took = [now - since for _item, since in self._running.values()]
                all_begun = not self._waiting or len(took) >= _MOST_HANGING
                if now >= deadline or (all_begun and min(took, default=0.0) > patience):
                    break
                hanging = sum(seconds > _HANGS_AFTER for seconds in took)
                if self._waiting and hanging == len(self._running) and hanging < _MOST_HANGING:
                    for _thread in range(min(max(1, hanging), len(self._waiting))):
                        threads += 1
                        self._start(threads)
                self._changed.wait(min(_HANGS_AFTER, deadline - now))
            return dict(self._results)

    def _start(self, number: int) -> None:
        # Counted at once: the thread itself may begin late.
        self._running[number] = (None, time.monotonic())
        threading.Thread(target=self._work, args=(number,), daemon=True).start()

    def _work(self, number: int) -> None:
        while True:
            with self._changed:
                item = self._take(number)
                if item is None:
                    self._running.pop(number, None)
                    self._changed.notify()
                    return
            try:
                result = self._call(item)
            except Exception:
                continue  # no result, as of a call that hangs
            with self._changed:
                self._results[item] = result

    def _take(self, number: int) -> Any:
        """Return the next item, one of a place that does not hang if there is one."""
        if not self._waiting:
            return None
        self._running.pop(number, None)
        now = time.monotonic()
        slow = [
            item for item, since in self._running.values() if item and now - since > _HANGS_AFTER
        ]
        position = len(self._waiting) - 1
        if slow:
            bad = {self._place(item) for item in slow}
            good = (n for n in range(position, -1, -1) if self._place(self._waiting[n]) not in bad)
            position = next(good, position)
        item = self._waiting.pop(position)
        self._running[number] = (item, now)
        return item
