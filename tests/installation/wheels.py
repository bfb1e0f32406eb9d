"""Tests: every Python package of the service as a wheel, for a machine without the internet.

By hand: python -m tests.installation.wheels fills build/wheels.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

PROJECT = Path(__file__).parents[2]
WHEELS = PROJECT / "build" / "wheels"


def fill_wheels() -> None:
    """Fill WHEELS for machines with the Python that runs this; quick when all is there."""
    pins = PROJECT / "constraints.txt"
    text = pins.read_bytes() + (PROJECT / "pyproject.toml").read_bytes()
    complete = WHEELS / f".complete-{hashlib.sha256(text).hexdigest()[:12]}"
    if not complete.exists():
        subprocess.run(
            [sys.executable, "-m", "pip", "wheel", "--quiet", "-c", pins, "-w", WHEELS, PROJECT,
             "hatchling>=1.27", "editables"],
            check=True,
        )  # fmt: skip
        complete.touch()


if __name__ == "__main__":
    fill_wheels()
