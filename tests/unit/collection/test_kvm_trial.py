"""Tests of the guest with which the role libvirt_host tries KVM."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.kvm import Kvm, install_qemu

pytestmark = pytest.mark.slow

TRIAL = Path(__file__).resolve().parents[3] / "roles/libvirt_host/files/kvm_trial.py"
NEEDS = ("qemu-system-x86_64", "mformat", "mcopy", "syslinux")


class Trial:
    """The program on a host with a KVM of some kind."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        spec = importlib.util.spec_from_file_location("kvm_trial", TRIAL)
        assert spec is not None
        assert spec.loader is not None
        program: Any = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(program)
        self.folder = folder
        self.monkeypatch = monkeypatch
        self.calls = folder / "kvm-calls"
        program.KVM = folder / "kvm"
        program.HOST_FILE = folder / "host.json"
        program.KVM_PARAMETERS = folder / "module"
        program.QEMU_LOGS = folder / "logs"
        program.WORK = folder
        self.program = program
        monkeypatch.setenv("PATH", str(folder), prepend=":")

    def kvm(self, kind: Kvm) -> None:
        """Give the host KVM of this kind."""
        (self.folder / "kvm").touch()
        install_qemu(self.folder, kind)

    def run(self) -> dict[str, Any]:
        """Run it, and keep the result as the role does."""
        found: dict[str, Any] = self.program.find_out()
        self.program.HOST_FILE.write_text(json.dumps(found))
        return found

    def count(self) -> int:
        """How many guests were started under KVM."""
        return len(self.calls.read_text().splitlines()) if self.calls.exists() else 0


@pytest.fixture
def trial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Trial:
    """The program on a host without KVM."""
    return Trial(tmp_path, monkeypatch)


@pytest.mark.needs(*NEEDS)
def test_kvm_is_believed_when_a_kernel_has_booted_and_tried_once_a_host(trial: Trial) -> None:
    trial.kvm("works")
    # Under emulation on a busy machine the guest is slower than any KVM.
    trial.program.TIME_LIMIT = 300.0
    fast = "quiet nokaslr noreplace-smp no_timer_check mitigations=off"
    trial.program.CONFIG = trial.program.CONFIG.replace("quiet", fast)
    kernel = trial.program.find_kernel()
    if kernel is None:
        pytest.skip("there is no kernel for a guest on this machine")
    trial.program.find_kernel = lambda: kernel
    found = trial.run()
    assert (found["virt_type"], found["reason"]) == ("kvm", "a guest booted under KVM")
    assert set(found["tried_on"]) == {"kernel", "cpu", "kvm", "qemu"}
    log = trial.folder / "logs/web-1.log"
    log.parent.mkdir()
    log.write_text("KVM internal error\n2026-11-29: starting up libvirt version: 9.0.0\n")
    assert trial.run() == found
    assert trial.count() == 1
    # From here on, each new trial finds a KVM that has broken.
    trial.kvm("absent")
    log.write_text(f"{log.read_text()}KVM internal error. Suberror: 1\n")
    os.utime(log, (time.time() + 9, time.time() + 9))
    assert trial.program.find_out()["virt_type"] == "qemu"
    log.unlink()
    (trial.folder / "module/kvm/parameters").mkdir(parents=True)
    (trial.folder / "module/kvm/parameters/nested").write_text("1\n")
    trial.program.HOST_FILE.write_text(json.dumps(found))
    assert trial.program.find_out()["virt_type"] == "qemu"
    assert trial.count() == 3


@pytest.mark.needs(*NEEDS)
@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("half", "/dev/kvm exists but runs no guest: KVM internal error. Suberror: 1"
                 " (in its firmware or boot loader)"),
        ("absent", "/dev/kvm exists but runs no guest: qemu-system-x86_64: failed to initialize"
                   " kvm: Operation not permitted"),
        ("silent", "/dev/kvm exists but a guest did not boot in 1 seconds, it hung in its firmware"
                   " or boot loader"),
    ],
)  # fmt: skip
def test_kvm_that_boots_no_kernel_is_not_believed(
    trial: Trial, kind: Kvm, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    trial.kvm(kind)
    trial.program.TIME_LIMIT = 1.0 if kind == "silent" else 300.0
    monkeypatch.setattr(trial.program, "find_kernel", lambda: b"no kernel is reached")
    found = trial.run()
    assert (found["virt_type"], found["reason"]) == ("qemu", reason)
    assert trial.run() == found
    assert trial.count() == 2  # a failure may have been mended meanwhile
    assert not list(trial.folder.glob("virtplay-trial-*"))


def test_without_a_device_or_a_kernel_nothing_is_tried(
    trial: Trial, monkeypatch: pytest.MonkeyPatch
) -> None:
    for tool in NEEDS:
        (trial.folder / tool).write_text("#!/bin/sh\n")
        (trial.folder / tool).chmod(0o755)
    assert trial.run() == {"virt_type": "qemu", "reason": "/dev/kvm does not exist"}
    (trial.folder / "kvm").touch()
    monkeypatch.setattr(trial.program, "find_kernel", lambda: None)
    found = trial.run()
    assert found["virt_type"] == "qemu"
    assert found["reason"].startswith("/dev/kvm exists but was not tried: this host has no kernel")


def test_trial_answers_with_a_type_and_a_reason_on_any_host() -> None:
    done = subprocess.run([sys.executable, TRIAL], capture_output=True, check=True, timeout=300)
    answer = json.loads(done.stdout)
    assert answer["virt_type"] in ("kvm", "qemu")
    assert answer["reason"]
