"""Store: API tokens, of which only the SHA-256 is stored."""

import contextlib
import hashlib
import hmac
import secrets
from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from tortoise.exceptions import IntegrityError

from virtplay.errors import ValidationFailed
from virtplay.store.database import DatabaseAway, moment_of, select
from virtplay.store.models import Token

USED_EVERY = timedelta(minutes=1)


def digest_of(text: str) -> str:
    """Return the SHA-256 of a token in hex."""
    # A header may contain any bytes; invalid UTF-8 arrives as surrogates.
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()


async def create_token(
    name: str, role: str, expires_at: datetime | None = None, text: str | None = None
) -> str:
    """Create a token of 256 random bits, or with the given text; return its text."""
    text = text or secrets.token_urlsafe(32)
    try:
        await Token(name=name, digest=digest_of(text), role=role, expires_at=expires_at).save()
    except IntegrityError as error:
        raise ValidationFailed(f"cannot create token {name}: the name is in use") from error
    return text


@dataclass(frozen=True)
class ValidToken:
    """What a request needs to know of its token."""

    id: int
    name: str
    role: str


class ExpiringToken(NamedTuple):
    """A token that does not last for ever."""

    name: str
    role: str
    created_at: datetime
    expires_at: datetime


async def check_token(text: str) -> ValidToken | None:
    """Return the valid token with that text, or None; write its last use once a minute."""
    digest = digest_of(text)
    found = await select(
        "SELECT id, name, role, digest, expires_at, revoked_at, last_used_at"
        " FROM token WHERE digest = ?1",
        [digest],
    )
    for id, name, role, stored, expires, revoked, used in found:
        if revoked is not None or not hmac.compare_digest(stored, digest):
            continue
        now, expires_at, used_at = datetime.now(UTC), moment_of(expires), moment_of(used)
        if expires_at is not None and expires_at <= now:
            continue
        if used_at is None or now - used_at > USED_EVERY:
            # A full disk or a locked database must not prevent a read.
            with contextlib.suppress(DatabaseAway):
                await Token.filter(id=id).update(last_used_at=now)
        return ValidToken(id, name, role)
    return None


async def valid_tokens(ids: Collection[int]) -> set[int]:
    """Return the ids of the tokens that are neither revoked nor expired, with one query."""
    rows = await Token.filter(id__in=list(ids), revoked_at=None).values_list("id", "expires_at")
    now = datetime.now(UTC)
    return {id for id, expires_at in rows if expires_at is None or expires_at > now}


async def list_tokens() -> list[Token]:
    """Return every token, the oldest first."""
    return await Token.all().order_by("id")


async def expiring_tokens() -> list[ExpiringToken]:
    """Return the tokens that expire or have expired, without revoked ones."""
    rows = Token.filter(revoked_at=None, expires_at__not_isnull=True).order_by("id")
    return [ExpiringToken(*row) for row in await rows.values_list(*ExpiringToken._fields)]


async def count_tokens() -> int:
    """Return the number of all tokens, including revoked ones."""
    return await Token.all().count()


async def revoke_token(name: str) -> None:
    """Revoke the token of that name; raise ValidationFailed if there is no valid one."""
    count = await Token.filter(name=name, revoked_at=None).update(revoked_at=datetime.now(UTC))
    if not count:
        raise ValidationFailed(f"cannot revoke token {name}: no valid token has that name")
