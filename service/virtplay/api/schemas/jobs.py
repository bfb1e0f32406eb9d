"""Schemas: jobs."""

from typing import Any

from pydantic import BaseModel, Field

from virtplay.api.schemas.fields import PageQuery, Pagination, Query
from virtplay.states import JobOrigin, JobStatus

WAIT_LIMIT = 60
"""Seconds that a response may wait for a job; less than the server allows a response."""


class JobQuery(PageQuery):
    """The query of GET /jobs."""

    vm: str | None = Field(
        None, min_length=1, max_length=255, description="id, UUID, domain or name of a VM"
    )
    status: JobStatus | None = None
    action: str | None = Field(None, max_length=32)
    origin: JobOrigin | None = Field(None, description="what submitted it, and where it runs")
    consoles: bool = Field(
        True, description="false: without the jobs that opened a console, which change nothing"
    )


class OneJobQuery(Query):
    """The query of GET /jobs/{id}."""

    wait: float = Field(
        0,
        ge=0,
        le=WAIT_LIMIT,
        allow_inf_nan=False,
        description="seconds to wait for the end of the job; then it is shown as it is",
    )


class JobError(BaseModel):
    """Why a job did not succeed."""

    code: str
    message: str
    task: str | None
    host: str | None


class JobOut(BaseModel):
    """A job."""

    id: str
    origin: JobOrigin = Field(description="shell: a reported run from a shell")
    action: str
    playbook: str
    vmId: str | None = Field(description="null if it has none or several")  # noqa: N815
    vmIds: list[str]  # noqa: N815
    snapshotId: str | None = Field(description="the job's snapshot")  # noqa: N815
    host: str | None = Field(description="null if it has none or several")
    hosts: list[str]
    status: JobStatus
    progress: int = Field(
        description="percent; 100 only when it has succeeded, of another ended job how far it got"
    )
    step: str = Field(description="what it does now, in words for users; its last step at the end")
    stepStartedAt: str | None = Field(  # noqa: N815
        description="when the step began; null unless the job runs"
    )
    stepTimeoutSeconds: int | None = Field(  # noqa: N815
        description="seconds that the guest has to shut down; null unless the step waits for that"
    )
    etaSeconds: float | None = Field(  # noqa: N815
        description="null if earlier jobs of this action differ, or all took less time"
    )
    changed: bool | None
    dryRun: bool  # noqa: N815
    appliesAt: str | None = Field(description="now, next_boot, or null")  # noqa: N815
    changes: list[dict[str, Any]] | None
    requestedBy: str = Field(description="the token's name")  # noqa: N815
    user: str | None = Field(description="user@machine, reported by a run from a shell")
    requestId: str  # noqa: N815
    command: str
    error: JobError | None
    attempt: int
    retryOf: str | None = Field(  # noqa: N815
        description="always null: a repeated job keeps its id, and attempt counts its runs"
    )
    createdAt: str  # noqa: N815
    startedAt: str | None  # noqa: N815
    finishedAt: str | None  # noqa: N815


class JobPage(BaseModel):
    """A page of jobs."""

    jobs: list[JobOut]
    pagination: Pagination
