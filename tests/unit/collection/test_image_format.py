"""What a file is, by its own bytes: tables of headers."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from ansible_collections.virtplay.libvirt.plugins.module_utils.failure import Failure
from ansible_collections.virtplay.libvirt.plugins.module_utils.image.format import (
    DiskFormat,
    check_virtual_size,
    inspect_image,
)

GIB = 1 << 30


def qcow2(
    *,
    version: int = 3,
    backing: tuple[int, int] = (0, 0),
    size: int = GIB,
    encryption: int = 0,
    features: int = 0,
    extensions: tuple[tuple[int, bytes], ...] = (),
) -> bytes:
    head = b"QFI\xfb" + struct.pack(">IQI", version, *backing)
    head += struct.pack(">IQI", 16, size, encryption)
    head = head.ljust(72, b"\0")
    if version == 3:
        head += struct.pack(">QQQII", features, 0, 0, 4, 104)
    for kind, data in extensions:
        head += struct.pack(">II", kind, len(data)) + data.ljust((len(data) + 7) // 8 * 8, b"\0")
    return head + struct.pack(">II", 0, 0) + bytes(64)


BOOT_SECTOR = bytes(510) + b"\x55\xaa"


@pytest.mark.parametrize(
    ("content", "expected", "found"),
    [
        (qcow2(), "auto", DiskFormat("qcow2", GIB)),
        (qcow2(), "qcow2", DiskFormat("qcow2", GIB)),
        (qcow2(version=2, size=5 * GIB), "auto", DiskFormat("qcow2", 5 * GIB)),
        (qcow2(extensions=((0x6803F857, b"names"),)), "auto", DiskFormat("qcow2", GIB)),
        (BOOT_SECTOR + bytes(512), "auto", DiskFormat("raw", 1024)),
        (bytes(2048), "raw", DiskFormat("raw", 2048)),
    ],
)
def test_disks_are_known(content: bytes, expected: str, found: DiskFormat, tmp_path: Path) -> None:
    (tmp_path / "image").write_bytes(content)
    assert inspect_image(tmp_path / "image", expected, "it") == found


@pytest.mark.parametrize(
    ("content", "expected", "words"),
    [
        (qcow2(), "raw", "it is a qcow2, not raw"),
        (BOOT_SECTOR, "qcow2", "it is not a qcow2 but something else"),
        (b"KDMV" + bytes(512), "qcow2", "it is not a qcow2 but a VMDK"),
        (qcow2(backing=(104, 9)), "auto", "it has a backing file"),
        (qcow2(backing=(0, 9)), "auto", "it has a backing file"),
        (qcow2(encryption=1), "auto", "it is encrypted"),
        (qcow2(version=4), "auto", "qcow2 version 4 is unknown"),
        (qcow2(features=1 << 2), "auto", "it has an external data file"),
        (qcow2(features=1 << 1), "auto", "it is marked as corrupt"),
        (
            qcow2(extensions=((0x6803F857, b"abc"), (0x44415441, b"/etc/shadow"))),
            "auto",
            "it names an external data file",
        ),
        (b"QFI\xfb", "auto", "its qcow2 header is cut off"),
        (b"", "raw", "0 bytes are too few for a disk"),
        (bytes(1024), "auto", "neither a qcow2 nor a raw disk"),
        (b"# Disk DescriptorFile\n" + bytes(512), "auto", "a VMDK"),
        (b"vhdxfile" + bytes(512), "raw", "a VHDX"),
        (b"conectix" + bytes(512), "raw", "a VHD"),
        (bytes(64) + b"\x7f\x10\xda\xbe" + bytes(512), "raw", "a VDI"),
        (b"LUKS\xba\xbe" + bytes(512), "raw", "encrypted (LUKS)"),
        (b"\x1f\x8b" + bytes(512), "auto", "compressed (gzip)"),
        (b"(\xb5/\xfd" + bytes(512), "auto", "compressed (zstd)"),
        (b"\n <!DOCTYPE html>" + bytes(512), "auto", "a web page"),
    ],
)
def test_all_else_is_refused_with_the_reason(
    content: bytes, expected: str, words: str, tmp_path: Path
) -> None:
    (tmp_path / "image").write_bytes(content)
    with pytest.raises(Failure) as caught:
        inspect_image(tmp_path / "image", expected, "it")
    assert words in str(caught.value)
    assert caught.value.code == "IMAGE_REFUSED"


@pytest.mark.parametrize(
    ("size", "good"), [(0, False), (1, True), (2 * GIB, True), (2 * GIB + 1, False)]
)
def test_size_has_a_limit(size: int, good: bool) -> None:
    image = DiskFormat("qcow2", size)
    if good:
        check_virtual_size(image, 2, "it")
        return
    with pytest.raises(Failure, match="the limit is 2 GiB"):
        check_virtual_size(image, 2, "it")
