"""What hypervisors run as hosts of an inventory: names, groups, variables and addresses."""

from __future__ import annotations

import ipaddress
from typing import Any

import pytest
from ansible_collections.virtplay.libvirt.plugins.plugin_utils.vm_inventory import (
    AddressChoice,
    Vm,
    list_vms,
)

ANY = AddressChoice()


def domain(name: str = "web-1", **facts: Any) -> dict[str, Any]:
    return {"name": name, "uuid": f"uuid-of-{name}", "state": "running", **facts}


def listed(
    domains: dict[str, list[dict[str, Any]]], *taken: str, use_titles: bool = False
) -> dict[str, Vm]:
    vms, _renamed = list_vms(domains, {*taken, *domains}, ANY, use_titles=use_titles)
    found = {vm.name: vm for vm in vms}
    assert len(found) == len(vms), "no VM hides another"
    return found


def address(ip: object, source: str = "lease") -> dict[str, object]:
    return {"ip": ip, "source": source, "mac": "52:54:00:00:00:01"}


@pytest.mark.parametrize(
    ("choice", "addresses", "expected"),
    [
        (ANY, [], None),
        (ANY, [address("203.0.113.5")], "203.0.113.5"),
        (ANY, [address("2001:db8::5"), address("203.0.113.5")], "203.0.113.5"),
        (ANY, [address("203.0.113.9"), address("203.0.113.5")], "203.0.113.9"),
        (ANY, [address("2001:db8::5")], "2001:db8::5"),
        (ANY, [address("fe80::1"), address("127.0.0.1"), address("::1")], None),
        (ANY, [address("169.254.1.1"), address("0.0.0.0"), address("224.0.0.1")], None),
        (ANY, [address("-oProxyCommand=touch x", "agent"), address(None), {}], None),
        (ANY, [address("2001:db8::5%-oProxyCommand=touch x", "agent")], None),
        (ANY, [address("203.0.113.9", "arp")], "203.0.113.9"),
        (AddressChoice(sources=["lease"]), [address("203.0.113.9", "arp")], None),
        (AddressChoice("ipv6"), [address("203.0.113.5"), address("2001:db8::5")], "2001:db8::5"),
        (AddressChoice("ipv4"), [address("2001:db8::5")], None),
        (
            AddressChoice(sources=["lease"]),
            [address("203.0.113.9", "agent"), address("203.0.113.5")],
            "203.0.113.5",
        ),
        (
            AddressChoice(networks=[ipaddress.ip_network("198.51.100.0/24")]),
            [address("203.0.113.5"), address("2001:db8::5"), address("198.51.100.7")],
            "198.51.100.7",
        ),
    ],
)
def test_address(
    choice: AddressChoice, addresses: list[dict[str, object]], expected: str | None
) -> None:
    assert choice.choose(addresses) == expected


def test_variables_come_from_the_host_with_a_prefix() -> None:
    metadata = {"id": "vm-001", "template": "debian12", "os": "debian12", "labels": {"tier": "web"}}
    seen = domain(
        title="Web server",
        vcpus=2,
        memory=512,
        addresses=[address("203.0.113.5")],
        metadata=metadata,
        stats={"cpu_time_ns": 1},
    )
    assert listed({"kvm1": [seen]})["web-1"].variables == {
        "ansible_host": "203.0.113.5",
        "libvirt_name": "web-1",
        "libvirt_uuid": "uuid-of-web-1",
        "libvirt_title": "Web server",
        "libvirt_host": "kvm1",
        "libvirt_status": "running",
        "libvirt_vcpus": 2,
        "libvirt_memory": 512,
        "libvirt_addresses": [address("203.0.113.5")],
        "libvirt_id": "vm-001",
        "libvirt_template": "debian12",
        "libvirt_os": "debian12",
        "libvirt_labels": {"tier": "web"},
    }


def test_vm_without_address_has_no_ansible_host() -> None:
    assert "ansible_host" not in listed({"kvm1": [domain(addresses=[])]})["web-1"].variables


def test_domain_of_somebody_else_has_no_template_and_no_labels() -> None:
    vm = listed({"kvm1": [{"name": "x", "uuid": "u", "unreadable": "why", "metadata": None}]})["x"]
    assert vm.groups == ("host_kvm1", "status_unknown")
    assert vm.variables["libvirt_labels"] == {}
    assert "libvirt_template" not in vm.variables


@pytest.mark.parametrize(
    ("host", "metadata", "groups"),
    [
        ("kvm1", {}, {"host_kvm1", "status_running"}),
        (
            "kvm1.example.org",
            {"template": "ubuntu24.04", "labels": {"tier": "web", "a/b": "{{ x }}", "flag": ""}},
            {
                "host_kvm1_example_org",
                "status_running",
                "template_ubuntu24_04",
                "label_tier_web",
                "label_a_b_x",
                "label_flag",
            },
        ),
        # Never the group of the hypervisors, or all.
        ("kvm1", {"labels": {"all": "\n"}}, {"host_kvm1", "status_running", "label_all"}),
    ],
)
def test_groups(host: str, metadata: dict[str, Any], groups: set[str]) -> None:
    vm = listed({host: [domain(metadata=metadata)]})["web-1"]
    assert {group.replace("__", "_") for group in vm.groups} == groups


@pytest.mark.parametrize(
    ("facts", "use_titles", "expected"),
    [
        ({"title": "Web server"}, False, "web-1"),
        ({"title": "Web server"}, True, "Web_server"),
        ({"title": None}, True, "web-1"),
        ({"title": "服务器"}, True, "服务器"),
        ({"title": "-oProxyCommand=x"}, True, "oProxyCommand=x"),
        ({"title": "all:!web,{{ x }}\n[0:9]*"}, True, "all_web_x_0_9"),
        ({"title": "***"}, True, "web-1"),
    ],
)
def test_names(facts: dict[str, Any], use_titles: bool, expected: str) -> None:
    assert list(listed({"kvm1": [domain(**facts)]}, use_titles=use_titles)) == [expected]


def test_two_vms_of_one_name_are_both_listed() -> None:
    domains = {"kvm1": [domain()], "kvm2": [domain(), domain("web-2")]}
    vms, renamed = list_vms(domains, set(), ANY)
    assert [vm.name for vm in vms] == ["web-1@kvm1", "web-1@kvm2", "web-2"]
    assert renamed == [
        "web-1 on kvm1 is listed as web-1@kvm1: the name is taken",
        "web-1 on kvm2 is listed as web-1@kvm2: the name is taken",
    ]


def test_two_vms_of_one_title_on_one_host_are_told_apart_by_uuid() -> None:
    domains = {"kvm1": [domain("a", title="same"), domain("b", title="same")]}
    found = listed(domains, use_titles=True)
    assert set(found) == {"same@kvm1-uuid-of-a", "same@kvm1-uuid-of-b"}


def test_vm_named_like_another_ones_long_name_takes_nothing_over() -> None:
    domains = {"kvm1": [domain("a", title="x"), domain("b", title="x@kvm2")], "kvm2": [domain("x")]}
    found = listed(domains, use_titles=True)
    assert {vm.variables["libvirt_uuid"] for vm in found.values()} == {
        "uuid-of-a",
        "uuid-of-b",
        "uuid-of-x",
    }


@pytest.mark.parametrize("title", ["kvm1", "localhost", "hypervisors", "all", "status_running"])
def test_vm_cannot_take_the_name_of_a_hypervisor_or_group(title: str) -> None:
    found = listed(
        {"kvm1": [domain(title=title)]}, "localhost", "hypervisors", "all", use_titles=True
    )
    assert list(found) == [f"{title}@kvm1"]
