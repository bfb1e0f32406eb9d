"""Unit tests: what a request's fields may hold."""

import json
from typing import Any

import pytest
from ansible_collections.virtplay.libvirt.plugins.module_utils.values import SSH_KEY, USER_DATA
from virtplay.api.http.parsing import parse_body
from virtplay.api.schemas.fields import Strict
from virtplay.api.schemas.vms import NetworkBody, VmCreate, VmUpdate
from virtplay.errors import ValidationFailed

GOOD: dict[str, Any] = {"name": "web", "template": "micro", "cpu": 1, "memory": 256, "disk": 1}
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl"


def read(model: type[Strict], body: dict[str, Any]) -> Any:
    """The body as the API reads it."""
    return parse_body(json.dumps(body).encode(), "application/json", model)


def create(**values: Any) -> VmCreate:
    """A checked POST /vms with `values` over a good body."""
    return read(VmCreate, {**GOOD, **values})  # type: ignore[no-any-return]


def faults(model: type[Strict], body: dict[str, Any]) -> set[str]:
    """The fields that are refused."""
    with pytest.raises(ValidationFailed) as caught:
        read(model, body)
    return {entry["field"] for entry in caught.value.details["fields"]}


def refused(**values: Any) -> set[str]:
    """The fields of POST /vms that are refused for `values` over a good body."""
    return faults(VmCreate, {**GOOD, **values})


@pytest.mark.parametrize(
    "name",
    ["a", "x" * 64, "Web Server", "虚拟机 一号", "🚀", "👩‍💻", "café", "{{ 7*7 }}", "$(id)", "x;id",
     "</name><devices>", "&lt;", "'; DROP TABLE vm; --", "../etc", "-rf", "%s%n", "a=b", '"'],
)  # fmt: skip
def test_names_are_labels_and_kept_to_the_letter(name: str) -> None:
    assert create(name=name).name == name


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", " ", "x" * 65, " a", "a ", "a\nb", "a\rb", "a\tb", "a\x1bb", "a\x7f", "a\x85b",
     "\u202ea",
     "a\u200fb", "a\u2028b", "a\u00a0", "\ufeffa", "\u3000",
     "a\ue000", "\U000e0001x", None, 1, True,
     ["a"], {"__ansible_unsafe": "a"}],
)  # fmt: skip
def test_names_that_are_refused(name: Any) -> None:
    assert {field.split(".")[0] for field in refused(name=name)} == {"name"}


@pytest.mark.parametrize(
    ("field", "low", "high"),
    [("cpu", 1, 512), ("memory", 32, 16_777_216), ("disk", 1, 65_536)],
)
def test_figures_have_limits(field: str, low: int, high: int) -> None:
    assert getattr(create(**{field: low}), field) == low
    assert getattr(create(**{field: high}), field) == high
    for wrong in (low - 1, high + 1, -low, 0, 1.5, 2.0, "2", True, None, [2], 2**63, 10**30):
        assert refused(**{field: wrong}) == {field}


def test_every_wrong_field_is_named_at_once() -> None:
    body = {
        "name": "a\nb",
        "cpu": "2",
        "memory": 1.5,
        "disk": 0,
        "autoStart": 1,
        "labels": {"a b": "x"},
        "description": "\x00",
        "sshKeys": ["no key"],
        "userData": "runcmd",
        "clone": "half",
        "network": {"type": "wifi"},
        "colour": "red",
        "host": "",
    }
    del body["description"]  # NUL is refused for the body as a whole
    body["description"] = "a\x07"
    assert faults(VmCreate, body) == {
        "name", "template", "cpu", "memory", "disk", "autoStart", "labels", "description",
        "sshKeys", "userData", "clone", "network.type", "colour", "host",
    }  # fmt: skip


@pytest.mark.parametrize("template", ["", "x" * 129, "a\nb", None, 5, "a\u202eb"])
def test_templates_that_are_refused(template: Any) -> None:
    assert refused(template=template) == {"template"}


