"""Distributions: a plugin of pytest with a host of the release, prepared as an operator does it.

It is a plugin so that tests of other directories share that host.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from lab import Host, Lab
from lab.prepare import fill_package_cache
from lab.releases import lab_recipe, use_root
from tests.acceptance.guests import POOL
from tests.distributions import plays
from tests.distributions.plays import Run
from tests.warm.hosts import warm_hosts

OLD = "bookworm"
# A lab host has no control groups and shares its kernel, so QEMU cannot be confined there.
QEMU_CONF = {"namespaces": "[]", "security_driver": '"none"'}
SMALL: dict[str, Any] = {"template": "micro", "vcpus": 1, "memory": 128, "disk": 1}


@dataclass
class Hypervisor:
    """A lab host, and the playbooks on it."""

    lab: Lab
    host: Host

    def play(self, action: str, *options: str, **values: Any) -> Run:
        """Run a playbook that must succeed."""
        return plays.play(self.lab.inventory, self.host.name, action, *options, **values)

    def refusal(self, action: str, *options: str, **values: Any) -> str:
        """Run a playbook that must fail; return the message."""
        return plays.refusal(self.lab.inventory, self.host.name, action, *options, **values)

    def domain(self, action: str, *options: str, **values: Any) -> Run:
        """Run an action of the role libvirt_domain; values are its variables less the prefix."""
        return self.play(f"vm_{action}", *options, **prefixed("libvirt_domain", values))

    def snapshot(self, action: str, *options: str, **values: Any) -> Run:
        """Run an action of the role libvirt_snapshot, likewise."""
        return self.play(f"snapshot_{action}", *options, **prefixed("libvirt_snapshot", values))


def prefixed(role: str, values: dict[str, Any]) -> dict[str, Any]:
    """The variables of a role."""
    return {f"{role}_{key}": value for key, value in values.items()}


def remove_vm(host: Host, identity: str) -> None:
    """Remove a VM with its files, whatever became of it."""
    host.run("virsh", "destroy", identity, check=False)
    options = ("--nvram", "--managed-save", "--snapshots-metadata")
    host.run("virsh", "undefine", identity, *options, check=False)
    host.run("sh", "-c", f"rm -f {POOL}/{identity}-*")
    host.run("virsh", "-q", "pool-refresh", "default")


@dataclass
class Prepared:
    """A hypervisor, and the runs that have prepared it."""

    hypervisor: Hypervisor
    host_prepare: list[Run]
    image_prepare: list[Run]


@pytest.fixture(scope="session")
def release(pytestconfig: pytest.Config) -> str:
    """The Debian release of the hosts, from --release."""
    name = pytestconfig.getoption("--release")
    if name is None:
        pytest.fail("name a release: make test-distributions, or pytest --release trixie")
    return str(name)


@contextmanager
def start_lab(releases: list[str], log: Path, *, libvirt: bool) -> Iterator[Lab]:
    """Start a lab with a host of each release that has what builds `micro`, and warm Python."""
    with ExitStack() as stack:
        for name in releases:
            fill_package_cache(log, stack.enter_context(use_root(lab_recipe(name))))
        count = len(releases)
        running = stack.enter_context(
            Lab(hosts=count, prepare=False, releases=releases, libvirt=libvirt)
        )
        stack.enter_context(warm_hosts(running))
        yield running


@pytest.fixture(scope="session")
def prepared(
    lab_machine: None, release: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Prepared]:
    """A host on which libvirt was not running, prepared as an operator does: check, run, twice."""
    log = tmp_path_factory.mktemp("prepared") / "prepare.log"
    with start_lab([release], log, libvirt=False) as running:
        new = Hypervisor(running, running.hosts[0])
        conf = {"libvirt_host_qemu_conf": QEMU_CONF}
        micro = {"libvirt_image_name": "micro"}
        steps: tuple[list[str], ...] = (["--check"], [], [], ["--check"])
        yield Prepared(
            new,
            [new.play("host_prepare", *options, **conf) for options in steps],
            [new.play("image_prepare", *options, **micro) for options in steps],
        )
