"""Tests of the NoCloud seed: what is in it, and that no text of users becomes a key."""

from __future__ import annotations

import io
import json
from typing import Any

import pycdlib
import pytest
import yaml
from ansible_collections.virtplay.libvirt.plugins.module_utils.domain.seed import (
    build_files,
    build_iso,
    build_network_config,
    clean_hostname,
)
from ansible_collections.virtplay.libvirt.plugins.module_utils.failure import Failure

MAC = "52:00:00:00:00:01"
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5 admin@example.org"


def files(seed: dict[str, Any], **values: Any) -> dict[str, bytes]:
    made: dict[str, bytes] = build_files(
        seed, **{"instance_id": "i-1", "title": "Web Server", "name": "vm-001", **values}
    )
    return made


@pytest.mark.parametrize(
    ("text", "hostname"),
    [
        ("Web Server", "web-server"),
        ("web-server", "web-server"),
        ("  --a__b..c--  ", "a-b-c"),
        ("Äpfel & Ölé", "apfel-ole"),
        ("日本語", "vm-001"),
        ("", "vm-001"),
        ("x\nruncmd:\n- id", "x-runcmd-id"),
        ("{{ lookup('pipe','id') }}", "lookup-pipe-id"),
        ("a" * 80, "a" * 63),
        ("a" * 62 + " b", "a" * 62),
        ("../../etc", "etc"),
    ],
)
def test_hostname_is_one_clean_label(text: str, hostname: str) -> None:
    assert clean_hostname(text, "vm-001") == hostname
    metadata = yaml.safe_load(files({"hostname": text}, title=None)["meta-data"])
    assert metadata["local-hostname"] == hostname


def test_meta_data_carries_identity_and_keys() -> None:
    made = files({"ssh_keys": [f"  {KEY}\n"]})
    assert yaml.safe_load(made["meta-data"]) == {
        "instance-id": "i-1",
        "local-hostname": "web-server",
        "public-keys": [KEY],
    }
    assert made["user-data"].startswith(b"#cloud-config\n")
    assert yaml.safe_load(made["user-data"]) == {}
    assert "network-config" not in made


@pytest.mark.parametrize(
    "text",
    [
        "",
        "not yaml: [",
        "#cloud-config\nruncmd: [id]\n",
        '{"a": 1}',
        "#!/bin/sh\r\necho '{{ x }}'\r\n\r\n",
        "日本語 \U0001f600 \u2028\x7f",
        "a: &a [x, x]\nb: &b [*a, *a]\n",
    ],
)
def test_user_data_is_kept_to_the_byte(text: str) -> None:
    assert files({"user_data": text})["user-data"] == text.encode()


@pytest.mark.parametrize(
    "key",
    [
        "",
        "ssh-ed25519",
        "hello world",
        f"{KEY}\nruncmd:\n  - id",
        f"{KEY}\r\nssh-rsa AAAA other",
        f"{KEY}\u2028x",
        f"{KEY}\x00",
        'command="id" ssh-ed25519 AAAA x',
        "- ssh-ed25519 AAAA",
    ],
)
def test_key_that_is_not_one_line_of_a_key_is_refused(key: str) -> None:
    with pytest.raises(Failure, match="cannot use an SSH key") as refusal:
        files({"ssh_keys": [KEY, key]})
    assert refusal.value.code == "VALIDATION_ERROR"


@pytest.mark.parametrize("text", ["ü \U0001f600", '"', "\\", "': x", "#", "\u00a0\ufeff", "\u2028"])
def test_generated_files_are_json_and_yaml_alike(text: str) -> None:
    # ... whatever a text holds: YAML readers reject or change raw oddities.
    made = files({"network_config": {"version": 2, "id": f"x{text}x"}})["network-config"].decode()
    assert yaml.safe_load(made) == json.loads(made) == {"version": 2, "id": f"x{text}x"}
    if text.isprintable():
        made = files({"ssh_keys": [f"{KEY} x{text}x"]})["meta-data"].decode()
        assert yaml.safe_load(made) == json.loads(made)
        assert yaml.safe_load(made)["public-keys"] == [f"{KEY} x{text}x"]


def test_text_that_is_no_unicode_is_refused() -> None:
    with pytest.raises(Failure, match="not valid Unicode"):
        files({"user_data": "\ud800"})


def test_one_card_with_dhcp_needs_no_network_config() -> None:
    assert build_network_config([{"mac": MAC}]) is None
    assert build_network_config([]) is None


def test_fixed_address_goes_into_the_network_config() -> None:
    nic = {
        "mac": MAC,
        "cidr": "198.51.100.7/24",
        "gateway": "198.51.100.1",
        "nameservers": ["198.51.100.1"],
    }
    made = files({}, interfaces=[nic, {"mac": "52:00:00:00:00:02"}])["network-config"]
    assert yaml.safe_load(made) == {
        "version": 2,
        "ethernets": {
            "id0": {
                "match": {"macaddress": MAC},
                "addresses": ["198.51.100.7/24"],
                "gateway4": "198.51.100.1",
                "nameservers": {"addresses": ["198.51.100.1"]},
            },
            "id1": {
                "match": {"macaddress": "52:00:00:00:00:02"},
                "dhcp4": True,
                "dhcp4-overrides": {"route-metric": 200},
                "optional": True,
            },
        },
    }


def test_boot_waits_for_the_first_card_only_and_its_default_route_comes_first() -> None:
    macs = [f"52:00:00:00:00:0{number}" for number in range(3)]
    statics = [
        {"mac": "52:00:00:00:00:08", "cidr": "198.51.100.7/24", "gateway": "198.51.100.1"},
        {"mac": "52:00:00:00:00:09", "cidr": "2001:db8::7/64", "gateway": "2001:db8::1"},
    ]
    config = build_network_config([*({"mac": mac} for mac in macs), *statics])
    assert config is not None
    first, second, third, fourth, fifth = config["ethernets"].values()
    assert first == {"match": {"macaddress": macs[0]}, "dhcp4": True}
    assert all(nic["optional"] is True for nic in (second, third, fourth, fifth))
    assert [nic["routes"][0]["to"] for nic in (fourth, fifth)] == ["0.0.0.0/0", "::/0"]
    metrics = [nic["dhcp4-overrides"]["route-metric"] for nic in (second, third)]
    metrics += [nic["routes"][0]["metric"] for nic in (fourth, fifth)]
    # More than 100, which netplan and NetworkManager give the routes of the first.
    assert metrics == sorted(set(metrics))
    assert metrics[0] > 100
    assert not {"gateway4", "gateway6"} & {*fourth, *fifth}


def test_own_network_config_replaces_the_generated_one() -> None:
    own = {"version": 2, "ethernets": {"a\nb: c": {"dhcp4": True}}}
    made = files({"network_config": own}, interfaces=[{"mac": MAC, "cidr": "198.51.100.7/24"}])
    assert yaml.safe_load(made["network-config"]) == own


def test_image_is_labelled_and_holds_the_files_under_their_names() -> None:
    made = files({"user_data": "#cloud-config\n{}\n", "ssh_keys": [KEY]})
    image = pycdlib.PyCdlib()
    image.open_fp(io.BytesIO(build_iso(made)))
    assert image.pvd.volume_identifier.decode().strip() == "cidata"
    for name, content in made.items():
        for path in ({"rr_path": f"/{name}"}, {"joliet_path": f"/{name}"}):
            found = io.BytesIO()
            image.get_file_from_iso_fp(found, **path)
            assert found.getvalue() == content
    image.close()
