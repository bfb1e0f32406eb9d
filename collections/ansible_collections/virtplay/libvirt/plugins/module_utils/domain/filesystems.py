# Copyright: Virtplay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Freezes and thaws a guest's file systems through its agent."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from ..failure import Failure
from ..host.connection import error_text, libvirt

# How long the guest agent may take to flush and freeze, to respond to another command, and for all
# attempts to thaw.
FREEZE_SECONDS = 30
AGENT_SECONDS = 5
THAW_SECONDS = 20.0


def freeze(dom: Any) -> tuple[bool, bool]:
    """Freeze the guest's file systems; returns whether they are frozen, and whether to thaw them.

    An agent that received the command but did not respond in time may still carry it out later.
    """
    try:
        # First a command without side effects: an agent that hangs keeps a freeze command in its
        # queue, and would carry it out when it continues.
        with _agent_answers_within(dom, AGENT_SECONDS):
            dom.getTime(0)
    except libvirt.libvirtError:
        return False, False
    began = time.monotonic()
    try:
        with _agent_answers_within(dom, FREEZE_SECONDS):
            dom.fsFreeze(None, 0)
    except libvirt.libvirtError:
        # An error without the full wait means that nothing is frozen.
        return False, time.monotonic() - began >= FREEZE_SECONDS
    return True, True


def thaw(dom: Any, label: str, after: str) -> None:
    """Thaw the guest's file systems, with retries for THAW_SECONDS until its agent responds.

    after names the preceding action in messages. Raises Failure (GUEST_NOT_RESPONDING).
    """
    deadline = time.monotonic() + THAW_SECONDS
    while True:
        try:
            with _agent_answers_within(dom, AGENT_SECONDS):
                dom.fsThaw(None, 0)
        except libvirt.libvirtError as error:
            if not dom.isActive():
                return
            if time.monotonic() < deadline:
                time.sleep(0.2)
                continue
            raise Failure(
                f"cannot thaw the file systems of {label} after {after}: {error_text(error)}; "
                "programs in the guest hang until its agent responds or it is restarted",
                "GUEST_NOT_RESPONDING",
            ) from error
        return


@contextmanager
def _agent_answers_within(dom: Any, seconds: int) -> Iterator[None]:
    dom.agentSetResponseTimeout(seconds, 0)
    try:
        yield
    finally:
        with suppress(libvirt.libvirtError):
            dom.agentSetResponseTimeout(libvirt.VIR_DOMAIN_AGENT_RESPONSE_TIMEOUT_BLOCK, 0)
