"""Authenticates the token of a request, and checks its role."""

import time
from collections import deque
from enum import IntEnum

from sanic import Request

from virtplay.errors import Forbidden, RateLimited, Unauthorized
from virtplay.store.tokens import ValidToken, check_token

WINDOW_SECONDS = 60.0
ADDRESSES_KEPT = 10_000


class Role(IntEnum):
    """What a token may do; a higher role includes the lower ones."""

    NOBODY = 0
    """No token is needed."""
    VIEWER = 1
    """Read everything."""
    OPERATOR = 2
    """Change VMs."""
    ADMIN = 3
    """Everything. For administration by HTTP, which is not built yet: no route requires it."""


class LoginLimit:
    """Counts the failed logins of each client address over the last minute."""

    def __init__(self, failures: int) -> None:
        self._limit = failures
        self._failed: dict[str, deque[float]] = {}

    def refuse_if_too_many(self, address: str) -> None:
        """Raise RateLimited while the address has had too many failures."""
        times = self._recent(address)
        if len(times) >= self._limit:
            wait = max(1, int(times[0] + WINDOW_SECONDS - time.monotonic()) + 1)
            raise RateLimited(
                f"cannot check a token from {address}: too many failed logins", retryAfter=wait
            )

    def note_failure(self, address: str) -> None:
        """Count one more failed login."""
        if len(self._failed) >= ADDRESSES_KEPT:
            self._failed.pop(next(iter(self._failed)))
        self._failed.setdefault(address, deque(maxlen=self._limit)).append(time.monotonic())

    def _recent(self, address: str) -> deque[float]:
        times = self._failed.get(address, deque())
        while times and times[0] < time.monotonic() - WINDOW_SECONDS:
            times.popleft()
        return times


async def authenticate(request: Request, limit: LoginLimit) -> ValidToken:
    """Return the token of the request's Authorization header; raise Unauthorized or RateLimited.

    The limit applies to failed logins only: a valid token from a limited address is accepted, so
    that nobody can lock out other clients behind the same proxy.
    """
    address = request.ip
    scheme, _, text = request.headers.get("authorization", "").partition(" ")
    token = None
    if scheme.lower() == "bearer" and text.strip():
        token = await check_token(text.strip())
    if token is not None:
        return token
    limit.refuse_if_too_many(address)
    limit.note_failure(address)
    if not text:
        raise Unauthorized("cannot authenticate: no token; send `Authorization: Bearer TOKEN`")
    raise Unauthorized("cannot authenticate: the token is wrong, expired or revoked")


def authorise(token: ValidToken, needed: Role) -> None:
    """Raise Forbidden unless the token's role includes `needed`."""
    if Role[token.role.upper()] < needed:
        raise Forbidden(
            f"cannot use token {token.name} for this request: its role is {token.role},"
            f" and {needed.name.lower()} is required"
        )
