# Copyright: Virtplay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Reads the snapshots and dirty bitmaps of a qcow2 image from the file; does no other I/O.

QEMU's docs/interop/qcow2.txt defines the layout. A running QEMU may rewrite the table during the
read: the read is then repeated, and an invalid table counts as unreadable.
"""

from __future__ import annotations

import struct
import time
from dataclasses import dataclass
from typing import BinaryIO

# magic, version, backing file, cluster bits, virtual size, encryption, L1 table, refcounts,
# number of snapshots and offset of their table.
_HEADER = struct.Struct(">4sIQIIQIIQQIIQ")
_FEATURES = struct.Struct(">Q")
# Of version 3, after what _HEADER reads: features (incompatible, compatible, autoclear), order of
# refcounts, length of the header.
_MORE = struct.Struct(">QQQII")
_BITMAPS_ARE_VALID = 1 << 0
# A header extension: type and length. That of bitmaps: number, reserved, directory (size, offset).
_EXTENSION = struct.Struct(">II")
_BITMAPS = 0x23852875
_BITMAPS_DATA = struct.Struct(">IIQQ")
_MOST_BITMAPS = 65535
# Bitmap table (offset, size), flags, type, granularity, length of name and of extra data.
_BITMAP = struct.Struct(">QIIBBHI")
_MAGIC = b"QFI\xfb"
_DATA_FILE = 1 << 2
# L1 table, length of id and name, date, guest clock, size of the state, length of extra data.
_ENTRY = struct.Struct(">QIHHIIQII")
_MOST_SNAPSHOTS = 65536
_MOST_L1 = 4 * 1024 * 1024
# QEMU marks clusters with one user by this flag in the L1 table; it is no part of the content.
_COPIED = 1 << 63
_ATTEMPTS = 5
_PAUSE_SECONDS = 0.02


@dataclass(frozen=True)
class Qcow2Snapshot:
    """One snapshot in an image: its id and name in QEMU, and the sizes of memory and disk (bytes).

    is_active means that the guest's disk has exactly the snapshot's content.
    """

    id: str
    name: str
    state_bytes: int
    disk_bytes: int
    is_active: bool


@dataclass(frozen=True)
class Qcow2Image:
    """An image: the size of its disk (bytes), its snapshots, in the order of its table, and the
    names of its dirty bitmaps.
    """

    disk_bytes: int
    snapshots: tuple[Qcow2Snapshot, ...]
    bitmaps: tuple[str, ...] = ()

    def find(self, name: str) -> Qcow2Snapshot | None:
        """Return the last snapshot of a name, which may occur several times; None without one."""
        named = [snapshot for snapshot in self.snapshots if snapshot.name == name]
        return named[-1] if named else None


def read_image(path: str) -> Qcow2Image | None:
    """Return an image with its snapshots; None if it is not a readable plain qcow2.

    An image with an external data file is not plain: it cannot contain snapshots.
    """
    for attempt in range(_ATTEMPTS):
        if attempt:
            time.sleep(_PAUSE_SECONDS)
        try:
            with open(path, "rb") as image:
                header = image.read(_HEADER.size + _FEATURES.size)
                if not _is_plain(header):
                    return None
                found = _read_image(image, header)
                image.seek(0)
                if image.read(len(header)) == header:
                    return found
        except OSError:
            return None
        except (ValueError, struct.error):
            continue
    return None


def _is_plain(header: bytes) -> bool:
    if len(header) < _HEADER.size or header[:4] != _MAGIC:
        return False
    version = struct.unpack_from(">I", header, 4)[0]
    if version == 2:
        return True
    if len(header) < _HEADER.size + _FEATURES.size:
        return False
    return version == 3 and not _FEATURES.unpack_from(header, _HEADER.size)[0] & _DATA_FILE


def _read_image(image: BinaryIO, header: bytes) -> Qcow2Image:
    fields = _HEADER.unpack_from(header)
    virtual_size, l1_size, l1_offset, count, offset = (fields[i] for i in (5, 7, 8, 11, 12))
    if count > _MOST_SNAPSHOTS:
        raise ValueError(f"{count} snapshots")
    active = _read_l1(image, l1_offset, l1_size) if count else []
    found = []
    for _number in range(count):
        entry = _ENTRY.unpack(_read(image, offset, _ENTRY.size))
        id_length, name_length, extra_length = entry[2], entry[3], entry[8]
        rest = _read(image, offset + _ENTRY.size, extra_length + id_length + name_length)
        state_bytes, disk_size = entry[7], virtual_size
        # QEMU has extended the extra data over time; an old image may have none.
        if extra_length >= 8:
            state_bytes = struct.unpack_from(">Q", rest)[0]
        if extra_length >= 16:
            disk_size = struct.unpack_from(">Q", rest, 8)[0]
        names = rest[extra_length:]
        same = disk_size == virtual_size and _is_same(active, _read_l1(image, entry[0], entry[1]))
        found.append(
            Qcow2Snapshot(
                id=names[:id_length].decode(errors="replace"),
                name=names[id_length:].decode(errors="replace"),
                state_bytes=state_bytes,
                disk_bytes=disk_size,
                is_active=same,
            )
        )
        offset += (_ENTRY.size + len(rest) + 7) // 8 * 8
    return Qcow2Image(virtual_size, tuple(found), _read_bitmaps(image, fields[1]))


def _read_bitmaps(image: BinaryIO, version: int) -> tuple[str, ...]:
    """Return the names of the bitmaps that QEMU would load; QEMU adds new ones when it closes."""
    if version < 3:
        return ()
    more = _MORE.unpack(_read(image, _HEADER.size, _MORE.size))
    offset = more[4]
    if not more[2] & _BITMAPS_ARE_VALID:
        return ()
    while True:
        kind, length = _EXTENSION.unpack(_read(image, offset, _EXTENSION.size))
        offset += _EXTENSION.size
        if kind == 0:
            return ()
        if kind == _BITMAPS:
            break
        offset += (length + 7) // 8 * 8
    count, _reserved, _size, offset = _BITMAPS_DATA.unpack(_read(image, offset, _BITMAPS_DATA.size))
    if count > _MOST_BITMAPS:
        raise ValueError(f"{count} bitmaps")
    names = []
    for _number in range(count):
        entry = _BITMAP.unpack(_read(image, offset, _BITMAP.size))
        name_length, extra_length = entry[5], entry[6]
        rest = _read(image, offset + _BITMAP.size, extra_length + name_length)
        names.append(rest[extra_length:].decode(errors="replace"))
        offset += (_BITMAP.size + len(rest) + 7) // 8 * 8
    return tuple(names)


def _read_l1(image: BinaryIO, offset: int, size: int) -> list[int]:
    """Return the offsets of the second-level tables: equal ones mean equal content.

    A snapshot shares all its tables with the disk; a write copies the tables on its path.
    """
    if size > _MOST_L1:
        raise ValueError(f"an L1 table of {size} entries")
    return [
        entry & ~_COPIED for entry in struct.unpack(f">{size}Q", _read(image, offset, 8 * size))
    ]


def _is_same(one: list[int], other: list[int]) -> bool:
    length = max(len(one), len(other))
    return one + [0] * (length - len(one)) == other + [0] * (length - len(other))


def _read(image: BinaryIO, offset: int, length: int) -> bytes:
    if length > 8 * _MOST_L1:
        raise ValueError(f"{length} bytes in one piece")
    image.seek(offset)
    data = image.read(length)
    if len(data) != length:
        raise ValueError("the image ends within its tables")
    return data
