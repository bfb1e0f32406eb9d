"""Unit tests: `virtplay playbook`."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from virtplay.files import PROJECT
from virtplay.machine.plays import ansible_environment


@pytest.fixture(autouse=True)
def _leave_no_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANSIBLE_WARM", "0")


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


@pytest.mark.parametrize(("setting", "asked"), [("1", True), ("0", False), (None, True)])
def test_ansible_stays_loaded_unless_it_is_switched_off(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, setting: str | None, asked: bool
) -> None:
    # Where no server can be, each run for which one is asked leaves a reason.
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/proc/1")
    monkeypatch.setenv("ANSIBLE_WARM_FALLBACKS", str(tmp_path / "reasons"))
    monkeypatch.delenv("ANSIBLE_WARM", raising=False)
    if setting is not None:
        monkeypatch.setenv("ANSIBLE_WARM", setting)
    done = run("vm_start", "--version")
    assert done.stdout.startswith("ansible-playbook [core ")
    assert (tmp_path / "reasons").exists() == asked


def test_the_playbooks_are_those_of_the_project_directory(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "playbooks").mkdir()
    (tmp_path / "playbooks/mine.yml").write_text("# Do my own thing.\n- hosts: all\n")
    monkeypatch.setenv("VIRTPLAY_PROJECT_DIR", str(tmp_path))
    monkeypatch.delenv("ANSIBLE_CONFIG", raising=False)
    assert "mine      Do my own thing" in run("--list").stdout
    assert "there are mine" in run("vm_start").stderr
    environment = ansible_environment()
    assert environment["ANSIBLE_ROLES_PATH"].startswith(f"{tmp_path / 'roles'}")
    assert environment["ANSIBLE_CONFIG"] == str(tmp_path / "ansible.cfg")


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
