"""API: the shapes of what a run from a shell reports."""

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
    """The UUID in its usual spelling."""
    return str(uuid.UUID(text))


class ReportBody(Strict):
    """A run that begins."""

    runId: str = Field(  # noqa: N815
        pattern=r"^[A-Za-z0-9._-]{8,64}$",
        description="the run's own name: sent again with the same token it is the same job",
        examples=["5f3c1a52-8d1e-8c3b-9c1a-0e6a9d2b7f10"],
    )
    playbook: Line = Field(min_length=1, examples=["playbooks/vm_start.yml"])
    user: Line = Field("", description="user@machine", examples=["alice@admin"])
    command: Annotated[str, Field(max_length=4096), AfterValidator(check_printable)] = Field(
        "", description="the command line, without secrets"
    )
    dryRun: bool = Field(False, description="it runs in check mode")  # noqa: N815


class ReportedDomain(Strict):
    """A domain that the run is about, by UUID or libvirt's name."""

    uuid: Annotated[str, Field(max_length=64), AfterValidator(check_uuid)] | None = None
    name: Line | None = None
    host: Line | None = None


class ReportedResult(Strict):
    """What a task answered, as far as the job shows it."""

    changed: bool = False
    msg: str = Field("", max_length=4000)
    code: str | None = Field(None, pattern=r"^[A-Z][A-Z_]{0,63}$")
    domain: dict[str, Any] | None = Field(None, description="makes it the job's result")
    changes: list[dict[str, Any]] | None = Field(None, max_length=200)
    applies_at: str | None = Field(None, max_length=16)


class ReportedEvent(Strict):
    """One event of the run, as ansible-runner names them."""

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
    percent: int | None = Field(None, ge=0, le=100, description="how far the run is")
    ignoreErrors: bool = Field(False, description="the failure is none")  # noqa: N815
    res: ReportedResult | None = None


class ReportedError(Strict):
    """Why it failed, where no task did."""

    code: str = Field(pattern=r"^[A-Z][A-Z_]{0,63}$", examples=["RUN_INTERRUPTED"])
    message: str = Field(min_length=1, max_length=4000)


class EventsBody(Strict):
    """What a run tells at once; nothing at all says that it is still there."""

    first: int = Field(
        ge=1, le=2**31 - 1, description="number of the first event; those that are known are passed"
    )
    events: list[ReportedEvent] = Field([], max_length=EVENTS_AT_ONCE)
    hosts: list[HostName] | None = Field(
        None, max_length=HOSTS_LIMIT, description="all so far; null: as before"
    )
    domains: list[ReportedDomain] | None = Field(
        None, max_length=DOMAINS_LIMIT, description="that it is about so far; null: as before"
    )
    outcome: Literal["succeeded", "failed", "cancelled"] | None = Field(
        None, description="ends the job; cancelled: somebody ended the run"
    )
    error: ReportedError | None = None


class ReportedOut(BaseModel):
    """What was taken in."""

    id: str
    status: JobStatus
    next: int = Field(description="the number that the next event gets")
