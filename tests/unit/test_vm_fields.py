"""Unit tests: the table of a VM's fields, and what is derived from it."""

import json
import uuid
from types import SimpleNamespace
from typing import Any

import pytest
from ansible_collections.virtplay.libvirt.plugins.module_utils.declared import domain_list
from ansible_collections.virtplay.libvirt.plugins.module_utils.domain import arguments, devices
from ansible_collections.virtplay.libvirt.plugins.module_utils.domain.create import is_numbered
from ansible_collections.virtplay.libvirt.plugins.module_utils.domain.seed import (
    build_files,
    clean_hostname,
)
from virtplay import vm_fields
from virtplay.api.schemas.vms import VmCreate, VmOut, VmUpdate
from virtplay.jobs.play import trim
from virtplay.jobs.progress import Progress
from virtplay.store.domains import columns_of
from virtplay.store.models import Vm
from virtplay.texts import numbered, slug
from virtplay.vm_fields import FIELDS, Asked, Cost, Field
from virtplay.vms import create_variables, derive_mac, identify, update_variables

from scripts.role_tables import ROLES, read_specs


def names(asked: set[Asked]) -> set[str]:
    """The API's names of the fields that may be given then."""
    return {field.api_name for field in FIELDS if field.asked in asked}


def test_the_api_takes_and_shows_the_fields_of_the_table() -> None:
    assert (
        names({Asked.AT_CREATION, Asked.ALWAYS}) | {"host", "start"} == VmCreate.model_fields.keys()
    )
    assert names({Asked.ALWAYS}) == VmUpdate.model_fields.keys()
    assert {field.api_name for field in FIELDS if field.stored} <= VmOut.model_fields.keys()


def test_rows_have_the_stored_fields_of_the_table() -> None:
    columns = Vm._meta.fields_map.keys()
    assert {field.name for field in FIELDS if field.stored} <= columns
    assert not {field.name for field in FIELDS if not field.stored} & columns


def test_the_role_has_a_variable_for_each_field_of_the_table() -> None:
    specs = read_specs(ROLES / "libvirt_domain")
    assert {field.role_variable for field in FIELDS} <= specs["create"].keys()
    changeable = {field.role_variable for field in FIELDS if field.asked is Asked.ALWAYS}
    assert changeable <= specs["update"].keys()


@pytest.mark.parametrize(
    "name",
    [
        "Zürich DB",
        "web",
        "数据库",
        "--",
        "a_b.c",
        "Ⅷ ﬁ",
        "-x-",
        "é" * 70,
        "x" * 62 + " y",
        "İ",
        "ß",
    ],
)
def test_a_domain_is_called_as_its_guest(name: str) -> None:
    assert (slug(name) or "id") == clean_hostname(name, fallback="id")
    assert numbered(slug(name) or "id", 1) == (slug(name) or "id")
    for number in (2, 10, 12345):
        assert clean_hostname(numbered(slug(name), number)) == numbered(slug(name), number).strip(
            "-"
        )
        # The module knows the names that the service numbers.
        assert is_numbered(numbered(slug(name) or "id", number), slug(name) or "id")


@pytest.mark.parametrize(
    ("title", "hostname"),
    [("Zürich DB", "zurich-db"), ("web", "web"), ("数据库", "vm-007"), ("--", "vm-007")],
)
def test_host_name_is_the_same_by_the_api_and_by_hand(title: str, hostname: str) -> None:
    wanted = {"name": title, "template": "micro", "cpu": 1, "memory": 256, "disk": 1}
    vm = Vm(id=7, ref="vm-007", domain="vm-007", uuid=uuid.uuid4(), os="micro", **wanted)
    by_api = create_variables(vm, wanted, start=False)
    declared = {"name": "vm-007", "title": title, "vcpus": 1, "memory": 256}
    (by_hand,) = domain_list([declared], {})
    prefix = f"{vm_fields.ROLE}_"
    plain = {name.removeprefix(prefix): value for name, value in by_api.items()}
    assert "hostname" not in plain
    for values, seed in ((plain, {}), (by_hand, by_hand["seed"])):
        files: dict[str, Any] = build_files(
            seed, instance_id="i-1", title=values["title"], name=values["name"]
        )
        assert json.loads(files["meta-data"])["local-hostname"] == hostname


