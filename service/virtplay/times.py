"""Pure: how the API writes times."""

from datetime import UTC, datetime


def time_text(moment: datetime | None) -> str | None:
    """RFC 3339 in UTC with a Z, whole seconds."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ") if moment else None
