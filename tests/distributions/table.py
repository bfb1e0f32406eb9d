"""Distributions: what ran on which release, as it is kept, and as docs/distributions.md has it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks.tables import markdown

ROOT = Path(__file__).resolve().parents[2]
RESULTS = Path(__file__).with_name("results.json")
PAGE = ROOT / "docs/distributions.md"
BEGIN = "<!-- `make test-distributions` writes this table -->\n"
END = "<!-- end of table -->\n"
TITLES = {"bookworm": "Debian 12 (bookworm)", "trixie": "Debian 13 (trixie)", "forky": "forky"}
MODULES = {
    "tests/lab/test_domain_module.py": "module `domain`",
    "tests/lab/test_snapshot_module.py": "module `snapshot`",
    "tests/lab/test_host_info.py": "module `host_info`, with a stuck QEMU and dead storage",
    "tests/lab/test_console_module.py": "console: VNC and serial, module `console`",
}
"""Tests of modules that run on each release but Debian 12, where `make test` runs them."""
REPEATED = (
    "tests/lab/test_domain_module.py::test_life_of_a_vm",
    "tests/lab/test_snapshot_module.py::test_running_guest_gets_its_disk_and_memory_back",
    "tests/lab/test_snapshot_module.py::test_stopped_guest_gets_its_disk_back",
)
"""Of those, what the tests of this directory do as well, by the roles; they are left out."""

Result = dict[str, Any]
"""`measured` (date), `versions` by name, and `rows`: words → outcome → number of tests."""


def results() -> dict[str, Result]:
    """What is kept, by release."""
    return dict(json.loads(RESULTS.read_text())) if RESULTS.exists() else {}


def keep(found: dict[str, Result]) -> None:
    """Put what ran in the place of what those releases had, and write the page's table."""
    kept = results() | found
    ordered = {name: kept[name] for name in TITLES if name in kept}
    RESULTS.write_text(json.dumps(ordered, indent=1) + "\n")
    PAGE.write_text(with_table(PAGE.read_text()))


def with_table(page: str) -> str:
    """The page's text with the present table between the marks."""
    before, rest = page.split(BEGIN, 1)
    return f"{before}{BEGIN}\n{table(results())}\n{END}{rest.split(END, 1)[1]}"


def table(found: dict[str, Result]) -> str:
    """The Markdown table: versions, then what ran, a column a release."""
    rows = [["", *(TITLES[name] for name in found)]]
    versions = list(dict.fromkeys(key for result in found.values() for key in result["versions"]))
    for key in versions:
        rows.append([key, *(result["versions"].get(key, "–") for result in found.values())])
    words = list(dict.fromkeys(key for result in found.values() for key in result["rows"]))
    for key in words:
        rows.append([label(key), *(cell(result["rows"].get(key)) for result in found.values())])
    rows.append(["run on", *(result["measured"] for result in found.values())])
    return markdown(rows)


def label(row: str) -> str:
    """What the table calls a row."""
    file = row.strip("`")
    return f"{MODULES[file]} (`{file}`)" if file in MODULES else row


def cell(outcomes: dict[str, int] | None) -> str:
    """What the table says of a row's outcomes."""
    match outcomes:
        case None:
            return "–"
        case {"failed": failed}:
            return f"**{failed} of {sum(outcomes.values())} failed**"
        case {"passed": 1}:
            return "works"
        case {"passed": passed}:
            return f"works, {passed} tests"
        case _:
            return "not there"
