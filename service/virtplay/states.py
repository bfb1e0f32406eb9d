"""Pure: the statuses of VMs, snapshots, jobs and hosts, and which job status may follow which."""

from enum import StrEnum


class VmStatus(StrEnum):
    """What a VM is doing, as the API says it."""

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
    """The last action left it in a state that a person must look at; `error` says why."""
    UNREACHABLE = "unreachable"
    """Its host did not answer the last observation; nothing is known about the VM."""


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
    """What a snapshot is doing, as the API says it."""

    CREATING = "creating"
    READY = "ready"
    RESTORING = "restoring"
    """The VM is being brought back to it."""
    DELETING = "deleting"
    ERROR = "error"
    """It could not be made; `error` says why."""


class SnapshotOrigin(StrEnum):
    """Who made a snapshot; only those of the schedule are ever pruned by it."""

    MANUAL = "manual"
    """Somebody asked for it."""
    SCHEDULE = "schedule"
    GUARD = "guard"
    """The state before a restore."""
    FOUND = "found"
    """It was made on the host, by other means."""


class JobStatus(StrEnum):
    """Where a job is between request and outcome."""

    QUEUED = "queued"
    """Committed with its lock; no process works on it yet."""
    RUNNING = "running"
    """A job process holds its lease (generation)."""
    CANCELLING = "cancelling"
    """For cancellation, which is not built yet: its process is being ended."""
    SUCCEEDED = "succeeded"
    """The play ended well and the domain was seen in the state asked for."""
    FAILED = "failed"
    """The play failed; `error` says where and why."""
    CANCELLED = "cancelled"
    """It ended before it changed anything, or what it changed was undone.

    Of a run from a shell: somebody ended it, wherever it was.
    """
    LOST = "lost"
    """Its process vanished and running it again could do harm; observation tells the VM's state."""


class JobOrigin(StrEnum):
    """Who has a job run, and where."""

    API = "api"
    """Somebody asked this service for it."""
    SCHEDULE = "schedule"
    """A snapshot schedule of this service did."""
    OBSERVATION = "observation"
    """An observation that did not see its host; others are not kept."""
    SHELL = "shell"
    """A run from a shell, which reports itself: the service never runs, ends or repeats it."""


class HostStatus(StrEnum):
    """What the last observation said about a host."""

    UNKNOWN = "unknown"
    """Never observed since it entered the inventory."""
    READY = "ready"
    UNREACHABLE = "unreachable"
    """Ansible could not reach it."""
    ERROR = "error"
    """Ansible reached it, but libvirt gave no answer; `message` says why."""


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
"""The only status changes a job can make.

running → queued: its process died and it runs again. running → cancelled: a run from a shell.
"""

POWER_STATUS: dict[str, VmStatus] = {
    DomainState.RUNNING: VmStatus.RUNNING,
    DomainState.PAUSED: VmStatus.PAUSED,
    DomainState.STOPPED: VmStatus.STOPPED,
    DomainState.STOPPING: VmStatus.STOPPING,
    DomainState.SUSPENDED: VmStatus.PAUSED,
    DomainState.CRASHED: VmStatus.ERROR,
}
"""A domain's state → the VM's status when no job holds it."""
