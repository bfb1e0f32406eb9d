"""Role libvirt_host: finds out whether KVM runs a guest on this host, by booting one.

A device file proves nothing: in a container or a VM without nested virtualisation it may exist
although no guest can start, and a KVM that is nested by software runs simple code, but no boot
loader. The guest is a disk with SYSLINUX and a Linux kernel, whose first program writes a word to
the serial port; only that word proves that it booted. Prints {"virt_type", "reason", "tried_on",
"tried_at"}.

A success is valid until the host changes (tried_on) or KVM fails a guest (after tried_at); any
other result is tried again. What was found before is in HOST_FILE.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import selectors
import shutil
import signal
import stat
import struct
import subprocess
import sys
import tarfile
import tempfile
import time
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, NoReturn

WORD = b"VIRTPLAY BOOTED"
LOADED = b"Loading vmlinuz"
"""What SYSLINUX writes to the serial port when it loads the kernel."""
GIVEN_UP = re.compile(rb"KVM internal error|kvm run failed")
"""What QEMU prints when KVM gives up; it then keeps the guest paused for ever."""
FAILED = re.compile(
    rb"KVM internal error|kvm run failed|failed to initialize kvm|Could not access KVM|"
    rb"failed to set MSR|KVM_CREATE_V"
)
"""What QEMU writes to a domain's log when KVM fails it, or does not let it start."""
TIME_LIMIT = 30.0
KVM = Path("/dev/kvm")
HOST_FILE = Path("/etc/virtplay/host.json")
WORK = Path("/var/tmp")  # noqa: S108 - for directories with random names
QEMU_LOGS = Path("/var/log/libvirt/qemu")
KVM_PARAMETERS = Path("/sys/module")
MICRO_PACKAGES = Path("/var/cache/virtplay/micro")
"""Packages of the template micro, with a kernel that is known to boot as a guest."""
PROGRAMS = ("qemu-system-x86_64", "/usr/libexec/qemu-kvm")
TOOLS = ("mformat", "mcopy", "syslinux")
DISK_MIB = 64
CONFIG = """serial 0
default trial
prompt 0
timeout 0
label trial
 linux vmlinuz
 initrd initrd
 append console=ttyS0 quiet panic=-1
"""


def main() -> int:
    """Print the result as one JSON object; returns the exit status."""
    # Without these, QEMU would outlive a trial whose connection has ended.
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _exit)
    print(json.dumps(find_out()))
    return 0


def _exit(number: int, _frame: object) -> NoReturn:
    raise SystemExit(128 + number)


def find_out() -> dict[str, Any]:
    """Return virt_type (kvm or qemu), reason and tried_on; equal causes give equal results."""
    program = next((found for name in PROGRAMS if (found := shutil.which(name))), None)
    if program is None:
        return {"virt_type": "qemu", "reason": "no QEMU for x86_64 is installed"}
    if not KVM.exists():
        return {"virt_type": "qemu", "reason": "/dev/kvm does not exist"}
    tried_on = describe_host(program)
    known = read_known()
    is_same = (known.get("virt_type"), known.get("tried_on")) == ("kvm", tried_on)
    if is_same and not has_failed_since(str(known.get("tried_at"))):
        return known
    fault = try_kvm(program)
    if fault:
        return {"virt_type": "qemu", "reason": f"/dev/kvm exists but {fault}", "tried_on": tried_on}
    now = datetime.now(timezone.utc).isoformat(timespec="seconds")
    return {
        "virt_type": "kvm",
        "reason": "a guest booted under KVM",
        "tried_on": tried_on,
        "tried_at": now,
    }


def has_failed_since(tried_at: str) -> bool:
    """Whether KVM has failed a guest since then (RFC 3339), as QEMU wrote to its log."""
    try:
        since = datetime.fromisoformat(tried_at).timestamp()
    except ValueError:
        return True
    for log in QEMU_LOGS.glob("*.log"):
        with contextlib.suppress(OSError):
            if log.stat().st_mtime > since:
                with log.open("rb") as file:
                    file.seek(-min(log.stat().st_size, 16384), os.SEEK_END)
                    last_run = file.read().rpartition(b"starting up libvirt version")[2]
                if FAILED.search(last_run):
                    return True
    return False


