"""Store: the tables as models."""

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from tortoise import fields
from tortoise.models import Model

from virtplay.states import (
    HostStatus,
    JobOrigin,
    JobStatus,
    SnapshotOrigin,
    SnapshotStatus,
    VmStatus,
)

if TYPE_CHECKING:
    TimeField = fields.DatetimeField
else:

    class TimeField(fields.DatetimeField):
        """A time, in UTC.

        Tortoise 1.1 parses SQLite's texts by regular expressions, which takes most of the time in
        which it makes the models of VMs and jobs; Python parses them in a fiftieth of it.
        """

        def to_python_value(self, value: Any) -> datetime | None:
            """Return the time that a database returns or the service assigns."""
            if isinstance(value, str):
                value = datetime.fromisoformat(value)
            if isinstance(value, datetime) and value.tzinfo is UTC:
                return value
            return super().to_python_value(value)


class Host(Model):
    """A hypervisor of the inventory, and what the last observation has shown of it."""

    id = fields.IntField(primary_key=True)
    name = fields.CharField(max_length=255, unique=True)
    status: Any = fields.CharEnumField(HostStatus, max_length=16, default=HostStatus.UNKNOWN)
    message = fields.TextField(default="")
    in_inventory = fields.BooleanField(default=True)
    facts: Any = fields.JSONField(default=dict)
    """`host_info` without its domains: host, pools, networks, bridges, templates, warnings."""
    observed_at = TimeField(null=True)
    """When the last successful observation was read, by the service's clock."""

    class Meta:
        table = "host"


class Vm(Model):
    """A VM: what was requested, and what the last observation has shown of it."""

    id = fields.IntField(primary_key=True)
    ref = fields.CharField(max_length=32, null=True, unique=True)
    """The public id, vm-001."""
    uuid = fields.UUIDField(unique=True)
    name = fields.CharField(max_length=255)
    description = fields.TextField(default="")
    host = fields.CharField(max_length=255, null=True, db_index=True)
    domain = fields.CharField(max_length=255, null=True)
    """libvirt's <name>."""
    status: Any = fields.CharEnumField(VmStatus, max_length=16, db_index=True)
    power = fields.CharField(max_length=16, default="")
    """The domain's state in the last observation; empty before the first one."""
    state_reason = fields.CharField(max_length=32, null=True)
    """Why the domain is in that state, in libvirt's words; None before it was observed."""
    elsewhere: Any = fields.JSONField(null=True)
    """Other host that defines a domain of this UUID → its state there; None without one."""
    managed = fields.BooleanField(null=True)
    """Whether its domain has our metadata; None before it was observed."""
    provisioned = fields.BooleanField(default=False)
    """Whether the domain exists; a creation that failed holds no capacity."""
    error: Any = fields.JSONField(null=True)
    template = fields.CharField(max_length=128, default="")
    os = fields.CharField(max_length=128, default="")
    cpu = fields.IntField()
    memory = fields.IntField()
    """MiB."""
    disk = fields.IntField()
    """GiB."""
    disk_pool = fields.CharField(max_length=255, null=True)
    """The storage pool of its first disk, empty if it is in none; None before it was observed."""
    pool_size = fields.BigIntField(null=True)
    """Bytes of all its disks in the default pool at full size; None before they were observed."""
    disk_allocation = fields.BigIntField(default=0)
    """Bytes that its disks occupy in the default pool."""
    network: Any = fields.JSONField(default=dict)
    ip = fields.CharField(max_length=64, null=True)
    addresses: Any = fields.JSONField(default=list)
    auto_start = fields.BooleanField(default=False)
    labels: Any = fields.JSONField(default=dict)
    pending: Any = fields.JSONField(default=dict)
    """Field whose new value applies at the next boot → its current value."""
    search_text = fields.TextField(default="")
    """Folded id, name, domain, OS and addresses, which the index of searches follows."""
    label_text = fields.TextField(default="")
    """JSON array of `key` and `key=value` of each label, which the table vm_label follows."""
    generation = fields.IntField(default=0)
    """Rises with every lease of a job that holds this VM; hosts refuse a lower one."""
    snapshots = fields.IntField(default=0)
    """Number of snapshots that its host reported; each has a row in Snapshot."""
    missed = fields.IntField(default=0)
    """Successive observations of its host that succeeded and did not show the VM."""
    started_at = TimeField(null=True)
    observed_at = TimeField(null=True)
    created_at = TimeField(auto_now_add=True)
    updated_at = TimeField(auto_now_add=True)

    class Meta:
        table = "vm"

    @property
    def label(self) -> str:
        """Its name and id, for messages."""
        return f"{self.name} ({self.ref})"


