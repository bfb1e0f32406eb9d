"""Turns every exception raised during a request into an error response."""

import errno
import logging
import secrets
from collections.abc import Callable

from sanic import HTTPResponse, Request
from sanic.exceptions import (
    HeaderExpectationFailed,
    MethodNotAllowed,
    PayloadTooLarge,
    RequestCancelled,
    RequestTimeout,
    SanicException,
    ServiceUnavailable,
)
from sanic.exceptions import NotFound as PathNotFound
from sanic.handlers import ErrorHandler

from virtplay import errors
from virtplay.api.http.envelope import failure
from virtplay.logs import request_id

log = logging.getLogger("virtplay.api.http.errors")

FULL = (errno.ENOSPC, errno.EDQUOT)
BODY_LIMIT = 1024 * 1024
"""The largest body of a request, in bytes."""


class EnvelopeErrors(ErrorHandler):
    """Turns every exception, including those of Sanic, into the envelope."""

    def __init__(self, methods_of: Callable[[str], list[str]]) -> None:
        super().__init__()
        self._methods_of = methods_of

    def default(self, request: Request, exception: Exception) -> HTTPResponse:
        """Return the response to an exception that reached Sanic."""
        if request_id.get() == "-":
            request_id.set(secrets.token_hex(8))  # the request failed before its middleware ran
        error = self._as_error(request, exception)
        headers = {}
        if isinstance(error, errors.RateLimited | errors.DatabaseNotAvailable):
            headers["Retry-After"] = str(error.details["retryAfter"])
        if isinstance(error, errors.Unauthorized):
            headers["WWW-Authenticate"] = "Bearer"
        if isinstance(error, errors.MethodNotAllowed):
            headers["Allow"] = ", ".join(error.details["allowed"])
        return failure(error, headers)

    def _as_error(self, request: Request | None, exception: Exception) -> errors.VirtplayError:
        match exception:
            case errors.DatabaseNotAvailable():
                log.warning("request %s: %s", request_id.get(), exception.message)
                return exception
            case OSError() if exception.errno in FULL:
                # The directory of a job could not be written; its transaction was undone.
                log.warning("request %s: %s", request_id.get(), exception)
                reason = str(exception.strerror).lower()
                return errors.DatabaseNotAvailable(reason, what="the state directory")
            case errors.VirtplayError() if not isinstance(exception, errors.Conflict):
                return exception
            case PathNotFound():
                return errors.NotFound(f"cannot find path {request.path if request else ''}")
            case MethodNotAllowed():
                allowed = self._methods_of(request.path if request else "") or _named_by(exception)
                method = request.method if request else "use this method"
                path = request.path if request else "this path"
                return errors.MethodNotAllowed(f"cannot {method} {path}", allowed=allowed)
            case PayloadTooLarge():
                return errors.PayloadTooLarge(
                    f"cannot accept the request: its body is larger than {BODY_LIMIT} bytes"
                )
            case RequestTimeout() | RequestCancelled() | ServiceUnavailable():
                return errors.ValidationFailed(
                    "cannot read the request: it timed out before it was complete"
                )
            case HeaderExpectationFailed():
                return errors.ValidationFailed("cannot fulfil the Expect header")
            case SanicException() if exception.status_code < 500:
                return errors.ValidationFailed(f"cannot read the request: {exception}")
        number = request_id.get()
        log.error("request %s failed", number, exc_info=exception)
        return errors.InternalError(
            f"cannot complete the request: internal error; search the log for {number}",
            requestId=number,
        )


def _named_by(exception: MethodNotAllowed) -> list[str]:
    return sorted(exception.headers.get("Allow", "").replace(" ", "").split(","))
