"""API: runs from a shell, which report themselves."""

from virtplay.api.http.envelope import ApiResponse
from virtplay.api.http.requests import ApiRequest
from virtplay.api.jobs import job_out
from virtplay.api.schemas.reports import EventsBody, ReportBody, ReportedEvent, ReportedOut
from virtplay.jobs.reported import Batch, begin_report, take_report
from virtplay.states import JobStatus
from virtplay.store.reports import Domain


async def report_run(request: ApiRequest) -> ApiResponse:
    """POST /jobs: a run begins; 200 instead of 201 when it is known already."""
    body: ReportBody = request.body
    job, run, is_new = await begin_report(
        request.caller,
        run_id=body.runId,
        playbook=body.playbook,
        run_by=body.user,
        command=body.command,
        dry_run=body.dryRun,
    )
    return ApiResponse(
        job_out(job, run).model_dump(mode="json"),
        201 if is_new else 200,
        {"Location": f"/api/v1/jobs/{job.ref}"},
    )


async def report_events(request: ApiRequest) -> ApiResponse:
    """POST /jobs/{id}/events."""
    body: EventsBody = request.body
    batch = Batch(
        first=body.first,
        events=[_event(event) for event in body.events],
        hosts=body.hosts,
        domains=None
        if body.domains is None
        else [Domain(d.uuid, d.name, d.host) for d in body.domains],
        outcome=JobStatus(body.outcome) if body.outcome else None,
        error=body.error.model_dump() if body.error else None,
    )
    job, following = await take_report(request.caller, request.path["id"], batch)
    answer = ReportedOut(id=str(job.ref), status=job.status, next=following)
    return ApiResponse(answer.model_dump(mode="json"))


def _event(event: ReportedEvent) -> dict[str, object]:
    """The event as a runner would have written it."""
    told = event.model_dump(exclude_none=True)
    told["ignore_errors"] = told.pop("ignoreErrors")
    # Else it would be counted from the tasks of one batch.
    told.setdefault("percent", 0)
    return told
