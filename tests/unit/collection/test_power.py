"""Power steps on a domain: their order, their time, and what is left when one fails."""

from __future__ import annotations

import threading

import pytest
from ansible_collections.virtplay.libvirt.plugins.module_utils.domain import power
from ansible_collections.virtplay.libvirt.plugins.module_utils.domain.plan import Step
from ansible_collections.virtplay.libvirt.plugins.module_utils.domain.power import (
    call_within,
    run_steps,
)
from ansible_collections.virtplay.libvirt.plugins.module_utils.failure import Failure

from tests.unit.collection.fake_libvirt import NO_DOMAIN, OTHER, fake, libvirtError

RUNNING, STOPPED, CRASHED = 1, 5, 6


class Domain:
    """A domain that notes what is done to it; presses of its power button may be needed."""

    def __init__(
        self, *, presses: int = 1, ends: int = STOPPED, destroy_fails: libvirtError | None = None
    ) -> None:
        self.done: list[str] = []
        self.presses, self.ends, self.destroy_fails = presses, ends, destroy_fails

    def create(self) -> None:
        self.done.append("create")

    def suspend(self) -> None:
        self.done.append("suspend")

    def resume(self) -> None:
        self.done.append("resume")

    def pMWakeup(self, _flags: int) -> None:  # noqa: N802
        self.done.append("wake")

    def reset(self, _flags: int) -> None:
        self.done.append("reset")

    def managedSaveRemove(self, _flags: int) -> None:  # noqa: N802
        self.done.append("discard")

    def destroy(self) -> None:
        self.done.append("destroy")
        if self.destroy_fails:
            raise self.destroy_fails

    def shutdownFlags(self, _flags: int) -> None:  # noqa: N802
        self.done.append("press")

    def state(self) -> tuple[int, int]:
        return (self.ends if self.done.count("press") >= self.presses else RUNNING, 0)


@pytest.fixture(autouse=True)
def _libvirt(monkeypatch: pytest.MonkeyPatch) -> None:
    fake(monkeypatch, power)
    monkeypatch.setattr(power, "PRESS_SECONDS", 0.1)
    monkeypatch.setattr(power, "_POLL_SECONDS", 0.01)


@pytest.mark.parametrize(
    ("steps", "done"),
    [
        ([Step.START], ["create"]),
        ([Step.START, Step.SUSPEND], ["create", "suspend"]),
        ([Step.RESUME], ["resume"]),
        ([Step.WAKE], ["wake"]),
        ([Step.RESET, Step.RESUME], ["reset", "resume"]),
        ([Step.DISCARD], ["discard"]),
        ([Step.DESTROY, Step.START], ["destroy", "create"]),
        ([Step.RESUME, Step.SHUT_DOWN], ["resume", "press"]),
        ([], []),
    ],
)
def test_steps_are_done_in_order(steps: list[Step], done: list[str]) -> None:
    domain = Domain()
    run_steps(domain, steps, label="vm-001", timeout=60)
    assert domain.done == done


def test_power_button_is_pressed_again_until_the_guest_hears_it() -> None:
    domain = Domain(presses=3)
    run_steps(domain, [Step.SHUT_DOWN], label="vm-001", timeout=60)
    assert domain.done == ["press"] * 3


def test_guest_that_does_not_go_down_is_paused_again_and_not_killed() -> None:
    domain = Domain(presses=1000)
    with pytest.raises(Failure, match="did not shut down within") as caught:
        run_steps(domain, [Step.RESUME, Step.SHUT_DOWN], label="vm-001", timeout=0.3)
    assert caught.value.code == "GUEST_NOT_RESPONDING"
    assert domain.done[-1] == "suspend"
    assert "destroy" not in domain.done


def test_guest_that_crashes_while_it_shuts_down_has_not_stopped() -> None:
    with pytest.raises(Failure, match="its guest has crashed meanwhile; use force") as caught:
        run_steps(Domain(ends=CRASHED), [Step.SHUT_DOWN], label="vm-001", timeout=60)
    assert caught.value.code == "GUEST_NOT_RESPONDING"


@pytest.mark.parametrize(
    ("error", "raised"),
    [
        (libvirtError("gone", NO_DOMAIN), False),
        (libvirtError("off", 55), False),
        (libvirtError("busy", OTHER), True),
    ],
)
def test_destroying_what_went_down_by_itself_is_no_failure(
    error: libvirtError, raised: bool
) -> None:
    domain = Domain(destroy_fails=error)
    if raised:
        with pytest.raises(libvirtError):
            run_steps(domain, [Step.DESTROY], label="vm-001", timeout=60)
        return
    run_steps(domain, [Step.DESTROY], label="vm-001", timeout=60)


def test_call_that_hangs_is_given_up() -> None:
    answer = threading.Event()
    with pytest.raises(Failure, match="cannot pause vm-001: QEMU did not respond"):
        call_within(0.2, answer.wait, "cannot pause vm-001")
    answer.set()


def test_result_and_error_of_a_call_come_back() -> None:
    assert call_within(60, lambda: 7, "cannot") == 7
    with pytest.raises(libvirtError):
        call_within(60, Domain(destroy_fails=libvirtError()).destroy, "cannot")
