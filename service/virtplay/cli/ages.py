"""Command line: times as a person reads them, in the person's time zone."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

UNITS = ((1, "s", 90), (60, "min", 90 * 60), (3600, "h", 36 * 3600), (86400, "d", 60 * 86400))
"""Seconds of a unit, its name, and the age in seconds up to which it is used."""


def age_text(moment: str | None) -> str | None:
    """Return the distance of a time of the API, such as "3 min ago" or "in 2 d"; None stays None.

    More than 60 days away it is the date.
    """
    if moment is None:
        return None
    then = datetime.fromisoformat(moment)
    seconds = (datetime.now(then.tzinfo) - then).total_seconds()
    for size, unit, most in UNITS:
        if abs(seconds) < most:
            count = int(abs(seconds) // size)
            if size == 1 and count < 2:  # also the clock of the service may run ahead a little
                return "now"
            return f"{count} {unit} ago" if seconds > 0 else f"in {count} {unit}"
    return then.astimezone().strftime("%Y-%m-%d")


def moment_text(moment: str | None) -> str | None:
    """Return a time of the API in the person's time zone, such as "2026-01-31 13:00:00 CET"."""
    if moment is None:
        return None
    return datetime.fromisoformat(moment).astimezone().strftime("%Y-%m-%d %H:%M:%S %Z")


def seconds_taken(job: Mapping[str, Any]) -> float | None:
    """Return the seconds from a job's creation to its end, by the service's clock; None before."""
    if not job["finishedAt"]:
        return None
    taken = datetime.fromisoformat(job["finishedAt"]) - datetime.fromisoformat(job["createdAt"])
    return taken.total_seconds()
