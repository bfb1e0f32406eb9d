"""Store: console tickets, of which only the SHA-256 is stored."""

import secrets
from datetime import UTC, datetime, timedelta

from virtplay.store.models import ConsoleTicket
from virtplay.store.tokens import digest_of

VALID = timedelta(seconds=40)


async def create_ticket(
    vm_id: int, token_id: int, kind: str, port: int | None
) -> tuple[str, datetime]:
    """Create a ticket of 256 random bits for one console stream; return its text and expiry."""
    text = secrets.token_urlsafe(32)
    expires_at = datetime.now(UTC) + VALID
    ticket = ConsoleTicket(
        digest=digest_of(text),
        vm_id=vm_id,
        token_id=token_id,
        kind=kind,
        port=port,
        expires_at=expires_at,
    )
    await ticket.save()
    return text, expires_at


async def find_ticket(text: str, vm_id: int) -> ConsoleTicket | None:
    """Return the VM's ticket with that text, if it is unused and has not expired."""
    return await ConsoleTicket.get_or_none(
        digest=digest_of(text), vm_id=vm_id, used_at=None, expires_at__gt=datetime.now(UTC)
    )


async def use_ticket(ticket: ConsoleTicket) -> bool:
    """Mark a ticket as used; return False if it was used already or has just expired."""
    now = datetime.now(UTC)
    return bool(
        await ConsoleTicket.filter(id=ticket.id, used_at=None, expires_at__gt=now).update(
            used_at=now
        )
    )


async def forget_tickets() -> None:
    """Delete the expired tickets."""
    await ConsoleTicket.filter(expires_at__lte=datetime.now(UTC)).delete()
