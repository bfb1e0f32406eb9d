"""Unit tests: what requests about snapshots may hold."""

from typing import Any

import pytest
from virtplay.api.schemas.snapshots import RestoreBody, ScheduleBody, SnapshotCreate
from virtplay.snapshots.retention import Retention

from tests.unit.service.test_schemas import faults, read

SCHEDULE: dict[str, Any] = {"cron": ["0 3 * * *"], "keep": {"daily": 7}}


@pytest.mark.parametrize(
    "name",
    ["backup-2024-01-01", "before/after", "../x", "a\\b", "🚀 升级前",
     "{{ 7*7 }}<b>", "$(id)", "-rf",
     "x" * 64, "Räksmörgås", "👩‍💻", "%s", '"'],
)  # fmt: skip
def test_names_are_labels_and_kept_to_the_letter(name: str) -> None:
    made = read(SnapshotCreate, {"name": name, "description": name})
    assert (made.name, made.description) == (name, name)


@pytest.mark.parametrize(
    "name",
    [None, 1, True, [], "", " ", " a", "a ", "x" * 65, "a\nb", "a\tb", "a\x1b[2J", "\u202ea",
     "a\u2028b", {"__ansible_unsafe": "x"}],
)  # fmt: skip
def test_names_that_are_refused(name: Any) -> None:
    assert {field.split(".")[0] for field in faults(SnapshotCreate, {"name": name})} == {"name"}


def test_a_snapshot_needs_a_name_alone() -> None:
    made = read(SnapshotCreate, {"name": "x"})
    assert (made.description, made.expiresAt, made.freeze) == ("", None, True)
    assert faults(SnapshotCreate, {}) == {"name"}


@pytest.mark.parametrize(
    "moment",
    ["2100-01-31T12:00:00Z", "2100-01-31T12:00:00+08:00", "2100-01-31 12:00:00.123456-05:30",
     "8999-12-31T23:59:59Z"],
)  # fmt: skip
def test_expiries(moment: str) -> None:
    assert read(SnapshotCreate, {"name": "x", "expiresAt": moment}).expiresAt == moment


@pytest.mark.parametrize(
    ("moment", "fault"),
    [
        ("2020-01-31T12:00:00Z", "must be in the future"),
        ("0001-01-01T00:00:00+14:00", "must be in the future"),
        ("9999-12-31T23:59:59-14:00", "must be in the future"),
        ("2100-01-31T12:00:00", "must have an offset from UTC"),
        ("2100-01-31", "must have an offset from UTC"),
        ("2100-02-31T12:00:00Z", "must be a time such as"),
        ("2100-01-31T12:00:60Z", "must be a time such as"),
        ("tomorrow", "must be a time such as"),
        ("", "must be a time such as"),
        ("4102444800", "must be a time such as"),
        ("{{ now() }}", "must be a time such as"),
        ("9" * 65, ""),
        (4102444800, ""),
        (["2100-01-31T12:00:00Z"], ""),
    ],
)
def test_expiries_that_are_refused(moment: Any, fault: str) -> None:
    from virtplay.errors import ValidationFailed

    with pytest.raises(ValidationFailed) as caught:
        read(SnapshotCreate, {"name": "x", "expiresAt": moment})
    [named] = caught.value.details["fields"]
    assert named["field"] == "expiresAt"
    assert fault in named["message"]


@pytest.mark.parametrize("value", ["yes", 1, None, [], "true"])
def test_flags_are_true_or_false(value: Any) -> None:
    assert faults(SnapshotCreate, {"name": "x", "freeze": value}) == {"freeze"}
    assert faults(RestoreBody, {"force": value, "guard": value}) == {"force", "guard"}


def test_unknown_fields_are_refused() -> None:
    assert faults(SnapshotCreate, {"name": "x", "memory": False, "id": "snap-1"}) == {
        "memory", "id",
    }  # fmt: skip
    assert faults(RestoreBody, {"start": True}) == {"start"}
    assert faults(ScheduleBody, {**SCHEDULE, "nextAt": "x", "crons": []}) == {"nextAt", "crons"}
    keep = {"daily": 1, "yearly": 1}
    assert faults(ScheduleBody, {**SCHEDULE, "keep": keep}) == {"keep.yearly"}


def test_a_schedule() -> None:
    made = read(ScheduleBody, SCHEDULE)
    assert (made.timezone, made.enabled, made.keep.as_retention()) == (
        "UTC",
        True,
        Retention(daily=7),
    )
    keep = {"hourly": 24, "daily": 7, "weekly": 4, "monthly": 1000}
    made = read(ScheduleBody, {"cron": ["0 * * * *"] * 8, "keep": keep, "timezone": "Asia/Tokyo"})
    assert made.keep.as_retention() == Retention(24, 7, 4, 1000)


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({"keep": {}}, "keep"),
        ({"keep": {"daily": 0, "hourly": 0}}, "keep"),
        ({"keep": {"daily": -1}}, "keep.daily"),
        ({"keep": {"daily": 1001}}, "keep.daily"),
        ({"keep": {"daily": 1.0}}, "keep.daily"),
        ({"keep": {"daily": True}}, "keep.daily"),
        ({"keep": None}, "keep"),
        ({"cron": []}, "cron"),
        ({"cron": "0 3 * * *"}, "cron"),
        ({"cron": ["0 3 * * *"] * 9}, "cron"),
        ({"cron": ["0 3 * * *", "0 25 * * *"]}, "cron"),
        ({"cron": ["0 0 3 * * *"]}, "cron"),
        ({"cron": ["@daily xx"]}, "cron"),
        ({"cron": ["@reboot"]}, "cron"),
        ({"cron": [""]}, "cron"),
        ({"cron": ["0 3 * * *", "x" * 257]}, "cron.1"),
        ({"cron": [5]}, "cron.0"),
        ({"cron": ["0 0 30 2 *"]}, "cron"),
        ({"timezone": "Mars/Olympus"}, "timezone"),
        ({"timezone": "../../etc/localtime"}, "timezone"),
        ({"timezone": ""}, "timezone"),
        ({"timezone": "x" * 65}, "timezone"),
        ({"timezone": None}, "timezone"),
        ({"enabled": "yes"}, "enabled"),
    ],
)
def test_schedules_that_are_refused(values: dict[str, Any], field: str) -> None:
    assert faults(ScheduleBody, {**SCHEDULE, **values}) == {field}


def test_every_wrong_field_of_a_schedule_is_named_at_once() -> None:
    body = {"cron": ["61 * * * *"], "keep": {}, "timezone": "Nowhere", "enabled": 1, "x": 1}
    assert faults(ScheduleBody, body) == {"cron", "keep", "timezone", "enabled", "x"}
    assert faults(ScheduleBody, {}) == {"cron", "keep"}
