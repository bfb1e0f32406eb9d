"""Distributions: the release that is tested, and what a report says of each test."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="session")
def release(pytestconfig: pytest.Config) -> str:
    """The Debian release of the hosts, from --release."""
    name = pytestconfig.getoption("--release")
    if name is None:
        pytest.fail("name a release: make test-distributions, or pytest --release trixie")
    return str(name)
