# Copyright: Virtplay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Freezes and thaws a guest's file systems through its agent."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

from ..failure import Failure
from ..host.connection import error_text, has_error_code, libvirt
from ..lock.agent import agent_answers_within, hold_agent

# How long the guest agent may take to flush and freeze, to respond to another command, and for all
# attempts to thaw; and how long another process, an observation, may take to release the agent.
FREEZE_SECONDS = 30
AGENT_SECONDS = 5
THAW_SECONDS = 20.0
HELD_SECONDS = 15.0
_NO_ANSWER = ("VIR_ERR_AGENT_UNRESPONSIVE", "VIR_ERR_AGENT_UNSYNCED", "VIR_ERR_OPERATION_TIMEOUT")


@contextmanager
def frozen_filesystems(
    dom: Any, label: str, after: str, thawed: Callable[[], None]
) -> Iterator[bool]:
    """Freeze the guest's file systems, if its agent responds; yields whether they are frozen.

    Thaws them at the end, with after as the preceding action in messages, and calls thawed once
    they are. Raises Failure (OPERATION_IN_PROGRESS, GUEST_NOT_RESPONDING).
    """
    with hold_agent(dom, HELD_SECONDS):
        frozen, thaws = _freeze(dom)
        try:
            yield frozen
        finally:
            if thaws:
                _thaw(dom, label, after)
            thawed()


def thaw(dom: Any, label: str, after: str) -> None:
    """Thaw the guest's file systems, with retries for THAW_SECONDS until its agent responds.

    after names the preceding action in messages. Raises Failure (GUEST_NOT_RESPONDING).
    """
    with ExitStack() as stack:
        with suppress(Failure):  # a frozen guest is worse than a wrong time limit
            stack.enter_context(hold_agent(dom, HELD_SECONDS))
        _thaw(dom, label, after)


def _freeze(dom: Any) -> tuple[bool, bool]:
    """Freeze the guest's file systems; returns whether they are frozen, and whether to thaw them.

    An agent that received the command but did not respond in time may still carry it out later.
    """
    try:
        # First a command without side effects: an agent that hangs keeps a freeze command in its
        # queue, and would carry it out when it continues.
        with agent_answers_within(dom, AGENT_SECONDS):
            dom.getTime(0)
    except libvirt.libvirtError:
        return False, False
    try:
        with agent_answers_within(dom, FREEZE_SECONDS):
            dom.fsFreeze(None, 0)
    except libvirt.libvirtError as error:
        # An agent that answers with an error has frozen nothing.
        return False, has_error_code(error, *_NO_ANSWER)
    return True, True


def _thaw(dom: Any, label: str, after: str) -> None:
    deadline = time.monotonic() + THAW_SECONDS
    while True:
        try:
            with agent_answers_within(dom, AGENT_SECONDS):
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
