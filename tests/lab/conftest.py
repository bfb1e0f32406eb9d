"""Lab tests: one host of the lab, one VM of a test, and the playbooks that act on it."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lab import Host, Lab
from tests.acceptance.guests import booted
from tests.lab.modules import run_module
from tests.lab.plays import IMAGES, Play, run_play

Make = Callable[..., None]
"""Makes the test's VM with options of the module `domain`."""


@pytest.fixture
def host(lab: Lab) -> Host:
    return lab.hosts[0]


@pytest.fixture
def identity(host: Host) -> Iterator[str]:
    """A UUID for one test's VM, which is removed afterwards whatever became of it."""
    identity = str(uuid.uuid4())
    yield identity
    host.run("virsh", "destroy", identity, check=False)
    host.run("virsh", "undefine", identity, "--nvram", "--snapshots-metadata", check=False)
    host.run("sh", "-c", f"rm -f {IMAGES}/{identity}-*")
    host.run("virsh", "-q", "pool-refresh", "default")


@pytest.fixture
def play(lab: Lab, host: Host, identity: str, tmp_path: Path) -> Play:
    """Run the playbook of an action on the test's VM."""

    def run(action: str, *options: str, **values: Any) -> dict[str, Any]:
        variables = {"uuid": identity, **values}
        return run_play(lab, host, tmp_path / "variables.json", action, options, variables)

    return run


@pytest.fixture
def make(host: Host, identity: str) -> Make:
    """Make the test's VM, the smallest there is; a running one has booted afterwards."""

    def run(state: str = "running", **options: Any) -> None:
        small = {
            **{"uuid": identity, "name": f"vm-{identity[:8]}", "vcpus": 1, "memory": 128},
            **{"disks": [{"target": "vda", "size": 1, "template": "micro"}], "seed": {}},
            **{"interfaces": [{"source": "default"}]},
        }
        made = run_module(host, "domain", **{**small, **options}, state="present")
        assert not made.get("failed"), made
        if state == "running":
            host.run("virsh", "-q", "start", identity)
            booted(host, identity)

    return run
