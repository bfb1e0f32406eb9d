"""Every route of the API: its role, handler, request, response and errors, on one screen."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from pydantic import BaseModel
from sanic import HTTPResponse

from virtplay.api import (
    console,
    health,
    hosts,
    jobs,
    prometheus,
    reports,
    snapshots,
    vm_metrics,
    vms,
)
from virtplay.api.http.auth import Role
from virtplay.api.http.envelope import ApiResponse
from virtplay.api.http.requests import ApiRequest
from virtplay.api.http.streaming import Stream
from virtplay.api.schemas.console import ConsoleOut, ConsoleQuery
from virtplay.api.schemas.fields import EmptyBody, NoQuery, Query, Strict
from virtplay.api.schemas.hosts import HostList, HostOut, TemplateList
from virtplay.api.schemas.jobs import JobOut, JobPage, JobQuery, OneJobQuery
from virtplay.api.schemas.metrics import ExpositionQuery, TargetList, VmMetrics, VmMetricsQuery
from virtplay.api.schemas.reports import EventsBody, ReportBody, ReportedOut
from virtplay.api.schemas.service import HealthOut
from virtplay.api.schemas.snapshots import (
    AcceptedSnapshotOut,
    RestoreBody,
    ScheduleBody,
    ScheduleGone,
    ScheduleOut,
    SnapshotCreate,
    SnapshotList,
    SnapshotOut,
)
from virtplay.api.schemas.vms import (
    AcceptedOut,
    ActionsBody,
    ActionsOut,
    DeleteQuery,
    ForceBody,
    StatusOut,
    VmCreate,
    VmOut,
    VmPage,
    VmQuery,
    VmUpdate,
)

Handler = Callable[[ApiRequest], Awaitable[ApiResponse | HTTPResponse | Stream]]
PREFIX = "/api/v1"


@dataclass(frozen=True)
class Route:
    """One method of one path."""

    method: str
    path: str
    role: Role
    handler: Handler
    summary: str
    response: type[BaseModel] | None
    query: type[Query] = NoQuery
    body: type[Strict] | None = None
    status: int = 200
    errors: tuple[str, ...] = ()
    other_statuses: tuple[int, ...] = ()
    """Further statuses with the same response."""
    bare: bool = False
    """The response has no envelope, because its format is not ours."""
    creates_job: bool = False
    """A GET that submits a job, so HEAD is not allowed."""
    public_setting: str = ""
    """The setting that allows requests without a token."""


READ = Role.VIEWER
CHANGE = Role.OPERATOR
ONE_VM = ("VM_NOT_FOUND", "VM_AMBIGUOUS")
ONE_SNAPSHOT = (*ONE_VM, "SNAPSHOT_NOT_FOUND")
MUTATION = (*ONE_VM, "OPERATION_IN_PROGRESS", "HOST_UNREACHABLE")
NONE = EmptyBody

ROUTES = (
    Route("GET", f"{PREFIX}/vms", READ, vms.list_vms, "List VMs", VmPage, VmQuery),
    Route(
        "POST", f"{PREFIX}/vms", CHANGE, vms.create_vm, "Create a VM", AcceptedOut,
        body=VmCreate, status=202,
        errors=("TEMPLATE_NOT_FOUND", "HOST_NOT_FOUND", "INSUFFICIENT_RESOURCES", "HOST_UNREACHABLE"),
    ),
    Route(
        "POST", f"{PREFIX}/vms/actions", CHANGE, vms.act_together, "Start, stop, restart, pause or resume many VMs",
        ActionsOut, body=ActionsBody, status=202, errors=("VM_NOT_FOUND", "ALL_REFUSED"),
    ),
    Route("GET", f"{PREFIX}/vms/{{id}}", READ, vms.get_vm, "Show a VM", VmOut, errors=ONE_VM),
    Route(
        "PUT", f"{PREFIX}/vms/{{id}}", CHANGE, vms.update_vm, "Update a VM", AcceptedOut,
        body=VmUpdate, status=202,
        errors=(*MUTATION, "INSUFFICIENT_RESOURCES", "VM_HAS_SAVED_STATE"),
    ),
    Route(
        "DELETE", f"{PREFIX}/vms/{{id}}", CHANGE, vms.delete_vm, "Delete a VM", AcceptedOut,
        DeleteQuery, NONE, 202, (*MUTATION, "VM_ALREADY_RUNNING", "VM_HAS_SAVED_STATE", "VM_HAS_SNAPSHOTS"),
    ),
    Route(
        "POST", f"{PREFIX}/vms/{{id}}/start", CHANGE, vms.start_vm, "Start a VM",
        AcceptedOut, body=NONE, status=202, errors=(*MUTATION, "VM_ALREADY_RUNNING"),
    ),
    Route(
        "POST", f"{PREFIX}/vms/{{id}}/stop", CHANGE, vms.stop_vm, "Stop a VM",
        AcceptedOut, body=ForceBody, status=202,
        errors=(*MUTATION, "VM_ALREADY_STOPPED"),
    ),
    Route(
        "POST", f"{PREFIX}/vms/{{id}}/restart", CHANGE, vms.restart_vm, "Restart a VM",
        AcceptedOut, body=ForceBody, status=202,
        errors=(*MUTATION, "VM_ALREADY_STOPPED"),
    ),
    Route(
        "POST", f"{PREFIX}/vms/{{id}}/pause", CHANGE, vms.pause_vm, "Pause a VM",
        AcceptedOut, body=NONE, status=202,
        errors=(*MUTATION, "VM_ALREADY_STOPPED", "VM_ALREADY_PAUSED"),
    ),
    Route(
        "POST", f"{PREFIX}/vms/{{id}}/resume", CHANGE, vms.resume_vm, "Resume a paused VM",
        AcceptedOut, body=NONE, status=202,
        errors=(*MUTATION, "VM_ALREADY_STOPPED", "VM_NOT_PAUSED"),
    ),
    Route(
        "GET", f"{PREFIX}/vms/{{id}}/status", READ, vms.get_status, "Show a VM's status",
        StatusOut, errors=ONE_VM,
    ),
    Route(
        "GET", f"{PREFIX}/vms/{{id}}/snapshots", READ, snapshots.list_snapshots,
        "List a VM's snapshots", SnapshotList, errors=ONE_VM,
    ),
    Route(
        "POST", f"{PREFIX}/vms/{{id}}/snapshots", CHANGE, snapshots.create_snapshot,
        "Create a snapshot of a VM", AcceptedSnapshotOut, body=SnapshotCreate, status=202,
        errors=(*MUTATION, "VM_HAS_SAVED_STATE"),
    ),
    Route(
        "GET", f"{PREFIX}/vms/{{id}}/snapshots/{{sid}}", READ, snapshots.get_snapshot,
        "Show a snapshot", SnapshotOut, errors=ONE_SNAPSHOT,
    ),
    Route(
        "POST", f"{PREFIX}/vms/{{id}}/snapshots/{{sid}}/restore", CHANGE, snapshots.restore_snapshot,
        "Restore a VM to a snapshot", AcceptedSnapshotOut, body=RestoreBody, status=202,
        errors=(*MUTATION, "SNAPSHOT_NOT_FOUND", "VM_ALREADY_RUNNING", "VM_HAS_SAVED_STATE"),
    ),
    Route(
        "DELETE", f"{PREFIX}/vms/{{id}}/snapshots/{{sid}}", CHANGE, snapshots.delete_snapshot,
        "Delete a snapshot; its children are kept", AcceptedSnapshotOut, body=NONE,
        status=202, errors=(*MUTATION, "SNAPSHOT_NOT_FOUND"),
    ),
    Route(
        "GET", f"{PREFIX}/vms/{{id}}/snapshot-schedule", READ, snapshots.get_schedule,
        "Show a VM's snapshot schedule", ScheduleOut, errors=(*ONE_VM, "SCHEDULE_NOT_FOUND"),
    ),
    Route(
        "PUT", f"{PREFIX}/vms/{{id}}/snapshot-schedule", CHANGE, snapshots.put_schedule,
        "Set a VM's snapshot schedule", ScheduleOut, body=ScheduleBody,
        errors=ONE_VM,
    ),
    Route(
        "DELETE", f"{PREFIX}/vms/{{id}}/snapshot-schedule", CHANGE, snapshots.delete_schedule,
        "Delete a VM's snapshot schedule", ScheduleGone, body=NONE,
        errors=(*ONE_VM, "SCHEDULE_NOT_FOUND"),
    ),
    Route(
        "GET", f"{PREFIX}/vms/{{id}}/console", CHANGE, console.get_console, "Open a VM's console",
        ConsoleOut, ConsoleQuery, creates_job=True,
        errors=(*ONE_VM, "VM_ALREADY_STOPPED", "CONSOLE_NOT_AVAILABLE", "HOST_UNREACHABLE"),
    ),
    Route(
        "GET", f"{PREFIX}/vms/{{id}}/metrics", READ, vm_metrics.get_metrics, "Show a VM's resource usage",
        VmMetrics, VmMetricsQuery, errors=(*ONE_VM, "HISTORY_NOT_AVAILABLE"),
    ),
    Route("GET", f"{PREFIX}/jobs", READ, jobs.list_jobs, "List jobs", JobPage, JobQuery, errors=ONE_VM),
    Route(
        "POST", f"{PREFIX}/jobs", CHANGE, reports.report_run,
        "Report an ansible-playbook run, which is shown as a job", JobOut, body=ReportBody,
        status=201, other_statuses=(200,),
    ),
    Route(
        "POST", f"{PREFIX}/jobs/{{id}}/events", CHANGE, reports.report_events,
        "Report progress of an ansible-playbook run", ReportedOut, body=EventsBody,
        errors=("JOB_NOT_FOUND", "JOB_FINISHED"),
    ),
    Route(
        "GET", f"{PREFIX}/jobs/{{id}}", READ, jobs.get_job, "Show a job", JobOut, OneJobQuery,
        errors=("JOB_NOT_FOUND",),
    ),
    Route(
        "GET", f"{PREFIX}/jobs/{{id}}/log", READ, jobs.get_log, "Show a job's Ansible output as text",
        None, errors=("JOB_NOT_FOUND",),
    ),
    Route("GET", f"{PREFIX}/hosts", READ, hosts.list_hosts, "List hypervisors", HostList),
    Route(
        "GET", f"{PREFIX}/hosts/{{name}}", READ, hosts.get_host, "Show a hypervisor", HostOut,
        errors=("HOST_NOT_FOUND",),
    ),
    Route(
        "GET", f"{PREFIX}/templates", READ, hosts.list_templates, "List the image catalogue",
        TemplateList,
    ),
    Route(
        "GET", f"{PREFIX}/prometheus/targets", READ, prometheus.list_targets,
        "List one Prometheus target per hypervisor (http_sd)", TargetList, bare=True,
        public_setting="metrics_open",
    ),
    Route(
        "GET", "/metrics", READ, prometheus.get_exposition, "Show all metrics in the Prometheus text format",
        None, ExpositionQuery, errors=("HOST_NOT_FOUND",), public_setting="metrics_open",
    ),
    Route("GET", "/healthz", Role.NOBODY, health.healthz, "Check that the process responds", HealthOut),
    Route("GET", "/readyz", Role.NOBODY, health.readyz, "Check that the service is ready", HealthOut, other_statuses=(503,)),
)  # fmt: skip
