"""Tests of the checks of role variables beyond argument_specs."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.virtplay.libvirt.plugins.plugin_utils.role_variables import (
    check_variables,
    join_hosts,
    missing_vm,
    refuse_extra_variables,
    refuse_several_hosts,
    unknown_templates,
    unknown_variables,
)

from scripts.role_tables import ROLES, read_specs

SPECS = {
    "start": {"options": {"vm_name": {"type": "str"}}},
    "create": {"options": {"vm_name": {"type": "str"}, "vm_memory": {"type": "int"}}},
}


def test_misspelt_variable_is_named_with_the_nearest_one() -> None:
    (message,) = unknown_variables("vm", SPECS, ["vm_name", "vm_memroy"])
    assert message == (
        "cannot use vm_memroy: role vm has no such variable, did you mean vm_memory?"
    )


def test_variable_unlike_any_is_named_alone() -> None:
    (message,) = unknown_variables("vm", SPECS, ["vm_zzzzzzzz"])
    assert message == "cannot use vm_zzzzzzzz: role vm has no such variable"


def test_variables_of_other_entry_points_and_roles_are_let_through() -> None:
    names = ["vm_name", "vm_memory", "vm_result", "vmx", "other_name", "__vm_inner"]
    assert unknown_variables("vm", SPECS, names) == []


def test_role_of_a_collection_has_the_prefix_of_its_own_name() -> None:
    assert unknown_variables("space.set.vm", SPECS, ["vm_name"]) == []
    assert len(unknown_variables("space.set.vm", SPECS, ["vm_nmae"])) == 1


MAY_NAME = {"libvirt_domain_name": {"type": "str"}, "libvirt_domain_uuid": {"type": "str"}}


@pytest.mark.parametrize(
    ("options", "values", "faults"),
    [
        (MAY_NAME, {}, 1),
        (MAY_NAME, {"libvirt_domain_name": ""}, 1),
        (MAY_NAME, {"libvirt_domain_name": "vm-1"}, 0),
        (MAY_NAME, {"libvirt_domain_uuid": "0b9a217a-0000-4000-8000-000000000000"}, 0),
        # Where it is required, its spec says so.
        ({**MAY_NAME, "libvirt_domain_name": {"required": True}}, {}, 0),
        ({"libvirt_domain_vms": {"type": "list"}}, {}, 0),
    ],
)
def test_vm_without_name_and_uuid_is_refused(
    options: dict[str, Any], values: dict[str, Any], faults: int
) -> None:
    messages = missing_vm("libvirt_domain", options, values)
    message = "cannot find the VM: libvirt_domain_name or libvirt_domain_uuid is required"
    assert messages == [message] * faults


def test_vm_of_a_snapshot_is_its_domain() -> None:
    options: dict[str, Any] = {f"libvirt_snapshot_{key}": {} for key in ("domain", "uuid")}
    options["libvirt_snapshot_name"] = {"required": True}
    (message,) = missing_vm("libvirt_snapshot", options, {"libvirt_snapshot_name": "one"})
    assert message.endswith("libvirt_snapshot_domain or libvirt_snapshot_uuid is required")


def test_one_host_is_enough_for_an_action() -> None:
    assert refuse_several_hosts("Start a VM", ["kvm1"]) == []


def test_several_hosts_are_refused_with_their_names() -> None:
    (message,) = refuse_several_hosts("Start a VM", ["kvm1", "kvm2"])
    assert message == "cannot start a VM on 2 hosts: select one with --limit (kvm1, kvm2)"
    (message,) = refuse_several_hosts("Start a VM", [f"kvm{n}" for n in range(9)])
    assert message.endswith("9 hosts: select one with --limit (kvm0, kvm1, kvm2, kvm3, kvm4, …)")


UPDATE = {"libvirt_domain_name": {"type": "str"}, "libvirt_domain_memory": {"type": "int"}}


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("libvirt_domain_template", "it is fixed at creation; create another VM with it"),
        ("libvirt_domain_firmware", "it is fixed at creation; create another VM with it"),
        ("libvirt_domain_user_data", "cloud-init reads it at a VM's first start"),
        ("libvirt_domain_state", "use vm_start or vm_stop"),
        ("libvrt_domain_memory", "did you mean libvirt_domain_memory?"),
        ("libvirt_domian_memory", "did you mean libvirt_domain_memory?"),
    ],
)
def test_what_an_update_given_with_e_would_ignore_is_refused(name: str, words: str) -> None:
    names = ["libvirt_domain_name", "libvirt_domain_memory", name]
    (message,) = refuse_extra_variables("libvirt_domain", "update", UPDATE, names)
    assert message.startswith(f"cannot use {name}")
    assert message.endswith(words) or words in message


@pytest.mark.parametrize("role", ["libvirt_domain", "virtplay.libvirt.libvirt_domain"])
def test_variables_of_others_given_with_e_are_let_through(role: str) -> None:
    names = ["web_port", "memory", "libvirt_domain_lock_timeout", "libvirt_snapshot_name"]
    assert refuse_extra_variables(role, "update", UPDATE, names) == []


IMAGES = {
    "libvirt_image_catalogue": {"default": {"debian12": {}}},
    "libvirt_image_catalogue_extra": {"default": {}},
}


@pytest.mark.parametrize("names", ["own", ["own", "debian12"], [], "", 3, ["a b"], None])
def test_template_of_the_catalogue_or_the_inventory_is_found(names: Any) -> None:
    values = {"libvirt_image_catalogue_extra": {"own": {}}, "libvirt_image_name": names}
    assert unknown_templates(IMAGES, values) == []


def test_template_in_no_catalogue_is_reported_with_the_vm() -> None:
    values = {"libvirt_image_name": ["win95", "debian12"], "libvirt_domain_name": "web-1"}
    assert unknown_templates(IMAGES, values) == [
        "cannot find template win95 for VM web-1: the catalogue has debian12"
    ]


def test_templates_of_declared_vms_are_reported_once() -> None:
    vms = [
        *({"name": f"web-{n}"} for n in range(12)),
        {"name": "db", "template": "debian12", "disks": [{"template": "debian12"}, {}, 3]},
        {"name": "data", "template": None, "disks": [{"template": "win95"}]},
        {"name": "gone", "template": "win95", "state": "absent"},
        "no mapping",
    ]
    values = {"libvirt_domain_vms": vms, "libvirt_domain_vms_defaults": {"template": "debain12"}}
    assert unknown_templates(IMAGES, values) == [
        f"cannot find template debain12 for VMs {', '.join(f'web-{n}' for n in range(10))} and 3 "
        "more, did you mean debian12? the catalogue has debian12",
        "cannot find template win95 for VM data: the catalogue has debian12",
    ]


def test_fault_of_several_hosts_is_one() -> None:
    faults = {"kvm1": ["one", "two"], "kvm2": ["one"], "kvm3": ["one", "two", "three"]}
    assert join_hosts(faults) == ["one", "kvm1, kvm3: two", "kvm3: three"]
    assert join_hosts({"kvm1": ["one"]}) == ["one"]


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({}, "cannot find the VM: libvirt_console_domain or libvirt_console_uuid is required"),
        ({"libvirt_console_name": "a"}, ""),
        ({"libvirt_console_domain": "a"}, ""),
    ],
)
def test_vm_of_a_console_has_an_earlier_word(values: dict[str, Any], words: str) -> None:
    options: dict[str, Any] = {f"libvirt_console_{key}": {} for key in ("domain", "name", "uuid")}
    assert missing_vm("libvirt_console", options, values) == ([words] if words else [])


def test_both_words_for_the_vm_of_a_console_are_refused() -> None:
    options = read_specs(ROLES / "libvirt_console")["main"]
    values = {
        "libvirt_console_domain": "a",
        "libvirt_console_name": "b",
        "libvirt_console_type": "serial",
    }
    assert check_variables("libvirt_console", "main", options, values) == [
        "cannot use libvirt_console_name: it means the same as libvirt_console_domain, which is "
        "set too"
    ]
