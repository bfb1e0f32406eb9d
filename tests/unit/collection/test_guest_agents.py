"""What guests' agents say, who is asked in how much time, and how a guest is frozen."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.virtplay.libvirt.plugins.module_utils.domain import filesystems
from ansible_collections.virtplay.libvirt.plugins.module_utils.failure import Failure
from ansible_collections.virtplay.libvirt.plugins.module_utils.host import silence
from ansible_collections.virtplay.libvirt.plugins.module_utils.host.silence import Silence
from ansible_collections.virtplay.libvirt.plugins.module_utils.lock import agent as agent_lock
from ansible_collections.virtplay.libvirt.plugins.module_utils.lock import fence
from ansible_collections.virtplay.libvirt.plugins.module_utils.observe import addresses
from ansible_collections.virtplay.libvirt.plugins.module_utils.observe import agents as guest_agents
from ansible_collections.virtplay.libvirt.plugins.module_utils.observe.agents import (
    AgentQueries,
    parse_filesystems,
)

from tests.unit.collection.fake_libvirt import SYSTEM_ERROR, UNRESPONSIVE, fake, libvirtError

BLOCK = -2
THREADS: list[threading.Thread] = []


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
        self.asked = threading.Event()
        self.timeouts: list[int] = []

    def UUIDString(self) -> str:  # noqa: N802
        return str(id(self))

    def name(self) -> str:
        return "web-1"

    def agentSetResponseTimeout(self, seconds: int, _flags: int) -> None:  # noqa: N802
        self.timeouts.append(seconds)

    def guestInfo(self, _kinds: int, _flags: int) -> dict[str, Any]:  # noqa: N802
        self.asked.set()
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
def _libvirt(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    fake(monkeypatch, guest_agents, addresses, agent_lock)
    monkeypatch.setattr(fence, "LOCK_DIRECTORY", tmp_path / "run")
    monkeypatch.setattr(silence, "NOTE", tmp_path / "run/silent.json")
    yield
    while THREADS:
        THREADS.pop().join(60)


def query(
    domains: dict[str, Domain], addresses: set[str], filesystems: set[str], seconds: float = 60
) -> tuple[dict[str, Any], dict[str, Any]]:
    found, systems = begin(domains, addresses, filesystems, seconds).collect()
    return found, systems


def begin(
    domains: dict[str, Domain], addresses: set[str], filesystems: set[str], seconds: float = 60
) -> AgentQueries:
    deadline = time.monotonic() + seconds
    queries = AgentQueries(lambda: Connection(domains), addresses, filesystems, deadline, Silence())
    THREADS.extend(queries._threads)
    return queries


def test_every_guest_is_asked_for_what_is_wanted_and_its_timeout_put_back() -> None:
    domains = {"a": Domain(), "b": Domain()}
    found, systems = query(domains, {"a"}, {"a", "b"})
    assert set(systems) == {"a", "b"}
    assert found.keys() == {"a"}
    assert [entry["ip"] for entry in found["a"]["52:54:00:00:00:01"]] == ["203.0.113.5"]
    assert all(
        domain.timeouts == [guest_agents.AGENT_TIMEOUT, BLOCK] for domain in domains.values()
    )


def test_agent_that_fails_hides_no_other_and_gets_its_timeout_back() -> None:
    domains = {"a": Domain(fails=True), "b": Domain()}
    assert set(query(domains, set(), {"a", "b"})[1]) == {"b"}
    assert domains["a"].timeouts[-1] == BLOCK


@pytest.mark.slow
def test_deadline_ends_the_waiting_with_what_is_known_and_no_timeout_left_behind() -> None:
    answers = threading.Event()
    domains = {"a": Domain(answers), "b": Domain()}
    queries = begin(domains, set(), {"a", "b"}, seconds=1)
    assert set(queries.collect()[1]) == {"b"}
    queries.finish()
    assert domains["a"].timeouts == [1, BLOCK]
    answers.set()


def known_as_silent(*uuids: str) -> None:
    noted = Silence()
    noted.add(uuids)
    # As an earlier process would have: this one exists.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(silence, "_name_of", lambda _pid: "")
        noted.write()


@pytest.mark.slow
@pytest.mark.parametrize("responds", [True, False])
def test_agent_that_is_known_not_to_respond_is_asked_and_not_waited_for(responds: bool) -> None:
    known_as_silent("a")
    answers = threading.Event()
    domains = {"a": Domain(answers), "b": Domain()}
    queries = begin(domains, {"a"}, {"a", "b"}, seconds=100_000)
    # The deadline is never reached.
    assert set(queries.collect()[1]) == {"b"}
    assert domains["a"].asked.wait(60)
    if responds:
        answers.set()
    queries.finish()
    queries._silence.write()
    assert Silence().names() == (set() if responds else {"a"})
    assert domains["a"].timeouts[-1] == BLOCK
    answers.set()


def test_agent_is_left_out_while_an_earlier_observation_waits_for_it() -> None:
    noted = Silence()
    noted.add(["a"])
    noted.write()
    domains = {"a": Domain(), "b": Domain()}
    queries = begin(domains, {"a"}, {"a", "b"}, seconds=100_000)
    assert set(queries.collect()[1]) == {"b"}
    queries.finish()
    assert not domains["a"].asked.is_set()


@pytest.mark.parametrize(
    ("code", "seconds", "expected"),
    [
        (UNRESPONSIVE, 1.0, {"a"}),
        (SYSTEM_ERROR, 1.0, set()),
        # It is not connected: that has cost nobody any time.
        (UNRESPONSIVE, 0.0, set()),
    ],
)
def test_agent_without_response_is_noted(code: int, seconds: float, expected: set[str]) -> None:
    class Late(Domain):
        def guestInfo(self, _kinds: int, _flags: int) -> dict[str, Any]:  # noqa: N802
            time.sleep(seconds)
            raise libvirtError("agent not responding", code)

    queries = begin({"a": Late(), "b": Domain()}, set(), {"a", "b"})
    assert set(queries.collect()[1]) == {"b"}
    queries._silence.write()
    assert Silence().names() == expected


def test_agent_that_says_nonsense_delays_nobody() -> None:
    class Odd(Domain):
        def guestInfo(self, _kinds: int, _flags: int) -> dict[str, Any]:  # noqa: N802
            return {"fs.count": b"\xff".decode()}

    # The deadline is never reached.
    assert set(query({"a": Odd(), "b": Domain()}, set(), {"a", "b"}, seconds=100_000)[1]) == {"b"}


@pytest.mark.parametrize(("seconds", "limits"), [(0, []), (1.9, [1, BLOCK])])
def test_agent_has_no_more_time_than_the_observation(seconds: float, limits: list[int]) -> None:
    domains = {"a": Domain()}
    found, systems = query(domains, {"a"}, {"a"}, seconds=seconds)
    assert domains["a"].timeouts == limits
    assert found.keys() == systems.keys() == ({"a"} if limits else set())


def test_agents_that_do_not_answer_leave_the_others_their_turn(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # One thread, an agent that never answers, and one that does: the second must not always wait.
    monkeypatch.setattr(guest_agents, "MAX_QUERIES", 1)
    answers = threading.Event()

    def is_answered() -> bool:
        domains = {"a": Domain(answers), "b": Domain()}
        return set(query(domains, set(), {"a", "b"}, seconds=0.1)[1]) == {"b"}

    while not is_answered():
        pass
    answers.set()


def test_agent_of_a_guest_that_a_snapshot_freezes_is_left_alone() -> None:
    domains = {"a": Domain(), "b": Domain()}
    with agent_lock.hold_agent(domains["a"], 0):
        assert set(query(domains, set(), {"a", "b"})[1]) == {"b"}
    assert domains["a"].timeouts == []


def test_nobody_to_ask_opens_no_connection() -> None:
    def connect() -> Connection:
        raise AssertionError("asked")

    before = threading.active_count()
    queries = AgentQueries(connect, set(), set(), time.monotonic(), Silence())
    assert queries.collect() == ({}, {})
    assert threading.active_count() == before


class Guest(Domain):
    """A domain whose agent freezes, or answers one command with an error."""

    def __init__(self, failing: str = "", error: libvirtError | None = None) -> None:
        super().__init__()
        self.failing, self.error = failing, error
        self.calls: list[tuple[str, int]] = []

    def _call(self, name: str) -> None:
        self.calls.append((name, self.timeouts[-1]))
        if name == self.failing and self.error:
            raise self.error

    def getTime(self, _flags: int) -> None:  # noqa: N802
        self._call("time")

    def fsFreeze(self, _mountpoints: None, _flags: int) -> None:  # noqa: N802
        self._call("freeze")

    def fsThaw(self, _mountpoints: None, _flags: int) -> None:  # noqa: N802
        self._call("thaw")


@pytest.mark.parametrize(
    ("guest", "frozen", "calls"),
    [
        (Guest(), True, [("time", 5), ("freeze", 30), ("thaw", 5)]),
        (Guest("time", libvirtError("no agent", UNRESPONSIVE)), False, [("time", 5)]),
        # The agent has refused: nothing is frozen.
        (Guest("freeze", libvirtError("refused")), False, [("time", 5), ("freeze", 30)]),
        # It has not answered in time, whoever set that time: it may freeze later.
        (
            Guest("freeze", libvirtError("no answer", UNRESPONSIVE)),
            False,
            [("time", 5), ("freeze", 30), ("thaw", 5)],
        ),
    ],
)
def test_guest_is_thawed_whenever_it_may_be_frozen(
    monkeypatch: pytest.MonkeyPatch, guest: Guest, frozen: bool, calls: list[tuple[str, int]]
) -> None:
    fake(monkeypatch, filesystems, agent_lock)
    thawed: list[bool] = []
    with filesystems.frozen_filesystems(
        guest, "web-1", "a test", lambda: thawed.append(True)
    ) as is_frozen:
        assert is_frozen is frozen
        # Nobody sets another time limit until the guest is thawed.
        with pytest.raises(Failure, match="another process holds"), agent_lock.hold_agent(guest, 0):
            pass
    assert (guest.calls, thawed) == (calls, [True])
    assert guest.timeouts[-1] == BLOCK


def test_thaw_does_not_depend_on_who_holds_the_agent(monkeypatch: pytest.MonkeyPatch) -> None:
    fake(monkeypatch, filesystems, agent_lock)
    monkeypatch.setattr(filesystems, "HELD_SECONDS", 0)
    guest = Guest()
    with agent_lock.hold_agent(guest, 0):
        filesystems.thaw(guest, "web-1", "a test")
    assert guest.calls == [("thaw", 5)]
