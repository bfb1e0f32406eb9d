"""Every error that a user can receive: its code, HTTP status and message. Pure."""

from typing import Any, ClassVar

RETRY_SECONDS = 5
"""When a client may try again after the database of the service was not available."""


class VirtplayError(Exception):
    """A refusal or failure with a code of the API; `message` starts with "cannot"."""

    code: ClassVar[str] = "INTERNAL_ERROR"
    status: ClassVar[int] = 500

    def __init__(self, message: str, **details: Any) -> None:
        super().__init__(message)
        self.message = message
        self.details = details


class ValidationFailed(VirtplayError):
    """The request is malformed; `details.fields` lists every wrong field with its error."""

    code = "VALIDATION_ERROR"
    status = 400

    def __init__(self, message: str, fields: list[dict[str, str]] | None = None) -> None:
        super().__init__(message, fields=fields or [])


class Unauthorized(VirtplayError):
    """The token is missing, wrong, expired or revoked."""

    code = "UNAUTHORIZED"
    status = 401


class Forbidden(VirtplayError):
    """The token's role does not allow this."""

    code = "FORBIDDEN"
    status = 403


class NotFound(VirtplayError):
    """There is no such path."""

    code = "NOT_FOUND"
    status = 404


class VmNotFound(VirtplayError):
    """No VM has this id, UUID, domain or name."""

    code = "VM_NOT_FOUND"
    status = 404


class VmAmbiguous(VirtplayError):
    """Several VMs have this name; `details.vms` lists them, `details.matches` is their number."""

    code = "VM_AMBIGUOUS"
    status = 409


class SnapshotNotFound(VirtplayError):
    """The VM has no snapshot with this id."""

    code = "SNAPSHOT_NOT_FOUND"
    status = 404


class ScheduleNotFound(VirtplayError):
    """The VM has no snapshot schedule."""

    code = "SCHEDULE_NOT_FOUND"
    status = 404


class JobNotFound(VirtplayError):
    """No job has this id, or the job is older than the retention."""

    code = "JOB_NOT_FOUND"
    status = 404


class HostNotFound(VirtplayError):
    """The inventory has no such hypervisor."""

    code = "HOST_NOT_FOUND"
    status = 404


class TemplateNotFound(VirtplayError):
    """The image catalogue has no such template."""

    code = "TEMPLATE_NOT_FOUND"
    status = 404


class MethodNotAllowed(VirtplayError):
    """The path does not support this method."""

    code = "METHOD_NOT_ALLOWED"
    status = 405


class VmAlreadyRunning(VirtplayError):
    """The VM is running or paused, and the request requires a stopped VM."""

    code = "VM_ALREADY_RUNNING"
    status = 400


class VmAlreadyStopped(VirtplayError):
    """The VM is stopped, and the request requires a running VM."""

    code = "VM_ALREADY_STOPPED"
    status = 400


class VmAlreadyPaused(VirtplayError):
    """The VM is already paused."""

    code = "VM_ALREADY_PAUSED"
    status = 400


class VmNotPaused(VirtplayError):
    """The VM is not paused, and only a paused VM can be resumed."""

    code = "VM_NOT_PAUSED"
    status = 400


class InsufficientResources(VirtplayError):
    """No host has capacity; `details.hosts` lists required and available figures of each host."""

    code = "INSUFFICIENT_RESOURCES"
    status = 400


class OperationInProgress(VirtplayError):
    """Another job holds the VM; `details.jobId` names it."""

    code = "OPERATION_IN_PROGRESS"
    status = 409


class AllRefused(VirtplayError):
    """No VM of the request allows the action; `details.refused` has the error of each."""

    code = "ALL_REFUSED"
    status = 409


class VmHasSavedState(VirtplayError):
    """The memory of the VM is saved (virsh managedsave), and the request would lose it."""

    code = "VM_HAS_SAVED_STATE"
    status = 409


class VmHasSnapshots(VirtplayError):
    """The request would delete the snapshots of the VM."""

    code = "VM_HAS_SNAPSHOTS"
    status = 409


class ConsoleNotAvailable(VirtplayError):
    """The VM has no reachable console of this type; job `details.jobId` has the reason."""

    code = "CONSOLE_NOT_AVAILABLE"
    status = 409


class JobFinished(VirtplayError):
    """The job has finished: no further events can be reported."""

    code = "JOB_FINISHED"
    status = 409


class PayloadTooLarge(VirtplayError):
    """The body is larger than 1 MiB."""

    code = "PAYLOAD_TOO_LARGE"
    status = 413


class RateLimited(VirtplayError):
    """Too many failed logins from one address; `details.retryAfter` is in seconds."""

    code = "RATE_LIMITED"
    status = 429


class HostUnreachable(VirtplayError):
    """The last observation did not reach the host."""

    code = "HOST_UNREACHABLE"
    status = 503


class HistoryNotAvailable(VirtplayError):
    """The Prometheus with the history did not respond."""

    code = "HISTORY_NOT_AVAILABLE"
    status = 503


class DatabaseNotAvailable(VirtplayError):
    """The service's database is away or its disk is full; `details.retryAfter` is in seconds.

    `details.outcomeUnknown` is true if the database may have made the change nevertheless.
    """

    code = "DATABASE_NOT_AVAILABLE"
    status = 503

    def __init__(
        self, reason: str, *, what: str = "the database", outcome_unknown: bool = False
    ) -> None:
        self.reason = reason
        doubt = "the change may have been made: check it" if outcome_unknown else "try again"
        super().__init__(
            f"cannot use {what} of the service: {reason}; {doubt}",
            retryAfter=RETRY_SECONDS,
            outcomeUnknown=outcome_unknown,
        )


class InternalError(VirtplayError):
    """The service failed; search its log for the request id."""


class Conflict(VirtplayError):
    """A status changed concurrently; never returned to a user as such."""


class CannotCopy(VirtplayError):
    """The database cannot be saved in a file, or restored from one."""


class CannotStart(VirtplayError):
    """The service cannot start: its settings, inventory or database are unusable."""
