"""Schemas: the state of the service."""

from typing import Any

from pydantic import BaseModel, Field


class HealthOut(BaseModel):
    """The state of the service."""

    status: str
    version: str
    checks: dict[str, Any] = Field(default_factory=dict)
