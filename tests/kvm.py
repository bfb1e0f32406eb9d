"""Tests: a QEMU that behaves under KVM as on hosts of several kinds, whatever this machine has.

It is the real QEMU, which emulates where KVM was asked for; what it emulates, it stops where the
kind of host stops.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Literal

Kvm = Literal["works", "half", "absent", "silent"]

_PATH = "/usr/local/bin:/usr/bin:/bin"
_STAND_IN = '''#!/usr/bin/python3
"""Stands in for QEMU with KVM that {kvm}."""
import os, subprocess, sys, time

real, kvm = {real!r}, {kvm!r}
arguments = sys.argv[1:]
if "-accel" not in arguments or arguments[arguments.index("-accel") + 1] != "kvm":
    os.execv(real, [real, *arguments])
open({log!r}, "a").write(" ".join(arguments) + chr(10))
arguments[arguments.index("-accel") + 1] = "tcg"
if "-cpu" in arguments:
    arguments[arguments.index("-cpu") + 1] = "max"
if kvm == "works":
    os.execv(real, [real, *arguments])
if kvm == "absent":
    sys.exit("qemu-system-x86_64: failed to initialize kvm: Operation not permitted")
if kvm == "half":
    # As a KVM that is nested by software: firmware runs, and the boot loader's first iret in
    # protected mode does not. QEMU then prints registers and keeps the guest paused for ever.
    guest = subprocess.Popen([real, *arguments], stdout=subprocess.PIPE)
    said = b""
    while b"SYSLINUX" not in said:
        said += os.read(guest.stdout.fileno(), 4096) or sys.exit("the guest ended")
    os.write(1, said)
    guest.kill()
    guest.wait()
    sys.stderr.write("qemu: warning: host doesn't support requested feature: pni" + chr(10))
    sys.stderr.write("KVM internal error. Suberror: 1" + chr(10) + "EAX=00000000" + chr(10))
    sys.stderr.flush()
time.sleep(600)
'''


def install_qemu(folder: Path, kvm: Kvm, name: str = "qemu-system-x86_64") -> Path:
    """Write a QEMU with this kind of KVM into a folder; return the file in which it logs its calls.

    Every call with `-accel kvm` is one line of that file.
    """
    real = shutil.which("qemu-system-x86_64", path=_PATH)
    assert real is not None
    log = folder / "kvm-calls"
    program = folder / name
    program.write_text(_STAND_IN.format(real=real, kvm=kvm, log=str(log)))
    program.chmod(0o755)
    return log
