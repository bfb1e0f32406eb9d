"""API: /jobs."""

from datetime import UTC, datetime

from sanic import HTTPResponse, text

from virtplay.actions import playbook
from virtplay.api.http.envelope import ApiResponse
from virtplay.api.http.requests import ApiRequest
from virtplay.api.schemas.fields import Pagination
from virtplay.api.schemas.jobs import JobError, JobOut, JobPage
from virtplay.store import jobs as store
from virtplay.store.models import Job
from virtplay.times import time_text

PUBLIC_PLACE = {"live": "now", "offline": "now", "now": "now", "next_boot": "next_boot"}


def job_out(job: Job) -> JobOut:
    """A job as the API shows it."""
    result = job.result or {}
    return JobOut(
        id=str(job.ref),
        origin=job.origin,
        action=job.action,
        playbook=job.playbook or playbook(job.action),
        vmId=job.vm_ref,
        vmIds=[job.vm_ref] if job.vm_ref else (job.vm_refs or "").split(),
        snapshotId=job.snapshot_ref,
        host=job.host,
        hosts=[job.host] if job.hosts is None and job.host else job.hosts or [],
        status=job.status,
        progress=job.progress,
        step=job.step,
        etaSeconds=_eta(job),
        changed=job.changed,
        dryRun=job.dry_run,
        appliesAt=PUBLIC_PLACE.get(str(result.get("applies_at"))),
        changes=result.get("changes"),
        requestedBy=job.requested_by,
        user=job.run_by,
        requestId=job.request_id,
        command=job.command,
        # A run from a shell may still recover from what has failed in it.
        error=JobError(**job.error) if job.error and job.finished_at else None,
        attempt=job.attempt,
        retryOf=job.retry_of,
        createdAt=time_text(job.created_at) or "",
        startedAt=time_text(job.started_at),
        finishedAt=time_text(job.finished_at),
    )


def _eta(job: Job) -> float | None:
    """Seconds until it is likely to end, from how long its like took; None when unknown."""
    if job.eta_seconds is None or job.finished_at is not None:
        return None
    elapsed = (datetime.now(UTC) - job.started_at).total_seconds() if job.started_at else 0.0
    return round(max(0.0, job.eta_seconds - elapsed), 1)


async def list_jobs(request: ApiRequest) -> ApiResponse:
    """GET /jobs, the newest first."""
    query = request.query
    jobs, total = await store.page_jobs(
        page=query.page,
        limit=query.limit,
        vm=query.vm,
        status=query.status,
        action=query.action,
        origin=query.origin,
    )
    page = JobPage(
        jobs=[job_out(job) for job in jobs],
        pagination=Pagination.of(query.page, query.limit, total),
    )
    return ApiResponse(page.model_dump(mode="json"))


async def get_job(request: ApiRequest) -> ApiResponse:
    """GET /jobs/{id}."""
    return ApiResponse(job_out(await store.find_job(request.path["id"])).model_dump(mode="json"))


async def get_log(request: ApiRequest) -> HTTPResponse:
    """GET /jobs/{id}/log: the Ansible output as text."""
    job = await store.find_job(request.path["id"])
    return text(await store.read_log(job.id))
