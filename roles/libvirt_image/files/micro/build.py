"""Guest micro: builds the bootable disk from the distribution's kernel, busybox and guest agent.

Nothing is installed or mounted: packages are downloaded into a cache and unpacked beside it, this
program writes the initramfs, and mtools and syslinux create the disk in a plain file. With a filled
cache no network is needed. Only the Python standard library is used, so that it runs on any host.
"""

from __future__ import annotations

import argparse
import ctypes
import fcntl
import gzip
import hashlib
import json
import lzma
import os
import re
import shutil
import stat
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

ROOTFS = Path(__file__).resolve().parent / "rootfs"
TOOLS = ("dpkg-deb", "mformat", "mmd", "mcopy", "syslinux", "qemu-img")
# Initialisation that this guest does not need; a kernel ignores names that it does not have. Not
# tracer_init_tracefs: Ubuntu's 6.8 does not boot without it.
UNNEEDED = (
    "crypto_kdf108_init",  # a self-test
    "jent_mod_init",  # a self-test, a fifteenth of the boot of 6.12
    "load_system_certificate_list",  # for modules with signatures
    "trace_eval_init",  # names of enumerations in trace events
)
# What the guest needs, then what saves a fifth of the kernel's CPU time under emulation: no
# self-tests, relocation, rewriting of instructions for one processor, and tests of the timer.
KERNEL_LINE = (
    "quiet console=tty0 console=ttyS0 net.ifnames=0 mitigations=off random.trust_cpu=on panic=5 "
    "cryptomgr.notests nokaslr noreplace-smp no_timer_check "
    f"initcall_blacklist={','.join(UNNEEDED)}"
)
# Drivers for the devices of our domains and for common other ones, in loading order. Missing ones
# are left out; built-in ones need no file.
DRIVERS = (
    *("virtio_pci", "virtio_blk", "virtio_net", "virtio_console", "virtio_balloon"),
    *("virtio_rng", "virtio_scsi", "virtio_mem", "virtio_input", "sd_mod", "sr_mod", "ahci"),
    *("isofs", "evdev", "button", "ext4", "e1000", "e1000e"),
)
DIRECTORIES = (
    *("bin", "dev", "etc", "etc/acpi", "etc/acpi/PWRF", "lib", "lib/modules", "lib64", "proc"),
    *("root", "run", "sbin", "sys", "tmp", "usr", "var"),
)
PROGRAMS = ("qemu-ga",)
# Left out where no package has them. Ubuntu has dropbear in "universe", which may be off.
OPTIONAL_PROGRAMS = ("dropbear",)
# What is downloaded beside the kernel. Older releases have the UEFI loader in another package: the
# disk then boots with BIOS only. Without dropbear the guest has no SSH server.
PACKAGES = ("busybox-static", "qemu-guest-agent")
OPTIONAL_PACKAGES = ("systemd-boot-efi", "dropbear-bin")
# From forky on linux-image-X is empty: linux-binary-X has the kernel, linux-modules-X its drivers.
KERNEL_PARTS = ("linux-modules-", "linux-binary-")
# Some distributions' busybox lacks these, or has them under other names.
NEEDED_APPLETS = {"acpid", "getty", "init", "insmod", "mount", "sh", "udhcpc"}
EPOCH = 1_700_000_000


class BuildError(Exception):
    """The guest cannot be built; the message gives the reason."""


