"""The inventory plugin's decisions: what fails, what is kept in a cache, what is only said."""

from __future__ import annotations

import json
import subprocess
from typing import Any

import pytest
from ansible.errors import AnsibleParserError
from ansible_collections.virtplay.libvirt.plugins.inventory.libvirt import (
    InventoryModule,
    _environment,
    _read_answer,
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

    def _look(self, path: str) -> tuple[Domains, list[str]]:
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
    found: tuple[Domains, list[str]] = _read_answer(done)
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
    assert f"cannot ask any hypervisor: {words}" in str(caught.value)


def test_callbacks_of_the_user_are_not_run_with_the_plugins_own_ansible(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("ANSIBLE_CALLBACKS_ENABLED", "virtplay.libvirt.report")
    monkeypatch.setenv("ANSIBLE_STDOUT_CALLBACK", "yaml")
    environment = _environment()
    assert environment["ANSIBLE_STDOUT_CALLBACK"] == "ansible.posix.json"
    assert "report" not in environment["ANSIBLE_CALLBACKS_ENABLED"]
