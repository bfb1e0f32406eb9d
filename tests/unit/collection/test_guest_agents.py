"""What guests' agents say: file systems, and who is asked in how much time."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest
from ansible_collections.virtplay.libvirt.plugins.module_utils.observe import addresses
from ansible_collections.virtplay.libvirt.plugins.module_utils.observe import agents as guest_agents
from ansible_collections.virtplay.libvirt.plugins.module_utils.observe.agents import (
    AgentQueries,
    parse_filesystems,
)

from tests.unit.collection.fake_libvirt import fake, libvirtError


def flat(*entries: dict[str, Any]) -> dict[str, Any]:
    """File systems as virDomainGetGuestInfo gives them."""
    fields = {f"fs.{n}.{key}": v for n, entry in enumerate(entries) for key, v in entry.items()}
    return {"fs.count": len(entries), **fields}


def entry(name: str = "vda1", mountpoint: str = "/", **fields: Any) -> dict[str, Any]:
    usual = {"fstype": "ext4", "total-bytes": 100, "used-bytes": 40}
    return {"name": name, "mountpoint": mountpoint, **usual, **fields}


ROOT = {
    "device": "vda1",
    "mountpoint": "/",
    "type": "ext4",
    "total_bytes": 100,
    "used_bytes": 40,
}


@pytest.mark.parametrize(
    ("info", "expected"),
    [
        ({}, []),
        ({"fs.count": 2}, []),
        (flat(entry()), [ROOT]),
        (flat(entry(), entry(mountpoint="/var/lib/docker")), [ROOT]),
        (flat(entry("sr0", "/media", fstype="iso9660"), entry()), [ROOT]),
        (flat(entry("loop0", "/snap", fstype="squashfs")), []),
        (flat({**entry(), "total-bytes": None}), []),
        (flat({"name": "vda1", "mountpoint": "/", "fstype": "ext4"}), []),
        (
            flat(entry(), entry("vdb", "/srv")),
            [ROOT, {**ROOT, "device": "vdb", "mountpoint": "/srv"}],
        ),
    ],
)
def test_filesystems(info: dict[str, Any], expected: list[dict[str, Any]]) -> None:
    assert parse_filesystems(info) == expected


class Domain:
    def __init__(self, answers: threading.Event | None = None, *, fails: bool = False) -> None:
        self.answers, self.fails = answers, fails
        self.timeouts: list[int] = []

    def agentSetResponseTimeout(self, seconds: int, _flags: int) -> None:  # noqa: N802
        self.timeouts.append(seconds)

    def guestInfo(self, _kinds: int, _flags: int) -> dict[str, Any]:  # noqa: N802
        if self.answers:
            self.answers.wait(600)
        if self.fails:
            raise libvirtError("agent not available")
        return flat(entry())

    def interfaceAddresses(self, _source: int) -> dict[str, Any]:  # noqa: N802
        return {"eth0": {"hwaddr": "52:54:00:00:00:01", "addrs": [{"addr": "203.0.113.5"}]}}


class Connection:
    def __init__(self, domains: dict[str, Domain]) -> None:
        self.domains = domains

    def lookupByUUIDString(self, uuid: str) -> Domain:  # noqa: N802
        return self.domains[uuid]


@pytest.fixture(autouse=True)
def _libvirt(monkeypatch: pytest.MonkeyPatch) -> None:
    fake(monkeypatch, guest_agents, addresses)
    addresses.libvirt.VIR_DOMAIN_INTERFACE_ADDRESSES_SRC_AGENT = 1


def test_every_guest_is_asked_for_what_is_wanted_and_its_timeout_put_back() -> None:
    domains = {"a": Domain(), "b": Domain()}
    questions = AgentQueries(lambda: Connection(domains), {"a"}, {"a", "b"})
    found, systems = questions.collect(time.monotonic() + 60)
    assert set(systems) == {"a", "b"}
    assert [entry["ip"] for entry in found["52:54:00:00:00:01"]] == ["203.0.113.5"]
    assert all(domain.timeouts == [guest_agents.AGENT_TIMEOUT, -2] for domain in domains.values())


def test_agent_that_fails_hides_no_other_and_gets_its_timeout_back() -> None:
    domains = {"a": Domain(fails=True), "b": Domain()}
    questions = AgentQueries(lambda: Connection(domains), set(), {"a", "b"})
    assert set(questions.collect(time.monotonic() + 60)[1]) == {"b"}
    assert domains["a"].timeouts[-1] == -2


def test_deadline_ends_the_waiting_with_what_is_known() -> None:
    answers = threading.Event()
    domains = {"a": Domain(answers), "b": Domain()}
    questions = AgentQueries(lambda: Connection(domains), set(), {"a", "b"})
    assert set(questions.collect(time.monotonic() + 3)[1]) == {"b"}
    answers.set()
    assert set(questions.collect(time.monotonic() + 60)[1]) == {"a", "b"}


def test_nobody_to_ask_opens_no_connection() -> None:
    def connect() -> Connection:
        raise AssertionError("asked")

    before = threading.active_count()
    assert AgentQueries(connect, set(), set()).collect(time.monotonic()) == ({}, {})
    assert threading.active_count() == before
