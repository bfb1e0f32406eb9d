"""Schemas: snapshots and their schedules."""

from datetime import UTC, datetime
from typing import Annotated, Any, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)

from virtplay.api.schemas.fields import Description, Name, Strict
from virtplay.snapshots.retention import Retention, next_turn, read_timezone
from virtplay.states import SnapshotOrigin, SnapshotStatus

EXPIRES_LATEST = datetime(9000, 1, 1, tzinfo=UTC)
KEEP_MAX = 1000


def check_future(text: str) -> str:
    """Refuse anything but a future time with an offset from UTC."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError("must be a time such as 2030-01-31T12:00:00Z") from None
    if moment.tzinfo is None:
        raise ValueError("must have an offset from UTC, as in 2030-01-31T12:00:00Z")
    if not datetime.now(UTC) < moment < EXPIRES_LATEST:
        raise ValueError("must be in the future")
    return text


Moment = Annotated[str, Field(max_length=64, examples=["2030-01-31T12:00:00Z"])]


class SnapshotCreate(Strict):
    """The body of POST /vms/{id}/snapshots."""

    name: Name = Field(examples=["backup-2024-01-01"])
    description: Description = ""
    expiresAt: Annotated[Moment, AfterValidator(check_future)] | None = Field(  # noqa: N815
        None, description="the snapshot is deleted automatically after this time"
    )
    freeze: bool = Field(True, description="freeze the guest's file systems, if its agent responds")


class RestoreBody(Strict):
    """The body of POST /vms/{id}/snapshots/{sid}/restore."""

    force: bool = Field(False, description="restore a running VM, which discards its current state")
    guard: bool = Field(False, description="create a snapshot of the current state first")


class KeepBody(Strict):
    """How many snapshots of a schedule are kept: the last of each hour, day, week and month."""

    hourly: int = Field(0, ge=0, le=KEEP_MAX)
    daily: int = Field(0, ge=0, le=KEEP_MAX)
    weekly: int = Field(0, ge=0, le=KEEP_MAX)
    monthly: int = Field(0, ge=0, le=KEEP_MAX)

    @model_validator(mode="after")
    def _keeps_any(self) -> Self:
        if not any((self.hourly, self.daily, self.weekly, self.monthly)):
            raise ValueError("must keep at least one")
        return self

    def as_retention(self) -> Retention:
        """Return the retention."""
        return Retention(self.hourly, self.daily, self.weekly, self.monthly)


CronText = Annotated[str, Field(max_length=256, examples=["0 3 * * *"])]


class ScheduleBody(Strict):
    """The body of PUT /vms/{id}/snapshot-schedule."""

    timezone: str = Field(
        "UTC", max_length=64, validate_default=True, description="IANA time zone of cron and keep"
    )
    cron: list[CronText] = Field(
        min_length=1,
        max_length=8,
        description="five-field cron expressions; a snapshot is due when any of them matches",
        examples=[["0 * * * *"]],
    )
    keep: KeepBody
    enabled: bool = True

    @field_validator("timezone")
    @classmethod
    def _known_zone(cls, value: str) -> str:
        read_timezone(value)
        return value

    @field_validator("cron")
    @classmethod
    def _readable(cls, value: list[str], info: ValidationInfo) -> list[str]:
        zone = read_timezone(info.data.get("timezone", "UTC"))
        for expression in value:
            next_turn([expression], zone, datetime.now(UTC))
        return value


class SnapshotOut(BaseModel):
    """A snapshot."""

    id: str
    name: str
    description: str
    status: SnapshotStatus
    parent: str | None = Field(description="id of the parent snapshot")
    current: bool = Field(description="the current state of the VM is based on this snapshot")
    hasMemory: bool  # noqa: N815
    size: int | None = Field(description="bytes of the saved memory")
    createdAt: str  # noqa: N815
    expiresAt: str | None  # noqa: N815
    origin: SnapshotOrigin
    restoresTo: str | None = Field(  # noqa: N815
        description="the state of the VM after a restore: running, paused or stopped"
    )
    frozen: bool | None = Field(
        description="whether the guest's file systems were frozen; null if the VM was not running"
    )
    error: dict[str, Any] | None = Field(description="why the last job on the snapshot failed")


class SnapshotList(BaseModel):
    """The snapshots of a VM, oldest first."""

    snapshots: list[SnapshotOut]


class AcceptedSnapshotOut(BaseModel):
    """The response to an accepted request; follow the job at /jobs/{jobId}."""

    id: str
    vmId: str  # noqa: N815
    name: str
    status: SnapshotStatus
    progress: int
    jobId: str  # noqa: N815


class SkippedOut(BaseModel):
    """The last time at which the schedule created no snapshot, and the reason."""

    at: str
    reason: str


class ScheduleOut(BaseModel):
    """A VM's snapshot schedule."""

    vmId: str  # noqa: N815
    cron: list[str]
    timezone: str
    keep: KeepBody
    enabled: bool
    nextAt: str | None  # noqa: N815
    lastAt: str | None = Field(description="the last time at which the schedule submitted a job")  # noqa: N815
    lastJobId: str | None  # noqa: N815
    skipped: SkippedOut | None


class ScheduleGone(BaseModel):
    """The response of DELETE /vms/{id}/snapshot-schedule."""

    vmId: str  # noqa: N815
