"""Lab: the pytest fixtures; a plugin, so that one session has one lab wherever it is asked for."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab import Lab
from lab.supervisor import missing_programs


@pytest.fixture(scope="session")
def lab_machine() -> None:
    """Skip where no lab can be; fail where one could be if its packages were installed."""
    if os.geteuid() != 0:
        pytest.skip("the lab needs root, for network namespaces")
    if missing := missing_programs():
        if Path("/etc/debian_version").exists():
            pytest.fail(f"the lab lacks {', '.join(missing)}: run make setup-lab", pytrace=False)
        pytest.skip(f"the lab lacks {', '.join(missing)}")


@pytest.fixture(scope="session")
def lab(lab_machine: None) -> Iterator[Lab]:
    """Two prepared hypervisors with the `micro` template, the same ones for the whole session.

    A test that cuts, kills or fills something mends it, or starts a `Lab` of its own.
    """
    with Lab(hosts=2) as running:
        yield running


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests that use a lab and keep those of one file on one pytest-xdist worker.

    A worker has one lab for all its tests. They, and those with a lab of their own or a whole
    service process, wait for guests and processes whose speed no machine promises: each gets a
    second try, which the summary names.
    """
    for item in items:
        names: list[str] = getattr(item, "fixturenames", [])
        if "lab_machine" in names:
            item.add_marker(pytest.mark.lab)
        if "lab" in names:
            item.add_marker(pytest.mark.xdist_group(item.path.stem))
        if "lab_machine" in names or item.get_closest_marker("slow"):
            item.add_marker(pytest.mark.flaky(reruns=1))
