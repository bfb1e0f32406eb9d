"""The API and the role take the same values of a field; where the API is stricter, it says so here.

The service can't read the collection's rules where it is installed without the collection, so they
stand on both sides: every value here is tried on both.
"""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.virtplay.libvirt.plugins.module_utils.values import (
    DISK_SIZE,
    MEMORY,
    VCPUS,
    Rule,
)
from ansible_collections.virtplay.libvirt.plugins.plugin_utils.role_variables import check_variables
from pydantic import ValidationError
from virtplay.api.schemas.vms import VmCreate
from virtplay.vm_fields import FIELDS, ROLE

from scripts.role_tables import ROLES, read_specs

OPTIONS = read_specs(ROLES / ROLE)["create"]
VARIABLES = {field.api_name: field.role_variable for field in FIELDS}
BODY = {"name": "web", "template": "micro", "cpu": 1, "memory": 256, "disk": 1}
PLAIN = {f"{ROLE}_name": "vm-001", f"{ROLE}_vcpus": 1, f"{ROLE}_memory": 256}
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl"


def edges(rule: Rule) -> list[Any]:
    """The values at the bounds of a rule, and those beyond."""
    assert rule.bounds is not None
    low, high = rule.bounds
    return [low - 1, low, high, high + 1]


def of(key: str, *values: Any, **others: Any) -> list[dict[str, Any]]:
    return [{**others, key: value} for value in values]


