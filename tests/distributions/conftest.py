"""Distributions: a host of the release that is tested, and one of Debian 12 beside it."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab import Lab
from lab.prepare import prepare_hosts
from lab.releases import ENVIRONMENT, RELEASES
from tests.distributions.hosts import OLD, Hypervisor, Prepared, remove_vm, start_lab


@pytest.fixture
def hypervisor(prepared: Prepared) -> Hypervisor:
    """The prepared host."""
    return prepared.hypervisor


@pytest.fixture(scope="session")
def mixed(
    lab_machine: None, release: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Lab]:
    """A lab of prepared hosts: of Debian 12, of the release, and of what is between them."""
    if release == OLD:
        pytest.skip("there is nothing older")
    log = tmp_path_factory.mktemp("mixed") / "prepare.log"
    between = RELEASES[RELEASES.index(OLD) + 1 : RELEASES.index(release)]
    with start_lab([OLD, release, *between], log, libvirt=True) as running:
        prepare_hosts(running.inventory, log)
        yield running


@pytest.fixture
def vm(hypervisor: Hypervisor) -> Iterator[str]:
    """The UUID of a test's VM, which is removed afterwards."""
    identity = str(uuid.uuid4())
    yield identity
    remove_vm(hypervisor.host, identity)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the tests that share a lab on one worker of pytest-xdist, others beside them."""
    for item in items:
        names: list[str] = getattr(item, "fixturenames", [])
        shared = next((name for name in ("prepared", "mixed") if name in names), item.path.stem)
        if item.path.parent == Path(__file__).parent:
            item.add_marker(pytest.mark.xdist_group(shared))


@pytest.fixture(autouse=True)
def plain_labs(monkeypatch: pytest.MonkeyPatch) -> None:
    """A lab that names no release has this machine's: here each test names its own."""
    monkeypatch.delenv(ENVIRONMENT, raising=False)
    assert ENVIRONMENT not in os.environ
