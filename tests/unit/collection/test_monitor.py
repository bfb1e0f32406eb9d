"""Asking all QEMUs of a host at once, of which one may never answer."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest
from ansible_collections.virtplay.libvirt.plugins.module_utils.observe import monitor
from ansible_collections.virtplay.libvirt.plugins.module_utils.observe.monitor import (
    occupied_domains,
    query_monitors,
)

from tests.unit.collection.fake_libvirt import fake, libvirtError

OCCUPIED = 2


class Domain:
    """A domain whose statistics come at once, or not until the test ends."""

    def __init__(self, host: Host, uuid: str, *, hangs: bool = False, busy_ms: int = 0) -> None:
        self.host, self.uuid, self.hangs, self.busy_ms = host, uuid, hangs, busy_ms

    def UUIDString(self) -> str:  # noqa: N802
        return self.uuid

    def name(self) -> str:
        return self.uuid

    def connect(self) -> Host:
        return self.host

    def controlInfo(self) -> tuple[int, int, int]:  # noqa: N802
        busy = (self.hangs and self.host.asked) or self.busy_ms
        return (OCCUPIED if busy else 0, 0, self.busy_ms or 5000)


class Host:
    def __init__(self) -> None:
        self.domains: dict[str, Domain] = {}
        self.asked = False
        self.ends = threading.Event()

    def add(self, uuid: str, **facts: Any) -> None:
        self.domains[uuid] = Domain(self, uuid, **facts)

    def listAllDomains(self, _flags: int) -> list[Domain]:  # noqa: N802
        return list(self.domains.values())

    def lookupByUUIDString(self, uuid: str) -> Domain:  # noqa: N802
        if uuid not in self.domains:
            raise libvirtError("gone")
        return self.domains[uuid]

    def domainListGetStats(  # noqa: N802
        self, domains: list[Domain], _groups: int, _flags: int
    ) -> list[tuple[Domain, dict[str, Any]]]:
        answered: list[tuple[Domain, dict[str, Any]]] = []
        for domain in domains:
            if domain.busy_ms:
                answered.append((domain, {}))  # NOWAIT passes over it
                continue
            if domain.hangs:
                self.asked = True
                self.ends.wait()
            answered.append((domain, {"balloon.rss": 1, "of": domain.uuid}))
        return answered


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> Any:
    fake(monkeypatch, monitor)
    monkeypatch.setattr(monitor, "seems_stopped", lambda name: name.startswith("stopped"))
    host = Host()
    before = set(threading.enumerate())
    yield host
    host.ends.set()
    for thread in set(threading.enumerate()) - before:
        thread.join(60)


def ask(host: Host, seconds: float = 3.0, patience: float = 0.3) -> tuple[set[str], set[str]]:
    """UUIDs of those that answered, and of the stuck ones."""
    deadline = time.monotonic() + seconds
    answers = query_monitors(lambda: host, dict(host.domains), deadline, patience)
    return {uuid for uuid, record in answers.records.items() if record}, answers.stuck


def test_all_that_answer_are_asked_together(host: Host) -> None:
    for uuid in ("a", "b", "c"):
        host.add(uuid)
    assert ask(host) == ({"a", "b", "c"}, set())


def test_one_that_hangs_takes_no_answer_from_the_others(host: Host) -> None:
    for uuid in ("a", "b", "c", "d", "e", "f"):
        host.add(uuid, hangs=uuid == "b")
    answered, stuck = ask(host)
    assert answered == {"a", "c", "d", "e", "f"}
    assert stuck == {"b"}


def test_stopped_process_is_not_asked_with_the_others(host: Host) -> None:
    host.add("a")
    host.add("stopped", hangs=True)
    assert ask(host, seconds=1.5) == ({"a"}, {"stopped"})


def test_occupied_monitor_is_passed_over(host: Host) -> None:
    host.add("a")
    host.add("busy", busy_ms=4000)
    assert ask(host) == ({"a"}, {"busy"})


@pytest.mark.parametrize(("busy_ms", "occupied"), [(0, False), (400, False), (1500, True)])
def test_monitor_is_occupied_from_a_second_on(host: Host, busy_ms: int, occupied: bool) -> None:
    host.add("a", busy_ms=busy_ms)
    assert occupied_domains(dict(host.domains)) == ({"a"} if occupied else set())


def test_domain_that_has_gone_is_not_occupied(host: Host) -> None:
    class Gone:
        def controlInfo(self) -> None:  # noqa: N802
            raise libvirtError("gone")

    assert occupied_domains({"a": Gone()}) == set()
