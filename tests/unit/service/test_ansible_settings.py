"""Unit tests: the Ansible settings of jobs are those of ansible.cfg, also under ansible-runner."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from virtplay.jobs.ansible_settings import host_key_checking, job_settings


@pytest.mark.parametrize(
    ("config", "environment", "expected"),
    [
        ("", {}, "True"),
        ("[defaults]\nhost_key_checking = False\n", {}, "False"),
        ("[defaults]\nhost_key_checking = True ; as it is\n", {}, "True"),
        (
            "[defaults]\nhost_key_checking = True\n[ssh_connection]\nhost_key_checking = no\n",
            {},
            "no",
        ),
        ("[defaults]\nhost_key_checking = True\n", {"ANSIBLE_HOST_KEY_CHECKING": "0"}, "0"),
        ("[defaults]\nforks = %(broken\n", {}, "True"),
        ("host_key_checking = False\n", {}, "True"),  # Ansible itself refuses that file
        (None, {}, "True"),
    ],
)
def test_keys_of_hosts_are_checked_unless_the_user_says_otherwise(
    config: str | None,
    environment: dict[str, str],
    expected: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    path = tmp_path / "ansible.cfg"
    if config is not None:
        path.write_text(config)
    assert host_key_checking(path) == expected
    assert job_settings(tmp_path)["ANSIBLE_HOST_KEY_CHECKING"] == expected


def test_the_service_sets_no_variable_of_its_own_process(tmp_path: Path) -> None:
    before = dict(os.environ)
    job_settings(tmp_path)
    assert dict(os.environ) == before