def read_known() -> dict[str, Any]:
    """Return what HOST_FILE has recorded, {} if nothing."""
    try:
        known = json.loads(HOST_FILE.read_bytes())
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}


def describe_host(program: str) -> dict[str, str]:
    """Return what decides whether KVM works: kernel, processor, KVM's parameters, QEMU."""
    version = subprocess.run([program, "--version"], capture_output=True, text=True, check=False)
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    fields = (line.partition(":") for line in lines)
    cpu = {key.strip(): value.strip() for key, _colon, value in fields}
    parameters = []
    for path in sorted(KVM_PARAMETERS.glob("kvm*/parameters/*")):
        with contextlib.suppress(OSError):
            parameters.append(f"{path} {path.read_text(errors='replace')}")
    return {
        "kernel": " ".join((os.uname().release, os.uname().version)),
        "cpu": " ".join(cpu.get(key, "") for key in ("model name", "stepping", "microcode")),
        "kvm": hashlib.sha256("".join(parameters).encode()).hexdigest()[:12],
        "qemu": next(iter(version.stdout.splitlines()), ""),
    }


def try_kvm(program: str) -> str:
    """Boot a guest under KVM; return why that failed, "" after a success."""
    absent = [tool for tool in TOOLS if shutil.which(tool) is None]
    if absent:
        return f"was not tried: {', '.join(absent)} is not installed"
    kernel = find_kernel()
    if kernel is None:
        return (
            "was not tried: this host has no kernel for a guest in /boot; prepare the template"
            " micro, then prepare the host again"
        )
    with tempfile.TemporaryDirectory(prefix="virtplay-trial-", dir=WORK) as work:
        return run_guest(program, make_disk(Path(work), kernel))


def find_kernel() -> bytes | None:
    """Return a Linux kernel: that of the template micro, or this host's own; None without one."""
    for package in sorted(MICRO_PACKAGES.glob("linux-image-*.deb"), reverse=True):
        with contextlib.suppress(OSError, tarfile.TarError):
            if kernel := read_packed_kernel(package):
                return kernel
    release = os.uname().release
    own = [Path(f"/boot/vmlinuz-{release}"), Path(f"/lib/modules/{release}/vmlinuz")]
    for path in [*own, *sorted(Path("/boot").glob("vmlinuz-*"), reverse=True)]:
        with contextlib.suppress(OSError):
            return path.read_bytes()
    return None


def read_packed_kernel(package: Path) -> bytes | None:
    """Return the kernel in a Debian package."""
    with (
        subprocess.Popen(
            ["dpkg-deb", "--fsys-tarfile", str(package)],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        ) as unpacking,
        tarfile.open(fileobj=unpacking.stdout, mode="r|") as archive,
    ):
        for member in archive:
            if "/boot/vmlinuz-" in f"/{member.name}":
                file = archive.extractfile(member)
                content = file.read() if file else None
                unpacking.terminate()  # the modules come after the kernel
                return content
    return None


def make_disk(work: Path, kernel: bytes) -> Path:
    """Return a disk in directory work, from which SYSLINUX starts the kernel."""
    disk = work / "disk"
    with disk.open("wb") as file:
        file.truncate(DISK_MIB << 20)
    contents = {"vmlinuz": kernel, "initrd": initramfs(), "syslinux.cfg": CONFIG.encode()}
    for name, content in contents.items():
        (work / name).write_bytes(content)
    image = ["-i", str(disk)]
    for command in (
        ["mformat", *image, "-h", "64", "-s", "32", "-t", str(DISK_MIB), "-H", "0", "::"],
        ["mcopy", *image, *(str(work / name) for name in contents), "::"],
        ["syslinux", "--install", str(disk)],
    ):
        subprocess.run(command, check=True, capture_output=True)
    return disk


