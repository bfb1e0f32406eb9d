"""The definition of the execution environment makes a build context that has what it names."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

PROJECT = Path(__file__).parents[2]


def test_build_context_holds_what_the_playbooks_need(tmp_path: Path) -> None:
    builder = Path(sys.executable).with_name("ansible-builder")
    done = subprocess.run(
        [builder, "create", "--context", tmp_path, "--output-filename", "Containerfile"],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    containerfile = (tmp_path / "Containerfile").read_text()
    assert "ansible-core>=2.19" in containerfile
    assert "ansible-runner" in containerfile
    assert "ansible-galaxy collection install" in containerfile
    wanted = (PROJECT / "collections/requirements.yml").read_text()
    assert (tmp_path / "_build/requirements.yml").read_text() == wanted
    assert "openssh-clients" in (tmp_path / "_build/bindep.txt").read_text()
