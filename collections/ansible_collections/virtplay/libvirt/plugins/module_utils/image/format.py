# Copyright: Virtplay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Recognises the format of a disk image from the file itself; does no other I/O.

qemu-img never guesses the format here: a guess follows backing and data files, and a guest's disk
in a wrongly guessed format could open files of the host (CVE-2024-4467 and similar).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

from ..failure import Failure

SECTOR = 512
# Signature of a foreign format → its name in messages.
_FOREIGN = (
    (b"KDMV", "a VMDK"),
    (b"COWD", "a VMDK"),
    (b"# Disk DescriptorFile", "a VMDK"),
    (b"vhdxfile", "a VHDX"),
    (b"conectix", "a VHD"),
    (b"QED\0", "a QED"),
    (b"LUKS\xba\xbe", "encrypted (LUKS)"),
    (b"\x1f\x8b", "compressed (gzip); unpack it first"),
    (b"\xfd7zXZ\0", "compressed (xz); unpack it first"),
    (b"BZh", "compressed (bzip2); unpack it first"),
    (b"(\xb5/\xfd", "compressed (zstd); unpack it first"),
    (b"PK\x03\x04", "a ZIP archive; unpack it first"),
)
_QCOW2_CORRUPT, _QCOW2_DATA_FILE = 1 << 1, 1 << 2
_QCOW2_DATA_FILE_NAME = 0x44415441


@dataclass(frozen=True)
class DiskFormat:
    """The format of an image (qcow2 or raw) and the size of the disk in it (bytes)."""

    name: str
    virtual_size_bytes: int


def inspect_image(path: Path, expected: str, shown: str) -> DiskFormat:
    """Return the format of the file; raises Failure (IMAGE_REFUSED) for any other than expected.

    expected is auto, qcow2 or raw; raw has no signature, so auto accepts a raw file only if it has
    a boot sector. shown is the name of the image in messages.
    """
    with path.open("rb") as file:
        head = file.read(64 * 1024)
    size = path.stat().st_size
    if head.startswith(b"QFI\xfb"):
        if expected == "raw":
            raise _refused(shown, "it is a qcow2, not raw")
        return DiskFormat("qcow2", _qcow2_virtual_size(head, shown))
    if expected == "qcow2":
        raise _refused(shown, f"it is not a qcow2 but {_foreign(head) or 'something else'}")
    foreign = _foreign(head)
    if foreign:
        raise _refused(shown, f"it is {foreign}; only qcow2 and raw are supported")
    if size < SECTOR:
        raise _refused(shown, f"{size} bytes are too few for a disk")
    if expected == "auto" and head[510:512] != b"\x55\xaa":
        raise _refused(shown, "it is neither a qcow2 nor a raw disk with a boot sector")
    return DiskFormat("raw", size)


def check_virtual_size(image: DiskFormat, limit_gib: int, shown: str) -> None:
    """Raise Failure if the disk in the image is empty or larger than limit_gib GiB."""
    if not 0 < image.virtual_size_bytes <= limit_gib << 30:
        raise _refused(
            shown,
            f"its disk has {image.virtual_size_bytes} bytes, the limit is {limit_gib} GiB "
            "(max_virtual_size)",
        )


def _qcow2_virtual_size(head: bytes, shown: str) -> int:
    if len(head) < 104:
        raise _refused(shown, "its qcow2 header is cut off")
    version, backing_offset, backing_size = struct.unpack_from(">IQI", head, 4)
    virtual_size, encryption = struct.unpack_from(">QI", head, 24)
    if version not in (2, 3):
        raise _refused(shown, f"qcow2 version {version} is unknown")
    if backing_offset or backing_size:
        raise _refused(shown, "it has a backing file")
    if encryption:
        raise _refused(shown, "it is encrypted")
    header_length = 72
    if version == 3:
        features = struct.unpack_from(">Q", head, 72)[0]
        header_length = struct.unpack_from(">I", head, 100)[0]
        if features & _QCOW2_DATA_FILE:
            raise _refused(shown, "it has an external data file")
        if features & _QCOW2_CORRUPT:
            raise _refused(shown, "it is marked as corrupt")
    if _QCOW2_DATA_FILE_NAME in _header_extensions(head, header_length):
        raise _refused(shown, "it names an external data file")
    return int(virtual_size)


def _header_extensions(head: bytes, offset: int) -> set[int]:
    kinds: set[int] = set()
    while 72 <= offset <= len(head) - 8:
        kind, length = struct.unpack_from(">II", head, offset)
        if kind == 0:
            break
        kinds.add(kind)
        offset += 8 + (length + 7) // 8 * 8
    return kinds


def _foreign(head: bytes) -> str | None:
    for signature, name in _FOREIGN:
        if head.startswith(signature):
            return name
    if head[64:68] == b"\x7f\x10\xda\xbe":
        return "a VDI"
    if head[:512].lstrip().lower().startswith((b"<!doctype", b"<html", b"<?xml")):
        return "a web page"
    return None


def _refused(shown: str, reason: str) -> Failure:
    return Failure(f"cannot use image {shown}: {reason}", "IMAGE_REFUSED")
