"""Schemas: consoles."""

from pydantic import BaseModel, Field

from virtplay.api.schemas.fields import Query
from virtplay.console.opening import ConsoleType


class ConsoleQuery(Query):
    """Which console of a VM."""

    type: ConsoleType = Field(
        ConsoleType.VNC, description="vnc: its screen; serial: its text console"
    )


class ConsoleOut(BaseModel):
    """A console that one client may connect to, shortly."""

    type: ConsoleType
    host: str | None = Field(
        description="where VNC listens on the VM's hypervisor, for an SSH tunnel; null for serial"
    )
    port: int | None = Field(examples=[5900])
    password: str | None = Field(
        description="for VNC, valid for a minute; null where none is asked for"
    )
    url: str = Field(
        description="websocket of binary frames, good for one connection until expiresAt",
        examples=["ws://localhost:3000/console/vm-001?ticket=…"],
    )
    expiresAt: str  # noqa: N815
    jobId: str  # noqa: N815