@pytest.mark.parametrize(
    ("network", "variables"),
    [
        ({}, {"type": "network", "network": "default"}),
        ({"type": "network"}, {"type": "network", "network": "default"}),
        ({"network": "lab-1"}, {"type": "network", "network": "lab-1"}),
        ({"type": "bridge", "bridge": "br0"}, {"type": "bridge", "bridge": "br0"}),
        (
            {"mac": "52:54:00:AB:CD:EF", "model": "e1000e", "ip": "192.0.2.5"},
            {
                "type": "network", "network": "default", "mac": "52:54:00:ab:cd:ef",
                "model": "e1000e", "ip": "192.0.2.5",
            },
        ),
        (
            {"type": "bridge", "bridge": "br0", "ip": "192.0.2.5/24"},
            {"type": "bridge", "bridge": "br0", "ip": "192.0.2.5/24"},
        ),
    ],
)  # fmt: skip
def test_networks(network: dict[str, Any], variables: dict[str, Any]) -> None:
    assert create(network=network).network.as_variables() == variables


def test_without_a_network_it_is_the_default_one() -> None:
    assert create().network.as_variables() == {"type": "network", "network": "default"}


@pytest.mark.parametrize(
    "network",
    [
        {"type": "nat"},
        {"type": "bridge"},
        {"type": "network", "bridge": "br0"},
        {"bridge": "br0"},
        {"type": "bridge", "bridge": "br0", "network": "default"},
        {"type": "bridge", "bridge": "../../etc"},
        {"type": "bridge", "bridge": "x" * 16},
        {"type": "bridge", "bridge": "br0\n"},
        {"network": "-x"},
        {"network": "a b"},
        {"network": "default\n"},
        {"network": ""},
        {"network": "a/../b"},
        {"network": "x" * 65},
        {"mac": "52:54:00:12:34"},
        {"mac": "52-54-00-12-34-56"},
        {"mac": "53:54:00:12:34:56"},
        {"mac": "ff:ff:ff:ff:ff:ff"},
        {"mac": "01:00:5e:00:00:01"},
        {"mac": "52:54:00:12:34:56\n"},
        {"mac": "52:54:00:12:34:5g"},
        {"mac": "５2:54:00:12:34:56"},
        {"mac": ""},
        {"mac": 5},
        {"model": "ne2k_pci"},
        {"ip": "192.0.2.256"},
        {"ip": "192.0.2"},
        {"ip": "192.0.2.5/24"},
        {"ip": "192.0.2.5\n"},
        {"ip": "192.0.02.5"},
        {"ip": "2001:db8::1"},
        {"ip": "localhost"},
        {"ip": ""},
        {"ip": 3221225989},
        {"type": "bridge", "bridge": "br0", "ip": "192.0.2.5"},
        {"type": "bridge", "bridge": "br0", "ip": "192.0.2.5/33"},
        {"type": "bridge", "bridge": "br0", "ip": "192.0.2.5/24/1"},
        {"type": "bridge", "bridge": "br0", "ip": "192.0.2.5/24\n"},
        {"password": "x"},
        [],
        "br0",
        None,
    ],
)
def test_networks_that_are_refused(network: Any) -> None:
    assert {field.split(".")[0] for field in refused(network=network)} == {"network"}


@pytest.mark.parametrize(
    "ip", ["0.0.0.0", "127.0.0.1", "224.0.0.1", "255.255.255.255", "169.254.1.1"]
)
def test_addresses_that_no_guest_can_have_are_refused(ip: str) -> None:
    assert refused(network={"ip": ip})
    assert refused(network={"type": "bridge", "bridge": "br0", "ip": f"{ip}/24"})


def test_the_zero_mac_is_refused() -> None:
    assert refused(network={"mac": "00:00:00:00:00:00"})


@pytest.mark.parametrize(
    "labels",
    [{}, {"team": "web"}, {"a/b.c_d-e": ""}, {"k": "x" * 255}, {"k" * 63: "{{ x }}"},
     {f"k{n}": "v" for n in range(64)}],
)  # fmt: skip
def test_labels(labels: dict[str, str]) -> None:
    assert create(labels=labels).labels == labels


@pytest.mark.parametrize(
    "labels",
    [{"": "x"}, {"a b": "x"}, {"-a": "x"}, {"a-": "x"}, {"k" * 64: "x"}, {"a\n": "x"},
     {"a=b": "x"}, {"{{ x }}": "y"}, {"é": "x"}, {"k": "x" * 256}, {"k": "a\nb"}, {"k": 1},
     {"k": None}, {f"k{n}": "v" for n in range(65)}, [], "a=b", {"__ansible_unsafe": "x"},
     {"k": {"__ansible_unsafe": "x"}}],
)  # fmt: skip
def test_labels_that_are_refused(labels: Any) -> None:
    assert {field.split(".")[0] for field in refused(labels=labels)} == {"labels"}


