"""Distributions: runs the tests on hosts of each release, side by side, and writes what ran.

python -m tests.distributions [RELEASE …]: all tests, then results.json and docs/distributions.md.
With --short: roles, life cycle and snapshots, on releases whose file system of today is in the
cache; nothing is fetched and nothing is written.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from lab.releases import RELEASES, ReleaseError, find_root, lab_recipe, use_root
from tests.distributions.hosts import OLD
from tests.distributions.table import MODULES, REPEATED, ROOT, Result, cell, keep, label

HERE = "tests/distributions"
SHORT = [f"{HERE}/test_roles.py", f"{HERE}/test_snapshots.py"]
BUILD = ROOT / "build/distributions"
SECONDS = 3600
WORKERS = 2
"""Per release: one worker has the prepared host, the other starts the labs beside it."""


def main() -> int:
    """Run what the command line asks for; the exit status is 1 if anything failed."""
    parser = argparse.ArgumentParser(prog="python -m tests.distributions", description=__doc__)
    parser.add_argument("releases", nargs="*", metavar="RELEASE", help=f"default: {RELEASES}")
    parser.add_argument("--short", action="store_true", help="a part of it, without the network")
    parser.add_argument(
        "--jobs", type=int, default=max(2, (os.cpu_count() or 2) // 2), help="releases at a time"
    )
    given = parser.parse_args()
    chosen = given.releases or [name for name in RELEASES if not given.short or name != OLD]
    if strange := set(chosen) - set(RELEASES):
        parser.error(f"{', '.join(strange)}: none of {', '.join(RELEASES)}")
    if given.short:
        chosen = [name for name in chosen if is_cached(name)]
    # The newest first: it takes longest.
    tests = {name: tests_of(name, short=given.short) for name in reversed(chosen)}
    BUILD.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    try:
        with ExitStack() as stack:
            for name in dict.fromkeys([*chosen, *([] if given.short else [OLD])]):
                stack.enter_context(use_root(lab_recipe(name)))  # once, before all want it at once
            with ThreadPoolExecutor(given.jobs) as pool:
                ended = list(pool.map(run_release, tests, tests.values()))
    except ReleaseError as error:
        print(error, file=sys.stderr)
        return 1
    found = {name: read_report(name) for name in chosen}
    for name, result in found.items():
        for row, outcomes in result["rows"].items():
            print(f"{name:9} {label(row)}: {cell(outcomes).strip('*')}")
    print(f"{', '.join(chosen) or 'nothing'} ran in {time.monotonic() - began:.0f} s")
    if not given.short:
        keep(found)
    return 0 if all(ended) else 1


def is_cached(release: str) -> bool:
    """Whether its file system of today is there; says so if not."""
    root = find_root(lab_recipe(release))
    there = root is not None and root.from_today and (root.cache / "micro/packages.json").exists()
    if not there:
        print(
            f"{release} is not run: its file system of today is not there; make test-distributions"
        )
    return there


def tests_of(release: str, *, short: bool) -> list[str]:
    """The tests that run on a release."""
    if short:
        return SHORT
    return [HERE] if release == OLD else [HERE, *MODULES]


def report_of(release: str) -> Path:
    """The file with the report of a release."""
    return BUILD / f"{release}.json"


def run_release(release: str, tests: Sequence[str]) -> bool:
    """Run tests on a release in a pytest of their own; return whether all passed."""
    report_of(release).unlink(missing_ok=True)
    log = BUILD / f"{release}.log"
    began = time.monotonic()
    with log.open("wb") as output:
        done = subprocess.run(
            [
                *(sys.executable, "-m", "pytest", "-v", "--tb=short", "--durations=20"),
                *("-n", str(WORKERS), "--dist", "loadgroup", "--release", release),
                *("--distribution-report", str(report_of(release))),
                *(word for test in REPEATED for word in ("--deselect", test)),
                *tests,
            ],
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            timeout=SECONDS,
            check=False,
        )
    passed = done.returncode == 0
    took = time.monotonic() - began
    print(
        f"{release}: {'passed' if passed else f'FAILED, see {log}'} in {took:.0f} s",
        flush=True,
    )
    return passed


def read_report(release: str) -> Result:
    """What ran on a release."""
    report: dict[str, Any] = {"versions": {}, "rows": {}}
    if report_of(release).exists():
        report |= json.loads(report_of(release).read_text())
    return {"measured": f"{datetime.now(UTC):%Y-%m-%d}", **report}


if __name__ == "__main__":
    sys.exit(main())
