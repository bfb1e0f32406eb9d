"""Measuring images: formats, devices, and storage that does not respond."""

from __future__ import annotations

import errno
import fcntl
import os
import struct
import subprocess
import threading
import time
from pathlib import Path

import pytest
from ansible_collections.virtplay.libvirt.plugins.module_utils.failure import Failure
from ansible_collections.virtplay.libvirt.plugins.module_utils.host import images
from ansible_collections.virtplay.libvirt.plugins.module_utils.host.images import (
    Image,
    backing_chain,
    call_each,
    image_of,
    image_place,
    image_sizes,
    is_locked,
    require_files,
    require_response,
)

QCOW2 = struct.pack(">4sIQIIQ", b"QFI\xfb", 3, 0, 0, 16, 20 << 30).ljust(4096, b"\0")
LUKS = struct.pack(">6sH96xI", b"LUKS\xba\xbe", 1, 4).ljust(8192, b"\0")
RAW = b"\0" * 4096


@pytest.mark.parametrize(
    ("content", "form", "encrypted", "capacity"),
    [
        (QCOW2, "qcow2", False, 20 << 30),
        (QCOW2, "qcow2", True, 20 << 30),
        (QCOW2, "auto", False, 20 << 30),
        (RAW, "auto", False, 4096),
        (RAW, "raw", False, 4096),
        # The guest of a raw disk may write whatever it likes.
        (QCOW2, "raw", False, 4096),
        (LUKS, "raw", False, 8192),
        (LUKS, "raw", True, 8192 - 4 * 512),
        (LUKS, "luks", False, 8192 - 4 * 512),
        (RAW, "qcow2", False, None),
        (RAW, "raw", True, None),
        (RAW, "vmdk", False, None),
        (b"", "qcow2", False, None),
        (b"", "raw", False, 0),
    ],
)
def test_size_is_that_of_the_format_in_the_definition(
    content: bytes, form: str, encrypted: bool, capacity: int | None, tmp_path: Path
) -> None:
    path = tmp_path / "image"
    path.write_bytes(content)
    sizes = image_sizes(Image(str(path), form, encrypted))
    assert sizes.get("capacity_bytes") == capacity
    assert sizes["allocation_bytes"] == path.stat().st_blocks * 512


