"""Tests of the builder of the guest micro, without its packages; the lab boots what it builds."""

from __future__ import annotations

import ctypes
import hashlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
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


def test_programs_may_lack_the_ssh_server_only(build: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "usr/sbin").mkdir(parents=True)
    with pytest.raises(build.LackingError, match="qemu-ga is not in the packages"):
        list(build.programs(tmp_path))
    for name in ("qemu-ga", "dropbear"):
        (tmp_path / "usr/sbin" / name).write_bytes(b"")
        assert list(build.programs(tmp_path))[-1] == (name, tmp_path / "usr/sbin" / name)


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


@pytest.mark.parametrize(
    ("path", "release"),
    [
        ("boot/vmlinuz-6.1.0-56-cloud-amd64", "6.1.0-56-cloud-amd64"),
        ("usr/lib/modules/7.2.3+deb14-cloud-amd64/vmlinuz", "7.2.3+deb14-cloud-amd64"),
        ("lib/modules/6.8.0-48-generic/vmlinuz", "6.8.0-48-generic"),
    ],
)
def test_kernel_is_found_where_the_release_has_it(
    build: ModuleType, tmp_path: Path, path: str, release: str
) -> None:
    with pytest.raises(build.LackingError, match="a kernel is not in the packages"):
        build.find_kernel(tmp_path)
    (tmp_path / path).parent.mkdir(parents=True)
    (tmp_path / path).write_bytes(b"kernel")
    assert build.find_kernel(tmp_path) == (tmp_path / path, release)


# What `apt-cache depends --important` lists of the kernel's package, by release.
KERNEL_DEPENDS = {
    "bookworm": ("linux-image-6.1.0-56-cloud-amd64", ["kmod", "linux-base", "initramfs-tools"]),
    "trixie": ("linux-image-6.12.117+deb13-cloud-amd64", ["kmod", "linux-base"]),
    "forky": (
        "linux-image-7.2.3+deb14-cloud-amd64",
        ["linux-binary-7.2.3+deb14-cloud-amd64", "linux-modules-7.2.3+deb14-cloud-amd64"],
    ),
    "noble": ("linux-image-6.8.0-48-generic", ["kmod", "linux-modules-6.8.0-48-generic"]),
}


@pytest.mark.parametrize("release", KERNEL_DEPENDS)
def test_packages_of_the_kernel_are_those_of_the_release(
    build: ModuleType, monkeypatch: pytest.MonkeyPatch, release: str
) -> None:
    image, needed = KERNEL_DEPENDS[release]
    known = {"linux-image-cloud-amd64": [image], "linux-image-virtual": [image], image: needed}

    def apt(*command: str, cwd: str | None = None) -> bytes:
        assert command[0] == "apt-cache"
        if command[1] == "policy":
            return b"  Candidate: 1\n"
        return "".join(f"  Depends: {name}\n" for name in known[command[-1]]).encode()

    monkeypatch.setattr(build, "run", apt)
    family = "ubuntu" if release == "noble" else "debian"
    with_kernel = [name for name in needed if name.startswith("linux-") and "base" not in name]
    assert build.kernel_packages(family) == [image, *with_kernel]


def test_cache_counts_only_when_every_file_is_whole(build: ModuleType, tmp_path: Path) -> None:
    assert build.read_cache(tmp_path) == (None, False)
    package = tmp_path / "a.deb"
    package.write_bytes(b"content")
    digest = hashlib.sha256(b"content").hexdigest()
    packages = [{"name": "a", "file": "a.deb", "sha256": digest}]
    listing = {"wanted": build.wanted_names(), "packages": packages}
    (tmp_path / "packages.json").write_text(json.dumps(listing))
    assert build.read_cache(tmp_path) == (packages, True)
    package.write_bytes(b"conten")
    assert build.read_cache(tmp_path)[0] is None
    package.unlink()
    assert build.read_cache(tmp_path)[0] is None


def test_cache_of_another_builder_is_whole_but_not_todays(
    build: ModuleType, tmp_path: Path
) -> None:
    (tmp_path / "a.deb").write_bytes(b"content")
    digest = hashlib.sha256(b"content").hexdigest()
    packages = [{"name": "a", "file": "a.deb", "sha256": digest}]
    for listing in (packages, {"wanted": ["linux-modules-"], "packages": packages}):
        (tmp_path / "packages.json").write_text(json.dumps(listing))
        assert build.read_cache(tmp_path) == (packages, False)


# An apt whose mirror is a directory. As the real one it knows versions that the mirror may have
# dropped, until it is updated.
APT = """#!/bin/sh
echo "$0 $*" >> "$MIRROR/calls"
case "$(basename "$0") $*" in
    "apt-cache policy linux-image-cloud-amd64"|"apt-cache policy linux-image-virtual")
        echo "  Candidate: 1" ;;
    "apt-cache depends "*" linux-image-cloud-amd64"|"apt-cache depends "*" linux-image-virtual")
        echo "  Depends: linux-image-1" ;;
    "apt-get "*" update") test ! -e "$MIRROR/offline" && touch "$MIRROR/updated" ;;
    "apt-get "*" download "*)
        test ! -e "$MIRROR/offline" || exit 100
        test ! -e "$MIRROR/stale" || test -e "$MIRROR/updated" || exit 100
        cp "$MIRROR"/*.deb . ;;
esac
"""


