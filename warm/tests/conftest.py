"""Tests: what all of them share."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from running import Warm, warm

# A shell without job control starts what runs in its background with SIGINT ignored, and so would
# be each program that a test interrupts.
signal.signal(signal.SIGINT, signal.default_int_handler)

for _name in [name for name in os.environ if name.startswith("ANSIBLE_")]:
    del os.environ[_name]


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keep the tests of a file on one worker of pytest-xdist: they share a server."""
    if not config.pluginmanager.hasplugin("xdist"):
        return
    for item in items:
        if item.path.parent == Path(__file__).parent:
            item.add_marker(pytest.mark.xdist_group(item.path.stem))


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Warm]:
    """A place with a server that serves until the end of the file's tests."""
    with warm(tmp_path_factory.mktemp("warm")) as place:
        yield place
