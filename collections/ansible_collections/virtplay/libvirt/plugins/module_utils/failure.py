# Copyright: Virtplay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The failure that every module reports, and the one way in which a module ends."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

Code = Literal[
    "CHECKSUM_MISMATCH",
    "CONSOLE_NOT_AVAILABLE",
    "DOWNLOAD_FAILED",
    "GUEST_NOT_RESPONDING",
    "IMAGE_REFUSED",
    "IMAGE_STORE_FAILED",
    "INSUFFICIENT_RESOURCES",
    "LIBVIRT_ERROR",
    "OPERATION_IN_PROGRESS",
    "SNAPSHOT_EXISTS",
    "SNAPSHOT_NOT_FOUND",
    "SNAPSHOT_NOT_POSSIBLE",
    "STALE_GENERATION",
    "TEMPLATE_NOT_FOUND",
    "VALIDATION_ERROR",
    "VM_ALREADY_RUNNING",
    "VM_ALREADY_STOPPED",
    "VM_HAS_SNAPSHOTS",
    "VM_NOT_FOUND",
]


class Failure(Exception):
    """A failure to report to the user: a message that starts with "cannot" and an error code."""

    def __init__(self, message: str, code: Code = "LIBVIRT_ERROR") -> None:
        super().__init__(message)
        self.message = message
        self.code = code


def run_module(
    module: Any, act: Callable[[], dict[str, Any]], explain: Callable[[Exception], Failure | None]
) -> None:
    """End module (an AnsibleModule) with what act returns, or with the failure that it raises.

    explain makes a failure of any other exception, or returns None for one that is a fault of
    ours and goes on.
    """
    try:
        result = act()
    except Exception as error:
        failure = error if isinstance(error, Failure) else explain(error)
        if failure is None:
            raise
        module.fail_json(msg=failure.message, code=failure.code)
    else:
        module.exit_json(**result)
