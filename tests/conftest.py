"""Tests: what all of them share."""

import os
import shutil
import signal
import sys

import pytest

pytest_plugins = [
    "tests.distributions.hosts",
    "tests.lab.fixtures",
    "tests.warm.environment",
    "tests.distributions.report",
]

# Otherwise each of thousands of processes compiles the project again.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

# What the person who runs the tests has set is for another service and other playbooks.
for _name in [name for name in os.environ if name.startswith(("VIRTPLAY_", "ANSIBLE_"))]:
    del os.environ[_name]

# A shell without job control starts what runs in its background with SIGINT ignored, and so would
# be each program that a test interrupts.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Fail a test whose programs are not installed: what is skipped is not seen."""
    wanted = [name for marker in item.iter_markers("needs") for name in marker.args]
    if missing := [name for name in wanted if shutil.which(name) is None]:
        pytest.fail(f"the test needs {', '.join(missing)}: run make setup-lab", pytrace=False)