class Mirror:
    """Packages that make a guest, an apt that gets them, and a builder that uses it."""

    def __init__(self, build: ModuleType, place: Path) -> None:
        self.build, self.path, self.cache = build, place / "mirror", place / "cache"
        self.programs, self.output = place / "bin", place / "micro.qcow2"
        for folder in (self.path, self.programs):
            folder.mkdir()
        for name in ("apt-get", "apt-cache"):
            (self.programs / name).write_text(APT)
            (self.programs / name).chmod(0o755)
        self.package("linux-image-1", {"boot/vmlinuz-1": b"kernel", "lib/modules/1/x": b""})
        # Static programs, so that no library has to be in a package.
        busybox = Path(shutil.which("busybox") or "").read_bytes()
        self.package("busybox-static", {"bin/busybox": busybox})
        agent = b"\x7fELF\x02" + bytes(100)
        self.package("qemu-guest-agent", {"usr/sbin/qemu-ga": agent})

    def package(self, name: str, files: dict[str, bytes]) -> None:
        with tempfile.TemporaryDirectory() as folder:
            for path, content in files.items():
                file = Path(folder) / path
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(content)
                file.chmod(0o755)
            control = Path(folder) / "DEBIAN/control"
            control.parent.mkdir()
            control.write_text(
                f"Package: {name}\nVersion: 1\nArchitecture: all\n"
                "Maintainer: nobody <nobody@example.org>\nDescription: a test\n"
            )
            command = ["dpkg-deb", "-Znone", "--root-owner-group", "-b", folder]
            subprocess.run(
                [*command, str(self.path / f"{name}_1_all.deb")], check=True, capture_output=True
            )

    def run(self, *options: str) -> subprocess.CompletedProcess[str]:
        self.output.unlink(missing_ok=True)
        return self.call("--output", str(self.output), *options)

    def fill(self) -> subprocess.CompletedProcess[str]:
        return self.call("--fill")

    def call(self, *options: str) -> subprocess.CompletedProcess[str]:
        arguments = ["--cache", str(self.cache), *options]
        path = f"{self.programs}:{os.environ['PATH']}"
        return subprocess.run(
            [sys.executable, FILES / "build.py", *arguments],
            env=os.environ | {"PATH": path, "MIRROR": str(self.path)},
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )

    def calls(self, word: str) -> int:
        calls = self.path / "calls"
        lines = calls.read_text().splitlines() if calls.exists() else []
        calls.unlink(missing_ok=True)
        return sum(word in line.split() for line in lines)

    def leave_out(self, package: str, *, noted: bool) -> None:
        """Write the cache's list as if a package had never been wanted."""
        listing = json.loads((self.cache / "packages.json").read_text())
        left = [entry for entry in listing["packages"] if entry["name"] != package]
        assert len(left) < len(listing["packages"])
        todays = {**listing, "packages": left}
        (self.cache / "packages.json").write_text(json.dumps(todays if noted else left))


@pytest.fixture
def mirror(build: ModuleType, tmp_path: Path) -> Mirror:
    return Mirror(build, tmp_path)


builds_a_disk = pytest.mark.needs("busybox", "dpkg-deb", "mformat", "syslinux", "qemu-img")


@builds_a_disk
@pytest.mark.parametrize("noted", [True, False])
def test_cache_without_a_kernel_is_filled_anew(mirror: Mirror, noted: bool) -> None:
    assert mirror.run().returncode == 0
    assert mirror.calls("download") == 1
    assert mirror.run().returncode == 0
    assert mirror.calls("download") == 0
    mirror.leave_out("linux-image-1", noted=noted)
    done = mirror.run()
    assert (done.returncode, mirror.output.exists()) == (0, True), done.stderr
    assert mirror.calls("download") == 1
    assert mirror.run().returncode == 0
    assert mirror.calls("download") == 0


@builds_a_disk
def test_what_is_in_no_package_is_told_after_one_download(mirror: Mirror) -> None:
    (mirror.path / "linux-image-1_1_all.deb").unlink()
    for _attempt in range(2):
        done = mirror.run()
        assert done.returncode == 1
        assert "cannot build the micro guest: a kernel is not in the packages" in done.stderr
        assert mirror.calls("download") == 1


@builds_a_disk
def test_packages_that_the_mirror_has_dropped_are_looked_up_again(mirror: Mirror) -> None:
    (mirror.path / "stale").touch()
    done = mirror.run()
    assert (done.returncode, mirror.calls("update")) == (0, 1), done.stderr


@builds_a_disk
def test_whole_cache_of_another_builder_serves_without_a_network(mirror: Mirror) -> None:
    assert mirror.run().returncode == 0
    listing = json.loads((mirror.cache / "packages.json").read_text())
    (mirror.cache / "packages.json").write_text(json.dumps(listing["packages"]))
    (mirror.path / "offline").touch()
    assert mirror.run().returncode == 0
    assert mirror.run("--offline").returncode == 0
    (mirror.cache / "packages.json").write_text(json.dumps(listing["packages"][:1]))
    done = mirror.run()
    assert done.returncode == 1
    assert "apt-get" in done.stderr  # the remedy is a network, not another package
    assert "not in the packages" in mirror.run("--offline").stderr


@builds_a_disk
def test_cache_is_filled_once_for_each_builder(mirror: Mirror) -> None:
    for downloads in (1, 0):
        assert mirror.fill().returncode == 0
        assert mirror.calls("download") == downloads
    assert not mirror.output.exists()
    mirror.leave_out("busybox-static", noted=False)
    (mirror.path / "offline").touch()
    done = mirror.fill()
    assert (done.returncode, mirror.calls("download")) == (0, 1), done.stderr
    assert done.stderr.startswith(f"keeping the packages in {mirror.cache} of another builder: ")
    (mirror.path / "offline").unlink()
    assert mirror.fill().returncode == 0
    (mirror.path / "offline").touch()
    done = mirror.run()
    assert (done.returncode, mirror.output.exists()) == (0, True), done.stderr


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