class LackingError(BuildError):
    """The packages lack something that the guest needs; newer ones may have it."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Build the disk of the command line; returns the exit status."""
    options = parse_arguments(arguments)
    try:
        if options.fill:
            fill(options.cache)
        else:
            build(options)
    except (BuildError, OSError, subprocess.CalledProcessError) as error:
        detail = (getattr(error, "stderr", None) or b"").decode(errors="replace").strip()
        print(f"cannot build the micro guest: {error} {detail}".rstrip(), file=sys.stderr)
        return 1
    return 0


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Return the options: output and cache (paths), size (MiB), offline and refresh."""
    parser = argparse.ArgumentParser(
        description="Build a small bootable guest (qcow2) from this distribution's packages.",
        epilog="The guest logs root in on its consoles without a password: for laboratories only.",
    )
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--output", type=Path, help="the qcow2 file to write")
    what.add_argument("--fill", action="store_true", help="only fill the cache of packages")
    parser.add_argument(
        "--cache",
        type=Path,
        default=Path("/var/cache/virtplay/micro"),
        help="directory of downloaded packages, kept (default: %(default)s)",
    )
    parser.add_argument(
        "--size", type=int, default=64, help="virtual size of the disk in MiB (default: 64)"
    )
    parser.add_argument("--offline", action="store_true", help="fail rather than use the network")
    parser.add_argument("--refresh", action="store_true", help="get newer packages and build again")
    return parser.parse_args(arguments)


def build(options: argparse.Namespace) -> None:
    """Write options.output atomically; raises BuildError if something is missing."""
    absent = [tool for tool in TOOLS if shutil.which(tool) is None]
    if absent:
        raise BuildError(f"these programs are not installed: {', '.join(absent)}")
    cache = options.cache.resolve()
    output = options.output.resolve()
    with locked(cache):
        if output.exists() and not options.refresh:
            print(f"{output}: exists")
            return
        with tempfile.TemporaryDirectory(prefix=".micro-", dir=output.parent) as name:
            release = build_disk(Path(name), cache, options)
            (Path(name) / "micro.qcow2").replace(output)
    print(f"{output}: {output.stat().st_size >> 20} MiB, kernel {release}")


def fill(cache: Path) -> None:
    """Download what this program wants into the cache, unless it has it.

    Without a network the packages of another version of this program may do.
    """
    with locked(cache):
        packages, is_current = read_cache(cache)
        if is_current:
            return
        try:
            fill_cache(cache)
        except BuildError as error:
            if not packages:
                raise
            print(f"keeping the packages in {cache} of another builder: {error}", file=sys.stderr)


@contextmanager
def locked(cache: Path) -> Iterator[None]:
    """Create the cache, and keep it from other builders: hosts of a lab share one."""
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def build_disk(work: Path, cache: Path, options: argparse.Namespace) -> str:
    """Create work/micro.qcow2, of packages that are downloaded unless the cache will do.

    Returns the kernel's release.
    """
    packages, is_current = read_cache(cache)
    if packages and not options.refresh and (is_current or options.offline):
        try:
            return assemble(work, cache, packages, options.size)
        except LackingError as error:
            if options.offline:
                raise
            print(f"filling the package cache {cache} anew: {error}", file=sys.stderr)
    elif options.offline:
        raise BuildError(f"the package cache {cache} is not complete (--offline)")
    try:
        downloaded = fill_cache(cache)
    except BuildError as error:
        if not packages or is_current or options.refresh:
            raise
        # Without a network the packages of another version of this program may still do.
        try:
            return assemble(work, cache, packages, options.size)
        except LackingError:
            raise error from None
    return assemble(work, cache, downloaded, options.size)


def assemble(work: Path, cache: Path, packages: list[dict[str, str]], size: int) -> str:
    """Create work/micro.qcow2 of size MiB from the cached packages; returns the kernel's release.

    Raises LackingError if something is in none of them.
    """
    tree = work / "packages"
    shutil.rmtree(tree, ignore_errors=True)
    for package in packages:
        run("dpkg-deb", "-x", str(cache / package["file"]), str(tree))
    kernel, release = find_kernel(tree)
    initramfs = work / "initrd"
    initramfs.write_bytes(build_initramfs(tree, release))
    disk = make_disk(work, kernel, initramfs, boot_loader(tree), size)
    finished = work / "micro.qcow2"
    run("qemu-img", "convert", "-f", "raw", "-O", "qcow2", str(disk), str(finished))
    finished.chmod(0o644)
    return release


def find_kernel(tree: Path) -> tuple[Path, str]:
    """Return the newest kernel below tree and its release; LackingError if there is none."""
    kernels = [(path.name.removeprefix("vmlinuz-"), path) for path in tree.glob("boot/vmlinuz-*")]
    # Debian's from forky on, and Fedora's.
    for top in ("lib/modules", "usr/lib/modules"):
        kernels += [(path.parent.name, path) for path in tree.glob(f"{top}/*/vmlinuz")]
    if not kernels:
        raise LackingError("a kernel is not in the packages")
    release, path = max(kernels)
    return path, release


# --- packages ------------------------------------------------------------------------------


def distribution() -> str:
    """Return debian or ubuntu; raises BuildError on other distributions, or if it is not x86-64."""
    if os.uname().machine != "x86_64":
        raise BuildError(f"only x86_64 hosts are supported, not {os.uname().machine}")
    release = dict(
        line.rstrip().replace('"', "").split("=", 1)
        for line in Path("/etc/os-release").read_text().splitlines()
        if "=" in line
    )
    for name in ("ubuntu", "debian"):
        if name in [release.get("ID", ""), *release.get("ID_LIKE", "").split()]:
            return name
    raise BuildError(
        "only Debian and Ubuntu hosts can build it; build it there and copy the file "
        "(catalogue entry with 'path')"
    )


def read_cache(cache: Path) -> tuple[list[dict[str, str]] | None, bool]:
    """Return the cache's packages (name, file, sha256), and whether they are what is wanted today.

    None instead of the packages if any is missing or corrupt.
    """
    try:
        listing = json.loads((cache / "packages.json").read_text())
        # Before the list had a note of what was wanted, it was the packages alone.
        noted = listing["wanted"] if isinstance(listing, dict) else None
        packages: list[dict[str, str]] = listing["packages"] if noted else listing
        sound = all(sha256(cache / package["file"]) == package["sha256"] for package in packages)
    except (OSError, ValueError, KeyError, TypeError):
        return None, False
    if not sound or not packages:
        return None, False
    return packages, noted == wanted_names()


def wanted_names() -> list[str]:
    """Return what a cache is filled with, as it is noted in the cache."""
    return [*KERNEL_PARTS, *PACKAGES, *OPTIONAL_PACKAGES]


def fill_cache(cache: Path) -> list[dict[str, str]]:
    """Download the guest's packages; returns them as read_cache does."""
    packages = []
    with tempfile.TemporaryDirectory(prefix=".download-", dir=cache) as name:
        download(name)
        for file in sorted(Path(name).glob("*.deb")):
            plain = file.name.replace("%3a", "_")
            packages.append(
                {"name": file.name.split("_")[0], "file": plain, "sha256": sha256(file)}
            )
            file.replace(cache / plain)
    listing = cache / ".packages.json"
    listing.write_text(json.dumps({"wanted": wanted_names(), "packages": packages}, indent=1))
    listing.replace(cache / "packages.json")  # last: its presence marks a complete cache
    keep = {package["file"] for package in packages}
    for file in cache.glob("*.deb"):
        if file.name not in keep:
            file.unlink()
    return packages


