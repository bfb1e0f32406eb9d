# Copyright: Virtplay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Converts an exception on a host to a failure with a code."""

from __future__ import annotations

import re

from ..failure import Code, Failure
from .connection import error_text, has_error_code, libvirt

_NO_ROOM = re.compile(
    "no space left|disk quota exceeded|not enough space|ENOSPC|cannot allocate memory",
    re.IGNORECASE,
)


def failure_of(error: BaseException, prefix: str) -> Failure | None:
    """Return the failure with a code for an exception; None for a fault in our own code.

    prefix says what could not be done ("cannot …"), for exceptions that do not.
    """
    if isinstance(error, Failure):
        return error
    if isinstance(error, OSError):
        return Failure(f"{prefix}: {error}", _code_of(error))
    if libvirt is not None and isinstance(error, libvirt.libvirtError):
        return Failure(f"{prefix}: {error_text(error)}", _code_of(error))
    return None


def _code_of(error: Exception) -> Code:
    if _NO_ROOM.search(error_text(error)):
        return "INSUFFICIENT_RESOURCES"
    if has_error_code(error, "VIR_ERR_NO_DOMAIN"):
        return "VM_NOT_FOUND"
    if has_error_code(error, "VIR_ERR_NO_DOMAIN_SNAPSHOT"):
        return "SNAPSHOT_NOT_FOUND"
    if has_error_code(error, "VIR_ERR_OPERATION_TIMEOUT", "VIR_ERR_AGENT_UNRESPONSIVE"):
        return "GUEST_NOT_RESPONDING"
    return "LIBVIRT_ERROR"