def test_mac_address_is_the_one_that_the_host_derives() -> None:
    for identity in (uuid.UUID(int=0), *(uuid.uuid4() for _ in range(50))):
        assert derive_mac(identity) == devices.derive_mac(str(identity), 0)


@pytest.mark.parametrize(
    ("requested", "room"),
    [
        ({}, (0, 0, 0)),
        ({"cpu": 4, "memory": 512, "disk": 10}, (4, 0, 0)),
        ({"cpu": 1, "memory": 1024, "disk": 14}, (0, 1024, 4)),
    ],
)
def test_room_that_a_change_requires(requested: dict[str, int], room: tuple[int, int, int]) -> None:
    for pool in (None, "default"):
        vm = SimpleNamespace(cpu=2, memory=512, disk=10, disk_pool=pool)
        assert tuple(vm_fields.growth(vm, requested).values()) == room
    for pool in ("", "fast"):
        vm = SimpleNamespace(cpu=2, memory=512, disk=10, disk_pool=pool)
        assert tuple(vm_fields.growth(vm, requested).values()) == (*room[:2], 0)


class Body(VmCreate):
    cpuShares: int = 100  # noqa: N815


class Change(VmUpdate):
    cpuShares: int | None = None  # noqa: N815


MADE_UP = Field(
    "shares",
    "shares",
    api="cpuShares",
    key="shares",
    read=lambda d: int(d["shares"]),
    cost=Cost.WHOLE,
)
PLAIN: dict[str, Any] = {"name": "web", "template": "micro", "cpu": 1, "memory": 256, "disk": 1}
VARIABLE = "libvirt_domain_shares"
REPORTED = {"name": "vm-007", "title": "web", "state": "running", "vcpus": 1, "memory": 256}


def test_a_new_field_goes_all_the_way_by_its_line_in_the_table(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(vm_fields, "FIELDS", (*FIELDS, MADE_UP))
    monkeypatch.setitem(arguments.ARGUMENTS, "shares", {"type": "int"})

    # From the body of a request to the row and to the role's variables.
    wanted = vm_fields.from_request(Body(**PLAIN, cpuShares=200).model_dump())
    assert vm_fields.columns_of(wanted)["shares"] == 200
    vm = Vm(id=7, ref="vm-007", domain="vm-007", uuid=uuid.uuid4(), os="micro", **PLAIN)
    assert create_variables(vm, wanted, start=False)[VARIABLE] == 200
    assert VARIABLE not in vm_fields.to_variables(wanted, secret=True)
    changed = vm_fields.from_request(Change(cpuShares=300).model_dump(exclude_unset=True))
    assert changed == {"shares": 300}
    variables = update_variables(vm, changed)
    assert variables == {**identify(vm), VARIABLE: 300}
    # What an unfinished update promises is read from its variables.
    assert vm_fields.from_variables(variables) == {"shares": 300}
    assert vm_fields.needs_room(changed)
    row = SimpleNamespace(cpu=1, memory=256, disk=1, disk_pool=None, shares=200)
    assert vm_fields.growth(row, changed)["shares"] == 300
    assert vm_fields.promised(vars(row), changed)["shares"] == 300

    # From a declared VM to the module's arguments.
    declared = {"name": "vm-007", "vcpus": 1, "memory": 256, "shares": 200}
    assert domain_list([declared], {})[0]["shares"] == 200

    # From a reported domain, in a result or an observation, back to the row and to the API.
    domain = {**REPORTED, "shares": 200}
    assert columns_of(domain)["shares"] == 200
    waiting = columns_of({**domain, "pending": {"shares": 300}})
    assert (waiting["shares"], waiting["pending"]) == (300, {"shares": 200})
    assert "shares" not in columns_of(REPORTED), "what is not reported is left as it is"
    row = SimpleNamespace(**{f.name: None for f in FIELDS if f.stored}, shares=300)
    assert vm_fields.shown(row)["cpuShares"] == 300

    # From the module's changes to the job.
    change = {"field": "shares", "before": 200, "after": 300, "applies": "live", "destroys": False}
    result = {"domain": domain, "changes": [change], "applies_at": "now", "changed": True}
    progress = Progress(tasks=2)
    progress.take(trim({"event": "runner_on_ok", "event_data": {"res": result}}))
    assert progress.row_result() == {"changes": [change], "applies_at": "now"}
