"""The format of times in the API. Pure."""

from datetime import UTC, datetime


def time_text(moment: datetime | None) -> str | None:
    """Return a time in RFC 3339 format: UTC with Z, whole seconds."""
    return f"{moment.astimezone(UTC).isoformat()[:19]}Z" if moment else None
