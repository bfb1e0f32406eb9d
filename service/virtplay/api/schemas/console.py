"""Schemas: consoles."""

from pydantic import BaseModel, Field

from virtplay.api.schemas.fields import Query
from virtplay.console.watch import ConsoleType


class ConsoleQuery(Query):
    """The query of GET /vms/{id}/console."""

    type: ConsoleType = Field(
        ConsoleType.VNC, description="vnc: the screen; serial: the text console"
    )


class ConsoleOut(BaseModel):
    """A console, to which one client may connect until the ticket expires."""

    type: ConsoleType
    host: str | None = Field(
        description="the VNC port on the hypervisor, for an SSH tunnel; null for serial"
    )
    port: int | None = Field(examples=[5900])
    password: str | None = Field(
        description="the VNC password, valid for one minute; null if none is required"
    )
    url: str = Field(
        description="websocket with binary frames, valid for one connection until expiresAt",
        examples=["ws://localhost:3000/console/vm-001?ticket=…"],
    )
    expiresAt: str  # noqa: N815
    jobId: str | None = Field(  # noqa: N815
        description="the job that opened it; null if the connection to the host was enough"
    )
