"""The envelope around every JSON response."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel
from sanic import HTTPResponse

from virtplay.errors import VirtplayError


@dataclass(frozen=True)
class ApiResponse:
    """What a handler returns: the data of the envelope, the status and further headers."""

    data: Any
    """JSON, or a model of it, which is rendered faster."""
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)


def success(response: ApiResponse) -> HTTPResponse:
    """Return the response {"success": true, "data": …}."""
    if isinstance(response.data, BaseModel):
        text = f'{{"success": true, "data": {response.data.model_dump_json()}}}\n'
        return _response(text, response.status, response.headers)
    return _json({"success": True, "data": response.data}, response.status, response.headers)


def failure(error: VirtplayError, headers: Mapping[str, str] | None = None) -> HTTPResponse:
    """Return the response {"success": false, "error": {"code", "message", "details"}}."""
    body = {
        "success": False,
        "error": {"code": error.code, "message": error.message, "details": error.details},
    }
    return _json(body, error.status, headers or {})


def _json(body: Any, status: int, headers: Mapping[str, str]) -> HTTPResponse:
    return _response(json.dumps(body, ensure_ascii=False, allow_nan=False) + "\n", status, headers)


def _response(text: str, status: int, headers: Mapping[str, str]) -> HTTPResponse:
    return HTTPResponse(
        text,
        status=status,
        headers=dict(headers),
        content_type="application/json; charset=utf-8",
    )
