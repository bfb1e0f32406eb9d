# Copyright: Virtplay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Runs the power steps of a domain and waits for their effect."""

from __future__ import annotations

import errno
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, TypeVar

from ..failure import Failure
from ..host.connection import (
    domain_state,
    has_error_code,
    libvirt,
    read_disk_errors,
    read_state,
)
from ..states import ERROR_REASONS, DomainReason, DomainState
from .plan import Current, Step

T = TypeVar("T")

# A guest that is still booting ignores the power button: press it again after this time.
PRESS_SECONDS = 5.0
# How long QEMU itself (not the guest) may take to respond before it counts as stuck.
MONITOR_SECONDS = 30.0
# How long a guest must run that was started under KVM, or that QEMU had paused for an error.
WATCH_SECONDS = 2.0
# How long QEMU may take to name the disks that have failed.
_ERRORS_SECONDS = 5.0
_POLL_SECONDS = 0.1


def run_steps(
    dom: Any,
    steps: Sequence[Step],
    *,
    label: str,
    timeout: float,
    watch: float = 0.0,
    let_go: Callable[[], None] = lambda: None,
) -> None:
    """Run the steps in order; a graceful shutdown has timeout seconds.

    While the guest shuts down, and before it is then started, let_go is called, and may raise
    Failure.
    The guest must then run for watch seconds without being paused by QEMU.
    Raises Failure: GUEST_NOT_RESPONDING, and the domain is running or paused as before;
    GUEST_NOT_RUNNING, and it is as QEMU has left it.
    """
    for number, step in enumerate(steps):
        if step is Step.START:
            _start(dom, label)
        elif step is Step.SUSPEND:
            call_within(MONITOR_SECONDS, dom.suspend, f"cannot pause {label}")
        elif step is Step.RESUME:
            call_within(MONITOR_SECONDS, dom.resume, f"cannot resume {label}")
        elif step is Step.WAKE:
            call_within(MONITOR_SECONDS, lambda: dom.pMWakeup(0), f"cannot wake {label}")
        elif step is Step.DESTROY:
            _destroy(dom)
        elif step is Step.RESET:
            call_within(MONITOR_SECONDS, lambda: dom.reset(0), f"cannot reset {label}")
        elif step is Step.DISCARD:
            discard(dom)
        else:
            _shut_down(dom, label, timeout, let_go, was_paused=Step.RESUME in steps[:number])
            if Step.START in steps:
                let_go()
    if watch and steps:
        _watch(dom, label, watch)


def seconds_to_watch(current: Current, steps: Sequence[Step]) -> float:
    """Return how long a guest must run until its steps count as done: the watch of run_steps.

    A start is watched under KVM, which may be there and fail in the first boot loader. The resume
    of a guest that QEMU has paused is watched, as the same error may pause it again at once.
    """
    start = Step.START in steps and current.config["virt_type"] == "kvm"
    resume = Step.RESUME in steps and current.reason in ERROR_REASONS
    return WATCH_SECONDS if start or resume else 0.0


