"""Lab: the pytest fixtures, as a plugin, so that a session has one lab for all directories."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from lab import Lab
from lab.prepare import fill_package_cache, prepare_hosts
from lab.releases import ENVIRONMENT, RELEASES, lab_recipe, use_root
from lab.supervisor import missing_programs
from tests.warm.hosts import warm_hosts

if TYPE_CHECKING:
    from tests.distributions.hosts import Prepared


def pytest_addoption(parser: pytest.Parser) -> None:
    """Let all labs have hosts of a Debian release: `pytest tests/lab --release trixie`."""
    parser.addoption(
        "--release", choices=RELEASES, help="Debian release of lab hosts (default: this machine's)"
    )


def pytest_configure(config: pytest.Config) -> None:
    """Name the release to every lab that this process starts."""
    if release := config.getoption("--release"):
        os.environ[ENVIRONMENT] = release


@pytest.fixture(scope="session")
def lab_machine() -> None:
    """Fail with a remedy if this machine cannot run a lab."""
    if os.geteuid() != 0:
        pytest.fail("the lab needs network namespaces: run sudo make test", pytrace=False)
    if missing := missing_programs():
        pytest.fail(f"the lab needs {', '.join(missing)}: run make setup-lab", pytrace=False)


@pytest.fixture(scope="session")
def lab(
    lab_machine: None, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[Lab]:
    """Prepared hypervisors with the `micro` template, the same two for the whole session.

    A test that disconnects, kills or fills something repairs it, or starts a `Lab` of its own. A
    run of the distributions' tests has one host, the one that those prepare.
    """
    if request.config.getoption("--distribution-report"):
        prepared: Prepared = request.getfixturevalue("prepared")
        yield prepared.hypervisor.lab
        return
    log = tmp_path_factory.mktemp("lab") / "prepare.log"
    release = request.config.getoption("--release")
    # Before the start: the hosts mount the cache then.
    with use_root(lab_recipe(release)) if release else contextlib.nullcontext() as root:
        fill_package_cache(log, root)
    with (
        Lab(prepare=False) as running,
        warm_hosts(running),
    ):
        prepare_hosts(running.inventory, log)
        yield running


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark the tests that use a lab, and run those of one file on one pytest-xdist worker.

    A worker has one lab for all its tests.
    """
    shared = "prepared" if config.getoption("--distribution-report") else None
    for item in items:
        names: list[str] = getattr(item, "fixturenames", [])
        if "lab_machine" in names:
            item.add_marker(pytest.mark.lab)
        if "lab" in names:
            item.add_marker(pytest.mark.xdist_group(shared or item.path.stem))
