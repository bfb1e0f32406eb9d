"""Pure: when a schedule's turns are due, and which of its snapshots are kept."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TypeVar
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from cronsim import CronSim, CronSimError

Item = TypeVar("Item")

CRON_FIELDS = 5
CRON_FORM = "five fields (minute, hour, day of the month, month, day of the week), as in 0 3 * * *"


@dataclass(frozen=True)
class Retention:
    """For how many hours, days, weeks and months the last snapshot of each is kept.

    Periods without a snapshot do not count. Weeks are ISO weeks.
    """

    hourly: int = 0
    daily: int = 0
    weekly: int = 0
    monthly: int = 0


PERIODS: dict[str, Callable[[datetime], tuple[int, ...]]] = {
    "hourly": lambda at: (at.year, at.month, at.day, at.hour, at.fold),
    "daily": lambda at: (at.year, at.month, at.day),
    "weekly": lambda at: at.isocalendar()[:2],
    "monthly": lambda at: (at.year, at.month),
}


def read_timezone(name: str) -> ZoneInfo:
    """Return the IANA time zone of that name; raise ValueError if there is none."""
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise ValueError(f"must be an IANA time zone such as Europe/Berlin, not {name!r}") from None


def next_turn(expressions: Iterable[str], zone: ZoneInfo, after: datetime) -> datetime | None:
    """Return the first time after `after` that a cron expression matches in `zone`, as UTC.

    Return None if no date ever matches; raise ValueError for an invalid expression.
    """
    local = after.astimezone(zone)
    turns = []
    for expression in expressions:
        if len(expression.split()) != CRON_FIELDS:
            raise ValueError(f"{expression!r} is not a cron expression: it must have {CRON_FORM}")
        try:
            turns.append(next(CronSim(expression, local)))
        except CronSimError as error:
            raise ValueError(
                f"{expression!r} is not a cron expression: {error}; it must have {CRON_FORM}"
            ) from None
        except StopIteration:
            continue  # the 31st of February
    return min(turns).astimezone(UTC) if turns else None


def choose_expendable(
    items: Sequence[Item],
    created_at: Callable[[Item], datetime],
    retention: Retention,
    zone: ZoneInfo,
) -> list[Item]:
    """Return a schedule's snapshots that `retention` does not keep, the oldest first."""
    newest_first = sorted(items, key=created_at, reverse=True)
    kept: set[int] = set()
    for period, number_of in PERIODS.items():
        numbers: set[tuple[int, ...]] = set()
        for item in newest_first:
            if len(numbers) == getattr(retention, period):
                break
            number = number_of(created_at(item).astimezone(zone))
            if number not in numbers:
                numbers.add(number)
                kept.add(id(item))
    return [item for item in reversed(newest_first) if id(item) not in kept]
