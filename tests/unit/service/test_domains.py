"""Unit tests: what the documented results of the modules make of a VM's row."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml
from virtplay.states import VmStatus
from virtplay.store.domains import STATE, columns_of
from virtplay.store.models import Vm
from virtplay.vm_fields import FIELDS

MODULES = (
    Path(__file__).parents[3] / "collections/ansible_collections/virtplay/libvirt/plugins/modules"
)


def returned(module: str) -> dict[str, Any]:
    """What a module documents to return."""
    text = (MODULES / f"{module}.py").read_text()
    return dict(yaml.safe_load(text.split('RETURN = r"""', 1)[1].split('"""', 1)[0]))


BY_JOB = dict(returned("domain")["domain"]["sample"])
POOLS = {"disk_pool", "pool_size", "disk_allocation"}
OBSERVED = dict(returned("host_info")["host_info"]["contains"]["domains"]["sample"][0])


def test_an_observation_gives_every_column_that_a_host_knows() -> None:
    known = {field.name for field in FIELDS if field.key} | {column for column, _, _ in STATE}
    known.add("status")
    known |= POOLS
    assert columns_of(OBSERVED).keys() == known | {"pending"}
    assert known <= Vm._meta.fields_map.keys()


def test_a_job_gives_the_same_columns_but_for_what_only_an_observation_reports() -> None:
    only_observed = {"addresses", "ip", "snapshots", *POOLS}
    assert columns_of(BY_JOB).keys() == columns_of(OBSERVED).keys() - only_observed


def test_the_documented_domain_becomes_these_columns() -> None:
    assert columns_of(BY_JOB) == {
        "name": "Web server",
        "domain": "web-1",
        "description": "",
        "power": "running",
        "state_reason": "booted",
        "status": VmStatus.RUNNING,
        "template": "debian12",
        "os": "debian12",
        "cpu": 2,
        "memory": 4096,
        "disk": 20,
        "network": {
            "type": "network",
            "network": "default",
            "mac": "52:9a:3f:00:1b:c4",
            "model": "virtio",
        },
        "auto_start": False,
        "labels": {},
        "managed": True,
        "pending": {"memory": 2048},
        "started_at": datetime(2026, 11, 22, 13, 30, tzinfo=UTC),
    }


def test_without_a_value_for_the_next_boot_nothing_is_pending() -> None:
    columns = columns_of({**BY_JOB, "pending": {}})
    assert (columns["memory"], columns["pending"]) == (2048, {})


def test_a_stopped_domain_has_no_address_whoever_reports_it() -> None:
    columns = columns_of({**BY_JOB, "state": "stopped", "started_at": None})
    assert (columns["addresses"], columns["ip"], columns["started_at"]) == ([], None, None)


OTHERS = {"title": {"name"}, "memory": {"pending"}, "pending": {"memory", "pending"}}
"""Key of a domain → columns that have another value without it."""


@pytest.mark.parametrize("key", sorted(BY_JOB))
def test_what_is_not_reported_gives_no_column(key: str) -> None:
    domain = {name: value for name, value in BY_JOB.items() if name != key}
    columns, all_columns = columns_of(domain), columns_of(BY_JOB)
    assert columns.keys() <= all_columns.keys()
    changed = {column for column in columns if columns[column] != all_columns[column]}
    assert changed <= OTHERS.get(key, set())


def disk(pool: str | None, size: int | None, used: int | None) -> dict[str, Any]:
    sizes = {"capacity_bytes": size, "allocation_bytes": used}
    return {"pool": pool, **{key: value for key, value in sizes.items() if value is not None}}


@pytest.mark.parametrize(
    ("disks", "columns"),
    [
        ([], ("", 0, 0)),
        ([disk("default", 20, 3)], ("default", 20, 3)),
        # Elsewhere: on another pool, in none, on a device.
        ([disk("fast", 20, 3)], ("fast", 0, 0)),
        ([disk(None, 20, None)], ("", 0, 0)),
        # All disks in the pool count, not only the first, and none for another.
        ([disk(None, 20, 3), disk("default", 5, 5)], ("", 5, 5)),
        ([disk("default", 2, 1), disk("default", 100, 90)], ("default", 102, 91)),
        ([disk("default", 2, 1), disk("fast", 100, 90)], ("default", 2, 1)),
        # Snapshots make an image larger than its disk.
        ([disk("default", 2, 7), disk("default", 9, 1)], ("default", 11, 3)),
        # Unknown: the row keeps what it has.
        ([disk("default", None, None)], (None, None, None)),
        ([{"capacity_bytes": 2, "allocation_bytes": 1}], (None, None, None)),
    ],
)
def test_disks_count_in_the_pool_that_contains_them(
    disks: list[dict[str, Any]], columns: tuple[str | None, int | None, int | None]
) -> None:
    found = columns_of({"disks": disks})
    assert tuple(map(found.get, ("disk_pool", "pool_size", "disk_allocation"))) == columns