def download(folder: str) -> None:
    """Download the guest's packages into a folder."""
    family = distribution()
    # By default apt downloads as another user, who cannot write into this directory of root.
    command = ("apt-get", "-q", "-o", "APT::Sandbox::User=root", "download")
    try:
        run(*command, *package_names(family), cwd=folder)
    except BuildError:
        # A mirror drops the versions that apt knows of when it gets newer ones.
        run("apt-get", "-q", "-o", "APT::Update::Error-Mode=any", "update")
        run(*command, *package_names(family), cwd=folder)


def package_names(family: str) -> list[str]:
    """Return the names of the packages to download."""
    kernel = kernel_packages(family)  # first: it gets apt's lists if they are not there
    optional = [name for name in OPTIONAL_PACKAGES if candidate(name)]
    needed = {name: None for package in [*PACKAGES, *optional] for name in libraries(package)}
    return [*kernel, *PACKAGES, *optional, *needed]


def candidate(package: str) -> bool:
    """Whether apt can install the package."""
    policy = run("apt-cache", "policy", package).decode()
    return "Candidate: " in policy and "Candidate: (none)" not in policy


def kernel_packages(family: str) -> list[str]:
    """Return the packages of the newest kernel for virtual machines, modules included."""
    meta = "linux-image-cloud-amd64" if family == "debian" else "linux-image-virtual"
    if not candidate(meta):
        run("apt-get", "-q", "update")
    if not candidate(meta):
        raise BuildError(f"apt has no package {meta}; check its sources")
    images = [name for name in depends(meta) if name.startswith("linux-image-")]
    if not images:
        raise BuildError(f"package {meta} depends on no kernel package")
    parts = [name for name in depends(images[0]) if name.startswith(KERNEL_PARTS)]
    return [images[0], *parts]


