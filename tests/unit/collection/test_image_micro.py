"""Tests of the builder of the guest micro, without its packages; the lab boots what it builds."""

from __future__ import annotations

import ctypes
import hashlib
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

FILES = Path(__file__).resolve().parents[3] / "roles/libvirt_image/files/micro"


@pytest.fixture(scope="module")
def build() -> ModuleType:
    spec = importlib.util.spec_from_file_location("micro_build", FILES / "build.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.needs("busybox")
def test_archive_is_what_cpio_unpacks(build: ModuleType, tmp_path: Path) -> None:
    archive = build.Archive()
    archive.directory("etc")
    archive.file("etc/odd", b"abc")
    archive.file("etc/even", b"abcd", 0o755)
    archive.link("etc/link", "odd")
    subprocess.run(
        ["busybox", "cpio", "-i"], input=archive.finish(), cwd=tmp_path, check=True, timeout=10
    )
    assert (tmp_path / "etc/link").read_bytes() == b"abc"
    assert os.access(tmp_path / "etc/even", os.X_OK)
    assert not os.access(tmp_path / "etc/odd", os.X_OK)


def test_needed_names_are_those_of_the_loader(build: ModuleType) -> None:
    names = build.needed_names(Path("/bin/ls").read_bytes())
    assert "libc.so.6" in names
    assert any(name.startswith("ld-linux") for name in names)
    listed = subprocess.run(["ldd", "/bin/ls"], capture_output=True, text=True, check=True).stdout
    assert all(name in listed for name in names)


def test_drivers_come_after_what_they_need(build: ModuleType, tmp_path: Path) -> None:
    top = tmp_path / "lib/modules/6.1"
    top.mkdir(parents=True)
    for name, needs in {
        "virtio-ring": "",
        "virtio": "virtio_ring",
        "virtio_pci": "virtio,virtio-ring",
        "virtio_blk": "virtio",
        "unwanted": "",
    }.items():
        (top / f"{name}.ko").write_bytes(b"\x7fELF\0license=GPL\0depends=%s\0" % needs.encode())
    order = [name for name, _ in build.modules(tmp_path, "6.1")]
    assert order == ["virtio_ring", "virtio", "virtio_pci", "virtio_blk"]


def test_modules_lose_signature_and_types(build: ModuleType) -> None:
    module = b"\x7fELF .strtab\0.BTF\0.BTF_ids\0"
    bare = module.replace(b".BTF\0", b".btf\0")
    signature = b"x" * 300
    mark = b"~Module signature appended~\n"
    signed = module + signature + bytes(8) + len(signature).to_bytes(4, "big") + mark
    assert build.shortened(signed) == build.shortened(module) == bare


@pytest.mark.parametrize("size", [100, 8 << 20, (8 << 20) + 1])
def test_initramfs_is_compressed_in_the_kernels_format(build: ModuleType, size: int) -> None:
    content = bytes(range(100)) * (size // 100) + bytes(size % 100)
    packed = build.compressed(content)
    assert packed[:4] == (0x184C2102).to_bytes(4, "little")
    library = ctypes.CDLL("liblz4.so.1")
    place, unpacked = 4, b""
    while place < len(packed):
        block = packed[place + 4 :][: int.from_bytes(packed[place : place + 4], "little")]
        place += 4 + len(block)
        space = ctypes.create_string_buffer(8 << 20)
        length = library.LZ4_decompress_safe(block, space, len(block), len(space))
        unpacked += space.raw[:length]
    assert unpacked == content


def test_cache_counts_only_when_every_file_is_whole(build: ModuleType, tmp_path: Path) -> None:
    assert build.cached_packages(tmp_path) is None
    package = tmp_path / "a.deb"
    package.write_bytes(b"content")
    digest = hashlib.sha256(b"content").hexdigest()
    listing = [{"name": "a", "file": "a.deb", "sha256": digest}]
    (tmp_path / "packages.json").write_text(json.dumps(listing))
    assert build.cached_packages(tmp_path) == listing
    package.write_bytes(b"conten")
    assert build.cached_packages(tmp_path) is None
    package.unlink()
    assert build.cached_packages(tmp_path) is None


def test_empty_cache_without_network_is_told(tmp_path: Path) -> None:
    arguments = ["--offline", "--cache", str(tmp_path / "cache"), "--output", str(tmp_path / "x")]
    done = subprocess.run(
        [sys.executable, FILES / "build.py", *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("cannot build the micro guest: ")
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    ("release", "family"),
    [
        ('ID=debian\nVERSION_ID="12"\n', "debian"),
        ('ID=ubuntu\nID_LIKE=debian\nVERSION_ID="22.04"\n', "ubuntu"),
        ('ID=ubuntu\nID_LIKE=debian\nVERSION_ID="24.04"\n', "ubuntu"),
        ('ID=linuxmint\nID_LIKE="ubuntu debian"\n', "ubuntu"),
        ('ID="rocky"\nID_LIKE="rhel centos fedora"\nVERSION_ID="9.6"\n', None),
    ],
)
def test_kernel_is_that_of_the_distribution_and_others_are_refused(
    build: ModuleType, monkeypatch: pytest.MonkeyPatch, release: str, family: str | None
) -> None:
    monkeypatch.setattr(Path, "read_text", lambda _path: release)
    if family:
        assert build.distribution() == family
    else:
        with pytest.raises(build.BuildError, match="only Debian and Ubuntu hosts can build it"):
            build.distribution()