class Job(Model):
    """One action on one VM: its request, progress and outcome."""

    id = fields.IntField(primary_key=True)
    ref = fields.CharField(max_length=32, null=True, unique=True)
    """The public id, job-000001."""
    action = fields.CharField(max_length=32)
    vm_id = fields.IntField(null=True, db_index=True)
    vm_ref = fields.CharField(max_length=32, null=True)
    snapshot_ref = fields.CharField(max_length=32, null=True)
    """The snapshot that the job creates, restores or deletes."""
    locks = fields.BooleanField(default=True)
    """Whether the job holds its VM; opening a console does not."""
    host = fields.CharField(max_length=255, null=True)
    status: Any = fields.CharEnumField(JobStatus, max_length=16, db_index=True)
    progress = fields.IntField(default=0)
    step = fields.CharField(max_length=255, default="")
    step_started_at = TimeField(null=True)
    step_timeout = fields.IntField(null=True)
    """Seconds that a guest has to shut down, if the step waits for that."""
    eta_seconds = fields.FloatField(null=True)
    changed = fields.BooleanField(null=True)
    dry_run = fields.BooleanField(default=False)
    requested_by = fields.CharField(max_length=128)
    request_id = fields.CharField(max_length=128)
    command = fields.TextField(default="")
    variables: Any = fields.JSONField(default=dict)
    """The playbook's variables; secrets are in the job's directory instead."""
    result: Any = fields.JSONField(null=True)
    error: Any = fields.JSONField(null=True)
    attempt = fields.IntField(default=1)
    reached = fields.IntField(null=True)
    """The progress at the end of the attempt before this one; None in the first attempt."""
    stalled = fields.IntField(null=True)
    """How many attempts in a row have ended with the service and without progress; None if 0."""
    after_id = fields.IntField(null=True)
    """The number of the unfinished creation that this start waits for."""
    bulk_id = fields.IntField(null=True)
    """The number of the first job of its request, if the request limits how many run at once."""
    at_once = fields.IntField(null=True)
    """How many jobs with its `bulk_id` may run at once; None without a limit."""
    generation = fields.IntField(default=0)
    leased_by = fields.CharField(max_length=128, default="")
    """The holder of the lease, host:pid:random, which recognises a lease by it."""
    origin: Any = fields.CharEnumField(JobOrigin, max_length=16, default=JobOrigin.API)
    created_at = TimeField(auto_now_add=True)
    started_at = TimeField(null=True)
    finished_at = TimeField(null=True, db_index=True)

    class Meta:
        table = "job"


class ReportedRun(Model):
    """What a run from a shell reports of itself, beside its job's columns."""

    job_id = fields.IntField(primary_key=True, generated=False)
    token_id = fields.IntField()
    """The token that reports the run; no other token may."""
    run_id = fields.CharField(max_length=64)
    """The id that the run chose for itself; each id of a token is one job."""
    playbook = fields.CharField(max_length=255)
    run_by = fields.CharField(max_length=255)
    """user@machine, as reported by the run."""
    hosts: Any = fields.JSONField(default=list)
    domains: Any = fields.JSONField(default=list)
    """The domains that the run named: uuid, name and host of each, null where unknown."""
    vm_refs = fields.TextField(default="")
    """The VMs of these domains: ` vm-001 vm-002 `, each between spaces for the search."""
    reported_at = TimeField(db_index=True)
    """Time of the last report, by the service's clock."""

    class Meta:
        table = "reported_run"
        unique_together = (("token_id", "run_id"),)


