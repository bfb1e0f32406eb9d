"""Tests of what runs under the fence: what a crash has left is mended first."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from ansible_collections.virtplay.libvirt.plugins.module_utils.domain import fenced
from ansible_collections.virtplay.libvirt.plugins.module_utils.failure import Failure
from ansible_collections.virtplay.libvirt.plugins.module_utils.lock.fence import Fence

UUID = "11111111-2222-4333-8444-555555555555"
SINCE = "2026-11-22T12:00:00.000Z"
RUNNING, PAUSED, STOPPED = 1, 3, 5


class Guest:
    """A domain and the connection to it, as far as the fence asks."""

    def __init__(self, state: int) -> None:
        self._state = state

    def lookupByUUIDString(self, uuid: str) -> Guest:  # noqa: N802
        assert uuid == UUID
        return self

    def lookupByName(self, name: str) -> Guest:  # noqa: N802
        raise AssertionError(name)

    def state(self) -> list[int]:
        return [self._state, 0]

    def name(self) -> str:
        return "vm-001"


@pytest.fixture
def fence(tmp_path: Path) -> Fence:
    directories = {"lock_directory": tmp_path / "run", "fence_directory": tmp_path / "fence"}
    return Fence(UUID, label="vm-001", **directories)


def act_on(
    fence: Fence,
    monkeypatch: pytest.MonkeyPatch,
    state: int,
    *,
    error: str = "",
    check: bool = False,
) -> tuple[list[str], list[str]]:
    """What was done in which order, and the warnings, when a task runs on a guest in `state`."""
    done: list[str] = []
    warnings: list[str] = []

    def thaw(_dom: Any, label: str, _after: str) -> None:
        done.append(f"thaw {label}")
        if error:
            raise Failure(error, "GUEST_NOT_RESPONDING")

    monkeypatch.setattr(fenced, "thaw", thaw)
    monkeypatch.setattr(fenced, "started_at", lambda _name: SINCE)

    def act() -> dict[str, Any]:
        done.append("act")
        return {}

    fenced.run_fenced(
        fence, Guest(state), act, check_mode=check, lock_timeout=1, warn=warnings.append
    )
    return done, warnings


def test_guest_that_was_left_frozen_is_thawed_before_anything_else_and_once(
    fence: Fence, monkeypatch: pytest.MonkeyPatch
) -> None:
    fence.remember(frozen_since=SINCE, snapshot={"name": "half"})
    assert act_on(fence, monkeypatch, RUNNING) == (["thaw vm-001", "act"], [])
    # What the snapshot module has to sweep stays known.
    assert fence.recall() == {"frozen_since": None, "snapshot": {"name": "half"}}
    assert act_on(fence, monkeypatch, RUNNING) == (["act"], [])


@pytest.mark.parametrize(
    ("state", "since"), [(RUNNING, "2026-11-22T13:00:00.000Z"), (STOPPED, SINCE), (RUNNING, None)]
)
def test_guest_that_has_started_anew_is_let_alone(
    fence: Fence, monkeypatch: pytest.MonkeyPatch, state: int, since: str | None
) -> None:
    fence.remember(frozen_since=since)
    assert act_on(fence, monkeypatch, state) == (["act"], [])
    assert fence.recall().get("frozen_since") is None


def test_paused_guest_is_thawed_by_the_next_task_that_finds_it_running(
    fence: Fence, monkeypatch: pytest.MonkeyPatch
) -> None:
    fence.remember(frozen_since=SINCE)
    assert act_on(fence, monkeypatch, PAUSED) == (["act"], [])
    assert act_on(fence, monkeypatch, RUNNING) == (["thaw vm-001", "act"], [])


def test_guest_that_cannot_be_thawed_is_told_of_once_and_stands_in_nobodys_way(
    fence: Fence, monkeypatch: pytest.MonkeyPatch
) -> None:
    fence.remember(frozen_since=SINCE)
    failed = act_on(fence, monkeypatch, RUNNING, error="cannot thaw it")
    assert failed == (["thaw vm-001", "act"], ["cannot thaw it"])
    assert act_on(fence, monkeypatch, RUNNING) == (["act"], [])


def test_check_mode_thaws_nothing(fence: Fence, monkeypatch: pytest.MonkeyPatch) -> None:
    fence.remember(frozen_since=SINCE)
    assert act_on(fence, monkeypatch, RUNNING, check=True) == (["act"], [])
    assert fence.recall()["frozen_since"] == SINCE
