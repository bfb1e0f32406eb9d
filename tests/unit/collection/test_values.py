"""Tests of the rules of values, by the roles' own specs and by the modules' tables."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.virtplay.libvirt.plugins.module_utils import values as rules_file
from ansible_collections.virtplay.libvirt.plugins.module_utils.domain.arguments import ARGUMENTS
from ansible_collections.virtplay.libvirt.plugins.module_utils.failure import Failure, check_values
from ansible_collections.virtplay.libvirt.plugins.module_utils.values import (
    CONSOLE,
    DOMAIN,
    HOST_INFO,
    IMAGE,
    SNAPSHOT,
    Entries,
    Table,
)
from ansible_collections.virtplay.libvirt.plugins.modules import console, snapshot
from ansible_collections.virtplay.libvirt.plugins.plugin_utils.role_rules import ROLES, rules_of
from ansible_collections.virtplay.libvirt.plugins.plugin_utils.role_variables import check_variables
from virtplay.api.schemas.vms import VmCreate

from scripts.role_tables import described_roles, read_specs

SPECS = {role.name: read_specs(role) for role in described_roles()}
ENTRIES = [(role, entry) for role, specs in SPECS.items() for entry in specs]
VM = {"name": "web-1", "vcpus": 1, "memory": 256}
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ0 admin@example.org"
VALUES = str(Path(rules_file.__file__).parent)
FREE = {"virtplay_service_source", "virtplay_service_inventory"}
"""Paths on the controller, which may be relative."""
Options = Mapping[str, Mapping[str, Any]]


def faults(role: str, entry: str, **values: Any) -> list[str]:
    """The messages for a role's variables, given without the role's name."""
    own = {f"{role}_{key}": value for key, value in values.items()}
    messages: list[str] = check_variables(role, entry, SPECS[role][entry], own)
    return messages


def create(**values: Any) -> list[str]:
    return faults("libvirt_domain", "create", **{**VM, **values})


def declared(*vms: Any, **values: Any) -> list[str]:
    return faults("libvirt_domain", "vms", vms=list(vms), **values)


GOOD: dict[str, list[Any]] = {
    "name": ["a", "web-1", "A.b_c-9", "9", "a" * 64],
    "uuid": ["0b9a217a-0000-4000-8000-000000000000", "0B9A217A000040008000000000000000"],
    "vcpus": [1, "4", 512],
    "vcpus_max": [1, 1024],
    "memory": [32, "2048", 16_777_216],
    "memory_max": [256],
    "disk": [1, "20", 65_536],
    "template": ["micro", "ubuntu22.04", "a" * 63],
    "title": ["", "Web server", "标题", "{{ x }}", "👩\u200d💻"],
    "description": ["", "two\nlines\n", "\ttab"],
    "hostname": ["web", "WEB-1", "a", "a" * 63],
    "ssh_keys": [[], [KEY], [KEY.rsplit(" ", 1)[0]], ["sk-ssh-ed25519@openssh.com AAAA= x y"]],
    "user_data": ["#cloud-config\n", "#!/bin/sh", "MIME-Version: 1.0\n", "## template: jinja\n"],
    "network_config": [{"version": 2}, {"network": {"version": 2}}],
    "labels": [{}, {"team": "web"}, {"a/b.c-d_e": 1}, {"on": True}, "team=web", {"e": ""}],
    "timeout": [1, 3600],
    "lock_timeout": [0, 120],
    "generation": [0, 7],
    "uri": ["qemu:///system", "qemu+ssh://root@kvm1/system", "test:///default"],
    "network": [
        {"network": "default"},
        {"type": "bridge", "bridge": "br0", "ip": "192.0.2.5/24", "gateway": "192.0.2.1"},
        {"type": "bridge", "bridge": "br0", "ip": "2001:db8::5/64", "mac": "52:54:00:AB:cd:ef"},
        {"nameservers": ["192.0.2.53", "2001:db8::53"], "model": "e1000e"},
    ],
    "interfaces": [[{"source": "default"}, {"type": "bridge", "source": "br0"}], [{}]],
    "disks": [[{"target": "vda", "size": 3}, {"target": "vdab", "template": "micro"}]],
}
BAD: dict[str, list[Any]] = {
    "name": ["a b/c", "a\n", "a b", "-a", ".a", "a" * 65, "ü", "$(id)", "../x"],
    "uuid": ["", "vm-001", "0b9a217a-0000-4000-8000-00000000000"],
    "vcpus": [-1, 0, "0", 513, 10**20],
    "vcpus_max": [0, 1025],
    "memory": [-1, 0, 31, "-256", 16_777_217],
    "memory_max": [0, 128],
    "disk": [-1, 0, 65_537],
    "template": ["", "a b", "../debian12", "-x", "a" * 64],
    "title": ["a\nb", "a\x07", "a" * 256, "a\u202eb"],
    "description": ["a\x00b", "a" * 1025, "two\r\nlines", " \n"],
    "hostname": ["", "web.example.org", "a b", "-a", "a-", "ü", "a_b", "a" * 64],
    "ssh_keys": [["ssh-rsa"], [KEY, KEY + "\nssh-rsa AAAA"], ["-----BEGIN"], [""]],
    "user_data": ["", "packages: [vim]", "#" * 65_537],
    "network_config": [{}, {"ethernets": {}}],
    "labels": [{"a b": "c"}, {"a": None}, {"a": ["b"]}, {"a": "b\n"}, {"": "x"}, {"a": "b" * 256}],
    "timeout": [0, -5, 3601],
    "lock_timeout": [-1],
    "generation": [-1],
    "uri": ["", "qemu", "/system", "qemu:///sys tem"],
    "network": [
        {"mac": "52:54:00:12:34"},
        {"mac": "01:00:5e:00:00:01"},
        {"mac": "00:00:00:00:00:00"},
        {"ip": "192.0.2.300"},
        {"ip": "127.0.0.1"},
        {"ip": "0.0.0.0"},
        {"ip": "224.0.0.1"},
        {"type": "network", "ip": "192.0.2.5/24"},
        {"type": "bridge", "bridge": "br0", "ip": "192.0.2.5"},
        {"type": "bridge"},
        {"type": "network", "bridge": "br0"},
        {"type": "bridge", "bridge": "br0", "network": "default"},
        {"type": "bridge", "bridge": "a" * 16},
        {"network": "a/b"},
        {"gateway": "192.0.2.1/24"},
        {"nameservers": ["one.example.org"]},
        {"model": "e100"},
        {"type": "macvtap"},
        {"netwrok": "default"},
    ],
    "interfaces": [
        [{"source": "a b"}],
        [{"mac": "52:54:00:00:00:01"}, {"mac": "52:54:00:00:00:01"}],
        [{"network": "default"}],
        [{"model": "e100"}],
        ["default"],
    ],
    "disks": [
        [{"size": 3}],
        [{"target": "../sda"}],
        [{"target": "vda", "size": 0}],
        [{"target": "vda", "size": "big"}],
        [{"target": "vda"}, {"target": "vda"}],
        [{"target": "vda", "clone": "shallow"}],
        [{"target": "vda", "pool": "a/b"}],
        [{"target": "vda", "sizze": 3}],
        [None],
    ],
}


def pairs(table: dict[str, list[Any]]) -> list[tuple[str, Any]]:
    return [(name, value) for name, values in table.items() for value in values]


@pytest.mark.parametrize(("name", "value"), pairs(GOOD))
def test_allowed_values(name: str, value: Any) -> None:
    assert create(**{"vcpus": 1, "memory": 32 if name == "memory" else 256, name: value}) == []


@pytest.mark.parametrize(("name", "value"), pairs(BAD))
def test_refused_value_is_reported_with_its_variable(name: str, value: Any) -> None:
    (message,) = create(**{name: value})
    assert f"libvirt_domain_{name}" in message


@pytest.mark.parametrize(
    ("name", "value"),
    [pair for pair in pairs(BAD) if pair[0] not in ("lock_timeout", "generation", "uri")],
)
def test_refused_value_of_a_declared_vm_is_reported_with_the_vm(name: str, value: Any) -> None:
    (message,) = declared(VM, {**VM, "name": "web-2", name: value})
    assert "libvirt_domain_vms[1]" in message
    if name != "name":
        assert "of VM web-2" in message


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"vcpus": -1}, "cannot use libvirt_domain_vcpus -1: it must be 1 to 512"),
        (
            {"vcpus": 4, "vcpus_max": 2},
            "cannot use libvirt_domain_vcpus_max: it must not be below libvirt_domain_vcpus",
        ),
        (
            {"disks": [{"target": "vda"}, {"target": "vdb", "sizze": 2}]},
            "cannot use libvirt_domain_disks[1].sizze: there is no such key, did you mean size?",
        ),
        (
            {"interfaces": [{}, {"mac": "x"}]},
            "cannot use libvirt_domain_interfaces[1].mac 'x': it must be the MAC address of a "
            "single interface, such as 52:54:00:12:34:56",
        ),
        (
            {"firmware": "efi", "memory": 159},
            "cannot use libvirt_domain_memory: it must be at least 160 MiB with "
            "libvirt_domain_firmware efi, which does not boot with less",
        ),
        (
            {"firmware": "efi", "memory": 128, "memory_max": 159},
            "cannot use libvirt_domain_memory: it must be at least 160 MiB with "
            "libvirt_domain_firmware efi, which does not boot with less",
        ),
        (
            {"network": {"type": "bridge"}},
            "libvirt_domain_network.bridge is required when type is bridge",
        ),
    ],
)
def test_messages(values: dict[str, Any], message: str) -> None:
    assert create(**values) == [message]


@pytest.mark.parametrize(
    "values",
    [
        {"firmware": "efi", "memory": 160},
        {"firmware": "efi", "memory": 96, "memory_max": 160},
        {"firmware": "bios", "memory": 96},
        {"memory": 96},
    ],
)
def test_firmware_gets_the_memory_that_it_needs(values: dict[str, Any]) -> None:
    assert create(**values) == []
    assert declared({**VM, **values}) == []


def test_all_faults_are_reported_at_once() -> None:
    messages = create(vcpus="many", memory=0, disks=["vda", {"target": "x", "sise": 1}])
    assert len(messages) == 5


def test_elements_keep_their_places_beside_one_that_is_none() -> None:
    first, second = declared("x", {**VM, "memory": 1})
    assert first == "cannot use libvirt_domain_vms[0]: it must be a mapping"
    assert second.startswith("cannot use libvirt_domain_vms[1].memory 1 of VM web-1: ")


def test_unknown_key_of_a_declared_vm_is_reported_with_the_vm_and_the_nearest_one() -> None:
    (message,) = declared({**VM, "memroy": 512})
    assert message == (
        "cannot use libvirt_domain_vms[0].memroy of VM web-1: there is no such key, "
        "did you mean memory?"
    )


def test_null_is_no_value_of_what_is_required() -> None:
    assert create(memory=None) == ["missing required arguments: libvirt_domain_memory"]
    (message,) = faults("libvirt_image", "main", name=None)
    assert message == "missing required arguments: libvirt_image_name"


def test_list_is_no_text() -> None:
    assert create(title=["a"]) == ["cannot use libvirt_domain_title ['a']: it must be a text"]
    (message,) = declared({**VM, "template": {"name": "a"}})
    assert message == (
        "cannot use libvirt_domain_vms[0].template {'name': 'a'} of VM web-1: it must be a text"
    )


@pytest.mark.parametrize(
    ("name", "value", "wanted"),
    [
        ("vcpus", "many", "a whole number"),
        ("vcpus", 1.5, "a whole number"),
        ("memory", "1G", "a whole number"),
        ("autostart", "often", "true or false"),
        ("labels", ["a"], "a mapping"),
        ("timeout", None, "a whole number"),
        ("network", "default", "a mapping"),
        ("disks", {"target": "vda"}, "a list"),
    ],
)
def test_value_of_a_wrong_type(name: str, value: Any, wanted: str) -> None:
    assert create(**{name: value}) == [
        f"cannot use libvirt_domain_{name} {value!r}: it must be {wanted}"
    ]


def test_secret_of_another_type_is_not_repeated() -> None:
    (message,) = faults("libvirt_console", "main", name="a", password=["hunter2"], type="serial")
    assert message == "cannot use libvirt_console_password: it must be a text"


@pytest.mark.parametrize(
    ("vms", "words"),
    [
        ([{"name": "a", "vcpus": 1}], "VM a: it has no memory"),
        ([VM, VM], "VM web-1: two VMs of the host have that name"),
    ],
)
def test_vms_that_cannot_be_together(vms: list[Any], words: str) -> None:
    assert declared(*vms) == [f"libvirt_domain_vms: cannot use {words}"]


def test_refused_default_is_reported_once_and_not_for_each_vm() -> None:
    (message,) = declared({"name": "a"}, {"name": "b"}, vms_defaults={"vcpus": 0, "memory": 64})
    assert message.startswith("cannot use libvirt_domain_vms_defaults.vcpus 0: ")


def test_what_a_vm_does_not_say_may_come_from_the_defaults() -> None:
    usual = {"vcpus": 1, "memory": 128, "disk": 1}
    assert declared({"name": "a"}, {"name": "b", "memory": 64}, vms_defaults=usual) == []


def test_what_a_vm_has_is_compared_with_the_defaults() -> None:
    usual = {"vcpus": 2, "memory": 1024}
    (message,) = declared({"name": "a", "memory_max": 512}, {"name": "b"}, vms_defaults=usual)
    assert message == (
        "cannot use libvirt_domain_vms[0].memory_max of VM a: it must not be below memory"
    )


@pytest.mark.parametrize("serial", [1, "5", "25%", "100%", [1, "50%"]])
def test_serial(serial: Any) -> None:
    assert declared(VM, vms_serial=serial) == []


@pytest.mark.parametrize("serial", ["abc", 0, -1, "0%", "101%", "1.5", [1, "x"], {"a": 1}, True])
def test_serial_that_is_none(serial: Any) -> None:
    (message,) = declared(VM, vms_serial=serial)
    assert message.startswith("cannot use libvirt_domain_vms_serial")


@pytest.mark.parametrize("entry", ["start", "stop", "delete", "update"])
def test_vm_that_is_there_may_be_named_as_libvirt_lets_it(entry: str) -> None:
    assert faults("libvirt_domain", entry, name="Windows 10 (old)") == []
    (message,) = faults("libvirt_domain", entry, name="a b/c\n")
    assert message.startswith("cannot use libvirt_domain_name 'a b/c\\n': it must be one line")


OTHERS: list[tuple[str, str, dict[str, Any], str]] = [
    ("libvirt_snapshot", "create", {"domain": "a", "name": "7"}, "name '7'"),
    ("libvirt_snapshot", "create", {"domain": "a", "name": "a b"}, "name 'a b'"),
    (
        "libvirt_snapshot",
        "create",
        {"domain": "a", "name": "a", "expires_at": "soon"},
        "expires_at",
    ),
    ("libvirt_snapshot", "create", {"domain": "a", "name": "a", "title": "b\n"}, "title"),
    ("libvirt_snapshot", "restore", {"domain": "a", "name": "a", "guard": "a"}, "guard"),
    ("libvirt_snapshot", "delete", {"domain": "a/b", "name": "a"}, "domain 'a/b'"),
    ("libvirt_snapshot", "delete", {"domain": "a", "name": ""}, "name ''"),
    ("libvirt_console", "main", {"name": "a"}, "libvirt_console_password is required"),
    ("libvirt_console", "main", {"name": "a", "password": "short"}, "password"),
    ("libvirt_console", "main", {"name": "a", "type": "serial", "seconds": 0}, "seconds 0"),
    ("libvirt_observe", "main", {"timeout": 0}, "timeout 0"),
    ("libvirt_observe", "main", {"timeout": "nan"}, "timeout nan"),
    ("libvirt_observe", "main", {"interval": -1}, "interval -1"),
    ("libvirt_observe", "main", {"rounds": 0}, "rounds 0"),
    ("libvirt_observe", "main", {"limit": 0}, "limit 0"),
    ("libvirt_observe", "main", {"templates_path": "here"}, "templates_path 'here'"),
    ("libvirt_image", "main", {"name": "a/b"}, "name 'a/b'"),
    ("libvirt_image", "main", {"name": ["micro", 3]}, "name[1] 3"),
    ("libvirt_image", "main", {"name": [], "timeout": 0}, "timeout 0"),
    ("libvirt_image", "main", {"name": [], "mirror": "mirror"}, "mirror 'mirror'"),
    ("libvirt_image", "main", {"name": [], "cache_path": "a/.."}, "cache_path"),
    (
        "libvirt_host",
        "main",
        {"pools": [{"name": "a", "path": "b"}]},
        "pools[0].path 'b' of pool a",
    ),
    ("libvirt_host", "main", {"pools": [{"name": "a", "path": "/b", "mode": "rw"}]}, "mode 'rw'"),
    ("libvirt_host", "main", {"networks": [{"name": "a", "cidr": "192.0.2.1/24"}]}, "cidr"),
    ("libvirt_host", "main", {"networks": [{"name": "a", "cidr": "192.0.2.0/31"}]}, "cidr"),
    (
        "libvirt_host",
        "main",
        {"networks": [{"name": "a", "cidr": "192.0.2.0/24", "dhcp_end": "198.51.100.9"}]},
        "libvirt_host_networks[0].dhcp_end of network a: it must be in cidr",
    ),
    ("libvirt_host", "main", {"bridges": [{"name": "a b"}]}, "bridges[0].name 'a b'"),
    ("libvirt_host", "main", {"bridges": [{"name": "br0", "address": "192.0.2.1"}]}, "address"),
    ("libvirt_host", "main", {"bridges": [{"name": "br0", "nic": "eth0"}]}, "bridges[0].nic of"),
    ("libvirt_host", "main", {"qemu_conf": {"user": "a\nb"}}, "qemu_conf.user"),
    ("libvirt_host", "main", {"packages": ["vim; reboot"]}, "packages[0]"),
    ("virtplay_service", "main", {"port": 0}, "port 0"),
    ("virtplay_service", "main", {"port": 65_536}, "port 65536"),
    ("virtplay_service", "main", {"public_url": "example.org"}, "public_url 'example.org'"),
    (
        "virtplay_service",
        "main",
        {"settings": {"PORT": 1}},
        "key 'PORT' of virtplay_service_settings",
    ),
    ("virtplay_service", "main", {"settings": {"VIRTPLAY_PORT": "1\n"}}, "settings.VIRTPLAY_PORT"),
    ("virtplay_service", "main", {"database_url": "mysql://a"}, "database_url"),
    (
        "virtplay_service",
        "main",
        {"tls_key": "key.pem", "tls_certificate": "/a.pem"},
        "tls_key 'key.pem'",
    ),
    ("virtplay_service", "main", {"tls_key": "/key.pem"}, "virtplay_service_tls_certificate"),
    ("virtplay_service", "main", {"nginx_certificate": "/a.pem"}, "virtplay_service_nginx_key"),
    ("virtplay_service", "main", {"ready_timeout": 0}, "ready_timeout 0"),
    ("virtplay_service", "main", {"releases_kept": 0}, "releases_kept 0"),
]


@pytest.mark.parametrize(("role", "entry", "values", "words"), OTHERS)
def test_variables_of_the_other_roles(
    role: str, entry: str, values: dict[str, Any], words: str
) -> None:
    (message,) = faults(role, entry, **values)
    assert message.startswith("cannot use ") or " is required " in message
    assert words in message


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ({"os": "a"}, "url"),
        (None, "libvirt_image_catalogue_extra.a: it must be a mapping"),
        ("/a.qcow2", "libvirt_image_catalogue_extra.a: it must be a mapping"),
        ({"url": "https://example.org/a", "path": "/a", "checksum": "0" * 64}, "url"),
        (
            {"url": "https://example.org/a"},
            "libvirt_image_catalogue_extra.a.checksum is required with url",
        ),
        ({"url": "ftp://example.org/a", "checksum": "0" * 64}, "a.url 'ftp:"),
        ({"path": "a.qcow2"}, "a.path 'a.qcow2'"),
        ({"path": "/a", "checksum": "md5:0"}, "a.checksum 'md5:0'"),
        (
            {"path": "/a", "checksum": "https://example.org/SHA256SUMS"},
            "a.checksum: it must be sha256:HEX or sha512:HEX with path",
        ),
        ({"path": "/a", "format": "vmdk"}, "a.format 'vmdk'"),
        (
            {"path": "/a", "chekcsum": "0" * 64},
            "a.chekcsum: there is no such key, did you mean checksum?",
        ),
    ],
)
def test_entries_of_the_catalogue(entry: Any, words: str) -> None:
    (message,) = faults("libvirt_image", "main", name="a", catalogue_extra={"a": entry})
    assert words in message


@pytest.mark.parametrize(
    ("values", "secret"),
    [
        ({"user_data": "hunter22 is no header"}, "hunter22"),
        ({"ssh_keys": ["hunter22"]}, "hunter22"),
    ],
)
def test_what_may_be_secret_is_not_repeated(values: dict[str, Any], secret: str) -> None:
    (message,) = create(**values)
    assert secret not in message
    (message,) = faults("libvirt_console", "main", name="a", password="hunter222")
    assert "hunter" not in message


def test_long_value_is_shortened() -> None:
    (message,) = create(title="a" * 10_000)
    assert len(message) < 200


@pytest.mark.parametrize(("role", "entry"), ENTRIES)
def test_defaults_of_every_role_are_allowed(role: str, entry: str) -> None:
    needed: dict[str, dict[str, Any]] = {
        "libvirt_domain": {
            **VM,
            "memory": 64,
            "power": {"kvm1": [{"name": "web-1", "state": "paused"}]},
        },
        "libvirt_snapshot": {"name": "a", "domain": "a"},
        "libvirt_console": {"password": "secret"},
        "libvirt_image": {"name": "micro"},
    }
    options = SPECS[role][entry]
    values = {k: v for k, v in needed.get(role, {}).items() if f"{role}_{k}" in options}
    assert faults(role, entry, **values) == []


def without_rule(options: Options, rules: Table, prefix: str = "") -> Iterator[str]:
    """The names of numbers and texts without a rule."""
    for name, option in options.items():
        rule = rules.keys.get(name.removeprefix(prefix))
        if isinstance(rule, Table):
            yield from without_rule(option.get("options") or {}, rule)
        elif option["type"] != "bool" and not option.get("choices") and rule is None:
            yield name
        elif option["type"] == "dict":
            assert isinstance(rule, Entries) or name.endswith("network_config"), name


@pytest.mark.parametrize(("role", "entry"), ENTRIES)
def test_every_number_and_text_of_a_role_has_a_rule(role: str, entry: str) -> None:
    assert role in ROLES
    found = set(without_rule(SPECS[role][entry], rules_of(role, entry), f"{role}_"))
    assert found <= FREE


@pytest.mark.parametrize(
    ("arguments", "table"),
    [
        (ARGUMENTS, DOMAIN),
        (snapshot.ARGUMENTS, SNAPSHOT),
        (console.ARGUMENTS, CONSOLE),
    ],
    ids=["domain", "snapshot", "console"],
)
def test_every_number_and_text_of_a_module_has_a_rule(arguments: Options, table: Table) -> None:
    assert list(without_rule(arguments, table)) == []


def test_what_the_api_lets_through_is_no_fault_on_the_host() -> None:
    body = {
        "name": "👩\u200d💻 标题 {{ x }}",
        "template": "ubuntu22.04",
        "cpu": 1,
        "memory": 32,
        "disk": 1,
        "labels": {"a/b.c-d_e": "b" * 255, "e": ""},
        "description": "d" * 1024,
        "sshKeys": [KEY, "ssh-rsa AAAA="],
        "userData": " #cloud-config\n{}\n",
        "network": {
            "type": "bridge",
            "bridge": "br0",
            "ip": "192.0.2.5/24",
            "mac": "52:54:00:aB:cd:ef",
        },
    }
    vm = VmCreate.model_validate(body)
    assert (
        create(
            title=vm.name,
            template=vm.template,
            memory=vm.memory,
            labels=vm.labels,
            description=vm.description,
            ssh_keys=vm.sshKeys,
            user_data=vm.userData,
            network=vm.network.as_variables(),
        )
        == []
    )


def test_observation_has_the_modules_bounds() -> None:
    assert HOST_INFO.find_faults({"timeout": 0.4}) == [
        "cannot use timeout 0.4: it must be 0.5 to 600 seconds"
    ]


UUID = "0157c680-d8f0-4d2a-855a-94a165065017"


@pytest.mark.parametrize(
    "text", [UUID, UUID.upper(), UUID.replace("-", ""), f"{{{UUID}}}", f"urn:uuid:{UUID}"]
)
def test_every_spelling_of_a_uuid_names_one_lock(text: str) -> None:
    params = {"uuid": text}
    check_values(DOMAIN, params)
    assert params == {"uuid": UUID}


@pytest.mark.parametrize("text", ["", "vm-001", UUID[:-1], UUID + "0", "../../etc/passwd"])
@pytest.mark.parametrize(
    "table", [DOMAIN, SNAPSHOT, CONSOLE], ids=["domain", "snapshot", "console"]
)
def test_module_refuses_what_is_no_uuid(table: Table, text: str) -> None:
    with pytest.raises(Failure, match=f"cannot use uuid '{text}': it must be a UUID") as caught:
        check_values(table, {"uuid": text, "type": "serial"})
    assert caught.value.code == "VALIDATION_ERROR"


@pytest.mark.parametrize("title", [None, "", "Web server", "标题", "{{ x }}", "<b>&"])
def test_module_allows_a_title_of_any_line(title: str | None) -> None:
    check_values(DOMAIN, {"title": title})


@pytest.mark.parametrize("title", ["a\nb", "a\r", "\n"])
def test_module_refuses_a_title_of_several_lines(title: str) -> None:
    with pytest.raises(Failure, match=r"cannot use title .*: it must be one line") as caught:
        check_values(DOMAIN, {"title": title})
    assert caught.value.code == "VALIDATION_ERROR"


def test_module_reports_all_faults_at_once() -> None:
    with pytest.raises(Failure, match=r"cannot use vcpus 0: .*; cannot use memory -1: "):
        check_values(DOMAIN, {"vcpus": 0, "memory": -1})


@pytest.mark.parametrize("entry", [[], ["a"], [{"path": "/a"}]])
def test_entry_of_the_catalogue_or_vm_that_is_a_list_is_refused(entry: list[Any]) -> None:
    (message,) = faults("libvirt_image", "main", name="a", catalogue_extra={"a": entry})
    assert message == "cannot use libvirt_image_catalogue_extra.a: it must be a mapping"
    assert declared(entry) == ["cannot use libvirt_domain_vms[0]: it must be a mapping"]


@pytest.mark.parametrize(
    ("image", "words"),
    [
        ({"path": "a.qcow2"}, "cannot use path 'a.qcow2'"),
        ({"url": "ftp://example.org/a"}, "cannot use url 'ftp://example.org/a'"),
        ({"url": "https://example.org/a", "mirror": "mirror"}, "cannot use mirror 'mirror'"),
        ({"path": "/a", "checksum": "https://example.org/a"}, "cannot use checksum: it must be"),
    ],
)
def test_module_refuses_an_image_that_it_cannot_fetch(image: dict[str, Any], words: str) -> None:
    with pytest.raises(Failure, match=re.escape(words)) as caught:
        check_values(IMAGE, image)
    assert caught.value.code == "VALIDATION_ERROR"


def test_rules_are_read_without_ansible_or_any_library() -> None:
    program = "import values; print(values.VCPUS.bounds, values.DEVICE_NAME.pattern)"
    done = subprocess.run(
        [sys.executable, "-ISc", f"import sys; sys.path.insert(0, {VALUES!r}); {program}"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "(1, 512) [A-Za-z0-9][A-Za-z0-9._-]{0,63}\n"
