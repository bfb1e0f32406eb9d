"""Command line: sends requests to the service, and turns failures into one-line errors."""

import ipaddress
import re
import sys
from collections.abc import Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import quote, urlsplit

from virtplay import __version__
from virtplay.cli.connection import Connection
from virtplay.errors import VirtplayError

if TYPE_CHECKING:
    import httpx

JsonObject = dict[str, Any]

PAGE_LIMIT = 100
"""The largest page that the API returns."""
LIST_LIMIT = 1000
"""The most entries of a list that is requested without a page."""
TIMEOUT_SECONDS = 30.0
CONNECT_SECONDS = 10.0
JOB_ID = re.compile(r"job-[0-9]+")


class CannotReach(VirtplayError):
    """The service sent no response, or none of this API."""


class CannotChoose(VirtplayError):
    """An object named on the command line does not exist, or is ambiguous."""


class Refused(VirtplayError):
    """The API returned an error; `refusal` is its code."""

    def __init__(self, refusal: str, message: str) -> None:
        super().__init__(f"{message} ({refusal})")
        self.refusal = refusal


class Client:
    """One connection to the service; paths are relative to /api/v1."""

    def __init__(self, connection: Connection) -> None:
        # httpx 0.28 imports its own command line, with click and rich, if they are installed,
        # which takes 0.07 s: https://github.com/encode/httpx/pull/3547
        sys.modules.setdefault("httpx._main", None)  # type: ignore[arg-type]
        import httpx  # noqa: PLC0415 - help needs none

        self.url = connection.url
        self._errors = httpx
        self._http = httpx.Client(
            headers={
                "Authorization": f"Bearer {connection.token}",
                "User-Agent": f"virtplay/{__version__}",
            },
            timeout=httpx.Timeout(TIMEOUT_SECONDS, connect=CONNECT_SECONDS),
            # Certificates take time to load, and a loopback address needs no proxy.
            verify=connection.url.startswith("https:"),
            trust_env=not is_loopback(connection.url),
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._http.close()

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
        """Return the data of a 202: id, name, status and jobId of the accepted change."""
        try:
            return self._data(self._send(method, path, query, body))
        except CannotReach as error:
            if isinstance(error.__cause__, self._errors.ConnectError | self._errors.ConnectTimeout):
                raise
            raise CannotReach(
                f"{error.message}; the request may have been accepted: check virtplay job list"
            ) from None

    def get_text(self, path: str) -> str:
        """Return the text of a GET."""
        response = self._send("GET", path, None, None)
        if response.headers.get("content-type", "").startswith("text/plain"):
            return response.text
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

    def _send(
        self,
        method: str,
        path: str,
        query: Mapping[str, Any] | None,
        body: Mapping[str, Any] | None,
    ) -> "httpx.Response":
        errors = self._errors
        params = {key: value for key, value in (query or {}).items() if value is not None}
        try:
            return self._http.request(method, f"{self.url}/api/v1{path}", params=params, json=body)
        except errors.ConnectError as error:
            reason = re.sub(r"^\[Errno [-0-9]+\] ", "", str(error))
            raise CannotReach(
                f"cannot reach {self.url}: {reason}; is the service running?"
            ) from error
        except errors.ConnectTimeout as error:
            raise CannotReach(
                f"cannot reach {self.url}: timed out after {CONNECT_SECONDS:.0f} s;"
                " is the service running?"
            ) from error
        except errors.TimeoutException:
            raise CannotReach(
                f"no response from {self.url}: timed out after {TIMEOUT_SECONDS:.0f} s"
            ) from None
        except (errors.RequestError, errors.InvalidURL) as error:
            raise CannotReach(f"no response from {self.url}: {error}") from None
        except UnicodeEncodeError:
            raise CannotChoose("cannot send the request: an argument is not valid UTF-8") from None

    def _data(self, response: "httpx.Response") -> JsonObject:
        try:
            document = response.json()
        except ValueError:
            raise self._invalid(response) from None
        match document:
            case {"success": True, "data": dict(data)}:
                return data
            case {"success": False, "error": {"code": str(code), "message": str(message)}}:
                raise Refused(code, message)
            case _:
                raise self._invalid(response)

    def _invalid(self, response: "httpx.Response") -> CannotReach:
        kind = response.headers.get("content-type", "nothing")
        return CannotReach(
            f"cannot use the response of {self.url}: HTTP {response.status_code} with {kind} is not"
            " from Virtplay; check the URL"
        )


def path_of(*parts: str) -> str:
    """Return the path of these parts, each one quoted; CannotChoose for an invalid name."""
    for part in parts:
        if part in ("", ".", ".."):
            raise CannotChoose(f"cannot find {part!r}: not a valid name")
    try:
        return "".join(f"/{quote(part, safe='')}" for part in parts)
    except UnicodeEncodeError:
        raise CannotChoose("cannot send the request: an argument is not valid UTF-8") from None


def is_loopback(url: str) -> bool:
    """Whether a URL points to this machine."""
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")
