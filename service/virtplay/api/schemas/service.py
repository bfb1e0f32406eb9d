"""Schemas: the service's own state."""

from typing import Any

from pydantic import BaseModel, Field


class HealthOut(BaseModel):
    """The service's own state."""

    status: str
    version: str
    checks: dict[str, Any] = Field(default_factory=dict)
