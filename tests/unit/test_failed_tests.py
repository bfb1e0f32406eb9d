"""Tests that failed in parallel are found again by their names, whatever their group."""

import subprocess
import sys
from pathlib import Path

from scripts.failed_tests import failed_tests

TESTS = """
import pytest

@pytest.mark.xdist_group("another")
def test_in_a_group(): assert 0

@pytest.mark.xdist_group("test_names")
@pytest.mark.parametrize("value", ["a b", "c@d", "[e]@f"])
def test_with_values(value): assert 0

@pytest.mark.parametrize("value", ["c@d"])
def test_in_none(value): assert 0

def test_passes(): pass
"""


def run(folder: Path, *arguments: str) -> str:
    """Run pytest on tests of which some fail; its output."""
    command = [sys.executable, "-m", "pytest", "-q", "-o", "cache_dir=cache", *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stdout + done.stderr
    return done.stdout


def test_failed_tests_can_be_run_again(tmp_path: Path) -> None:
    (tmp_path / "test_names.py").write_text(TESTS)
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    assert "5 failed, 1 passed" in run(tmp_path, "-n", "2", "--dist", "loadgroup")
    assert "5 failed in" in run(tmp_path, *failed_tests(tmp_path / "cache"))
