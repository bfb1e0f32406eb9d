"""Tests of the warm Ansible of the tests: a run there sees what a run of its own would see."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.warm.environment import REAL
from tests.warm.hosts import warm_python

pytestmark = pytest.mark.slow

PLAYBOOK = """
- hosts: localhost
  gather_facts: false
  tasks:
    - name: Show what depends on the options
      ansible.builtin.debug:
        msg:
          check: "{{ ansible_check_mode }}"
          diff: "{{ ansible_diff_mode }}"
          forks: "{{ ansible_forks }}"
          limit: "{{ ansible_limit | default('') }}"
          tags: "{{ ansible_run_tags }}"
          skip: "{{ ansible_skip_tags }}"
          verbosity: "{{ ansible_verbosity }}"
          given: "{{ given | default('') }}"
      tags: [one]
"""


def run(directory: Path, *options: str) -> dict[str, Any]:
    """Run the playbook with options; return what it shows of them."""
    (directory / "playbook.yml").write_text(PLAYBOOK)
    done = subprocess.run(
        [
            Path(sys.executable).with_name("ansible-playbook"),
            *("-i", "localhost,", "-c", "local", *options, "playbook.yml"),
        ],
        cwd=directory,
        env=os.environ | {"ANSIBLE_STDOUT_CALLBACK": "ansible.posix.json"},
        check=True,
        capture_output=True,
        text=True,
    )
    output = json.loads(done.stdout[done.stdout.index("{") :])
    shown: dict[str, Any] = output["plays"][0]["tasks"][-1]["hosts"]["localhost"]["msg"]
    return shown


OPTIONS = [
    (),
    ("--check", "--diff", "-e", "given=first"),
    ("--limit", "localhost", "--tags", "one", "--forks", "7"),
    ("-vv", "--skip-tags", "two", "-e", "given=second"),
    ("--check",),
    (),
]


def test_warm_runs_see_their_own_options(tmp_path: Path) -> None:
    warm = [run(tmp_path, *options) for options in OPTIONS]
    assert [shown["check"] for shown in warm] == [False, True, False, False, True, False]
    assert [shown["diff"] for shown in warm] == [False, True, False, False, False, False]
    assert [shown["given"] for shown in warm] == ["", "first", "", "second", "", ""]
    assert [shown["limit"] for shown in warm] == ["", "", "localhost", "", "", ""]
    assert [shown["forks"] for shown in warm] == [5, 5, 7, 5, 5, 5]
    assert [shown["tags"] for shown in warm] == [
        ["all"],
        ["all"],
        ["one"],
        ["all"],
        ["all"],
        ["all"],
    ]
    assert [shown["skip"] for shown in warm] == [[], [], [], ["two"], [], []]
    assert [shown["verbosity"] for shown in warm] == [0, 0, 0, 2, 0, 0]


@pytest.mark.usefixtures("cold_ansible")
def test_a_cold_run_sees_the_same(tmp_path: Path) -> None:
    shown = run(tmp_path, "--check", "--skip-tags", "two", "-e", "given=first")
    expected = {"check": True, "skip": ["two"], "given": "first", "tags": ["all"], "limit": ""}
    assert expected.items() <= shown.items()


@pytest.mark.parametrize(
    "command",
    [
        ["ansible-inventory", "--list", "-i", "hosts.yml"],
        ["ansible-config", "dump", "--type=all", "--format=json"],
    ],
)
def test_other_programs_see_the_same_warm_and_cold(command: list[str], tmp_path: Path) -> None:
    (tmp_path / "hosts.yml").write_text("hypervisors: {hosts: {kvm1: {answer: 42}}}")
    (tmp_path / "ansible.cfg").write_text("[defaults]\nforks = 7\n[ssh_connection]\nretries = 3\n")
    cold, *warm = (
        json.loads(
            re.sub(
                r"ansible-local-\w+",  # a directory of this process
                "ansible-local",
                subprocess.run(
                    [Path(python).with_name(command[0]), *command[1:]],
                    cwd=tmp_path,
                    env=os.environ | {"ANSIBLE_TIMEOUT": "21"},
                    check=True,
                    capture_output=True,
                    text=True,
                ).stdout,
            )
        )
        for python in (REAL, sys.executable, sys.executable, sys.executable)
    )
    assert cold
    assert warm == [cold, cold, cold]


MODULE = """
import json
import os
import sys

from ansible.module_utils.basic import AnsibleModule

module = AnsibleModule(argument_spec={"word": {"type": "str"}})
module.exit_json(
    word=module.params["word"],
    directory=os.getcwd(),
    variable=os.environ.get("LC_WORD"),
    warm="tests.warm.forks" in sys.modules,
    answer=ANSWER,
)
"""


def test_module_runs_warm_until_its_file_changes(tmp_path: Path) -> None:
    library = tmp_path / "library"
    library.mkdir()
    module = library / "show.py"
    module.write_text(MODULE.replace("ANSWER", "1"))
    with warm_python(library) as python:
        first = run_module(tmp_path, python, "one")
        second = run_module(tmp_path, python, "two")
        module.write_text(MODULE.replace("ANSWER", "2"))
        changed = run_module(tmp_path, python, "three")
    cold = run_module(tmp_path, Path("/usr/bin/python3"), "four")
    assert [shown["warm"] for shown in (first, second, changed, cold)] == [True, True, False, False]
    assert [shown["answer"] for shown in (first, second, changed, cold)] == [1, 1, 2, 2]
    assert [shown["word"] for shown in (first, second, changed, cold)] == [
        "one", "two", "three", "four",
    ]  # fmt: skip
    assert {shown["variable"] for shown in (first, second, changed, cold)} == {"ü"}
    assert len({shown["directory"] for shown in (first, second, changed, cold)}) == 1


def run_module(directory: Path, python: Path, word: str) -> dict[str, Any]:
    """Run the module in a play with this Python; return its result."""
    play = {
        "hosts": "localhost",
        "gather_facts": False,
        "tasks": [{"show": {"word": word}, "environment": {"LC_WORD": "ü"}}],
    }
    (directory / "playbook.yml").write_text(json.dumps([play]))
    done = subprocess.run(
        [
            # Runs of a warm one share its zips, which do not follow a file that changes.
            Path(REAL).with_name("ansible-playbook"),
            *("-i", "localhost,", "-c", "local", "-e", f"ansible_python_interpreter={python}"),
            *("-M", "library", "playbook.yml"),
        ],
        cwd=directory,
        env=os.environ
        | {"ANSIBLE_STDOUT_CALLBACK": "ansible.posix.json", "ANSIBLE_PIPELINING": "1"},
        check=True,
        capture_output=True,
        text=True,
    )
    output = json.loads(done.stdout[done.stdout.index("{") :])
    shown: dict[str, Any] = output["plays"][0]["tasks"][-1]["hosts"]["localhost"]
    return shown
