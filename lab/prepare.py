"""Lab: prepares hosts with the project's own playbooks, and provides the lab's image catalogue."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import yaml

from lab.releases import PROJECT, Root

_CATALOGUE = PROJECT / "roles/libvirt_image/defaults/main.yml"
_MICRO_BUILDER = PROJECT / "roles/libvirt_image/files/micro/build.py"
_IN_ROOT = Path(__file__).resolve().with_name("in-root.sh")
_PLAYBOOK_SECONDS = 600


class PrepareError(Exception):
    """A playbook could not prepare the hosts; the message ends with its last output."""


def image_catalogue() -> dict[str, Any]:
    """Return every entry of the role's catalogue, with the `micro` image and its own `os`.

    So without internet or KVM, every template of the catalogue boots.
    """
    if not _CATALOGUE.exists():
        return {}
    catalogue = (yaml.safe_load(_CATALOGUE.read_text()) or {}).get("libvirt_image_catalogue")
    if not catalogue:
        raise PrepareError(f"cannot find libvirt_image_catalogue in {_CATALOGUE}")
    return {name: {"micro": True, "os": entry["os"]} for name, entry in catalogue.items()}


def fill_package_cache(log: Path, root: Root | None = None) -> None:
    """Download the packages of the `micro` image to this machine's cache, unless it has them.

    With a root, to the cache of the hosts with that file system, by its own apt. Lab hosts have no
    route to the internet; they share the cache.
    """
    command = ["/usr/bin/python3", str(_MICRO_BUILDER), "--fill"]
    if root:
        with tempfile.TemporaryDirectory(dir=log.parent) as place:
            words = [str(root.path), place, str(root.cache), str(PROJECT)]
            enter = [*("unshare", "--mount", "--pid", "--fork", "--kill-child=KILL"), str(_IN_ROOT)]
            _run([*enter, *words, *command], log, "the builder")
    else:
        _run(command, log, "the builder")


def prepare_hosts(inventory: Path, log: Path) -> None:
    """Turn the bare hosts into hypervisors and prepare the `micro` template on each."""
    _play("host_prepare", log, "-i", str(inventory))
    _play("image_prepare", log, "-i", str(inventory), "-e", "libvirt_image_name=micro")


def _play(name: str, log: Path, *arguments: str) -> None:
    # First beside the running interpreter: its environment contains Ansible.
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
                cwd=PROJECT,
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
