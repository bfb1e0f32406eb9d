"""Schemas: what a run from a shell reports."""

import uuid
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, Field

from virtplay.api.schemas.fields import Strict, check_printable
from virtplay.states import JobStatus

EVENTS_AT_ONCE = 500
HOSTS_LIMIT = 1000
DOMAINS_LIMIT = 1000

Line = Annotated[str, Field(max_length=255), AfterValidator(check_printable)]
HostName = Annotated[Line, Field(min_length=1)]


def check_uuid(text: str) -> str:
    """Return the UUID in its canonical form."""
    return str(uuid.UUID(text))


class ReportBody(Strict):
    """A run that begins."""

    runId: str = Field(  # noqa: N815
        pattern=r"^[A-Za-z0-9._-]{8,64}$",
        description="id that the run chooses; with the same token, each id is one job",
        examples=["5f3c1a52-8d1e-8c3b-9c1a-0e6a9d2b7f10"],
    )
    playbook: Line = Field(min_length=1, examples=["playbooks/vm_start.yml"])
    user: Line = Field("", description="user@machine", examples=["alice@admin"])
    command: Annotated[str, Field(max_length=4096), AfterValidator(check_printable)] = Field(
        "", description="the command line, without secrets"
    )
    dryRun: bool = Field(False, description="whether it runs in check mode")  # noqa: N815


class ReportedDomain(Strict):
    """A domain of the run, by UUID or libvirt's name."""

    uuid: Annotated[str, Field(max_length=64), AfterValidator(check_uuid)] | None = None
    name: Line | None = None
    host: Line | None = None


class ReportedResult(Strict):
    """The part of a task's result that the job shows."""

    changed: bool = False
    msg: str = Field("", max_length=4000)
    code: str | None = Field(None, pattern=r"^[A-Z][A-Z_]{0,63}$")
    domain: dict[str, Any] | None = Field(
        None, description="the domain's state; a result that has it becomes the job's result"
    )
    changes: list[dict[str, Any]] | None = Field(None, max_length=200)
    applies_at: str | None = Field(None, max_length=16)


class ReportedEvent(Strict):
    """One event of the run, with ansible-runner's name."""

    event: Literal[
        "playbook_on_play_start",
        "playbook_on_task_start",
        "playbook_on_stats",
        "runner_on_ok",
        "runner_on_skipped",
        "runner_on_failed",
        "runner_on_unreachable",
        "runner_item_on_failed",
        "output",
    ]
    text: str = Field("", max_length=20_000, description="what the job's log shows")
    task: str = Field("", max_length=255)
    host: str = Field("", max_length=255)
    percent: int | None = Field(None, ge=0, le=100, description="progress of the run")
    ignoreErrors: bool = Field(False, description="the failure does not count")  # noqa: N815
    res: ReportedResult | None = None


class ReportedError(Strict):
    """Why the run failed, if no task failed."""

    code: str = Field(pattern=r"^[A-Z][A-Z_]{0,63}$", examples=["RUN_INTERRUPTED"])
    message: str = Field(min_length=1, max_length=4000)


class EventsBody(Strict):
    """One report of a run; an empty one reports that the run is still alive."""

    first: int = Field(
        ge=1, le=2**31 - 1, description="number of the first event; known events are skipped"
    )
    events: list[ReportedEvent] = Field([], max_length=EVENTS_AT_ONCE)
    hosts: list[HostName] | None = Field(
        None, max_length=HOSTS_LIMIT, description="all hosts so far; null: unchanged"
    )
    domains: list[ReportedDomain] | None = Field(
        None, max_length=DOMAINS_LIMIT, description="all domains so far; null: unchanged"
    )
    outcome: Literal["succeeded", "failed", "cancelled"] | None = Field(
        None, description="ends the job; cancelled: a user ended the run"
    )
    error: ReportedError | None = None


class ReportedOut(BaseModel):
    """The response to a report."""

    id: str
    status: JobStatus
    next: int = Field(description="number of the next event")