def _watch(dom: Any, label: str, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while True:
        try:
            state, reason, _saved = read_state(dom)
        except libvirt.libvirtError as error:
            if not has_error_code(error, "VIR_ERR_NO_DOMAIN"):
                raise
            state, reason = DomainState.STOPPED, DomainReason.UNKNOWN
        paused = state == DomainState.PAUSED and reason in ERROR_REASONS
        ended = state == DomainState.STOPPED and reason in (
            DomainReason.CRASHED,
            DomainReason.FAILED,
        )
        if paused or ended or state == DomainState.CRASHED:
            raise Failure(
                f"cannot keep {label} running: {_fault(dom, state, reason)}", "GUEST_NOT_RUNNING"
            )
        left = deadline - time.monotonic()
        if state != DomainState.RUNNING or left <= 0:
            return  # what somebody has paused or stopped meanwhile is no failure
        time.sleep(min(_POLL_SECONDS, left))


def _fault(dom: Any, state: DomainState, reason: DomainReason) -> str:
    if state != DomainState.PAUSED:
        return "its guest or its QEMU has crashed; see its console and its log on the host"
    if reason == DomainReason.IO_ERROR:
        disks: dict[str, str] = {}
        with suppress(libvirt.libvirtError, Failure):
            disks = call_within(_ERRORS_SECONDS, lambda: read_disk_errors(dom), "cannot ask QEMU")
        named = ", ".join(f"{target}: {error}" for target, error in sorted(disks.items()))
        return (
            f"QEMU has paused its guest after an I/O error of a disk ({named or 'unknown'}); make "
            "room on its storage or repair it, then resume it"
        )
    if reason == DomainReason.UNKNOWN:
        return (
            "QEMU has paused its guest for an error of its own, such as one of KVM; see its log in "
            "/var/log/libvirt/qemu on the host"
        )
    return f"QEMU has paused its guest ({reason})"


def _start(dom: Any, label: str) -> None:
    saved = dom.hasManagedSaveImage(0)
    dom.create()
    # A guest that was saved while it was paused is paused again.
    if saved and _state(dom) == DomainState.PAUSED:
        call_within(MONITOR_SECONDS, dom.resume, f"cannot resume {label}")


def discard(dom: Any) -> None:
    """Remove the managed save image, which somebody may have removed behind libvirt's back."""
    try:
        dom.managedSaveRemove(0)
    except libvirt.libvirtError as error:
        if not has_error_code(error, "VIR_ERR_SYSTEM_ERROR") or error.get_int1() != errno.ENOENT:
            raise


def call_within(seconds: float, call: Callable[[], T], failure: str) -> T:
    """Return call(), within a time limit in seconds: libvirt waits for a stuck QEMU for ever.

    Raises Failure (GUEST_NOT_RESPONDING) with a message that starts with failure. The call itself
    continues in its thread until the process ends.
    """
    results: list[T] = []
    errors: list[Exception] = []

    def run() -> None:
        try:
            results.append(call())
        except Exception as error:
            errors.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    if errors:
        raise errors[0]
    if not results:
        raise Failure(
            f"{failure}: QEMU did not respond within {seconds:g} s", "GUEST_NOT_RESPONDING"
        )
    return results[0]


def _destroy(dom: Any) -> None:
    try:
        dom.destroy()
    except libvirt.libvirtError as error:
        # The domain has stopped in the meantime (a transient one is then gone).
        if not has_error_code(error, "VIR_ERR_OPERATION_INVALID", "VIR_ERR_NO_DOMAIN"):
            raise


def _shut_down(
    dom: Any, label: str, timeout: float, let_go: Callable[[], None], *, was_paused: bool
) -> None:
    try:
        _press_until_stopped(dom, label, timeout, let_go)
    except Failure:
        if was_paused:
            call_within(MONITOR_SECONDS, dom.suspend, f"cannot pause {label} again")
        raise


def _press_until_stopped(dom: Any, label: str, timeout: float, let_go: Callable[[], None]) -> None:
    deadline = time.monotonic() + timeout
    next_press = time.monotonic()
    presser: threading.Thread | None = None
    while (state := _state(dom)) != DomainState.STOPPED:
        if state == DomainState.CRASHED:
            raise Failure(
                f"cannot stop {label}: its guest has crashed meanwhile; use force",
                "GUEST_NOT_RESPONDING",
            )
        let_go()
        now = time.monotonic()
        if now >= deadline:
            raise Failure(
                f"cannot stop {label}: the guest did not shut down within {timeout:g} s "
                "and is still running; a stop with force cuts its power",
                "GUEST_NOT_RESPONDING",
            )
        # Each press has its own thread, one at a time: with a stuck QEMU the call never returns.
        if now >= next_press and (presser is None or not presser.is_alive()):
            next_press = now + PRESS_SECONDS
            presser = threading.Thread(target=_press, args=(dom,), daemon=True)
            presser.start()
        time.sleep(min(_POLL_SECONDS, max(0.0, deadline - now)))


def _press(dom: Any) -> None:
    # Already stopped, or stuck: the other thread polls the state.
    with suppress(libvirt.libvirtError):
        dom.shutdownFlags(libvirt.VIR_DOMAIN_SHUTDOWN_ACPI_POWER_BTN)


def _state(dom: Any) -> DomainState:
    try:
        return domain_state(dom)
    except libvirt.libvirtError as error:
        if has_error_code(error, "VIR_ERR_NO_DOMAIN"):
            return DomainState.STOPPED  # a transient domain is gone once it has stopped
        raise
