"""The inventory plugin's decisions: what fails, what is kept in a cache, what is only said."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible.errors import AnsibleParserError
from ansible_collections.virtplay.libvirt.plugins.inventory.libvirt import (
    COLLECTIONS,
    InventoryModule,
    _environment,
    _read_results,
)

Domains = dict[str, list[dict[str, Any]]]
KEY = "the cache's key"
KVM1: Domains = {"kvm1": [{"name": "web-1", "uuid": "u"}]}


class Plugin(InventoryModule):  # type: ignore[misc]
    """The plugin with hypervisors that say what the test wants."""

    def __init__(self, answer: tuple[Domains, list[str]], **options: Any) -> None:
        super().__init__()
        self.answer = answer
        self.given = {"cache": False, "strict_hosts": False, **options}
        self.looks = 0
        self.warnings: list[str] = []
        self._cache: dict[str, Any] = {}
        self.display = self

    def warning(self, message: str) -> None:
        self.warnings.append(message)

    def get_option(self, option: str, hostvars: object = None) -> Any:
        return self.given[option]

    def get_cache_key(self, path: str) -> str:
        return KEY

    def _observe(self, path: str) -> tuple[Domains, list[str]]:
        self.looks += 1
        return self.answer


def observed(plugin: Plugin, *, cache: bool = True) -> Domains:
    found: Domains = plugin._observed("libvirt.yml", cache)
    return found


def test_hypervisor_that_does_not_answer_is_a_warning() -> None:
    plugin = Plugin((KVM1, ["kvm2 (no route to host)"]))
    assert observed(plugin) == KVM1
    assert plugin.warnings == [
        "the VMs of these hypervisors are not listed: kvm2 (no route to host)"
    ]


@pytest.mark.parametrize(("domains", "strict"), [(KVM1, True), ({}, False)])
def test_it_fails_when_all_have_to_answer_or_none_does(domains: Domains, strict: bool) -> None:
    plugin = Plugin((domains, ["kvm2 (no route to host)"]), strict_hosts=strict)
    with pytest.raises(AnsibleParserError, match=r"kvm2 \(no route to host\)"):
        observed(plugin)


def test_hypervisors_without_vms_are_no_failure() -> None:
    assert observed(Plugin(({"kvm1": []}, []))) == {"kvm1": []}


def test_cache_answers_in_place_of_the_hypervisors() -> None:
    plugin = Plugin((KVM1, []), cache=True)
    assert observed(plugin) == observed(plugin) == KVM1
    assert plugin.looks == 1
    assert observed(plugin, cache=False) == KVM1
    assert plugin.looks == 2


def test_picture_with_holes_is_never_kept() -> None:
    plugin = Plugin((KVM1, ["kvm2 (no route to host)"]), cache=True)
    observed(plugin)
    assert plugin._cache == {}


def test_nothing_is_kept_unless_asked_for() -> None:
    plugin = Plugin((KVM1, []))
    observed(plugin)
    observed(plugin)
    assert plugin.looks == 2
    assert plugin._cache == {}


def answer(hosts: dict[str, Any]) -> str:
    return json.dumps({"plays": [{"tasks": [{"hosts": hosts}]}]})


def read(stdout: str, stderr: str = "") -> tuple[Domains, list[str]]:
    done = subprocess.CompletedProcess([], 0, stdout, stderr)
    found: tuple[Domains, list[str]] = _read_results(done)
    return found


def test_answers_and_reasons_are_told_apart() -> None:
    hosts = {
        "kvm2": {"unreachable": True, "msg": "no route\n  to host"},
        "kvm1": {"host_info": {"domains": KVM1["kvm1"]}},
        "kvm3": {"failed": True, "msg": "cannot connect to libvirt"},
    }
    assert read(answer(hosts)) == (
        KVM1,
        ["kvm2 (no route to host)", "kvm3 (cannot connect to libvirt)"],
    )


@pytest.mark.parametrize(
    ("stdout", "stderr", "words"),
    [
        ("", "ERROR! no such file", "ERROR! no such file"),
        ("not JSON", "", "no host matches"),
        ('{"plays": []}', "", "no host matches"),
        ('{"plays": [{"tasks": []}]}', "[WARNING]: none\n matched", "[WARNING]: none matched"),
        (answer({}), "", "no host matches"),
        ("[]", "", "no host matches"),
    ],
)
def test_no_answer_at_all_is_a_failure_with_what_was_said(
    stdout: str, stderr: str, words: str
) -> None:
    with pytest.raises(AnsibleParserError) as caught:
        read(stdout, stderr)
    assert f"cannot observe any hypervisor: {words}" in str(caught.value)


def test_callbacks_of_the_user_are_not_run_with_the_plugins_own_ansible(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("ANSIBLE_CALLBACKS_ENABLED", "virtplay.libvirt.report")
    monkeypatch.setenv("ANSIBLE_STDOUT_CALLBACK", "yaml")
    environment = _environment()
    assert environment["ANSIBLE_STDOUT_CALLBACK"] == "ansible.posix.json"
    assert "report" not in environment["ANSIBLE_CALLBACKS_ENABLED"]


@pytest.mark.parametrize(
    ("name", "text", "taken"),
    [
        ("guests.yml", "plugin: virtplay.libvirt.libvirt\n", True),
        ("guests.yaml", "# VMs\n---\ninventory: [h]\nplugin:  'virtplay.libvirt.libvirt'\n", True),
        ("guests.yml", '"plugin": virtplay.libvirt.libvirt\n', True),
        ("guests.yml", "{plugin: virtplay.libvirt.libvirt, inventory: [h]}\n", True),
        ("guests.yml", '---\n{"inventory": ["h"],\n "plugin": "virtplay.libvirt.libvirt"}\n', True),
        # It may be one, which only its password shows.
        ("guests.yml", "$ANSIBLE_VAULT;1.1;AES256\n3132\n", True),
        # Ansible's own error says what there is.
        ("guests.yml", "plugin: virtplay.libvirt.libvrt\n", True),
        ("libvirt.yml", "plugin: community.libvirt.libvirt\n", False),
        ("libvirt.yml", "hypervisors:\n  hosts: {plugin: virtplay.libvirt.libvirt}\n", False),
        ("libvirt.yml", "{hosts: {kvm1: {plugin: virtplay.libvirt.libvirt}}}\n", False),
        ("libvirt.cfg", "plugin: virtplay.libvirt.libvirt\n", True),
        ("guests", "plugin: virtplay.libvirt.libvirt\n", True),
        ("hosts.ini", "[hypervisors]\nkvm1\n", False),
        ("image.bin", "\x00\x01\udc80 plugin: virtplay.libvirt.libvirt\n", False),
    ],
)
def test_any_file_with_the_plugins_name_is_taken(
    tmp_path: Path, name: str, text: str, taken: bool
) -> None:
    (tmp_path / name).write_text(text, errors="surrogateescape")
    assert InventoryModule().verify_file(str(tmp_path / name)) is taken
    assert not InventoryModule().verify_file(str(tmp_path / "missing.yml"))
    assert not InventoryModule().verify_file(str(tmp_path))


WRONG_OPTIONS: list[tuple[str, Any, str]] = [
    ("requre_address", True, "there is no such option, did you mean require_address?"),
    ("zzzzzz", True, "cannot use zzzzzz: there is no such option, there are address_family"),
    ("require_address", "maybe", "cannot use require_address 'maybe': it must be true or"),
    ("require_address", None, "cannot use require_address None: it must be true or"),
    ("leading_separator", "maybe", "cannot use leading_separator 'maybe': it must be true or"),
    ("forks", 0, "cannot use forks 0: it must be 1 to 1000"),
    ("forks", "many", "'forks'"),
    ("timeout", -1, "cannot use timeout -1: it must be 1 to 3600 seconds"),
    ("guest_timeout", 0, "cannot use guest_timeout 0"),
    ("uri", "here", "cannot use uri 'here': it must be a libvirt URI"),
    ("hypervisors", "", "cannot use hypervisors ''"),
    ("inventory", [], "inventory is required"),
    ("compose", {"ansible_port": 22}, "cannot use compose.ansible_port: it must be the text of"),
    ("names", "titel", "'names'"),
    ("address_family", "ipv5", "'address_family'"),
    ("address_sources", ["rumour"], "'address_sources'"),
    ("address_networks", ["192.0.2.1/24"], "cannot use address_networks[0] '192.0.2.1/24'"),
]
READ = """
import sys
from ansible.errors import AnsibleError
from ansible.inventory.data import InventoryData
from ansible.parsing.dataloader import DataLoader
from ansible.plugins.loader import init_plugin_loader, inventory_loader

name, collections, *paths = sys.argv[1:]
init_plugin_loader([collections])
for path in paths:
    try:
        inventory_loader.get(name).parse(InventoryData(), DataLoader(), path)
        print("taken")
    except AnsibleError as error:
        print(" ".join(str(error).split()))
"""
"""Reads inventories with the plugin as Ansible loads it, which is for a whole process."""


def test_option_that_cannot_be_is_named_before_any_host_is_asked(tmp_path: Path) -> None:
    paths = []
    for number, (option, value, _words) in enumerate(WRONG_OPTIONS):
        path = tmp_path / f"{number}.libvirt.yml"
        given = {"plugin": InventoryModule.NAME, "inventory": ["hosts.yml"], option: value}
        path.write_text(yaml.safe_dump(given))
        paths.append(str(path))
    command = [sys.executable, "-c", READ, InventoryModule.NAME, str(COLLECTIONS), *paths]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    said = done.stdout.splitlines()
    for (option, _value, words), line in zip(WRONG_OPTIONS, said, strict=True):
        assert option in line
        assert words in line
