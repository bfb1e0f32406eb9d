"""The table of docs/distributions.md is what the target writes of what ran."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.distributions.table import MODULES, PAGE, ROOT, TITLES, cell, results, table, with_table

VERSIONS = {"libvirt", "QEMU", "Python", "ansible-core", "kernel of micro"}
TESTS = """
def test_passes(row, version):
    version("libvirt", "9.0 ")
    with row("start"):
        pass
    with row("stop"):
        pass

def test_fails(row):
    with row("pause"):
        pass
    with row("resume"):
        assert 0

def test_fails_before(row):
    assert 0
"""


def test_page_has_the_table_of_what_is_kept() -> None:
    page = PAGE.read_text()
    assert page == with_table(page)


def test_what_is_kept_has_versions_and_outcomes_of_each_release() -> None:
    kept = results()
    assert list(kept) == list(TITLES)
    for result in kept.values():
        assert set(result) == {"measured", "versions", "rows"}
        assert result["versions"].keys() >= VERSIONS
        assert {outcome for row in result["rows"].values() for outcome in row} == {"passed"}
    assert all((ROOT / file).exists() for file in MODULES)


@pytest.mark.parametrize(
    ("outcomes", "text"),
    [
        (None, "–"),
        ({"passed": 1}, "works"),
        ({"passed": 24}, "works, 24 tests"),
        ({"passed": 23, "failed": 1}, "**1 of 24 failed**"),
        ({"skipped": 1}, "not there"),
    ],
)
def test_cell_says_what_became_of_a_row(outcomes: dict[str, int] | None, text: str) -> None:
    assert cell(outcomes) == text


def test_table_has_a_column_a_release_and_a_row_for_whatever_ran_on_any() -> None:
    new = {"measured": "2026-03-01", "versions": {"libvirt": "11.3"}, "rows": {"a": {"passed": 1}}}
    old = {"measured": "2026-02-01", "versions": {"libvirt": "9.0"}, "rows": {"b": {"failed": 1}}}
    assert table({"bookworm": old, "trixie": new}).splitlines()[2:] == [
        "| libvirt | 9.0 | 11.3 |",
        "| b | **1 of 1 failed** | – |",
        "| a | – | works |",
        "| run on | 2026-02-01 | 2026-03-01 |",
    ]


def test_report_has_the_rows_that_tests_name(tmp_path: Path) -> None:
    """A test that names none, or fails before, is a row of its own."""
    project = tmp_path / "tests/distributions"
    project.mkdir(parents=True)
    (project / "test_rows.py").write_text(TESTS)
    (tmp_path / "tests/other").mkdir()
    (tmp_path / "tests/other/test_module.py").write_text(
        "def test_one(): pass\ndef test_two(): pass\n"
    )
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-q", "-p", "tests.distributions.report"),
            *("--rootdir", str(tmp_path), "-c", "/dev/null"),
            *("--distribution-report", str(tmp_path / "report.json"), str(tmp_path / "tests")),
        ],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1, done.stdout + done.stderr
    written = json.loads((tmp_path / "report.json").read_text())
    assert written["versions"] == {"libvirt": "9.0"}
    assert written["rows"] == {
        "start": {"passed": 1},
        "stop": {"passed": 1},
        "pause": {"passed": 1},
        "resume": {"failed": 1},
        "`tests/distributions/test_rows.py`": {"failed": 1},
        "`tests/other/test_module.py`": {"passed": 2},
    }