def depends(package: str) -> list[str]:
    """Return the names of real packages that a package depends on directly."""
    listing = run("apt-cache", "depends", "--important", package).decode()
    return re.findall(r"^\s*\|?(?:Pre)?Depends: ([^<\s]\S*)", listing, re.MULTILINE)


def libraries(package: str) -> list[str]:
    """Return the library packages that a package depends on, directly or not; some are unneeded."""
    found: list[str] = []
    queue = [package]
    while queue:
        for name in depends(queue.pop()):
            bare = name.split(":")[0]
            if re.match(r"lib|zlib", bare) and bare not in found and "perl" not in bare:
                found.append(bare)
                queue.append(bare)
    return found


# --- initramfs -----------------------------------------------------------------------------


def build_initramfs(tree: Path, release: str) -> bytes:
    """Return the compressed cpio archive for the kernel release from the unpacked packages."""
    archive = Archive()
    for directory in DIRECTORIES:
        archive.directory(directory)
    archive.console()
    busybox = find(tree, ("bin/busybox", "usr/bin/busybox"), "busybox")
    archive.file("bin/busybox", busybox.read_bytes(), 0o755)
    applets = run(str(busybox), "--list").decode().split()
    if not set(applets) >= NEEDED_APPLETS:
        raise LackingError(f"busybox lacks {', '.join(sorted(NEEDED_APPLETS - set(applets)))}")
    for applet in applets:
        if applet != "busybox":
            archive.link(f"bin/{applet}", "busybox")
    for file in sorted(ROOTFS.rglob("*")):
        if file.is_file():
            name = file.relative_to(ROOTFS).as_posix()
            mode = 0o644 if name == "etc/inittab" else 0o755
            archive.file(name, file.read_bytes(), mode)
    archive.file("etc/passwd", b"root:x:0:0:root:/root:/bin/sh\n")
    archive.file("etc/group", b"root:x:0:\n")
    # busybox's acpid runs the file of this name for the power button.
    archive.link("etc/acpi/PWRF/00000080", "/etc/power")
    archive.link("sbin/shutdown", "/etc/power")
    archive.link("usr/bin", "../bin")
    archive.link("var/run", "../run")
    order = []
    for name, content in modules(tree, release):
        archive.file(f"lib/modules/{name}.ko", content)
        order.append(f"{name}.ko")
    archive.file("etc/modules", ("\n".join(order) + "\n").encode())
    libraries: dict[str, Path] = {}
    for name, binary in programs(tree):
        archive.file(f"bin/{name}", binary.read_bytes(), 0o755)
        libraries |= {library.name: library for library in shared_libraries(tree, binary)}
    for name, library in sorted(libraries.items()):
        folder = "lib64" if name.startswith("ld-linux") else "lib"
        archive.file(f"{folder}/{name}", library.read_bytes(), 0o755)
    return compressed(archive.finish())


def programs(tree: Path) -> Iterator[tuple[str, Path]]:
    """Yield (name, file) of the programs that are linked with shared libraries."""
    for name in (*PROGRAMS, *OPTIONAL_PROGRAMS):
        places = (f"usr/sbin/{name}", f"usr/bin/{name}")
        if name in PROGRAMS or any((tree / place).exists() for place in places):
            yield name, find(tree, places, name)


def compressed(content: bytes) -> bytes:
    """Return content as the kernel unpacks it fastest: LZ4, 0.3 s of CPU time less than gzip.

    The library is there wherever apt is. The format is the kernel's: a magic number, then blocks of
    at most 8 MiB, each after its length.
    """
    try:
        library = ctypes.CDLL("liblz4.so.1")
    except OSError:
        return gzip.compress(content, 9, mtime=EPOCH)
    parts = [b"\x02\x21\x4c\x18"]
    for start in range(0, len(content), 8 << 20):
        block = content[start : start + (8 << 20)]
        space = ctypes.create_string_buffer(library.LZ4_compressBound(len(block)))
        length = library.LZ4_compress_HC(block, space, len(block), len(space), 12)
        parts += [length.to_bytes(4, "little"), space.raw[:length]]
    return b"".join(parts)


