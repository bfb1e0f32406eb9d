"""Pure: the statuses of VMs, snapshots, jobs and hosts, and which job status may follow which."""

from enum import StrEnum


class VmStatus(StrEnum):
    """What a VM is doing, as the API shows it."""

    CREATING = "creating"
    STOPPED = "stopped"
    STARTING = "starting"
    RUNNING = "running"
    STOPPING = "stopping"
    RESTARTING = "restarting"
    PAUSING = "pausing"
    PAUSED = "paused"
    RESUMING = "resuming"
    UPDATING = "updating"
    RESTORING = "restoring"
    DELETING = "deleting"
    ERROR = "error"
    """The last action left the VM in a state that needs an operator; `error` has the reason."""
    UNREACHABLE = "unreachable"
    """The last observation of its host failed; the VM's state is unknown."""


class DomainState(StrEnum):
    """The state of a domain, as the collection's modules report it."""

    RUNNING = "running"
    PAUSED = "paused"
    STOPPED = "stopped"
    STOPPING = "stopping"
    SUSPENDED = "suspended"
    CRASHED = "crashed"
    UNKNOWN = "unknown"


class SnapshotStatus(StrEnum):
    """What a snapshot is doing, as the API shows it."""

    CREATING = "creating"
    READY = "ready"
    RESTORING = "restoring"
    """The VM is being restored to the snapshot."""
    DELETING = "deleting"
    ERROR = "error"
    """The snapshot could not be created; `error` has the reason."""


class SnapshotOrigin(StrEnum):
    """What created a snapshot; a schedule prunes only the snapshots of its own origin."""

    MANUAL = "manual"
    """A request created it."""
    SCHEDULE = "schedule"
    GUARD = "guard"
    """It saves the VM's state before a restore."""
    FOUND = "found"
    """It was created on the host by other means."""


class JobStatus(StrEnum):
    """Where a job is between request and outcome."""

    QUEUED = "queued"
    """Committed with its lock; no process works on it yet."""
    RUNNING = "running"
    """A job process holds its lease (generation)."""
    CANCELLING = "cancelling"
    """Its process is being ended. For cancellation, which is not built yet."""
    SUCCEEDED = "succeeded"
    """The play succeeded, and the domain was observed in the requested state."""
    FAILED = "failed"
    """The play failed; `error` has the task and the reason."""
    CANCELLED = "cancelled"
    """The job ended before it changed anything, or its changes were undone.

    A graceful stop or restart is also cancelled when one with force supersedes it, and a run from
    a shell when its user ends it, at any point.
    """
    LOST = "lost"
    """Its process vanished, and it is not run again; an observation shows the VM's state."""


class JobOrigin(StrEnum):
    """What submitted a job, and where it runs."""

    API = "api"
    """A request to this service submitted it."""
    SCHEDULE = "schedule"
    """A snapshot schedule of this service submitted it."""
    OBSERVATION = "observation"
    """An observation of a host that failed; successful ones are no jobs."""
    SHELL = "shell"
    """A run from a shell, which reports itself; the service never starts, ends or repeats it."""


class HostStatus(StrEnum):
    """What the last observation of a host has shown."""

    UNKNOWN = "unknown"
    """The host has not been observed since it entered the inventory."""
    READY = "ready"
    UNREACHABLE = "unreachable"
    """Ansible could not connect to the host."""
    ERROR = "error"
    """Ansible connected to the host, but libvirt did not respond; `message` has the reason."""


UNFINISHED_JOB = (JobStatus.QUEUED, JobStatus.RUNNING, JobStatus.CANCELLING)
FINISHED_JOB = (JobStatus.SUCCEEDED, JobStatus.FAILED, JobStatus.CANCELLED, JobStatus.LOST)

JOB_MOVES: dict[JobStatus, frozenset[JobStatus]] = {
    JobStatus.QUEUED: frozenset({JobStatus.RUNNING, JobStatus.CANCELLED, JobStatus.FAILED}),
    JobStatus.RUNNING: frozenset(
        {
            JobStatus.CANCELLING,
            JobStatus.CANCELLED,
            JobStatus.SUCCEEDED,
            JobStatus.FAILED,
            JobStatus.LOST,
            JobStatus.QUEUED,
        }
    ),
    JobStatus.CANCELLING: frozenset(
        {JobStatus.CANCELLED, JobStatus.SUCCEEDED, JobStatus.FAILED, JobStatus.LOST}
    ),
    JobStatus.SUCCEEDED: frozenset(),
    JobStatus.FAILED: frozenset(),
    JobStatus.CANCELLED: frozenset(),
    JobStatus.LOST: frozenset(),
}
"""Job status → the statuses that may follow it.

running → queued: the job's process died, and it will run again. running → cancelled: the user
ended a run from a shell, or a job with force has superseded one that waited for its guest.
"""

ACTIVE_STATES = frozenset(DomainState) - {DomainState.STOPPED, DomainState.UNKNOWN}
"""The domain states with a QEMU process, and so with memory that can be lost, and consoles."""

SAVED = "saved"
"""The reason of a stopped domain whose memory libvirt has saved; its start continues there."""

PAUSED_BY_QEMU: dict[str, tuple[str, str]] = {
    "io_error": (
        "QEMU has paused its guest after an I/O error of a disk",
        "make room on its storage or repair it, then resume the VM",
    ),
    "crashed": ("its guest has crashed", "look at its console, then restart the VM with force"),
    "watchdog": (
        "its watchdog has paused its guest, which did not respond",
        "resume the VM, or restart it with force",
    ),
    "postcopy_failed": (
        "its migration has failed half way",
        "recover the migration with virsh, or restart the VM with force",
    ),
    "api_error": (
        "libvirt has paused its guest after an error of its own",
        "resume the VM, or restart it with force",
    ),
    "unknown": (
        "QEMU has paused its guest for an error that libvirt does not name, such as one of KVM",
        "see QEMU's log on the host (/var/log/libvirt/qemu), then restart the VM with force",
    ),
}
"""Reason of a paused domain that no person has paused → what has happened, and what to do."""

_CRASHED = (
    "its guest has crashed, and its QEMU is kept",
    "look at its console, then restart or stop the VM with force",
)
_POWER_STATUS: dict[str, VmStatus] = {
    DomainState.RUNNING: VmStatus.RUNNING,
    DomainState.PAUSED: VmStatus.PAUSED,
    DomainState.STOPPED: VmStatus.STOPPED,
    DomainState.STOPPING: VmStatus.STOPPING,
    DomainState.SUSPENDED: VmStatus.PAUSED,
}


def power_status(state: str, reason: str | None = None) -> VmStatus:
    """Return the status of a VM that no job holds, from its domain's state and the reason."""
    if fault_of(state, reason):
        return VmStatus.ERROR
    return _POWER_STATUS.get(state, VmStatus.ERROR)


def fault_of(state: str, reason: str | None) -> tuple[str, str] | None:
    """Return what has happened to a guest that no person has stopped, and what to do; or None."""
    if state == DomainState.CRASHED:
        return _CRASHED
    return PAUSED_BY_QEMU.get(reason or "") if state == DomainState.PAUSED else None
