"""Tests of the wait for an address: when it ends; a lab test has it look at a real guest."""

from __future__ import annotations

import pytest
from ansible_collections.virtplay.libvirt.plugins.module_utils.observe import waiting
from ansible_collections.virtplay.libvirt.plugins.module_utils.observe.waiting import AddressWait

Look = tuple[set[str], set[str]]


class Scripted(AddressWait):  # type: ignore[misc]
    """A wait that sees what the test says: the domains with an address, and those without one."""

    def __init__(self, awaited: set[str], *looks: Look) -> None:
        self._awaited = awaited
        self.looks = list(looks)

    def _look(self) -> Look:
        return self.looks.pop(0)


LACKS: Look = (set(), {"a"})


@pytest.mark.parametrize(
    ("looks", "left"),
    [
        # It has one already: it was given between the start and the first look.
        ([({"a"}, set())], 0),
        ([LACKS, LACKS, ({"a"}, set())], 0),
        # It has stopped, is deleted, or has no network card.
        ([(set(), set())], 0),
        ([LACKS, (set(), {"other"})], 0),
        # Another one gets one, which was started during the wait.
        ([LACKS, (set(), {"a", "b"}), ({"b"}, {"a"}), LACKS], 1),
        # One that has had an address all the time is no reason to end.
        ([({"old"}, {"a"}), ({"old", "a"}, set())], 0),
    ],
)
def test_a_wait_ends_with_an_address_or_without_hope(
    monkeypatch: pytest.MonkeyPatch, looks: list[Look], left: int
) -> None:
    monkeypatch.setattr(waiting, "POLL_SECONDS", 0.001)
    wait = Scripted({"a"}, *looks)
    wait.run(600)
    assert len(wait.looks) == left


class Clock:
    """A clock that only a sleep moves."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def test_a_wait_ends_after_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(waiting, "time", clock)
    wait = Scripted({"a"}, *[LACKS] * 4)
    wait.run(2.5 * waiting.POLL_SECONDS)
    assert (clock.now, wait.looks) == (2.5 * waiting.POLL_SECONDS, [])