class Archive:
    """A cpio archive in the format "newc", with the same bytes for the same content."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._count = 0

    def directory(self, name: str) -> None:
        """Add a directory."""
        self._add(name, b"", stat.S_IFDIR | 0o755)

    def file(self, name: str, content: bytes, mode: int = 0o644) -> None:
        """Add a regular file."""
        self._add(name, content, stat.S_IFREG | mode)

    def link(self, name: str, target: str) -> None:
        """Add a symbolic link."""
        self._add(name, target.encode(), stat.S_IFLNK | 0o777)

    def console(self) -> None:
        """Add /dev/console, which the kernel opens before init has mounted anything."""
        self._add("dev/console", b"", stat.S_IFCHR | 0o600, device=(5, 1))

    def finish(self) -> bytes:
        """Return the whole archive."""
        self._add("TRAILER!!!", b"", 0)
        return b"".join(self._parts)

    def _add(self, name: str, content: bytes, mode: int, device: tuple[int, int] = (0, 0)) -> None:
        self._count += 1
        path = name.encode() + b"\0"
        fields = (self._count, mode, 0, 0, 1, EPOCH, len(content), 0, 0, *device, len(path), 0)
        header = b"070701" + b"".join(b"%08x" % field for field in fields)
        self._parts.append(header + path + b"\0" * (-(len(header) + len(path)) % 4))
        self._parts.append(content + b"\0" * (-len(content) % 4))


def modules(tree: Path, release: str) -> Iterator[tuple[str, bytes]]:
    """Yield (name, ELF content) of the drivers, each after its dependencies."""
    top = find(tree, (f"lib/modules/{release}", f"usr/lib/modules/{release}"), "kernel modules")
    files = {
        path.name.split(".ko")[0].replace("-", "_"): path for path in sorted(top.rglob("*.ko*"))
    }
    done: set[str] = set()

    def load(name: str) -> Iterator[tuple[str, bytes]]:
        if name in done or name not in files:
            return
        done.add(name)
        content = decompressed(files[name])
        declared = re.search(rb"(?:^|\0)depends=([^\0]*)\0", content)
        for needed in declared.group(1).decode().split(",") if declared else []:
            yield from load(needed.replace("-", "_"))
        yield name, shortened(content)

    for driver in DRIVERS:
        yield from load(driver)


def shortened(module: bytes) -> bytes:
    """Return a module without its signature, and with types that the kernel does not find.

    To verify the one and to read the other takes CPU time under emulation.
    """
    mark = b"~Module signature appended~\n"
    if module.endswith(mark):
        end = len(module) - len(mark)
        module = module[: end - 12 - int.from_bytes(module[end - 4 : end], "big")]
    return module.replace(b"\0.BTF\0", b"\0.btf\0")


def decompressed(path: Path) -> bytes:
    """Return a kernel module's content, decompressed if necessary."""
    if path.suffix == ".xz":
        return lzma.decompress(path.read_bytes())
    if path.suffix == ".gz":
        return gzip.decompress(path.read_bytes())
    if path.suffix == ".zst":
        return run("zstd", "-dcq", str(path))
    return path.read_bytes()


def shared_libraries(tree: Path, program: Path) -> list[Path]:
    """Return the shared libraries of a program and its loader, from the packages."""
    places = [tree / top for top in ("lib", "usr/lib", "lib64", "usr/lib64")]
    index: dict[str, Path] = {}
    for place in places:
        for path in sorted(place.rglob("*.so*")) if place.exists() else []:
            index.setdefault(path.name, path)
    found: dict[str, Path] = {}
    queue = [program]
    while queue:
        for name in needed_names(queue.pop().read_bytes()):
            if name not in found:
                if name not in index:
                    raise LackingError(f"library {name} of {program.name} is in no package")
                found[name] = index[name]
                queue.append(index[name])
    # A library is stored under the name that programs load, whatever file the link points to.
    return [found[name] for name in sorted(found)]


