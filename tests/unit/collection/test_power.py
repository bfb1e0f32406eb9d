"""Power steps on a domain: their order, their time, and what is left when one fails."""

from __future__ import annotations

import threading
from contextlib import nullcontext

import pytest
from ansible_collections.virtplay.libvirt.plugins.module_utils.domain import power
from ansible_collections.virtplay.libvirt.plugins.module_utils.domain.plan import (
    Current,
    Step,
)
from ansible_collections.virtplay.libvirt.plugins.module_utils.domain.power import (
    call_within,
    run_steps,
    seconds_to_watch,
)
from ansible_collections.virtplay.libvirt.plugins.module_utils.failure import Failure
from ansible_collections.virtplay.libvirt.plugins.module_utils.states import (
    DomainReason,
    DomainState,
)

from tests.unit.collection.fake_libvirt import NO_DOMAIN, OTHER, fake, libvirtError

RUNNING, STOPPED, CRASHED = 1, 5, 6


class Domain:
    """A domain that notes what is done to it; presses of its power button may be needed."""

    def __init__(
        self, *, presses: int = 1, ends: int = STOPPED, destroy_fails: libvirtError | None = None
    ) -> None:
        self.done: list[str] = []
        self.presses, self.ends, self.destroy_fails = presses, ends, destroy_fails
        self.later: list[tuple[int, int]] = []

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

    def hasManagedSaveImage(self, _flags: int = 0) -> bool:  # noqa: N802
        return False

    def diskErrors(self) -> dict[str, int]:  # noqa: N802
        return {"vda": 2}

    def state(self) -> tuple[int, int]:
        if self.later:
            return self.later.pop(0)
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


def test_guest_that_goes_down_too_slowly_for_one_with_force_is_left_to_it() -> None:
    domain = Domain(presses=1000)

    def let_go() -> None:
        if domain.done.count("press") == 2:
            raise Failure("cannot stop vm-001: job-000009 has superseded it", "SUPERSEDED")

    steps = [Step.SHUT_DOWN, Step.START]
    with pytest.raises(Failure, match="superseded"):
        run_steps(domain, steps, label="vm-001", timeout=600, let_go=let_go)
    assert domain.done == ["press"] * 2


@pytest.mark.parametrize(
    ("steps", "raised"),
    [([Step.RESUME, Step.SHUT_DOWN, Step.START], True), ([Step.SHUT_DOWN], False)],
)
def test_guest_that_has_gone_down_is_not_started_before_one_with_force(
    steps: list[Step], raised: bool
) -> None:
    domain = Domain()

    def let_go() -> None:
        if domain.state()[0] == STOPPED:  # the other asks in just that moment
            raise Failure("cannot restart vm-001: job-000009 has superseded it", "SUPERSEDED")

    # A stop has done what it had to do.
    with pytest.raises(Failure, match="superseded") if raised else nullcontext():
        run_steps(domain, steps, label="vm-001", timeout=600, let_go=let_go)
    assert domain.done[-1] == "press"


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


@pytest.mark.parametrize(
    ("states", "said"),
    [
        # State and reason: running, then paused (unknown, I/O error), crashed, stopped (crashed).
        ([(1, 1), (3, 0)], "for an error of its own, such as one of KVM"),
        ([(1, 1), (1, 1), (3, 5)], "after an I/O error of a disk (vda: no space); make room"),
        ([(3, 10)], "QEMU has paused its guest (crashed)"),
        ([(1, 1), (6, 1)], "has crashed"),
        ([(1, 1), (5, 3)], "has crashed"),
        # What a person does meanwhile, and what the guest does itself, is no failure.
        ([(1, 1), (3, 1)], None),
        ([(1, 1), (5, 1)], None),
    ],
)
def test_start_has_succeeded_when_the_guest_still_runs(
    states: list[tuple[int, int]], said: str | None
) -> None:
    domain = Domain()
    domain.later = states
    if said is None:
        run_steps(domain, [Step.START], label="vm-001", timeout=60, watch=60)
        return
    with pytest.raises(Failure) as caught:
        run_steps(domain, [Step.START], label="vm-001", timeout=60, watch=60)
    assert caught.value.code == "GUEST_NOT_RUNNING"
    assert said in caught.value.message


def test_guest_that_runs_is_watched_for_a_moment() -> None:
    run_steps(Domain(), [Step.RESUME], label="vm-001", timeout=60, watch=0.05)


@pytest.mark.parametrize(
    ("virt_type", "reason", "steps", "watched"),
    [
        ("kvm", DomainReason.SHUTDOWN, [Step.START], True),
        ("qemu", DomainReason.SHUTDOWN, [Step.START], False),
        ("kvm", DomainReason.BOOTED, [Step.SHUT_DOWN], False),
        ("kvm", DomainReason.BOOTED, [Step.SUSPEND], False),
        ("kvm", DomainReason.USER, [Step.RESUME], False),
        ("qemu", DomainReason.IO_ERROR, [Step.RESUME], True),
        ("kvm", DomainReason.UNKNOWN, [Step.RESUME], True),
    ],
)
def test_only_what_may_break_is_watched(
    virt_type: str, reason: DomainReason, steps: list[Step], watched: bool
) -> None:
    config = {"name": "vm-001", "virt_type": virt_type}
    current = Current(DomainState.PAUSED, {}, True, config, config, reason=reason)
    assert bool(seconds_to_watch(current, steps)) is watched
