"""Acceptance tests: builds a Debian 12 disk with cloud-init, as cloud images have it.

Usage: python -m tests.acceptance.debian_image OUTPUT.qcow2

On a machine with Debian 12 the packages come from its own apt sources, elsewhere from mmdebstrap's
default. No mount is needed: mke2fs fills the root file system from a directory, mtools and syslinux
make the boot partition in a plain file.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import platform
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

RELEASE = "bookworm"
PACKAGES = (
    *("linux-image-cloud-amd64", "initramfs-tools", "systemd-sysv", "dbus", "udev"),
    *("cloud-init", "qemu-guest-agent", "openssh-server", "sudo", "iproute2", "netplan.io"),
)
MIB = 1 << 20
BOOT_START, BOOT_SIZE, ROOT_SIZE = 1, 95, 1500  # MiB; the root begins where the boot part ends
# What is there for speed under emulation: no self-tests, relocation, tests of the timer, and words.
KERNEL_LINE = (
    "root=/dev/vda2 ro console=ttyS0 net.ifnames=0 mitigations=off quiet systemd.show_status=false "
    "cryptomgr.notests nokaslr no_timer_check random.trust_cpu=on"
)
DRIVERS = ("virtio_pci", "virtio_blk", "virtio_net", "virtio_console", "virtio_rng", "ext4")
SYSLINUX_MBR = Path("/usr/lib/SYSLINUX/mbr.bin")
APT_SOURCES = (Path("/etc/apt/sources.list"), Path("/etc/apt/sources.list.d/debian.sources"))
# The seed is on a disk: cloud-init need not look for anything else. No locales are there. Of its
# modules those of its first stage are left, where what Virtplay gives is read, and user-data's
# commands: the others take half a minute each time under emulation.
CLOUD_CONFIG = """\
datasource_list: [NoCloud, None]
locale: false
ssh_genkeytypes: [ed25519]
cloud_config_modules: [set-passwords, runcmd]
cloud_final_modules: [write-files-deferred, scripts-user]
"""
# Docs and translations are half of the files; what waits for the network's absence is left out.
EXCLUDED = ("/usr/share/doc/*", "/usr/share/locale/*", "/usr/share/man/*", "/usr/share/info/*")


def missing_programs() -> list[str]:
    """Return the programs that the build needs and this machine lacks."""
    needed = ("mmdebstrap", "mke2fs", "mformat", "mcopy", "syslinux", "qemu-img")
    absent = [name for name in needed if shutil.which(name) is None]
    return absent + ([] if SYSLINUX_MBR.exists() else [str(SYSLINUX_MBR)])


def recipe() -> str:
    """Return a short digest of this recipe: an image of another one has to be built anew."""
    return hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:12]


def build(output: Path) -> None:
    """Write the disk to `output` in one step; CalledProcessError says what failed."""
    output.parent.mkdir(parents=True, exist_ok=True)
    with output.with_suffix(".lock").open("w") as lock:
        # Another test worker may be at it.
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not output.exists():
            _build(output)


def _build(output: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="debian-image-", dir=output.parent) as name:
        work = Path(name)
        root = work / "root"
        _unpack(root)
        boot = work / "boot.raw"
        _make_boot(boot, root, work)
        system = work / "system.raw"
        _run("mke2fs", "-q", "-t", "ext4", "-L", "root", "-d", str(root), str(system),
             f"{ROOT_SIZE}M")  # fmt: skip
        disk = work / "disk.raw"
        _join(disk, boot, system)
        _run("qemu-img", "convert", "-O", "qcow2", str(disk), str(work / "disk.qcow2"))
        (work / "disk.qcow2").rename(output)


def _unpack(root: Path) -> None:
    own = platform.freedesktop_os_release().get("VERSION_CODENAME") == RELEASE
    sources = [str(path) for path in APT_SOURCES if own and path.exists()]
    modules = "\\n".join(DRIVERS)
    hooks = [
        # Before the kernel comes: an initramfs with these few drivers is made and read fast.
        f'mkdir -p "$1/etc/initramfs-tools/conf.d"; printf "{modules}\\n" '
        '> "$1/etc/initramfs-tools/modules"; printf "MODULES=list\\nCOMPRESS=gzip\\n" '
        '> "$1/etc/initramfs-tools/conf.d/small"',
    ]
    command = ["mmdebstrap", "--variant=minbase", "--quiet", f"--include={','.join(PACKAGES)}"]
    command += [f"--dpkgopt=path-exclude={pattern}" for pattern in EXCLUDED]
    command += ['--aptopt=Acquire::Languages "none"']
    command += [f"--essential-hook={hook}" for hook in hooks]
    settings = CLOUD_CONFIG.replace("\n", "\\n")
    command += [
        f'--customize-hook=printf "{settings}" > "$1/etc/cloud/cloud.cfg.d/90-nocloud.cfg"',
        '--customize-hook=printf "/dev/vda2 / ext4 defaults 0 1\\n" > "$1/etc/fstab"',
        '--customize-hook=rm -f "$1"/etc/ssh/ssh_host_* "$1/etc/hostname"; : > "$1/etc/machine-id"',
        '--customize-hook=chroot "$1" systemctl mask apt-daily.timer apt-daily-upgrade.timer '
        "fstrim.timer e2scrub_all.timer e2scrub_reap.service",
    ]
    _run(*command, RELEASE, str(root), *sources)


def _make_boot(boot: Path, root: Path, work: Path) -> None:
    with boot.open("wb") as file:
        file.truncate(BOOT_SIZE * MIB)
    _run("mformat", "-i", str(boot), "-h", "64", "-s", "32", "-t", str(BOOT_SIZE), "-c", "4",
         "-H", str(BOOT_START * MIB // 512), "::")  # fmt: skip
    config = work / "syslinux.cfg"
    config.write_text(
        "default debian\nprompt 0\nlabel debian\n linux vmlinuz\n initrd initrd\n"
        f" append {KERNEL_LINE}\n"
    )
    kernel = max((root / "boot").glob("vmlinuz-*"))
    initrd = max((root / "boot").glob("initrd.img-*"))
    for source, name in ((config, "syslinux.cfg"), (kernel, "vmlinuz"), (initrd, "initrd")):
        _run("mcopy", "-i", str(boot), str(source), f"::{name}")
    _run("syslinux", "--install", str(boot))


def _join(disk: Path, boot: Path, system: Path) -> None:
    """Write boot record, partition table and both partitions one behind the other."""
    record = bytearray(512)
    code = SYSLINUX_MBR.read_bytes()
    record[: len(code)] = code
    second = BOOT_START + BOOT_SIZE
    for number, (active, kind, start, size) in enumerate(
        ((0x80, 0x0C, BOOT_START, BOOT_SIZE), (0, 0x83, second, ROOT_SIZE))
    ):
        entry = struct.pack(
            "<B3sB3sII", active, b"\xfe\xff\xff", kind, b"\xfe\xff\xff",
            start * MIB // 512, size * MIB // 512,
        )  # fmt: skip
        record[446 + 16 * number : 462 + 16 * number] = entry
    record[510:] = b"\x55\xaa"
    with disk.open("wb") as file:
        file.write(record)
        file.truncate((second + ROOT_SIZE) * MIB)
    for part, start in ((boot, BOOT_START), (system, second)):
        _run("dd", f"if={part}", f"of={disk}", "bs=1M", f"seek={start}", "conv=notrunc,sparse",
             "status=none")  # fmt: skip


def _run(*command: str) -> None:
    environment = {**os.environ, "LC_ALL": "C.UTF-8", "DEBIAN_FRONTEND": "noninteractive"}
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL, env=environment)


def main(arguments: Sequence[str]) -> int:
    """Build the image that the one argument names; a SIGTERM leaves nothing of it."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    build(Path(arguments[0]).resolve())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