@pytest.mark.parametrize(
    "key",
    [KEY, KEY + " me@example", KEY + " two words", "ssh-rsa AAAAB3NzaC1yc2E=",
     "ecdsa-sha2-nistp256 AAAA==", "sk-ssh-ed25519@openssh.com AAAA"],
)  # fmt: skip
def test_ssh_keys(key: str) -> None:
    assert create(sshKeys=[key]).sshKeys == [key]
    for file in (f"{key}\n", f"{key}\r\n", f" {key} \n\n"):
        assert create(sshKeys=[file]).sshKeys == [key]


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("-----BEGIN OPENSSH PRIVATE KEY-----\nSECRET", "is a private key"),
        ("---- BEGIN SSH2 PUBLIC KEY ----\nSECRET", "is in the format of RFC 4716"),
        (f"{KEY}\n{KEY}", "has several lines"),
        ("ssh-ed25519-cert-v01@openssh.com SECRET", "is a certificate"),
        ("ssh-dss SECRET", "is a DSA key"),
        (f"restrict {KEY} SECRET", "begins with options"),
        (f'from="SECRET",no-pty {KEY}', "begins with options"),
        ("SECRET", "is no OpenSSH public key"),
        ("", "is no OpenSSH public key"),
        ("ssh-ed25519 SECRET!", "is damaged"),
        (f"{KEY} SECRET\x85", "is damaged"),
    ],
)
def test_ssh_key_that_is_refused_says_why_and_repeats_nothing(key: str, words: str) -> None:
    with pytest.raises(ValidationFailed) as refusal:
        create(sshKeys=[KEY, key])
    (fault,) = refusal.value.details["fields"]
    assert f"entry 1 {words}" in fault["message"]
    assert "SECRET" not in str(refusal.value.details) + refusal.value.message
    (fault,) = SSH_KEY.find_faults([KEY, key], "libvirt_domain_ssh_keys")
    assert fault.startswith("cannot use libvirt_domain_ssh_keys[1]: it ")
    assert words in fault
    assert "SECRET" not in fault


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("SECRET", "must begin with one of #cloud-config-archive, #cloud-config-jsonp, "),
        ("#upstart-job SECRET", "must begin with one of"),
        ("\ufeff#cloud-config\nSECRET", "begins with a byte order mark"),
        ("Content-Type: multipart/mixed\nSECRET", "lacks the header MIME-Version"),
        ("#!/bin/sh\r\nSECRET\r\n", "has lines that end in CR LF"),
    ],
)
def test_user_data_that_is_refused_says_why_and_repeats_nothing(text: str, words: str) -> None:
    with pytest.raises(ValidationFailed) as refusal:
        create(userData=text)
    said = str(refusal.value.details)
    (fault,) = USER_DATA.find_faults(text, "libvirt_domain_user_data")
    assert words in said
    assert words in fault
    assert "SECRET" not in said + fault + refusal.value.message


@pytest.mark.parametrize(
    "key",
    ["", "ssh-ed25519", "ssh-ed25519 ", KEY + "\nruncmd: [reboot]",
     KEY + "\r\n" + KEY, KEY + " c\x00", KEY + " c\nssh_pwauth: true", KEY + " c\x85d",
     KEY + " c\u2028runcmd", 'command="id" ' + KEY, "ssh-dss AAAA", "-----BEGIN PRIVATE KEY-----",
     "ssh-ed25519 A A\tB\n", "ssh-ed25519 not!base64", KEY + "\u202e", 7, None],
)  # fmt: skip
def test_ssh_keys_that_are_refused(key: Any) -> None:
    assert {f.split(".")[0] for f in refused(sshKeys=[KEY, key])} in ({"sshKeys"}, {"body"})


def test_at_most_64_ssh_keys() -> None:
    assert len(create(sshKeys=[KEY] * 64).sshKeys) == 64
    assert refused(sshKeys=[KEY] * 65) == {"sshKeys"}