def initramfs() -> bytes:
    """Return a cpio archive (newc) with a console and a first program that writes WORD."""
    console = (5 << 8) | 1
    archive = b""
    for name, mode, device, content in (
        ("dev", stat.S_IFDIR | 0o755, 0, b""),
        ("dev/console", stat.S_IFCHR | 0o600, console, b""),
        ("init", stat.S_IFREG | 0o755, 0, first_program()),
        ("TRAILER!!!", 0, 0, b""),
    ):
        path = name.encode() + b"\0"
        numbers = (len(archive), mode, 0, 0, 1, 0, len(content), 0, 0)
        numbers += (device >> 8, device & 0xFF, len(path), 0)
        header = b"070701" + b"".join(b"%08x" % number for number in numbers) + path
        archive += header + b"\0" * (-len(header) % 4) + content + b"\0" * (-len(content) % 4)
    return archive


def first_program() -> bytes:
    """Return a static ELF program for x86_64 that writes WORD to its output and then waits."""
    text = WORD + b"\n"
    code = (
        bytes.fromhex("bf01000000 488d3518000000 ba")  # edi = 1; rsi = text; edx = its length
        + struct.pack("<I", len(text))
        + bytes.fromhex("b801000000 0f05")  # write
        + bytes.fromhex("b822000000 0f05 ebf7")  # pause, again and again
    )
    # rsi is relative to the end of its instruction, which is 12 bytes into the code.
    code = code[:8] + struct.pack("<i", len(code) - 12) + code[12:] + text
    base, start = 0x400000, 64 + 56
    header = b"\x7fELF\x02\x01\x01".ljust(16, b"\0") + struct.pack(
        "<HHIQQQIHHHHHH", 2, 62, 1, base + start, 64, 0, 0, 64, 56, 1, 0, 0, 0
    )
    size = start + len(code)
    return header + struct.pack("<IIQQQQQQ", 1, 5, 0, base, base, size, size, 0x1000) + code


def run_guest(program: str, disk: Path) -> str:
    """Start QEMU with the disk and wait for WORD; return why it did not come, "" if it did."""
    limit = str(TIME_LIMIT + 5)
    guest = subprocess.Popen(
        [
            *("timeout", "--signal=KILL", limit),  # also if this program is killed
            *(program, "-accel", "kvm", "-cpu", "host", "-machine", "q35", "-smp", "2"),
            *("-m", "256", "-nodefaults", "-display", "none", "-no-reboot", "-serial", "stdio"),
            *("-drive", f"file={disk},format=raw,if=virtio,readonly=on"),
        ],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    try:
        serial, complaint, ended = follow(guest)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(guest.pid, signal.SIGKILL)
        guest.wait()
    if WORD in serial:
        return ""
    where = "its kernel" if LOADED in serial else "its firmware or boot loader"
    # Warnings of absent features come first, addresses and registers last.
    lines = [line for line in complaint.splitlines() if line.strip()]
    gave_up = [line for line in lines if GIVEN_UP.search(line)]
    lines = gave_up or [line for line in lines if b"warning:" not in line] or lines
    if lines and (ended or gave_up):
        message = lines[0].decode(errors="replace")
        return f"runs no guest: {message} (in {where})" if serial else f"runs no guest: {message}"
    if ended:
        return f"runs no guest: it ended in {where}"
    return f"a guest did not boot in {TIME_LIMIT:.0f} seconds, it hung in {where}"


def follow(guest: subprocess.Popen[bytes]) -> tuple[bytes, bytes, bool]:
    """Read until the guest has booted, failed or hung.

    Return its serial output, QEMU's messages, and whether QEMU ended by itself.
    """
    assert guest.stdout is not None
    assert guest.stderr is not None
    said = {"serial": b"", "messages": b""}
    deadline = time.monotonic() + TIME_LIMIT
    with selectors.DefaultSelector() as selector:
        selector.register(guest.stdout, selectors.EVENT_READ, "serial")
        selector.register(guest.stderr, selectors.EVENT_READ, "messages")
        while selector.get_map() and time.monotonic() < deadline:
            for key, _events in selector.select(deadline - time.monotonic()):
                part = os.read(key.fd, 65536)
                if not part:
                    selector.unregister(key.fileobj)
                said[key.data] += part
            if WORD in said["serial"] or GIVEN_UP.search(said["messages"]):
                return said["serial"], said["messages"], False
        return said["serial"], said["messages"], not selector.get_map()


if __name__ == "__main__":
    sys.exit(main())