def needed_names(elf: bytes) -> list[str]:
    """Return the names in a 64-bit ELF file's DT_NEEDED entries, and its interpreter's name."""
    if elf[:5] != b"\x7fELF\x02":
        raise BuildError("a library is not a 64-bit ELF file")
    start = struct.unpack_from("<Q", elf, 32)[0]
    size, count = struct.unpack_from("<HH", elf, 54)
    headers = [struct.unpack_from("<IIQQQQ", elf, start + i * size) for i in range(count)]
    names = []
    for kind, _flags, offset, _address, _physical, length in headers:
        if kind == 3:  # PT_INTERP
            names.append(Path(elf[offset : offset + length].rstrip(b"\0").decode()).name)
        if kind == 2:  # PT_DYNAMIC
            entries = list(struct.iter_unpack("<QQ", elf[offset : offset + length // 16 * 16]))
            table = next((value for tag, value in entries if tag == 5), 0)  # DT_STRTAB
            for part in headers:
                if part[0] == 1 and part[3] <= table < part[3] + part[5]:  # PT_LOAD
                    table += part[2] - part[3]
                    break
            for tag, value in entries:
                if tag == 1:  # DT_NEEDED
                    names.append(elf[table + value : elf.index(b"\0", table + value)].decode())
    return names


# --- disk ----------------------------------------------------------------------------------


def boot_loader(tree: Path) -> Path | None:
    """Return the UEFI boot loader; None if the distribution has no package with it."""
    loader = tree / "usr/lib/systemd/boot/efi/systemd-bootx64.efi"
    return loader if loader.exists() else None


def make_disk(work: Path, kernel: Path, initramfs: Path, loader: Path | None, size: int) -> Path:
    """Return a raw disk of size MiB: one FAT file system without partitions, bootable.

    SeaBIOS starts syslinux from the first sector, UEFI firmware starts the loader by its path.
    Without a partition table no partition has to grow with the disk.
    """
    content = work / "content"
    for folder in ("EFI/BOOT", "loader/entries"):
        (content / folder).mkdir(parents=True)
    shutil.copyfile(kernel, content / "vmlinuz")
    shutil.copyfile(initramfs, content / "initrd")
    (content / "syslinux.cfg").write_text(
        "default micro\nprompt 0\ntimeout 0\n"
        f"label micro\n linux vmlinuz\n initrd initrd\n append {KERNEL_LINE}\n"
    )
    (content / "loader/loader.conf").write_text("timeout 0\ndefault micro.conf\neditor no\n")
    (content / "loader/entries/micro.conf").write_text(
        f"title micro\nlinux /vmlinuz\ninitrd /initrd\noptions {KERNEL_LINE}\n"
    )
    if loader:
        shutil.copyfile(loader, content / "EFI/BOOT/BOOTX64.EFI")
    for path in (content, *content.rglob("*")):
        os.utime(path, (EPOCH, EPOCH))
    used = sum(path.stat().st_size for path in content.rglob("*") if path.is_file())
    if used > (size - 2) << 20:
        raise BuildError(f"{used >> 20} MiB of files do not fit a disk of {size} MiB")
    disk = work / "disk.raw"
    with disk.open("wb") as file:
        file.truncate(size << 20)
    image = str(disk)
    run("mformat", "-i", image, "-v", "MICRO", "-N", "4d696372", "-h", "64", "-s", "32",
        "-t", str(size), "-c", "64", "-H", "0", "::")  # fmt: skip
    run("mcopy", "-s", "-m", "-i", image, *map(str, sorted(content.iterdir())), "::")
    run("syslinux", "--install", image)
    return disk


# --- commands and files --------------------------------------------------------------------


def run(*command: str, cwd: str | None = None) -> bytes:
    """Run a command; returns its output, or raises BuildError with its error message."""
    environment = os.environ | {"LC_ALL": "C", "SOURCE_DATE_EPOCH": str(EPOCH), "TZ": "UTC"}
    done = subprocess.run(
        command, cwd=cwd, env=environment, capture_output=True, check=False, timeout=900
    )
    if done.returncode:
        message = done.stderr.decode(errors="replace").strip()[-1000:]
        raise BuildError(f"{' '.join(command)[:200]}: {message or done.returncode}")
    return done.stdout


def find(tree: Path, places: Sequence[str], what: str) -> Path:
    """Return the first of the places that exists below tree; LackingError if none does."""
    for place in places:
        if (tree / place).exists():
            return tree / place
    raise LackingError(f"{what} is not in the packages")


def sha256(path: Path) -> str:
    """Return the file's SHA-256 in hex."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


if __name__ == "__main__":
    sys.exit(main())