def test_what_is_no_image_has_no_sizes(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in ("absent", "pipe", ".", "\0"):
        assert image_sizes(Image(str(tmp_path / path), "raw")) == {}
    assert image_sizes(Image("/dev/zero", "raw")) == {}


@pytest.mark.parametrize(
    ("disk", "image"),
    [
        ({"path": "/a", "format": "qcow2"}, Image("/a", "qcow2")),
        ({"path": "/a", "format": None}, Image("/a", "raw")),
        ({"path": "/a", "format": None, "type": "volume"}, Image("/a", "auto")),
        ({"path": "/a", "format": "raw", "encrypted": True}, Image("/a", "raw", True)),
        ({"path": "/a", "format": "raw", "sliced": True}, Image("/a", "slice")),
        ({"path": None, "type": "network", "format": "raw"}, None),
    ],
)
def test_image_of_a_disk(disk: dict[str, object], image: Image | None) -> None:
    assert image_of(disk) == image


def test_calls_that_hang_cost_only_themselves() -> None:
    ends = threading.Event()
    items = [f"dead-{n}" for n in range(70)] + [f"good-{n}" for n in range(30)]

    def call(item: str) -> str:
        if item.startswith("dead"):
            ends.wait(600)
        return item.upper()

    # Were they called one after the other, or all of the dead place first, this would never end.
    found: dict[str, str] = {}
    while len(found) < 30:
        found = call_each(call, items, time.monotonic() + 1, place=lambda item: item[:4])
    ends.set()
    assert found == {item: item.upper() for item in items if item.startswith("good")}
    assert call_each(call, items, time.monotonic() + 600) == {i: i.upper() for i in items}


def test_calls_that_only_hang_are_given_up() -> None:
    ends = threading.Event()
    items = [*"abc", *[str(n) for n in range(10)]]

    def call(item: str) -> bool:
        return item.isalpha() or ends.wait(600)

    # The deadline is never reached.
    found = call_each(call, items, time.monotonic() + 100_000, patience=0.5)
    ends.set()
    assert found.keys() == set("abc")


@pytest.mark.parametrize(
    ("path", "place"),
    [
        ("/srv/nfs/vm1/disk.qcow2", "/srv/nfs"),
        ("/srv/nfs/local/a.raw", "/srv/nfs/local"),
        ("/srv/nfs2/a.raw", "/"),
        ("/srv/with blank/a.raw", "/srv/with blank"),
        ("/dev/mapper/a", "/dev"),
    ],
)
def test_place_of_an_image_is_its_mount(
    path: str, place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    points = ("/", "/dev", "/srv/nfs", "/srv/nfs/local", "/srv/with\\040blank")
    mounts = tmp_path / "mounts"
    mounts.write_text("".join(f"what {point} nfs rw 0 0\n" for point in points))
    monkeypatch.setattr(images, "MOUNTS", mounts)
    for found in (images.place_of, images._mount_points):
        found.cache_clear()
    assert image_place(Image(path, "raw")) == place
    for found in (images.place_of, images._mount_points):
        found.cache_clear()


def test_calls_are_given_up_when_as_many_hang_as_may(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "_MOST_HANGING", 3)
    ends = threading.Event()
    # The deadline is never reached.
    found = call_each(lambda _: ends.wait(600), "abcde", time.monotonic() + 100_000, patience=0.5)
    ends.set()
    assert found == {}


def test_call_that_fails_has_no_result() -> None:
    assert call_each(int, ["1", "x", "2"], time.monotonic() + 600) == {"1": 1, "2": 2}


def test_storage_that_does_not_respond_is_refused_by_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    good, dead = str(tmp_path), "/dead/image"
    require_response([good, "/absent"], "delete vm-001")
    ends = threading.Event()
    monkeypatch.setattr(os.path, "lexists", lambda path: path == good or ends.wait(600))
    with pytest.raises(Failure, match="cannot delete vm-001: the storage of /dead/image does not"):
        require_response([good, dead], "delete vm-001", seconds=0.5)
    ends.set()


def test_missing_file_is_refused_by_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    there = tmp_path / "there"
    there.touch()
    require_files([str(there)], "restart vm-001")
    for missing in (tmp_path / "missing", there / "below"):
        with pytest.raises(Failure, match=f"cannot restart vm-001: {missing} does not exist"):
            require_files([str(there), str(missing)], "restart vm-001")

    def refuse(_path: str) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "stat", refuse)
    require_files([str(there)], "restart vm-001")


def test_nothing_to_call() -> None:
    assert call_each(str, [], time.monotonic() + 600) == {}


def overlay(path: Path, name: str) -> Image:
    """Write the header of a qcow2 image over a backing file of that name."""
    header = struct.pack(">4sIQI", b"QFI\xfb", 3, 64, len(name)).ljust(64, b"\0")
    path.write_bytes(header + name.encode())
    return Image(str(path), "qcow2")


@pytest.mark.parametrize(
    "name",
    [
        "{path}",
        "base.qcow2",
        "../{folder}/base.qcow2",
        "link.qcow2",
        "file:{path}",
        'json:{{"driver": "qcow2", "file": {{"driver": "file", "filename": "{path}"}}}}',
        'json:{{"file.filename": "{path}"}}',
    ],
)
def test_backing_file_is_found_by_every_kind_of_name(name: str, tmp_path: Path) -> None:
    base = tmp_path / "base.qcow2"
    base.write_bytes(RAW)
    (tmp_path / "link.qcow2").symlink_to(base)
    top = overlay(tmp_path / "top.qcow2", name.format(path=base, folder=tmp_path.name))
    assert backing_chain(top) == [str(tmp_path / "top.qcow2"), str(base)]


def test_chain_is_followed_to_its_end_and_not_round(tmp_path: Path) -> None:
    names = [tmp_path / f"{n}.qcow2" for n in range(5)]
    for above, below in zip(names, [*names[1:], names[0]], strict=True):
        overlay(above, str(below))
    assert backing_chain(Image(str(names[0]), "qcow2")) == [str(name) for name in names]


@pytest.mark.parametrize("name", ["json:{", "json:[1]", "nbd://h/x", "", "x" * 5000])
def test_odd_backing_names_end_a_chain(name: str, tmp_path: Path) -> None:
    top = overlay(tmp_path / "top.qcow2", name)
    assert backing_chain(top)[0] == str(tmp_path / "top.qcow2")


@pytest.mark.parametrize("backing", [True, False])
def test_file_of_an_images_data_is_one_that_it_is_based_on(backing: bool, tmp_path: Path) -> None:
    data, base, top = (str(tmp_path / name) for name in ("data.raw", "base.raw", "top.qcow2"))
    subprocess.run(["qemu-img", "create", "-q", base, "1M"], check=True)
    below = ["-b", base, "-F", "raw"] if backing else []
    options = f"data_file={data}"
    command = ["qemu-img", "create", "-q", "-f", "qcow2", "-o", options, *below, top, "1M"]
    subprocess.run(command, check=True)
    assert set(backing_chain(Image(top, "qcow2"))) == {top, data, *([base] if backing else [])}


def test_image_that_cannot_be_read_has_no_known_chain(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    top = overlay(tmp_path / "top.qcow2", "base.qcow2")

    def refuse(*_arguments: object) -> int:
        raise PermissionError(errno.EACCES, "root is nobody on this NFS")

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(PermissionError):
        backing_chain(top)


def test_content_of_a_raw_disk_is_no_header(tmp_path: Path) -> None:
    overlay(tmp_path / "raw", "/etc/passwd")
    assert backing_chain(Image(str(tmp_path / "raw"), "raw")) == [str(tmp_path / "raw")]
    assert backing_chain(Image(str(tmp_path / "absent"), "qcow2")) == [str(tmp_path / "absent")]


@pytest.mark.parametrize(
    ("kind", "byte", "locked"),
    [
        (fcntl.F_RDLCK, 100, True),  # QEMU reads
        (fcntl.F_RDLCK, 201, True),  # QEMU forbids others to write
        (fcntl.F_RDLCK, 0, False),  # a lock of another program
        (fcntl.F_UNLCK, 100, False),
    ],
)
def test_image_that_a_qemu_has_open_is_locked(
    kind: int, byte: int, locked: bool, tmp_path: Path
) -> None:
    image = tmp_path / "vda.qcow2"
    image.write_bytes(b"")
    f_ofd_setlk = 37
    with image.open("r+b") as opened:
        fcntl.fcntl(opened, f_ofd_setlk, struct.pack("hhqqi4x", kind, os.SEEK_SET, byte, 1, 0))
        assert is_locked(str(image)) is locked
    assert not is_locked(str(image))
    assert not is_locked(str(tmp_path / "absent"))