class Snapshot(Model):
    """A snapshot of a VM: what was requested, and what its host reports of it."""

    id = fields.IntField(primary_key=True)
    ref = fields.CharField(max_length=32, null=True, unique=True)
    """The public id, snap-001; also libvirt's name of a snapshot that this service created."""
    vm_id = fields.IntField(db_index=True)
    name = fields.CharField(max_length=255)
    """libvirt's name of the snapshot."""
    title = fields.CharField(max_length=255)
    """Its name for users."""
    description = fields.TextField(default="")
    origin: Any = fields.CharEnumField(SnapshotOrigin, max_length=16)
    status: Any = fields.CharEnumField(SnapshotStatus, max_length=16)
    parent = fields.CharField(max_length=255, null=True)
    """libvirt's name of the parent snapshot."""
    current = fields.BooleanField(default=False)
    has_memory = fields.BooleanField(default=False)
    power = fields.CharField(max_length=16, default="")
    """The domain's state after a restore: running, paused or stopped."""
    frozen = fields.BooleanField(null=True)
    """Whether the guest's file systems were frozen; null for a stopped VM, or if unknown."""
    size = fields.BigIntField(null=True)
    """Bytes of the saved memory."""
    error: Any = fields.JSONField(null=True)
    """Why the last job on the snapshot failed."""
    expires_at = TimeField(null=True)
    prune_after = TimeField(null=True)
    """Pruning does not retry a failed deletion before this time."""
    created_at = TimeField(auto_now_add=True)

    class Meta:
        table = "snapshot"


class SnapshotSchedule(Model):
    """When snapshots of a VM are created automatically, and which of them are kept."""

    id = fields.IntField(primary_key=True)
    vm_id = fields.IntField(unique=True)
    cron: Any = fields.JSONField()
    """Cron expressions; each of them sets turns."""
    timezone = fields.CharField(max_length=64, default="UTC")
    keep: Any = fields.JSONField()
    """How many hourly, daily, weekly and monthly snapshots are kept."""
    enabled = fields.BooleanField(default=True)
    next_at = TimeField(null=True, db_index=True)
    last_at = TimeField(null=True)
    """The time of the last turn that was not skipped."""
    last_job = fields.CharField(max_length=32, null=True)
    skipped_at = TimeField(null=True)
    skipped_because = fields.TextField(default="")
    created_at = TimeField(auto_now_add=True)
    updated_at = TimeField(auto_now_add=True)

    class Meta:
        table = "snapshot_schedule"


class ConsoleTicket(Model):
    """The right to open one console stream once; only the ticket's SHA-256 is stored."""

    id = fields.IntField(primary_key=True)
    digest = fields.CharField(max_length=64, unique=True)
    vm_id = fields.IntField()
    token_id = fields.IntField()
    """The token that requested the ticket; its revocation or expiry closes the stream."""
    kind = fields.CharField(max_length=16)
    """vnc or serial."""
    port = fields.IntField(null=True)
    """The VNC server's port on the host's loopback."""
    expires_at = TimeField()
    used_at = TimeField(null=True)

    class Meta:
        table = "console_ticket"


class JobEvent(Model):
    """One event of a job's play; a job's log is the text of its events.

    `event`, `task` and `host` are for GET /jobs/{id}/events, which is not built yet.
    """

    id = fields.BigIntField(primary_key=True)
    job_id = fields.IntField()
    seq = fields.IntField()
    event = fields.CharField(max_length=64)
    task = fields.CharField(max_length=255, default="")
    host = fields.CharField(max_length=255, default="")
    text = fields.TextField(default="")
    created_at = TimeField(auto_now_add=True)

    class Meta:
        table = "job_event"
        unique_together = (("job_id", "seq"),)


class AuditEntry(Model):
    """Who requested which action on which VM, from which address, as which job.

    For GET /audit, which is not built yet; until then administrators read it with SQL.
    """

    id = fields.BigIntField(primary_key=True)
    actor = fields.CharField(max_length=128)
    action = fields.CharField(max_length=64)
    vm_ref = fields.CharField(max_length=32, null=True)
    job_ref = fields.CharField(max_length=32, null=True)
    address = fields.CharField(max_length=64, default="")
    request_id = fields.CharField(max_length=128, default="")
    created_at = TimeField(auto_now_add=True)

    class Meta:
        table = "audit"


class Token(Model):
    """An API token; only its SHA-256 is stored."""

    id = fields.IntField(primary_key=True)
    name = fields.CharField(max_length=128, unique=True)
    digest = fields.CharField(max_length=64, unique=True)
    role = fields.CharField(max_length=16)
    created_at = TimeField(auto_now_add=True)
    expires_at = TimeField(null=True)
    revoked_at = TimeField(null=True)
    last_used_at = TimeField(null=True)

    class Meta:
        table = "token"
