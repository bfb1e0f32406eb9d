"""API: /jobs."""

import time
from datetime import UTC, datetime

from sanic import HTTPResponse, text

from virtplay.actions import Action, playbook
from virtplay.api.http.envelope import ApiResponse, json_list, json_object
from virtplay.api.http.requests import ApiRequest
from virtplay.api.schemas.fields import Pagination
from virtplay.api.schemas.jobs import JobError, JobOut
from virtplay.errors import VmNotFound
from virtplay.states import FINISHED_JOB
from virtplay.store import jobs as store
from virtplay.store.lookup import find_vm
from virtplay.store.models import Job, ReportedRun
from virtplay.store.reports import runs_of
from virtplay.store.vms import REF
from virtplay.times import time_text

PUBLIC_PLACE = {"live": "now", "offline": "now", "now": "now", "next_boot": "next_boot"}


def job_out(job: Job, run: ReportedRun | None) -> JobOut:
    """Return a job as the API shows it; `run` is its reported run, if it has one."""
    result = job.result or {}
    return JobOut(
        id=str(job.ref),
        origin=job.origin,
        action=job.action,
        playbook=run.playbook if run else playbook(job.action),
        vmId=job.vm_ref,
        vmIds=run.vm_refs.split() if run else [job.vm_ref] if job.vm_ref else [],
        snapshotId=job.snapshot_ref,
        host=job.host,
        hosts=run.hosts if run else [job.host] if job.host else [],
        status=job.status,
        progress=job.progress,
        step=job.step,
        stepStartedAt=time_text(store.step_start(job)),
        stepTimeoutSeconds=job.step_timeout if store.step_start(job) else None,
        etaSeconds=_eta(job),
        changed=job.changed,
        dryRun=job.dry_run,
        appliesAt=PUBLIC_PLACE.get(str(result.get("applies_at"))),
        changes=result.get("changes"),
        requestedBy=job.requested_by,
        user=run.run_by if run else None,
        requestId=job.request_id,
        command=job.command,
        # A reported run may still rescue the failure.
        error=JobError(**job.error) if job.error and job.finished_at else None,
        attempt=job.attempt,
        # For retries, which are not built yet.
        retryOf=None,
        createdAt=time_text(job.created_at) or "",
        startedAt=time_text(job.started_at),
        finishedAt=time_text(job.finished_at),
    )


def _eta(job: Job) -> float | None:
    """Return the estimated seconds until the job ends, from earlier jobs; None if unknown.

    It is unknown of a job that has taken longer than they did.
    """
    if job.eta_seconds is None or job.finished_at is not None:
        return None
    elapsed = (datetime.now(UTC) - job.started_at).total_seconds() if job.started_at else 0.0
    left = round(job.eta_seconds - elapsed, 1)
    return left if left > 0 else None


async def list_jobs(request: ApiRequest) -> ApiResponse:
    """GET /jobs, the newest first."""
    query = request.query
    jobs, total = await store.page_jobs(
        page=query.page,
        limit=query.limit,
        vm=query.vm and await _ref_of(query.vm),
        status=query.status,
        action=query.action,
        origin=query.origin,
        without=None if query.consoles else Action.CONSOLE_OPEN,
    )
    runs = await runs_of(jobs)
    shown = await json_list(jobs, lambda job: job_out(job, runs.get(job.id)).model_dump_json())
    pagination = Pagination.of(query.page, query.limit, total).model_dump_json()
    return ApiResponse(json_object(jobs=shown, pagination=pagination))


async def _ref_of(vm: str) -> str:
    """Return the id of the VM that `vm` names; the jobs of a deleted one are found by its id."""
    try:
        return str((await find_vm(vm)).ref)
    except VmNotFound:
        if REF.fullmatch(vm):
            return vm
        raise


async def get_job(request: ApiRequest) -> ApiResponse:
    """GET /jobs/{id}; with `wait`, when it has ended, or after so many seconds."""
    job = await store.find_job(request.path["id"])
    began = time.monotonic()
    if request.query.wait and job.status not in FINISHED_JOB:
        job = await request.services.ends.wait(job, request.query.wait)
    waited = time.monotonic() - began
    runs = await runs_of([job])
    return ApiResponse(job_out(job, runs.get(job.id)).model_dump(mode="json"), waited=waited)


async def get_log(request: ApiRequest) -> HTTPResponse:
    """GET /jobs/{id}/log: the Ansible output as text."""
    job = await store.find_job(request.path["id"])
    return text(await store.read_log(job.id))
