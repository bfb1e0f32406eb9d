"""A fresh clone as AWX and Semaphore have it: run in its root, with nothing but ansible-core."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from lab import Lab

PROJECT = Path(__file__).parents[2]
PLAYBOOKS = sorted(path.name for path in (PROJECT / "playbooks").glob("*.yml"))
WANTS_COLLECTIONS = ("host_prepare.yml",)
"""What needs collections/requirements.yml, which Galaxy brings, or the Python package ansible."""
VM = {
    "libvirt_domain_name": "cloned",
    "libvirt_domain_template": "micro",
    "libvirt_domain_vcpus": 1,
    "libvirt_domain_memory": 128,
    "libvirt_domain_disk": 1,
}

pytestmark = pytest.mark.timeout(600)


@dataclass(frozen=True)
class Clone:
    """A clone, and the directory of the Ansible that is to run it."""

    root: Path
    programs: Path

    def run(self, *arguments: str, programs: Path | None = None) -> str:
        """Run ansible-playbook in the clone's root with an empty environment; what it printed."""
        done = subprocess.run(
            [(programs or self.programs) / "ansible-playbook", *arguments],
            cwd=self.root,
            env={"PATH": os.defpath, "HOME": str(self.root.parent), "LANG": "C.UTF-8"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{done.stdout[-4000:]}\n{done.stderr[-2000:]}"
        return done.stdout


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Clone:
    """What is committed, and ansible-core of the version that the constraints pin."""
    home = tmp_path_factory.mktemp("home")
    subprocess.run(["git", "clone", "-q", PROJECT, home / "clone"], check=True)
    subprocess.run([sys.executable, "-m", "venv", home / "venv"], check=True)
    subprocess.run(
        [home / "venv/bin/pip", "install", "-q", "-c", PROJECT / "constraints.txt", "ansible-core"],
        check=True,
    )
    return Clone(home / "clone", home / "venv/bin")


@pytest.mark.parametrize("playbook", PLAYBOOKS)
def test_every_playbook_is_found_with_all_that_it_uses(clone: Clone, playbook: str) -> None:
    ours = Path(sys.executable).parent if playbook in WANTS_COLLECTIONS else None
    clone.run(f"playbooks/{playbook}", "--syntax-check", programs=ours)


def test_vm_is_made_and_started(clone: Clone, lab: Lab) -> None:
    host = lab.hosts[0]
    given = ("-i", str(lab.inventory), "--limit", host.name)
    name = ("-e", "libvirt_domain_name=cloned")
    clone.run("playbooks/vm_create.yml", *given, "-e", json.dumps(VM))
    try:
        clone.run("playbooks/vm_start.yml", *given, *name)
        assert host.run("virsh", "domstate", "cloned").stdout.strip() == "running"
        assert "changed=0" in clone.run("playbooks/vm_start.yml", *given, *name)
    finally:
        force = ("-e", json.dumps({"libvirt_domain_force": True}))
        clone.run("playbooks/vm_delete.yml", *given, *name, *force)
    assert "cloned" not in host.run("virsh", "list", "--all", "--name").stdout
