"""Command line: sends requests to the service, and turns failures into one-line errors."""

import json
import re
from collections.abc import Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn, Self
from urllib.parse import quote, urlencode

from virtplay import __version__
from virtplay.cli.connection import Connection
from virtplay.cli.faults import CannotReach, NotSent, OtherVersion, Refused, WrongValue
from virtplay.errors import VmAmbiguous, VmNotFound

if TYPE_CHECKING:
    from virtplay.cli.transport import Response

JsonObject = dict[str, Any]

PAGE_LIMIT = 100
"""The largest page that the API returns."""
LIST_LIMIT = 1000
"""The most entries of a list that is requested without a page."""
NAME_LIMIT = 64
UNUSABLE = ("", ".", "..")
"""Names that no path can have."""
JOB_ID = re.compile(r"job-[0-9]+")


class _Data(dict[str, Any]):
    """An object of a response."""

    def __missing__(self, field: str) -> NoReturn:
        raise OtherVersion(
            f"cannot use the response of the service: it has no {field}; the service may be older"
            f" than this command ({__version__})"
        )


class Client:
    """One connection to the service; paths are relative to /api/v1."""

    def __init__(self, connection: Connection) -> None:
        from virtplay.cli.transport import Transport  # noqa: PLC0415 - help needs none

        self.url = connection.url
        self._transport = Transport(
            connection.url,
            {
                "Authorization": f"Bearer {connection.token}",
                "User-Agent": f"virtplay/{__version__}",
            },
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection; the next request opens it again."""
        self._transport.close()

    def get(self, path: str, query: Mapping[str, Any] | None = None) -> JsonObject:
        """Return the data of a GET; entries of the query that are None are left out."""
        return self._data(self._send("GET", path, query, None))

    def change(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        query: Mapping[str, Any] | None = None,
    ) -> JsonObject:
        """Request a change; return the data of its 202, such as id, name, status and jobId."""
        try:
            return self._data(self._send(method, path, query, body))
        except NotSent:
            raise
        except CannotReach as error:
            raise CannotReach(
                f"{error.message}; the request may have been accepted: check virtplay job list"
            ) from None

    def get_text(self, path: str) -> str:
        """Return the text of a GET."""
        response = self._send("GET", path, None, None)
        if response.content_type.startswith("text/plain"):
            return response.content.decode(errors="replace")
        self._data(response)
        raise self._invalid(response)

    def get_list(self, name: str, query: Mapping[str, Any]) -> JsonObject:
        """Return a paged list as one page of up to LIST_LIMIT entries."""
        entries: dict[str, JsonObject] = {}
        total = 0
        for page in range(1, LIST_LIMIT // PAGE_LIMIT + 1):
            data = self.get(f"/{name}", {**query, "page": page, "limit": PAGE_LIMIT})
            # By id: entries created or deleted between two requests shift the others across pages.
            entries.update({entry["id"]: entry for entry in data[name]})
            total = data["pagination"]["total"]
            if page >= data["pagination"]["pages"]:
                total = len(entries)
                break
        pagination = {"page": 1, "limit": LIST_LIMIT, "total": total}
        pagination["pages"] = -(-total // LIST_LIMIT)
        return {name: list(entries.values()), "pagination": pagination}

    def vms_named(self, name: str) -> list[JsonObject]:
        """Return the VMs that a request by this name would mean: id, host, status, createdAt."""
        if name in UNUSABLE or len(name) > NAME_LIMIT:
            return []
        try:
            return [self.get(path_of("vms", name))]
        except Refused as error:
            if error.refusal == VmNotFound.code:
                return []
            if error.refusal == VmAmbiguous.code:
                return list(error.details["vms"])
            raise

    def _send(
        self,
        method: str,
        path: str,
        query: Mapping[str, Any] | None,
        body: Mapping[str, Any] | None,
    ) -> "Response":
        given = {key: value for key, value in (query or {}).items() if value is not None}
        params = {
            key: str(value).lower() if isinstance(value, bool) else value
            for key, value in given.items()
        }
        try:
            target = f"/api/v1{path}?{urlencode(params)}" if params else f"/api/v1{path}"
            content = None if body is None else json.dumps(body, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            raise WrongValue("cannot send the request: an argument is not valid UTF-8") from None
        return self._transport.request(method, target, content)

    def _data(self, response: "Response") -> JsonObject:
        try:
            document = json.loads(response.content, object_hook=_Data)
        except ValueError:
            raise self._invalid(response) from None
        match document:
            case {"success": True, "data": dict(data)}:
                return data
            case {"success": False, "error": {"code": str(code), "message": str(message), **rest}}:
                details = rest.get("details")
                raise Refused(code, message, details if isinstance(details, dict) else {})
            case _:
                raise self._invalid(response)

    def _invalid(self, response: "Response") -> CannotReach:
        return CannotReach(
            f"cannot use the response of {self.url}: HTTP {response.status} with"
            f" {response.content_type} is not from Virtplay; check the URL"
        )


def path_of(*parts: str) -> str:
    """Return the path of these parts, each one quoted; WrongValue for an invalid name."""
    for part in parts:
        if part in UNUSABLE:
            raise WrongValue(f"cannot find {part!r}: not a valid name")
    try:
        return "".join(f"/{quote(part, safe='')}" for part in parts)
    except UnicodeEncodeError:
        raise WrongValue("cannot send the request: an argument is not valid UTF-8") from None
