# Copyright: Virtplay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Defines the failure of modules, checks their arguments, and ends them with a result."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import Any, Literal

from .values import Table

Code = Literal[
    "CHECKSUM_MISMATCH",
    "CONSOLE_NOT_AVAILABLE",
    "DOWNLOAD_FAILED",
    "GUEST_NOT_RESPONDING",
    "GUEST_NOT_RUNNING",
    "IMAGE_REFUSED",
    "IMAGE_STORE_FAILED",
    "INSUFFICIENT_RESOURCES",
    "LIBVIRT_ERROR",
    "OPERATION_IN_PROGRESS",
    "SNAPSHOT_EXISTS",
    "SNAPSHOT_NOT_FOUND",
    "SNAPSHOT_NOT_POSSIBLE",
    "STALE_GENERATION",
    "SUPERSEDED",
    "TEMPLATE_NOT_FOUND",
    "TIMEOUT",
    "VALIDATION_ERROR",
    "VM_ALREADY_RUNNING",
    "VM_ALREADY_STOPPED",
    "VM_HAS_SAVED_STATE",
    "VM_HAS_SNAPSHOTS",
    "VM_NOT_FOUND",
]


class Failure(Exception):
    """A failure to report to the user: a message that starts with "cannot" and an error code."""

    def __init__(self, message: str, code: Code = "LIBVIRT_ERROR", **facts: Any) -> None:
        """Describe the failure; facts are further keys of the module's result."""
        super().__init__(message)
        self.message = message
        self.code = code
        self.facts = facts


def check_values(table: Table, params: dict[str, Any]) -> None:
    """Raise Failure for arguments that the table refuses; write the UUID in libvirt's spelling."""
    faults = table.find_faults(params)
    if faults:
        raise Failure("; ".join(faults), "VALIDATION_ERROR")
    if params.get("uuid") is not None:
        params["uuid"] = str(uuid.UUID(params["uuid"]))


def run_module(
    module: Any, act: Callable[[], dict[str, Any]], explain: Callable[[Exception], Failure | None]
) -> None:
    """End module (an AnsibleModule) with the result of act, or with the failure that it raises.

    explain returns the failure for any other exception, or None for a fault in our own code; that
    exception is raised again.
    """
    try:
        result = act()
    except Exception as error:
        failure = error if isinstance(error, Failure) else explain(error)
        if failure is None:
            raise
        module.fail_json(msg=failure.message, code=failure.code, **failure.facts)
    else:
        module.exit_json(**result)
