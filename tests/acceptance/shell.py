"""Acceptance tests: runs command lines of the documentation in a shell of the project directory."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]


def run_line(line: str) -> subprocess.CompletedProcess[str]:
    """Run a line in a shell of the project directory, with the environment's programs."""
    done = subprocess.run(
        ["bash", "-c", line],
        cwd=REPOSITORY,
        env={"PATH": f"{Path(sys.executable).parent}:/usr/sbin:/usr/bin:/sbin:/bin",
             "HOME": "/root", "LANG": "C.UTF-8"},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done
