# Copyright: Virtplay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Runs the power steps of a domain and waits for their effect."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, TypeVar

from ..failure import Failure
from ..host.connection import domain_state, has_error_code, libvirt
from ..states import DomainState
from .plan import Step

T = TypeVar("T")

# A guest that is still booting ignores the power button: press it again after this time.
PRESS_SECONDS = 5.0
# How long QEMU itself (not the guest) may take to respond before it counts as stuck.
MONITOR_SECONDS = 30.0
_POLL_SECONDS = 0.1


def run_steps(dom: Any, steps: Sequence[Step], *, label: str, timeout: float) -> None:
    """Run the steps in order; a graceful shutdown has timeout seconds.

    Raises Failure (GUEST_NOT_RESPONDING); the domain is then running or paused as before.
    """
    for number, step in enumerate(steps):
        if step is Step.START:
            dom.create()
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
            dom.managedSaveRemove(0)
        else:
            try:
                _shut_down(dom, label, timeout)
            except Failure:
                if number and steps[number - 1] is Step.RESUME:
                    call_within(MONITOR_SECONDS, dom.suspend, f"cannot pause {label} again")
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


def _shut_down(dom: Any, label: str, timeout: float) -> None:
    deadline = time.monotonic() + timeout
    next_press = time.monotonic()
    presser: threading.Thread | None = None
    while (state := _state(dom)) != DomainState.STOPPED:
        if state == DomainState.CRASHED:
            raise Failure(
                f"cannot stop {label}: its guest has crashed meanwhile; use force",
                "GUEST_NOT_RESPONDING",
            )
        now = time.monotonic()
        if now >= deadline:
            raise Failure(
                f"cannot stop {label}: the guest did not shut down within {timeout:g} s "
                "and is still running",
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
