"""Tests of the snapshot table reader, on images written here and on real ones."""

from __future__ import annotations

import struct
import subprocess
from pathlib import Path

import pytest
from ansible_collections.virtplay.libvirt.plugins.module_utils.snapshot.qcow2 import (
    Qcow2Image,
    read_image,
)

GIB = 1 << 30
COPIED = 1 << 63


def build(
    *,
    version: int = 3,
    features: int = 0,
    active: tuple[int, ...] = (0x50000 | COPIED, 0),
    snapshots: tuple[tuple[str, str, tuple[int, ...], bytes, int], ...] = (),
    count: int | None = None,
) -> bytes:
    """An image's header and tables; a snapshot is id, name, L1 table, extra data, short size."""
    data = bytearray(0x30000)
    struct.pack_into(f">{len(active)}Q", data, 0x10000, *active)
    offset = 0x20000
    for number, (identity, name, table, extra, short) in enumerate(snapshots, 1):
        struct.pack_into(f">{len(table)}Q", data, 0x10000 + 0x100 * number, *table)
        entry = struct.pack(
            ">QIHHIIQII",
            *(0x10000 + 0x100 * number, len(table), len(identity), len(name.encode())),
            *(0, 0, 0, short, len(extra)),
        )
        entry += extra + identity.encode() + name.encode()
        data[offset : offset + len(entry)] = entry
        offset += (len(entry) + 7) // 8 * 8
    found = len(snapshots) if count is None else count
    header = struct.pack(
        ">4sIQIIQIIQQIIQQ",
        *(b"QFI\xfb", version, 0, 0, 16, GIB, 0, len(active), 0x10000, 0, 0, found, 0x20000),
        features,
    )
    data[: len(header)] = header
    return bytes(data)


def read(tmp_path: Path, data: bytes) -> Qcow2Image | None:
    path = tmp_path / "image"
    path.write_bytes(data)
    return read_image(str(path))


def test_sizes_names_and_content(tmp_path: Path) -> None:
    extra = struct.pack(">QQ", 5 * GIB, 2 * GIB)
    image = read(
        tmp_path,
        build(
            snapshots=(
                ("1", "same", (0x50000, 0), struct.pack(">QQ", 7, GIB), 0),
                ("2", "Übung 🚀", (0x60000, 0), extra, 9),
                ("3", "old", (0x50000,), b"", 11),
                ("4", "larger", (0x50000, 0), extra + b"\0" * 8, 0),
            )
        ),
    )
    assert image is not None
    assert image.disk_bytes == GIB
    found = [(s.id, s.name, s.state_bytes, s.disk_bytes, s.is_active) for s in image.snapshots]
    assert found == [
        ("1", "same", 7, GIB, True),
        ("2", "Übung 🚀", 5 * GIB, 2 * GIB, False),
        ("3", "old", 11, GIB, True),
        ("4", "larger", 5 * GIB, 2 * GIB, False),
    ]
    assert image.find("none") is None


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"QFI\xfb",
        b"\0" * 4096,
        build(version=4),
        build(features=1 << 2),
        build(count=3)[:0x20010],
        build(count=1 << 31),
        build(snapshots=(("1", "x", (1,), b"", 0),))[:0x20020],
    ],
    ids=["empty", "short", "raw", "future", "data file", "cut", "absurd", "half an entry"],
)
def test_what_makes_no_sense_is_no_image(tmp_path: Path, data: bytes) -> None:
    assert read(tmp_path, data) is None


def test_absurd_lengths_are_not_read(tmp_path: Path) -> None:
    data = bytearray(build(snapshots=(("1", "x", (1,), b"", 0),)))
    struct.pack_into(">I", data, 0x20000 + 36, 0xFFFFFFF0)  # its extra data
    assert read(tmp_path, bytes(data)) is None
    data = bytearray(build(snapshots=(("1", "x", (1,), b"", 0),)))
    struct.pack_into(">I", data, 0x20000 + 8, 0xFFFFFFF0)  # its L1 table
    assert read(tmp_path, bytes(data)) is None


def test_missing_file_is_no_image(tmp_path: Path) -> None:
    assert read_image(str(tmp_path / "none")) is None


@pytest.mark.needs("qemu-io")
def test_write_after_the_snapshot_is_seen_and_undone(tmp_path: Path) -> None:
    path = str(tmp_path / "disk.qcow2")

    def run(*command: str) -> None:
        subprocess.run(command, check=True, capture_output=True)

    def is_active(name: str) -> bool:
        image = read_image(path)
        assert image is not None
        found = image.find(name)
        assert found is not None
        return bool(found.is_active)

    run("qemu-img", "create", "-f", "qcow2", path, "64M")
    run("qemu-io", "-c", "write -P 1 0 1M", path)
    run("qemu-img", "snapshot", "-c", "one", path)
    assert is_active("one")
    run("qemu-io", "-c", "write -P 2 4k 4k", path)
    assert not is_active("one")
    run("qemu-img", "snapshot", "-a", "one", path)
    assert is_active("one")
    run("qemu-io", "-c", "discard 0 1M", path)
    assert not is_active("one")


def test_dirty_bitmaps_are_read(tmp_path: Path) -> None:
    path = tmp_path / "image.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", path, "64M"], check=True)
    for name in ("one", "zwei"):
        subprocess.run(["qemu-img", "bitmap", "--add", path, name], check=True)
    image = read_image(str(path))
    assert image is not None
    assert image.bitmaps == ("one", "zwei")
