"""API: receives the reports of runs from a shell."""

from virtplay.api.http.envelope import ApiResponse
from virtplay.api.http.requests import ApiRequest
from virtplay.api.jobs import job_out
from virtplay.api.schemas.reports import EventsBody, ReportBody, ReportedEvent, ReportedOut
from virtplay.jobs.reported import Batch, begin_report, take_report
from virtplay.states import JobStatus
from virtplay.store.reports import Domain


async def report_run(request: ApiRequest) -> ApiResponse:
    """POST /jobs: report that a run begins; 200 instead of 201 if it was reported before."""
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
    reported = ReportedOut(id=str(job.ref), status=job.status, next=following)
    return ApiResponse(reported.model_dump(mode="json"))


def _event(event: ReportedEvent) -> dict[str, object]:
    """Return the event in the runner's shape."""
    values = event.model_dump(exclude_none=True)
    values["ignore_errors"] = values.pop("ignoreErrors")
    # Otherwise the percent would be computed from the tasks of this batch alone.
    values.setdefault("percent", 0)
    return values
