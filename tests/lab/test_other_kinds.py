"""Lab tests: the short forms of the kinds of tests that have a program of their own.

`make integration` and `make molecule` run all targets and all scenarios.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.lab.plays import REPOSITORY
from tests.warm.environment import REAL

pytestmark = [
    pytest.mark.usefixtures("lab_machine"),
    # One after the other, and after those of test_lab: each has a lab of its own.
    pytest.mark.xdist_group("test_lab"),
]


def test_one_integration_target() -> None:
    command = [REAL, "-m", "scripts.collection", "integration", "host_info"]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "host_info" in done.stdout + done.stderr


def test_one_molecule_scenario() -> None:
    done = subprocess.run(
        ["scripts/molecule", "libvirt_observe/default"],
        cwd=REPOSITORY,
        env=os.environ | {"VIRTPLAY_MOLECULE_BIN": str(Path(sys.executable).parent)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "libvirt_observe  default                passed in" in done.stdout
