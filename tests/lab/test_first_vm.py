"""Lab tests: the VM with which `virtplay up` makes sure that VMs boot on a host."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

from lab import Host, Lab
from tests.lab.plays import IMAGES, REPOSITORY

NAME = "virtplay-first-vm"


def start(lab: Lab, log: Path, *options: str) -> subprocess.Popen[str]:
    """Start the program on the first host."""
    return subprocess.Popen(
        [
            *(sys.executable, "-m", "virtplay.machine.first_vm", "--inventory", str(lab.inventory)),
            *("--limit", lab.hosts[0].name, "--log", str(log), *options),
        ],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def state(host: Host) -> tuple[set[str], set[str]]:
    """The domains and the images of the host."""
    domains = host.run("virsh", "-q", "list", "--all", "--name").stdout.split()
    return set(domains), set(host.run("ls", IMAGES).stdout.split())


def test_a_vm_boots_and_nothing_is_left_of_it(lab: Lab, host: Host, tmp_path: Path) -> None:
    before = state(host)
    program = start(lab, tmp_path / "log")
    said, errors = program.communicate()
    assert program.returncode == 0, said + errors
    assert "a VM has booted and is deleted again" in said
    assert state(host) == before
    assert NAME not in host.run("ls", "/var/log/libvirt/qemu").stdout


def test_after_ctrl_c_nothing_is_left(lab: Lab, host: Host, tmp_path: Path) -> None:
    before = state(host)
    program = start(lab, tmp_path / "log")
    while NAME not in state(host)[0] and program.poll() is None:
        time.sleep(0.1)
    program.send_signal(signal.SIGINT)
    program.send_signal(signal.SIGINT)
    said, errors = program.communicate()
    assert program.returncode == 128 + signal.SIGINT, said + errors
    assert state(host) == before


def test_a_vm_that_does_not_boot_is_said_with_the_reason(
    lab: Lab, host: Host, tmp_path: Path
) -> None:
    before = state(host)
    program = start(lab, tmp_path / "log", "-e", "libvirt_domain_template=absent")
    said, errors = program.communicate()
    assert program.returncode == 1, said + errors
    assert "cannot boot a VM on this machine: cannot find template 'absent' on the host" in errors
    assert "Traceback" not in errors
    assert state(host) == before