@pytest.mark.parametrize(
    "text",
    [
        "#cloud-config\n{}\n",
        "#cloud-config\npackages: [vim]\n",
        "#cloud-config\n# only\nruncmd:\n  - [touch, /x]\n",
        "#!/bin/sh\nid\n",
        "#!/usr/bin/env python3\n",
        "MIME-Version: 1.0\nContent-Type: multipart/mixed; boundary=x\n",
        "content-type: multipart/mixed; boundary=x\nmime-version: 1.0\n",
        "\n#cloud-config\n{}\n",
        "#cloud-config-archive\n- x\n",
        "## template: jinja\n#cloud-config\n{% if x %}\n",
        "#include http://192.0.2.1/more\n",
        "#cloud-config\nx: '{{ 7*7 }}'\n",
        "#!/bin/sh\n" + "x" * (65_536 - 10),
    ],
)
def test_user_data(text: str) -> None:
    assert create(userData=text).userData == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "runcmd: [id]",
        "hello",
        "Content-Type: multipart/mixed; boundary=x\n",
        "#cloud-config",
        "#cloud-config\n",
        "#cloud-config\n- a\n- b\n",
        "#cloud-config\njust text\n",
        "#cloud-config\na: [1\n",
        "#cloud-config\na: b: c\n",
        "#cloud-config\n\tpackages: x\n",
        "#cloud-config\na: *unknown\n",
        "#cloud-config\n{}\n---\n- second document\n",
        "x" * 65_537,
        7,
        {"__ansible_unsafe": "#!/bin/sh"},
    ],
)
def test_user_data_that_is_refused(text: Any) -> None:
    assert refused(userData=text) == {"userData"}


def bomb(levels: int = 60) -> str:
    """A billion laughs in YAML: aliases of aliases, which nobody gets to the end of."""
    lines = ["#cloud-config", "a0: &a0 [x,x,x,x,x,x,x,x,x]"]
    for n in range(1, levels):
        aliases = ",".join([f"*a{n - 1}"] * 9)
        lines.append(f"a{n}: &a{n} [{aliases}]")
    return "\n".join(lines) + "\n"


def test_a_yaml_bomb_costs_nothing() -> None:
    refused_or_taken = None
    try:
        refused_or_taken = create(userData=bomb()).userData
    except ValidationFailed as error:
        assert [entry["field"] for entry in error.details["fields"]] == ["userData"]  # noqa: PT017
    assert refused_or_taken in (None, bomb())


def test_deeply_nested_yaml_is_no_crash() -> None:
    with pytest.raises(ValidationFailed):
        create(userData="#cloud-config\na: " + "[" * 60_000)
    with pytest.raises(ValidationFailed):
        create(userData="#cloud-config\na: " + "[" * 30_000 + "]" * 30_000)
    assert create(userData="#cloud-config\na: " + "[" * 60 + "]" * 60)


@pytest.mark.parametrize("tag", ["!!python/object/apply:os.system ['id']", "!!python/name:os.x"])
def test_yaml_tags_execute_nothing(tag: str) -> None:
    # cloud-init refuses them in the guest; here they are only text.
    assert create(userData=f"#cloud-config\na: {tag}\n").userData is not None


def test_update_names_no_field() -> None:
    assert faults(VmUpdate, {}) == {"body"}


@pytest.mark.parametrize("field", ["name", "cpu", "memory", "disk", "network", "autoStart"])
def test_update_refuses_null_and_names_the_field(field: str) -> None:
    assert faults(VmUpdate, {field: None}) == {field}


def test_update_names_nulls_beside_the_other_faults() -> None:
    assert faults(VmUpdate, {"cpu": None, "memory": "x", "name": "", "odd": 1}) == {
        "cpu", "memory", "name", "odd",
    }  # fmt: skip


@pytest.mark.parametrize(
    "field", ["template", "host", "sshKeys", "userData", "clone", "id", "uuid"]
)
def test_what_can_only_be_said_at_creation_is_no_field_of_an_update(field: str) -> None:
    assert field in faults(VmUpdate, {"cpu": 2, field: "x"})


def test_update_keeps_what_was_set_apart_from_what_was_not() -> None:
    assert read(VmUpdate, {"cpu": 2, "labels": {}}).model_fields_set == {"cpu", "labels"}


def test_network_body_stands_alone() -> None:
    assert NetworkBody().as_variables() == {"type": "network", "network": "default"}


def test_every_fault_of_a_network_is_named() -> None:
    network = {
        "type": "bridge", "network": "default", "mac": "01:00:00:00:00:00", "ip": "192.0.2.5",
    }  # fmt: skip
    assert refused(network=network) == {
        "network.network", "network.bridge", "network.mac", "network.ip",
    }  # fmt: skip
