"""Unit tests: the table of a VM's fields, and what is derived from it."""

import json
import uuid
from typing import Any

import pytest
from ansible_collections.virtplay.libvirt.plugins.module_utils.declared import domain_list
from ansible_collections.virtplay.libvirt.plugins.module_utils.domain import devices
from ansible_collections.virtplay.libvirt.plugins.module_utils.domain.seed import build_files
from virtplay import vm_fields
from virtplay.api.schemas.vms import VmCreate, VmOut, VmUpdate
from virtplay.store.models import Vm
from virtplay.vm_fields import FIELDS, Asked
from virtplay.vms import create_variables, derive_mac

from scripts.role_tables import ROLES, read_specs


def names(asked: set[Asked]) -> set[str]:
    """The API's names of the fields that may be given then."""
    return {field.api_name for field in FIELDS if field.asked in asked}


def test_the_api_takes_and_shows_the_fields_of_the_table() -> None:
    assert names({Asked.AT_CREATION, Asked.ALWAYS}) | {"host"} == VmCreate.model_fields.keys()
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
    ("title", "hostname"),
    [("Zürich DB", "zurich-db"), ("web", "web"), ("数据库", "vm-007"), ("--", "vm-007")],
)
def test_host_name_is_the_same_by_the_api_and_by_hand(title: str, hostname: str) -> None:
    wanted = {"name": title, "template": "micro", "cpu": 1, "memory": 256, "disk": 1}
    vm = Vm(id=7, ref="vm-007", domain="vm-007", uuid=uuid.uuid4(), os="micro", **wanted)
    by_api = create_variables(vm, wanted)
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
