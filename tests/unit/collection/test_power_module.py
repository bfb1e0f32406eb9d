"""Tests of the module power: many domains, each with its own outcome."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import Any

import pytest
from ansible_collections.virtplay.libvirt.plugins.module_utils.domain.diff import build_diff
from ansible_collections.virtplay.libvirt.plugins.module_utils.domain.plan import Change
from ansible_collections.virtplay.libvirt.plugins.module_utils.failure import Failure
from ansible_collections.virtplay.libvirt.plugins.modules import power as module


class FakeTask:
    """Stands for DomainTask: the name of a domain says what becomes of it."""

    seen: list[dict[str, Any]]
    gate: threading.Event

    def __init__(self, params: dict[str, Any], *, warn: Any, **_: Any) -> None:
        self.params, self.warn = params, warn

    def run(self) -> dict[str, Any]:
        self.seen.append(self.params)
        name = self.params["name"]
        if name.startswith("stuck"):
            self.gate.wait(120)
        if name.startswith("stale"):
            raise Failure(f"cannot pause {name}: it is old", "STALE_GENERATION", seen_generation=9)
        if name.startswith("bug"):
            raise KeyError("nothing of libvirt's")
        self.warn(f"about {name}")
        return {
            "changed": name.startswith("new"), "changes": [], "applies_at": None,
            "domain": {"name": name, "state": "paused"},
            "diff": build_diff(name, [Change("state", "running", "paused")]),
            "waited_seconds": 0.0, "waited_for": None,
        }  # fmt: skip


@pytest.fixture
def bring(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Run the module's work with fake domains; returns its result and the warnings."""
    FakeTask.seen = []
    FakeTask.gate = threading.Event()
    monkeypatch.setattr(module, "DomainTask", FakeTask)
    monkeypatch.setattr(module, "open_connection", lambda _uri: None)

    def run(*names: str, check: bool = False, **params: Any) -> dict[str, Any]:
        own = {"uuid": None, "state": "paused", "force": False, "timeout": 90}
        domains = [
            {**own, "name": name, "job": f"job-{number}", "generation": number}
            for number, name in enumerate(names)
        ]
        warned: list[str] = []
        fake: Any = SimpleNamespace(
            params={
                "uri": "test:///default", "domains": domains, "at_once": 4, "time_limit": None,
                "lock_timeout": 5, **params,
            },
            check_mode=check, _diff=True, _verbosity=0, warn=warned.append,
        )  # fmt: skip
        return {**module.PowerTask(fake).run(), "warned": warned}

    yield run
    FakeTask.gate.set()


def test_one_that_fails_stops_no_other(bring: Any) -> None:
    result = bring("new-1", "stale-1", "old-1", "bug-1", "new-2")
    outcomes = result["domains"]
    assert [one["name"] for one in outcomes] == ["new-1", "stale-1", "old-1", "bug-1", "new-2"]
    assert [one["failed"] for one in outcomes] == [False, True, False, True, False]
    assert [one["changed"] for one in outcomes] == [True, False, False, False, True]
    assert (outcomes[1]["code"], outcomes[1]["seen_generation"]) == ("STALE_GENERATION", 9)
    assert "KeyError" in outcomes[3]["msg"]
    assert "Traceback" in outcomes[3]["exception"]
    assert outcomes[0]["domain"] == {"name": "new-1", "state": "paused"}
    assert outcomes[0]["warnings"] == ["about new-1"]
    assert "diff" not in outcomes[0]
    assert [part["after_header"] for part in result["diff"]] == ["new-1, old-1, new-2: changes"]
    assert result["warned"] == ["about new-1", "about old-1", "about new-2"]
    assert result["changed"]


def test_each_domain_has_its_job_and_generation_and_the_patience_of_the_task(bring: Any) -> None:
    bring("old-0", "old-1", at_once=1)
    assert [(p["job"], p["generation"], p["lock_timeout"]) for p in FakeTask.seen] == [
        ("job-0", 0, 5), ("job-1", 1, 5),
    ]  # fmt: skip


def test_one_that_does_not_respond_holds_up_no_other(bring: Any) -> None:
    names = ["stuck-1", *(f"new-{number}" for number in range(5))]
    result = bring(*names, at_once=2, time_limit=3)
    stuck, *others = result["domains"]
    assert (stuck["failed"], stuck["code"]) == (True, "TIMEOUT")
    assert stuck["msg"] == "cannot pause stuck-1: it was not done within 3 s"
    assert [one["failed"] for one in others] == [False] * 5


def test_what_has_not_begun_in_time_does_not_begin(bring: Any) -> None:
    result = bring("stuck-1", "new-1", at_once=1, time_limit=1)
    assert [one["code"] for one in result["domains"]] == ["TIMEOUT", "NOT_BEGUN"]
    assert result["domains"][1]["msg"] == "cannot pause new-1: it was not begun within 1 s"
    FakeTask.gate.set()
    assert [params["name"] for params in FakeTask.seen] == ["stuck-1"]


def test_values_out_of_bounds_are_refused(bring: Any) -> None:
    with pytest.raises(Failure, match="at_once 65: it must be 1 to 64"):
        bring("old-1", at_once=65)
