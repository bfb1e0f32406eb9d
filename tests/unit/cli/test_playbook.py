"""Unit tests: `virtplay playbook`."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from virtplay.files import PROJECT
from virtplay.machine.plays import ansible_environment


def run(*words: str) -> subprocess.CompletedProcess[str]:
    """Run `virtplay playbook` in another directory than the checkout."""
    return subprocess.run(
        [sys.executable, "-m", "virtplay.cli", "playbook", *words],
        cwd="/",
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_playbook_that_there_is_not_is_named_with_those_that_there_are() -> None:
    done = run("vm_craete", "-e", "x=1")
    assert done.returncode == 2
    assert "cannot find vm_craete: there are console_open, host_observe, " in done.stderr


def test_what_follows_the_name_is_for_ansible() -> None:
    done = run("vm_start.yml", "--help")
    assert done.returncode == 0
    assert done.stdout.startswith("usage: ansible-playbook ")


def test_own_roles_come_first_and_those_of_the_environment_stay(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("ANSIBLE_CONFIG", "ANSIBLE_ROLES_PATH", "ANSIBLE_COLLECTIONS_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("ANSIBLE_ROLES_PATH", "/mine")
    environment = ansible_environment()
    assert environment["ANSIBLE_ROLES_PATH"] == f"{PROJECT / 'roles'}:/mine"
    assert environment["ANSIBLE_COLLECTIONS_PATH"] == str(PROJECT / "collections")
    assert environment["ANSIBLE_CONFIG"] == str(PROJECT / "ansible.cfg")
    assert environment["PATH"] == os.environ["PATH"]
    monkeypatch.setenv("ANSIBLE_CONFIG", "/mine/ansible.cfg")
    assert ansible_environment()["ANSIBLE_CONFIG"] == "/mine/ansible.cfg"