SAME: dict[str, list[Any]] = {
    "name": ["a", "x" * 64, "Web Server", "标题", "{{ 7*7 }}", "👩\u200d💻", "../x", "a\nb",
             "a\x07", "a\x7f", "a\x85b", "a\u202eb", "a\u00a0", "\ufeffa", "x" * 256],
    "description": ["", "d" * 1024, "d" * 1025, "a\x00b", "a\u202eb", "a\u2028b", "one\ntwo",
                    "\ttab\n", "two\r\nlines", "a\rb", "a\x85b", " ", "\n\t", " a "],
    "cpu": edges(VCPUS),
    "memory": edges(MEMORY),
    "disk": edges(DISK_SIZE),
    "autoStart": [True, False],
    "clone": ["linked", "full", "half"],
    "labels": [{}, {"team": "web"}, {"a/b.c-d_e": ""}, {"k" * 63: "x" * 255}, {"k" * 64: "x"},
               {"k": "x" * 256}, {"a b": "c"}, {"": "x"}, {"-a": "x"}, {"a-": "x"}, {"a\n": "x"},
               {"é": "x"}, {"a=b": "x"}, {"k": "a\nb"}, {"k": "a\u202e"}, {"k": "👩\u200d💻"},
               {f"k{n}": "v" for n in range(64)}, {f"k{n}": "v" for n in range(65)}],
    "sshKeys": [[], [KEY], [f"{KEY} me@example two"], ["ssh-rsa AAAAB3NzaC1yc2E="],
                ["ecdsa-sha2-nistp256 AAAA=="], ["sk-ssh-ed25519@openssh.com AAAA"], [""],
                ["ssh-ed25519"], ["ssh-ed25519 "], [f"{KEY}\n"], [f"{KEY}\r\n"], [f" {KEY} \n\n"],
                [f"{KEY}\nruncmd: [id]"], [f"{KEY}\n{KEY}\n"], [f"{KEY}\r{KEY}"],
                [f"{KEY} c\x00"], [f"{KEY} c\x85d"], [f"{KEY} c\u2028d"], [f"{KEY} c\u202e"],
                [f'command="id" {KEY}'], [f"restrict {KEY}"], ["ssh-dss AAAA"], ["ssh-foo AAAA"],
                ["ssh-ed25519-cert-v01@openssh.com AAAA"], ["---- BEGIN SSH2 PUBLIC KEY ----"],
                ["-----BEGIN PRIVATE KEY-----"], ["ssh-ed25519 not!base"]],
    "userData": ["#cloud-config\n{}\n", "#!/bin/sh", "MIME-Version: 1.0\n", "", "packages: [vim]",
                 "Content-Type: multipart/mixed", "#!" + "x" * 65_534, "#!" + "x" * 65_535,
                 "content-type: multipart/mixed; boundary=x\nmime-version: 1.0\n\n",
                 "Content-Type: multipart/mixed\n" + "x" * 4096 + "\nMIME-Version: 1.0\n",
                 "## template: jinja\n#cloud-config\n", "#include\nhttps://example.org/x",
                 "#include-once x", "#cloud-boothook\n", "#part-handler\n", "#Cloud-Config\n{}",
                 "#cloud-config-archive\n- x\n", "#cloud-config-jsonp\n[]", "#upstart-job\n",
                 "#cloud-config\r\n{}\r\n", "#!/bin/sh\r\nid\r\n", "\n\n#cloud-config\n{}\n",
                 "\ufeff#cloud-config\n{}\n", "\nMIME-Version: 1.0\n", "# cloud-config\n", "## x"],
    "network": [
        {}, {"type": "network"}, {"type": "nat"}, {"colour": "red"},
        *of("network", "default", "x" * 64, "x" * 65, "-x", "a b", "a/b", "default\n", "a._-b"),
        *of("bridge", "br0", "x" * 15, "x" * 16, "../x", "br0\n", "a b", type="bridge"),
        *of("mac", "52:54:00:AB:cd:ef", "52:54:00:12:34", "52-54-00-12-34-56", "53:54:00:12:34:56",
            "ff:ff:ff:ff:ff:ff", "01:00:5e:00:00:01", "00:00:00:00:00:00", "52:54:00:12:34:5g",
            "52:54:00:12:34:56\n", "５2:54:00:12:34:56"),
        *of("model", "virtio", "e1000e", "e1000", "rtl8139", "ne2k_pci", "e1000\n"),
        *of("ip", "192.0.2.5", "192.0.2.256", "192.0.2", "192.0.2.5/24", "192.0.2.5\n",
            "192.0.02.5", "localhost", "0.0.0.0", "127.0.0.1", "169.254.1.1", "224.0.0.1",
            "255.255.255.255", "2001:db8::5", type="network"),
        *of("ip", "192.0.2.5/24", "192.0.2.5", "192.0.2.5/33", "127.0.0.1/8",
            type="bridge", bridge="br0"),
        {"type": "bridge"}, {"type": "network", "bridge": "br0"},
        {"type": "bridge", "bridge": "br0", "network": "default"},
    ],
}  # fmt: skip
API_IS_STRICTER: dict[str, list[Any]] = {
    # It is what lists show, so it is neither empty nor long.
    "name": ["", " a", "a ", "x" * 65],
    "labels": [{"a": 1}, {"on": True}],
    # The role does not read the YAML.
    "userData": ["#cloud-config\n- a\n", "#cloud-config\na: [1\n"],
    "network": [{"bridge": "br0"},
                {"gateway": "192.0.2.1"}],
}  # fmt: skip


def api_takes(field: str, value: Any) -> bool:
    try:
        VmCreate.model_validate({**BODY, field: value})
    except ValidationError:
        return False
    return True


def role_takes(field: str, value: Any) -> bool:
    return not check_variables(ROLE, "create", OPTIONS, {**PLAIN, VARIABLES[field]: value})


def cases(table: dict[str, list[Any]]) -> list[tuple[str, Any]]:
    return [(field, value) for field, values in table.items() for value in values]


@pytest.mark.parametrize(("field", "value"), cases(SAME))
def test_both_take_a_value_or_neither_does(field: str, value: Any) -> None:
    assert api_takes(field, value) == role_takes(field, value)


@pytest.mark.parametrize(("field", "value"), cases(API_IS_STRICTER))
def test_the_api_is_stricter(field: str, value: Any) -> None:
    assert (api_takes(field, value), role_takes(field, value)) == (False, True)


def test_every_field_is_tried() -> None:
    # Which templates there are the catalogue says, and an unknown one is a 404.
    asked = {field.api_name for field in FIELDS if field.asked.name != "NEVER"}
    assert asked - {"template"} == SAME.keys()
    for field, values in SAME.items():
        taken = {api_takes(field, value) for value in values}
        assert taken == ({True} if field == "autoStart" else {True, False}), field
