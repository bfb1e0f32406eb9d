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

    A run from a shell is cancelled when its user ends it, at any point.
    """
    LOST = "lost"
    """Its process vanished, and a repeat could do harm; an observation shows the VM's state."""


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
ended a run from a shell.
"""

POWER_STATUS: dict[str, VmStatus] = {
    DomainState.RUNNING: VmStatus.RUNNING,
    DomainState.PAUSED: VmStatus.PAUSED,
    DomainState.STOPPED: VmStatus.STOPPED,
    DomainState.STOPPING: VmStatus.STOPPING,
    DomainState.SUSPENDED: VmStatus.PAUSED,
    DomainState.CRASHED: VmStatus.ERROR,
}
"""Domain state → status of its VM when no job holds the VM."""
