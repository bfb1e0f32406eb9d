"""The envelope around every JSON response."""

import asyncio
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from pydantic import BaseModel
from sanic import HTTPResponse

from virtplay.errors import VirtplayError

Entry = TypeVar("Entry")


class Json(str):
    """JSON that is a text already."""

    __slots__ = ()


STEP = 20
"""How many entries of a list are rendered in one step of the event loop."""


async def json_list(entries: Iterable[Entry], render: Callable[[Entry], str]) -> Json:
    """Return the JSON of a list, of whose entries `render` returns the JSON.

    A hundred entries would hold the event loop for 10 ms: other requests are served in between.
    """
    texts: list[str] = []
    for entry in entries:
        if len(texts) % STEP == STEP - 1:
            await asyncio.sleep(0)
        texts.append(render(entry))
    return Json(f"[{','.join(texts)}]")


def json_object(**fields: str) -> Json:
    """Return the JSON of an object, of whose fields the JSON is given."""
    return Json("{" + ",".join(f'"{name}":{text}' for name, text in fields.items()) + "}")


@dataclass(frozen=True)
class ApiResponse:
    """What a handler returns: the data of the envelope, the status and further headers."""

    data: Any
    """JSON, or a model or a text of it, which is rendered faster."""
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    waited: float = 0.0
    """The seconds that the client has asked to wait, which do not count as taken."""


def success(response: ApiResponse) -> HTTPResponse:
    """Return the response {"success": true, "data": …}."""
    data = response.data
    if isinstance(data, BaseModel):
        data = Json(data.model_dump_json())
    if isinstance(data, Json):
        text = json_object(success="true", data=data) + "\n"
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
