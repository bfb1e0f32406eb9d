"""API: the one shape of every answer."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sanic import HTTPResponse

from virtplay.errors import VirtplayError


@dataclass(frozen=True)
class Answer:
    """What a handler returns: the envelope's data, and how it is sent."""

    data: Any
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)


def success(answer: Answer) -> HTTPResponse:
    """{"success": true, "data": …}."""
    return _json({"success": True, "data": answer.data}, answer.status, answer.headers)


def failure(error: VirtplayError, headers: Mapping[str, str] | None = None) -> HTTPResponse:
    """{"success": false, "error": {"code", "message", "details"}}."""
    body = {
        "success": False,
        "error": {"code": error.code, "message": error.message, "details": error.details},
    }
    return _json(body, error.status, headers or {})


def _json(body: Any, status: int, headers: Mapping[str, str]) -> HTTPResponse:
    return HTTPResponse(
        json.dumps(body, ensure_ascii=False, allow_nan=False) + "\n",
        status=status,
        headers=dict(headers),
        content_type="application/json; charset=utf-8",
    )
