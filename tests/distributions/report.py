"""Distributions: a plugin of pytest that writes down what ran, for the table of the documentation.

A test of this directory names the rows of the table itself (fixture `row`). Tests of other
directories are one row a file.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest

Row = Callable[[str], AbstractContextManager[None]]
"""Opens a row of the table: it has passed when the block ends without an error."""


class Report:
    """What ran in this session: versions by name, rows with their number of passes and failures."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.versions: dict[str, str] = {}
        self.rows: dict[str, dict[str, int]] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Count a test, or the rows and versions that it has noted."""
        notes = [value for key, value in report.user_properties if key == "row"]
        if report.when == "call":
            self.versions |= {
                name: value for key, value in report.user_properties if key == "version"
                for name, value in [str(value).split("=", 1)]
            }  # fmt: skip
            for note in notes:
                outcome, _, words = str(note).partition(" ")
                self._count(words, outcome)
        file = report.nodeid.partition("::")[0]
        unnamed = not file.startswith("tests/distributions/") or (report.failed and not notes)
        if unnamed if report.when == "call" else report.failed:
            self._count(f"`{file}`", report.outcome)
        self._write()  # also of a session that does not come to its end

    def _count(self, words: str, outcome: str) -> None:
        row = self.rows.setdefault(words, {})
        row[outcome] = row.get(outcome, 0) + 1

    def _write(self) -> None:
        written = {"versions": self.versions, "rows": self.rows}
        self.path.write_text(json.dumps(written, indent=1) + "\n")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add --distribution-report."""
    parser.addoption(
        "--distribution-report",
        type=Path,
        help="file to write what ran to; tests of the shared lab then run on the prepared host",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Report in the process that hears of all tests."""
    path = config.getoption("--distribution-report")
    if path and not hasattr(config, "workerinput"):
        config.pluginmanager.register(Report(path.resolve()))


@pytest.fixture
def row(request: pytest.FixtureRequest) -> Row:
    """Note that what the block does is a row of the table, and whether it passed."""
    notes: list[tuple[str, Any]] = request.node.user_properties

    @contextmanager
    def note(words: str) -> Iterator[None]:
        try:
            yield
        except BaseException as error:
            skipped = isinstance(error, pytest.skip.Exception)
            notes.append(("row", f"{'skipped' if skipped else 'failed'} {words}"))
            raise
        notes.append(("row", f"passed {words}"))

    return note


@pytest.fixture
def version(request: pytest.FixtureRequest) -> Callable[[str, str], None]:
    """Note the version of something that ran."""

    def note(name: str, value: str) -> None:
        request.node.user_properties.append(("version", f"{name}={value.strip()}"))

    return note
