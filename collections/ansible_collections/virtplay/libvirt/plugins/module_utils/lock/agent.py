# Copyright: Virtplay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Lets one process at a time use the guest agent of a domain with a time limit of its own.

libvirt has one time limit for the agent of a domain, for all its clients, and reads it when it
sends a command, which may be long after the limit was set: a command waits for the one before.
With two processes a freeze could be sent with the short limit of an observation, time out and be
carried out all the same; or with none, and wait for ever.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from ..host.connection import libvirt
from . import fence
from .file_lock import hold_lock


@contextmanager
def hold_agent(dom: Any, timeout: float) -> Iterator[None]:
    """Hold a domain's guest agent, waiting up to timeout seconds for another process.

    Raises Failure (OPERATION_IN_PROGRESS) if the time is over.
    """
    path = fence.LOCK_DIRECTORY / f"{dom.UUIDString()}.agent"
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    task = f"use the guest agent of {dom.name()}"
    with hold_lock(path, task, timeout=timeout, signed=False):
        yield


@contextmanager
def agent_answers_within(dom: Any, seconds: int) -> Iterator[None]:
    """Limit how long libvirt waits for each answer of the agent; hold the agent."""
    dom.agentSetResponseTimeout(seconds, 0)
    try:
        yield
    finally:
        reset_agent_timeout(dom)


def reset_agent_timeout(dom: Any) -> None:
    """Give the agent libvirt's default time limit again, for other programs."""
    with suppress(libvirt.libvirtError):
        dom.agentSetResponseTimeout(libvirt.VIR_DOMAIN_AGENT_RESPONSE_TIMEOUT_BLOCK, 0)
