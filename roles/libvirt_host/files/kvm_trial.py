"""Role libvirt_host: finds out whether KVM runs a guest on this host, by running one.

A device file proves nothing: in a container or a VM without nested virtualisation it may exist
although no guest can start. The guest is one boot sector that writes a word to its serial port and
resets itself; only that word proves that it ran. Prints {"virt_type": …, "reason": …}.
"""

from __future__ import annotations

import json
import shutil
import struct
import subprocess
import sys
import tempfile
from pathlib import Path

WORD = b"VIRTPLAY"
TIME_LIMIT = 10.0
PROGRAMS = ("qemu-system-x86_64", "/usr/libexec/qemu-kvm")


def boot_sector() -> bytes:
    """Return 512 bytes of code: enter 64-bit mode, send WORD to COM1, reset.

    64-bit mode is part of the trial: a KVM that only emulates gets no further than real mode.
    """
    start = bytes.fromhex(
        "fa 31c0 8ed8 8ec0 8ed0 bc007c fc"  # cli; segments and stack
        "bf0010 b90018 f3ab"  # clear three pages from 0x1000 for page tables
        "c70600100320 c70600200330 c70600308300"  # identity map of the first 2 MiB
        "66b800100000 0f22d8"  # cr3 = 0x1000
        "0f20e0 6683c820 0f22e0"  # cr4.PAE
        "66b9800000c0 0f32 80cc01 0f30"  # EFER.LME
    )
    switch = bytes.fromhex("0f0116 0000 0f20c0 660d01000080 0f22c0 ea 0000 0800")
    code = bytes.fromhex("66baf803")  # from here in 64-bit mode: mov dx, 0x3f8
    for letter in WORD:
        code += bytes([0xB0, letter, 0xEE])  # mov al, letter; out dx, al
    code += bytes.fromhex("b0fe e664 f4 ebfd")  # reset by the keyboard controller; hlt
    entry = 0x7C00 + len(start) + len(switch)
    table = entry + len(code)
    segments = bytes(8) + bytes.fromhex("00000000009a2000")  # null, 64-bit code
    pointer = struct.pack("<HI", len(segments) - 1, table)
    # The addresses for lgdt and the far jump are known only now.
    switch = (
        switch[:3]
        + struct.pack("<H", table + len(segments))
        + switch[5:-4]
        + struct.pack("<H", entry)
        + switch[-2:]
    )
    return (start + switch + code + segments + pointer).ljust(510, b"\0") + b"\x55\xaa"


def find_out() -> tuple[str, str]:
    """Return (kvm or qemu, reason); equal causes give equal reasons."""
    program = next((found for name in PROGRAMS if (found := shutil.which(name))), None)
    if program is None:
        return "qemu", "no QEMU for x86_64 is installed"
    if not Path("/dev/kvm").exists():
        return "qemu", "/dev/kvm does not exist"
    with tempfile.NamedTemporaryFile(prefix="virtplay-trial-") as disk:
        disk.write(boot_sector().ljust(1 << 20, b"\0"))
        disk.flush()
        try:
            done = subprocess.run(
                [
                    *(program, "-accel", "kvm", "-cpu", "host", "-machine", "q35", "-m", "64"),
                    *("-nodefaults", "-display", "none", "-no-reboot", "-serial", "stdio"),
                    *("-drive", f"file={disk.name},format=raw,if=virtio,readonly=on"),
                ],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                check=False,
                timeout=TIME_LIMIT,
            )
        except subprocess.TimeoutExpired as error:
            if WORD in (error.stdout or b""):
                return "kvm", "a guest ran under KVM"
            return "qemu", f"/dev/kvm exists but a guest did not run in {TIME_LIMIT:.0f} seconds"
    if WORD in done.stdout:
        return "kvm", "a guest ran under KVM"
    complaint = done.stderr.decode(errors="replace").strip().splitlines()
    # The first line is QEMU's message; later lines may contain addresses and registers.
    return "qemu", f"/dev/kvm exists but runs no guest: {complaint[0] if complaint else 'it ended'}"


def main() -> int:
    """Print the result as one JSON object; returns the exit status."""
    virt_type, reason = find_out()
    print(json.dumps({"virt_type": virt_type, "reason": reason}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
