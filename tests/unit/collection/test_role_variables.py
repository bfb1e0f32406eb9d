"""Tests of what is said of a role's variables beside argument_specs."""

from __future__ import annotations

from ansible_collections.virtplay.libvirt.plugins.module_utils.role_variables import (
    refuse_several_hosts,
    unknown_variables,
)

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


def test_one_host_is_enough_for_an_action() -> None:
    assert refuse_several_hosts("Start a VM", ["kvm1"]) == []


def test_several_hosts_are_refused_with_their_names() -> None:
    (message,) = refuse_several_hosts("Start a VM", ["kvm1", "kvm2"])
    assert message == "cannot start a VM on 2 hosts: name one with --limit (kvm1, kvm2)"
    (message,) = refuse_several_hosts("Start a VM", [f"kvm{n}" for n in range(9)])
    assert message.endswith("9 hosts: name one with --limit (kvm0, kvm1, kvm2, kvm3, kvm4, …)")
