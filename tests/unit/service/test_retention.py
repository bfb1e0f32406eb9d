"""Unit tests: when turns come and which snapshots stay."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from virtplay.snapshots.retention import Retention, choose_expendable, next_turn, read_timezone

BERLIN = ZoneInfo("Europe/Berlin")
"""Summer time ends on 25 October 2026 at 01:00 UTC and begins on 29 March 2026 at 01:00 UTC."""


def at(text: str) -> datetime:
    """A moment in UTC, as in 2026-11-22 12:00."""
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def kept(moments: Sequence[str], keep: Retention, zone: str = "UTC") -> list[str]:
    """Those of the moments that stay, in their order."""
    items = [at(moment) for moment in moments]
    gone = choose_expendable(items, lambda item: item, keep, ZoneInfo(zone))
    assert gone == sorted(gone)
    return [moment for moment, item in zip(moments, items, strict=True) if item not in gone]


def series(first: str, step: timedelta, count: int) -> list[str]:
    """Moments in equal steps, the oldest first."""
    return [f"{at(first) + n * step:%Y-%m-%d %H:%M}" for n in range(count)]


HOUR, DAY = timedelta(hours=1), timedelta(days=1)


def test_nothing_of_nothing_goes() -> None:
    assert choose_expendable([], lambda item: item, Retention(1, 1, 1, 1), ZoneInfo("UTC")) == []


@pytest.mark.parametrize("keep", [Retention(hourly=5), Retention(daily=5), Retention(1, 2, 3, 4)])
def test_fewer_than_are_kept_all_stay(keep: Retention) -> None:
    moments = series("2026-11-22 10:00", 32 * DAY, 4)
    assert kept(moments, Retention(4, 4, 4, 4)) == moments
    assert len(kept(moments, keep)) >= 4 - (keep.hourly == 1)


@pytest.mark.parametrize(
    ("keep", "stay"),
    [
        (Retention(hourly=1), ["2026-11-30 23:00"]),
        (Retention(hourly=3), ["2026-11-30 21:00", "2026-11-30 22:00", "2026-11-30 23:00"]),
        (Retention(daily=2), ["2026-11-29 23:00", "2026-11-30 23:00"]),
        (Retention(weekly=3), ["2026-11-22 23:00", "2026-11-29 23:00", "2026-11-30 23:00"]),
        (Retention(monthly=2), ["2026-10-31 23:00", "2026-11-30 23:00"]),
        (
            Retention(hourly=2, daily=2, weekly=2, monthly=2),
            ["2026-10-31 23:00", "2026-11-29 23:00", "2026-11-30 22:00", "2026-11-30 23:00"],
        ),
    ],
)  # fmt: skip
def test_the_last_of_each_period_stays(keep: Retention, stay: list[str]) -> None:
    assert kept(series("2026-10-01 00:00", HOUR, 24 * 61), keep) == stay


def test_of_many_in_one_period_the_newest_stays() -> None:
    moments = series("2026-11-22 10:00", timedelta(minutes=10), 6)
    assert kept(moments, Retention(hourly=3)) == moments[-1:]


def test_only_periods_that_have_one_count() -> None:
    # A VM that was off for a year keeps what it has.
    moments = ["2024-01-01 00:00", "2024-06-01 00:00", "2025-01-01 00:00", "2026-11-22 00:00"]
    assert kept(moments, Retention(daily=3)) == moments[1:]
    assert kept(moments, Retention(monthly=3)) == moments[1:]


def test_their_order_does_not_matter() -> None:
    moments = series("2026-11-22 00:00", HOUR, 30)
    assert sorted(kept(moments[::-1], Retention(hourly=2))) == moments[-2:]


def test_days_are_those_of_the_time_zone() -> None:
    moments = ["2026-11-21 15:30", "2026-11-21 16:30", "2026-11-22 15:30"]
    # In Shanghai: 21st 23:30, 22nd 00:30, 22nd 23:30.
    assert kept(moments, Retention(daily=2), "Asia/Shanghai") == [
        "2026-11-21 15:30",
        "2026-11-22 15:30",
    ]
    assert kept(moments, Retention(daily=2)) == ["2026-11-21 16:30", "2026-11-22 15:30"]


def test_the_hour_that_comes_twice_is_two_hours() -> None:
    # 01:30 summer time, 02:30 summer time, 02:30 winter time, 03:30.
    moments = ["2026-10-24 23:30", "2026-10-25 00:30", "2026-10-25 01:30", "2026-10-25 02:30"]
    assert kept(moments, Retention(hourly=4), "Europe/Berlin") == moments
    assert kept(moments, Retention(daily=1), "Europe/Berlin") == moments[-1:]


def test_the_hour_that_is_left_out_is_none() -> None:
    moments = ["2026-03-29 00:30", "2026-03-29 01:30", "2026-03-29 02:30"]
    assert kept(moments, Retention(hourly=3), "Europe/Berlin") == moments
    assert kept(moments, Retention(hourly=2), "Europe/Berlin") == moments[1:]


def test_weeks_at_the_end_of_a_year_are_iso_weeks() -> None:
    # 28 December 2026 to 3 January 2027 is one week, 2026-W53.
    moments = ["2026-12-27 12:00", "2026-12-28 12:00", "2026-12-31 12:00", "2027-01-03 12:00"]
    assert kept(moments, Retention(weekly=2)) == ["2026-12-27 12:00", "2027-01-03 12:00"]
    assert kept([*moments, "2027-01-04 12:00"], Retention(weekly=2)) == [
        "2027-01-03 12:00", "2027-01-04 12:00",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("cron", "zone", "after", "turn"),
    [
        (["0 * * * *"], "UTC", "2026-11-22 12:00", "2026-11-22 13:00"),
        (["0 * * * *"], "UTC", "2026-11-22 11:59", "2026-11-22 12:00"),
        (["0 3 * * *"], "Asia/Shanghai", "2026-11-22 12:00", "2026-11-22 19:00"),
        (["0 3 * * *", "30 2 * * *"], "UTC", "2026-11-22 12:00", "2026-11-23 02:30"),
        (["0 0 29 2 *"], "UTC", "2026-11-22 12:00", "2028-02-29 00:00"),
        (["0 0 * * sun"], "UTC", "2026-11-22 12:00", "2026-11-29 00:00"),
        (["0 0 L * *"], "UTC", "2026-11-22 12:00", "2026-11-30 00:00"),
        (["*/15 * * * *"], "Asia/Kathmandu", "2026-11-22 12:00", "2026-11-22 12:15"),
        # 03:30 in Berlin is 01:30 UTC in summer and 02:30 UTC in winter.
        (["30 3 * * *"], "Europe/Berlin", "2026-10-24 00:00", "2026-10-24 01:30"),
        (["30 3 * * *"], "Europe/Berlin", "2026-10-24 12:00", "2026-10-25 02:30"),
        (["30 3 * * *"], "Europe/Berlin", "2026-03-28 12:00", "2026-03-29 01:30"),
    ],
)
def test_turns(cron: list[str], zone: str, after: str, turn: str) -> None:
    found = next_turn(cron, read_timezone(zone), at(after))
    assert found == at(turn)
    assert found.utcoffset() == timedelta()


def turns(cron: str, after: str, count: int) -> list[str]:
    """The next so many turns in Berlin, in UTC."""
    found, moment = [], at(after)
    for _ in range(count):
        following = next_turn([cron], BERLIN, moment)
        assert following is not None
        assert following > moment
        moment = following
        found.append(f"{moment:%d. %H:%M}")
    return found


def test_a_daily_turn_comes_once_on_the_days_of_the_change() -> None:
    # 02:30 comes twice on 25 October, and not at all on 29 March.
    assert turns("30 2 * * *", "2026-10-24 12:00", 2) == ["25. 00:30", "26. 01:30"]
    assert turns("30 2 * * *", "2026-03-28 12:00", 2) == ["29. 01:00", "30. 00:30"]


def test_an_hourly_turn_goes_on_through_the_change() -> None:
    assert turns("0 * * * *", "2026-10-24 23:00", 4) == [
        "25. 00:00", "25. 01:00", "25. 02:00", "25. 03:00",
    ]  # fmt: skip
    assert turns("0 * * * *", "2026-03-28 23:00", 4) == [
        "29. 00:00", "29. 01:00", "29. 02:00", "29. 03:00",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "cron",
    ["", "0", "* * * *", "60 * * * *", "0 24 * * *", "0 0 0 * *", "0 0 * 13 *", "0 0 * * 8",
     "*/0 * * * *", "5-1 * * * *", "a b c d e", "@daily x x x x", "0 0 31 2 *", "0 0 30 feb *",
     "٣ * * * *", "1,,2 * * * *", "-1 * * * *", "0 0 * * mon#6", "$(id) * * * *", "1e1 * * * *"],
)  # fmt: skip
def test_what_is_no_cron_expression_says_so(cron: str) -> None:
    with pytest.raises(ValueError, match="is not a cron expression"):
        next_turn([cron], ZoneInfo("UTC"), at("2026-11-22 12:00"))


@pytest.mark.parametrize("cron", ["", "never", "@daily", "0 0 3 * * *", "0 25 * * *"])
def test_it_says_what_a_cron_expression_looks_like(cron: str) -> None:
    with pytest.raises(ValueError, match="it must have five fields") as refused:
        next_turn([cron], ZoneInfo("UTC"), at("2026-11-22 12:00"))
    assert repr(cron) in str(refused.value)
    assert str(refused.value).endswith("as in 0 3 * * *")


def test_no_expression_is_no_turn() -> None:
    assert next_turn([], ZoneInfo("UTC"), at("2026-11-22 12:00")) is None


@pytest.mark.parametrize("name", ["UTC", "Europe/Berlin", "Asia/Kathmandu", "Etc/GMT+5"])
def test_time_zones(name: str) -> None:
    assert read_timezone(name).key == name


@pytest.mark.parametrize(
    "name",
    ["", ".", "Europe", "Europe/Atlantis", "../../etc/passwd", "/etc/passwd", "/etc/localtime",
     "UTC\0", "utc+1", "x" * 300, "Europe/Berlin ", "\ud800", "zone.tab", "Europe/../UTC"],
)  # fmt: skip
def test_what_is_no_time_zone_says_so(name: str) -> None:
    with pytest.raises(ValueError, match="must be an IANA time zone"):
        read_timezone(name)
