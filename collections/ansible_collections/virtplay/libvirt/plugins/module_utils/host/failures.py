# Copyright: Virtplay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Collection layer: turns what went wrong on a host into a failure with a code."""

from __future__ import annotations

from ..domain.xml import InvalidDomain
from .connection import LibvirtFailure, error_text, has_error_code, libvirt
from .storage import is_no_room


def failure_of(error: BaseException, prefix: str) -> LibvirtFailure | None:
    """Turn an exception into a failure with a code; None for one that is a fault of ours.

    prefix says what could not be done ("cannot …") where the exception does not.
    """
    if isinstance(error, LibvirtFailure):
        return error
    if isinstance(error, InvalidDomain):
        return LibvirtFailure(str(error), "VALIDATION_ERROR")
    if isinstance(error, OSError):
        code = "INSUFFICIENT_RESOURCES" if is_no_room(error) else "LIBVIRT_ERROR"
        return LibvirtFailure(f"{prefix}: {error}", code)
    if libvirt is not None and isinstance(error, libvirt.libvirtError):
        return LibvirtFailure(f"{prefix}: {error_text(error)}", _code_of(error))
    return None


def _code_of(error: Exception) -> str:
    if is_no_room(error) or "annot allocate memory" in error_text(error):
        return "INSUFFICIENT_RESOURCES"
    if has_error_code(error, "VIR_ERR_NO_DOMAIN"):
        return "VM_NOT_FOUND"
    if has_error_code(error, "VIR_ERR_NO_DOMAIN_SNAPSHOT"):
        return "SNAPSHOT_NOT_FOUND"
    if has_error_code(error, "VIR_ERR_OPERATION_TIMEOUT", "VIR_ERR_AGENT_UNRESPONSIVE"):
        return "GUEST_NOT_RESPONDING"
    return "LIBVIRT_ERROR"
