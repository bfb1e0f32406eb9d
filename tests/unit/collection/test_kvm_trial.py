"""Tests of the guest with which the role libvirt_host tries KVM."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

TRIAL = Path(__file__).resolve().parents[3] / "roles/libvirt_host/files/kvm_trial.py"


@pytest.mark.needs("qemu-system-x86_64")
def test_trial_guest_reaches_64_bit_mode_and_says_its_word(tmp_path: Path) -> None:
    spec = importlib.util.spec_from_file_location("kvm_trial", TRIAL)
    assert spec is not None
    assert spec.loader is not None
    trial = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(trial)
    disk = tmp_path / "disk"
    disk.write_bytes(trial.boot_sector().ljust(1 << 20, b"\0"))
    machine = ["-accel", "tcg", "-cpu", "max", "-machine", "q35", "-m", "64", "-nodefaults"]
    done = subprocess.run(
        [
            *("qemu-system-x86_64", *machine, "-display", "none", "-no-reboot"),
            *("-serial", "stdio", "-drive", f"file={disk},format=raw,if=virtio"),
        ],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
        timeout=300,
    )
    assert trial.WORD in done.stdout


def test_trial_answers_with_a_type_and_a_reason_on_any_host() -> None:
    done = subprocess.run([sys.executable, TRIAL], capture_output=True, check=True, timeout=300)
    answer = json.loads(done.stdout)
    assert answer["virt_type"] in ("kvm", "qemu")
    assert answer["reason"]
