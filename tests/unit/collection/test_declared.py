"""Tests of the VMs that are declared for hosts: what they become, and how it is told."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.virtplay.libvirt.plugins.module_utils.declared import (
    ALIASES,
    InvalidVms,
    combine_runs,
    describe_hosts,
    domain_list,
    outcome_of,
    summarize,
)
from ansible_collections.virtplay.libvirt.plugins.module_utils.domain.arguments import (
    to_long_form,
)
from ansible_collections.virtplay.libvirt.plugins.modules.domains import domain_options

from scripts.role_tables import ROLES, read_specs

WEB = {"name": "web-1", "vcpus": 2, "memory": 512}
PLAIN = {"name": "web-1", "vcpus": 2, "memory": 512, "seed": {}, "metadata": {}}

BECOMES: list[tuple[dict[str, Any], dict[str, Any]]] = [
    (WEB, PLAIN),
    (
        {"name": "web-1", "cpu": 2, "memory": 512, "autoStart": True, "sshKeys": ["k"]},
        {**PLAIN, "autostart": True, "seed": {"ssh_keys": ["k"]}},
    ),
    ({**WEB, "state": "running"}, {**PLAIN, "state": "running"}),
    (
        {**WEB, "template": "micro", "disk": 2, "clone": "full"},
        {
            **PLAIN,
            "disks": [{"size": 2, "template": "micro", "clone": "full"}],
        },
    ),
    ({**WEB, "disk": 3}, {**PLAIN, "disks": [{"size": 3}]}),
    # What the module itself takes goes before the short forms.
    ({**WEB, "disk": 3, "disks": [{"target": "vdb"}]}, {**PLAIN, "disks": [{"target": "vdb"}]}),
    (
        {**WEB, "network": {"type": "bridge", "bridge": "br0", "ip": "198.51.100.7/24"}},
        {
            **PLAIN,
            "interfaces": [{"type": "bridge", "source": "br0", "ip": "198.51.100.7/24"}],
        },
    ),
    ({**WEB, "network": {"network": "lan"}}, {**PLAIN, "interfaces": [{"source": "lan"}]}),
    (
        {**WEB, "hostname": "web", "user_data": "#!/bin/sh", "os": "debian", "labels": {"a": "b"}},
        {
            **PLAIN,
            "seed": {"hostname": "web", "user_data": "#!/bin/sh"},
            "metadata": {"os": "debian", "labels": {"a": "b"}},
        },
    ),
    # Nothing of a VM that is to go has to be right.
    (
        {"name": "web-1", "state": "absent", "force": True, "disk": 3},
        {"name": "web-1", "state": "absent", "force": True},
    ),
]

REFUSED: list[tuple[list[dict[str, Any]], str]] = [
    ([{"vcpus": 1, "memory": 1}], "without a name"),
    ([{"name": "web-1", "vcpus": 1}], "VM web-1: it has no memory"),
    ([{"name": "web-1"}], "VM web-1: it has no vcpus and no memory"),
    ([{**WEB, "cpu": 2}], "VM web-1: cpu means the same as vcpus"),
    ([WEB, WEB], "VM web-1: two VMs of the host have that name"),
    (
        [{**WEB, "uuid": "u"}, {**WEB, "name": "web-2", "uuid": "u"}],
        "VM u: two VMs of the host have that uuid",
    ),
    (
        [
            {**WEB, "network": {"mac": "52:54:00:00:00:0A"}},
            {**WEB, "name": "web-2", "interfaces": [{"mac": "52:54:00:00:00:0a"}]},
        ],
        "VM web-2: web-1 of the same host has its mac 52:54:00:00:00:0a",
    ),
    (
        [
            {**WEB, "network": {"ip": "192.0.2.7"}},
            {**WEB, "name": "web-2", "network": {"ip": "192.0.2.7"}},
        ],
        "VM web-2: web-1 of the same host has its ip 192.0.2.7",
    ),
]


@pytest.mark.parametrize(("vm", "domain"), BECOMES)
def test_declared_vm_becomes_a_domain(vm: dict[str, Any], domain: dict[str, Any]) -> None:
    assert domain_list([vm], {}) == [domain]


@pytest.mark.parametrize(("vms", "reason"), REFUSED)
def test_what_cannot_be_meant_is_refused_with_the_vm(
    vms: list[dict[str, Any]], reason: str
) -> None:
    with pytest.raises(InvalidVms, match=reason):
        domain_list(vms, {})


def test_every_vm_that_lacks_something_or_is_there_twice_is_named() -> None:
    vms = [{"name": "a", "memory": 256}, {"name": "b", "memory": 256}, WEB, WEB]
    with pytest.raises(InvalidVms) as refusal:
        domain_list(vms, {})
    assert str(refusal.value).split("; ") == [
        "cannot use VM a: it has no vcpus",
        "cannot use VM b: it has no vcpus",
        "cannot use VM web-1: two VMs of the host have that name",
    ]


def test_defaults_are_for_what_a_vm_does_not_say() -> None:
    defaults = {"vcpus": 1, "memory": 256, "state": "running"}
    first, second = domain_list([{"name": "a"}, {"name": "b", "vcpus": 4}], defaults)
    assert (first["vcpus"], second["vcpus"]) == (1, 4)
    assert first["memory"] == second["memory"] == 256
    assert first["state"] == second["state"] == "running"


def test_every_option_of_a_declared_vm_reaches_the_module() -> None:
    options = read_specs(ROLES / "libvirt_domain")["vms"]
    described, taken = options["libvirt_domain_vms"]["options"], domain_options()
    base = {**WEB, "disk": 1}
    plain = domain_list([base], {})
    for name, option in described.items():
        value: Any = {"dict": {"type": "bridge"}, "list": [{"target": "vdb"}]}.get(option["type"])
        others = {key: set_to for key, set_to in base.items() if key != ALIASES.get(name)}
        changed = domain_list([{**others, name: option.get("choices", [value or 7])[-1]}], {})
        assert changed != plain, name
        assert changed[0].keys() <= taken.keys(), name
    defaults = options["libvirt_domain_vms_defaults"]["options"]
    own = {"name", "uuid", "hostname", "network_config"}
    assert defaults == {name: option for name, option in described.items() if name not in own}


def result(changed: bool, *changes: tuple[str, Any], domain: Any = "there") -> dict[str, Any]:
    """A result of the module domain with these fields and values before."""
    fields = [{"field": name, "before": before} for name, before in changes]
    return {"changed": changed, "changes": fields, "domain": domain}


@pytest.mark.parametrize(
    ("found", "outcome"),
    [
        (result(False), "unchanged"),
        (result(True, ("state", "absent")), "created"),
        (result(True, ("vcpus", 1)), "changed"),
        (result(True, ("state", "stopped")), "changed"),
        (result(True, ("state", "stopped"), domain=None), "removed"),
        (result(False, domain=None), "unchanged"),
    ],
)
def test_outcome_is_one_word(found: dict[str, Any], outcome: str) -> None:
    assert outcome_of(found) == outcome


def vm(name: str, outcome: str) -> dict[str, str]:
    """What became of one VM."""
    return {"name": name, "outcome": outcome}


def test_summary_names_the_vms_of_each_outcome() -> None:
    told = summarize([vm("a", "failed"), vm("b", "created"), vm("c", "created")])
    assert told["created"] == ["b", "c"]
    assert told["failed"] == ["a"]
    assert told["unchanged"] == told["changed"] == told["removed"] == []


def test_what_was_done_stands_in_for_what_was_planned() -> None:
    plan = {"vms": [vm("a", "created"), vm("b", "unchanged"), vm("c", "changed")]}
    runs: list[dict[str, Any]] = [{"vms": [vm("a", "failed"), vm("c", "changed")]}, {}]
    told = combine_runs(plan, runs)
    assert summarize(told) == summarize(
        [vm("a", "failed"), vm("b", "unchanged"), vm("c", "changed")]
    )


def test_what_no_run_has_told_of_is_not_done() -> None:
    plan = {
        "vms": [vm("a", "created"), vm("b", "unchanged"), vm("c", "failed"), vm("d", "removed")]
    }
    runs: list[dict[str, Any]] = [{"unreachable": True}]
    told = describe_hosts({"kvm1": combine_runs(plan, runs)})
    assert told == ["kvm1: 1 unchanged, 1 failed (c), 2 not done (a, d)"]


def test_each_host_has_a_line_and_unchanged_vms_are_counted_only() -> None:
    lines = describe_hosts(
        {
            "kvm1": [vm("a", "created"), vm("b", "created"), vm("c", "unchanged")],
            "kvm2": [vm("d", "failed")],
            "kvm3": [],
            "kvm4": None,
        }
    )
    assert lines == [
        "kvm1: 2 created (a, b), 1 unchanged",
        "kvm2: 1 failed (d)",
        "kvm3: no VMs",
        "not compared: kvm4",
        "all: 2 created, 1 unchanged, 1 failed",
    ]


def test_short_form_of_a_domain_becomes_the_long_one() -> None:
    given = {"name": "web-1", "disk": 3, "template": None, "clone": "full", "disks": None}
    long = to_long_form(
        {**given, "network": {"bridge": "br0", "type": "bridge"}, "labels": {"a": 1}}
    )
    unset = dict.fromkeys(("mac", "model", "ip", "gateway", "nameservers"))
    assert long == {
        "name": "web-1",
        "disks": [
            {"target": None, "size": 3, "template": None, "clone": "full", "pool": "default"}
        ],
        "interfaces": [{**unset, "type": "bridge", "source": "br0"}],
        "metadata": {"id": None, "template": None, "os": None, "labels": {"a": 1}},
    }
    assert to_long_form(long) == long
    both = to_long_form({"metadata": {"id": "vm-1", "labels": None}, "labels": {"a": "b"}})
    assert both == {"metadata": {"id": "vm-1", "labels": {"a": "b"}}}
