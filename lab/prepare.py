"""Lab: the prepared state, made by the project's own playbooks, and the lab's image catalogue."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import yaml

_REPOSITORY = Path(__file__).resolve().parents[1]
_CATALOGUE = _REPOSITORY / "roles/libvirt_image/defaults/main.yml"
_MICRO_BUILDER = _REPOSITORY / "roles/libvirt_image/files/micro/build.py"
_PACKAGE_CACHE = Path("/var/cache/virtplay/micro")
_PLAYBOOK_SECONDS = 600


class PrepareError(Exception):
    """A playbook did not prepare the hosts; the message ends with what it said last."""


def image_catalogue() -> dict[str, Any]:
    """Return every entry of the role's catalogue standing on `micro`, each with its own `os`.

    So someone without internet or KVM can ask for any template and gets one that boots.
    """
    if not _CATALOGUE.exists():
        return {}
    catalogue = (yaml.safe_load(_CATALOGUE.read_text()) or {}).get("libvirt_image_catalogue")
    if not catalogue:
        raise PrepareError(f"cannot find libvirt_image_catalogue in {_CATALOGUE}")
    return {name: {"micro": True, "os": entry["os"]} for name, entry in catalogue.items()}


def fill_package_cache(log: Path) -> None:
    """Download the packages of the `micro` guest on this machine, unless they are there.

    Lab hosts have no way to the internet; they see this machine's cache. The builder has no mode
    that only downloads, so the guest it builds here is thrown away.
    """
    if (_PACKAGE_CACHE / "packages.json").exists():
        return
    with tempfile.TemporaryDirectory(dir=log.parent) as place:
        output = Path(place) / "micro.qcow2"
        _run(["/usr/bin/python3", str(_MICRO_BUILDER), "--output", str(output)], log, "the builder")


def prepare_hosts(inventory: Path, log: Path) -> None:
    """Make hypervisors of the bare hosts and bring the `micro` template onto each."""
    _play("host_prepare", log, "-i", str(inventory))
    _play("image_prepare", log, "-i", str(inventory), "-e", "libvirt_image_name=micro")


def _play(name: str, log: Path, *arguments: str) -> None:
    # By the running interpreter first: it is the one whose environment holds Ansible.
    beside = Path(sys.executable).with_name("ansible-playbook")
    program = str(beside) if beside.exists() else shutil.which("ansible-playbook")
    if program is None:
        raise PrepareError("cannot prepare the hosts without ansible-playbook: run make setup")
    command = [program, f"playbooks/{name}.yml", *arguments]
    _run(command, log, f"playbook {name}")


def _run(command: list[str], log: Path, what: str) -> None:
    with log.open("ab") as output:
        try:
            done = subprocess.run(
                ["setpriv", "--pdeathsig", "KILL", *command],
                cwd=_REPOSITORY,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                timeout=_PLAYBOOK_SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise PrepareError(
                f"cannot prepare the hosts: {what} took over {_PLAYBOOK_SECONDS} s"
            ) from error
    if done.returncode != 0:
        last = log.read_text(errors="replace")[-4000:]
        raise PrepareError(f"cannot prepare the hosts: {what} failed:\n{last}")
