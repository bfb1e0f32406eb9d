"""Tests: templates of roles are compiled before the forks, and do what they do without that."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible._internal._templating._jinja_bits import AnsibleEnvironment
from ansible_warm import templates
from running import LOCAL, PLAIN, comparable, warm, write_play

TASKS: list[Mapping[str, Any]] = [
    {
        "name": "Show {{ who }}",
        "ansible.builtin.debug": {
            "msg": [
                "{{ greeting | upper }} {{ who }}{{ [1, 2] | sum }}",
                "{{ 'a\\tb' }}",
                "{{ lookup('ansible.builtin.items', 'x{{ who }}') }}",
                "{% for n in range(2) %}{{ n }}\n{% endfor %}",
                "{{ 100000 | random(seed=who) }}",
            ]
        },
        "when": "who == 'you'",
        "loop": "{{ ['a', 'b'] }}",
    },
    {"name": "Fail", "ansible.builtin.debug": {"msg": "{{ nowhere }}"}, "ignore_errors": True},
    {"name": "Break", "ansible.builtin.debug": {"msg": "{{ who | }}"}},
]

FILTERS = """
class FilterModule:
    def filters(self):
        return {"sort": lambda value: f"own sort of {value}"}
"""
NOTE = """
import os
import sys

def note(event, arguments):
    if event == "compile" and arguments[1] == "<template>":
        source = arguments[0] if isinstance(arguments[0], str) else arguments[0].decode()
        if os.environ["NOTED_PART"] in source:
            with open(os.environ["NOTES"], "a") as notes:
                notes.write(f"{os.getpid()}\\n")

if "NOTES" in os.environ:
    sys.addaudithook(note)
"""


def write_role(directory: Path, tasks: Sequence[Mapping[str, Any]] = TASKS) -> Path:
    role = directory / "roles/one"
    contents = {"tasks": list(tasks), "vars": {"greeting": "{{ 'hel' ~ 'lo' }}"}}
    for folder, content in contents.items():
        (role / folder).mkdir(parents=True, exist_ok=True)
        (role / folder / "main.yml").write_text(yaml.safe_dump(content))
    return role


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> dict[str, object]:
    """The compiled templates; Ansible is as before after the test."""
    monkeypatch.setattr(AnsibleEnvironment, "compile", AnsibleEnvironment.compile)
    codes: dict[str, object] = {}
    monkeypatch.setattr(templates, "_codes", codes)
    return codes


def test_templates_are_compiled_once(
    tmp_path: Path, compiled: dict[str, object], capsys: pytest.CaptureFixture[str]
) -> None:
    role = write_role(tmp_path)
    (role / "defaults").mkdir()
    (role / "defaults/main.yml").write_text("a: {")
    templates.compile_roles([str(role)])
    text = "{{ 'hel' ~ 'lo' }}"
    assert {text, "Show {{ who }}", "{{ nowhere }}"} < compiled.keys()
    environment = AnsibleEnvironment()
    assert environment.compile(text) is AnsibleEnvironment().compile(text)
    # Other settings, other texts, and what depends on where it stands, are compiled as before.
    overlay = environment.overlay(trim_blocks=False)
    assert overlay.compile(text) is not environment.compile(text)
    assert environment.compile(text, "name") is not environment.compile(text)
    assert environment.compile("{{ 1 }}") is not environment.compile("{{ 1 }}")
    assert not [text for text in compiled if "\\" in text]
    lines = capsys.readouterr().err
    assert f"cannot read the templates of {role}/defaults/main.yml: " in lines
    assert f"cannot compile '{{{{ who | }}}}' of {role}: " in lines
    templates.forget()
    assert environment.compile(text) is not environment.compile(text)


def test_a_role_that_is_not_there_has_no_templates(
    tmp_path: Path, compiled: dict[str, object], capsys: pytest.CaptureFixture[str]
) -> None:
    templates.compile_roles([])
    templates.compile_roles([str(tmp_path / "none")])
    assert (compiled, capsys.readouterr().err) == ({}, "")


@pytest.mark.slow
def test_a_run_is_as_the_plain_one(tmp_path: Path) -> None:
    role = write_role(tmp_path / "project")
    environment = count_compilations(tmp_path, "hel")
    with warm(tmp_path, f"--role={role}", **environment) as place:
        playbook = write_play(
            place.project / "play.yml",
            {"ansible.builtin.include_role": {"name": "one"}},
            vars={"who": "you"},
        )
        plain = comparable(place.run(PLAIN, *LOCAL, playbook))
        by_plain = len(compilations(tmp_path))
        assert comparable(place.serve(*LOCAL, playbook)) == plain
        assert "HELLO you3" in str(plain)
        # The server has compiled it, and no task of its run has done so again.
        assert len(compilations(tmp_path)) == by_plain > 2
        # The role is read in each run.
        write_role(tmp_path / "project", [{"ansible.builtin.debug": {"msg": "{{ who }} now"}}])
        plain = comparable(place.run(PLAIN, *LOCAL, playbook))
        assert comparable(place.serve(*LOCAL, playbook)) == plain
        assert "you now" in str(plain)
        assert place.reasons() == []


@pytest.mark.slow
def test_a_filter_of_the_playbook_is_the_one_that_is_used(tmp_path: Path) -> None:
    """Jinja's `sort` takes the environment, which the code of a template passes to it."""
    task = {"ansible.builtin.debug": {"msg": "{{ [2, 1] | sort }}"}}
    role = write_role(tmp_path / "project", [task])
    with warm(tmp_path, f"--role={role}") as place:
        playbook = write_play(
            place.project / "play.yml", {"ansible.builtin.include_role": {"name": "one"}}
        )
        filters = place.project / "filter_plugins/own.py"
        filters.parent.mkdir()
        filters.write_text(FILTERS)
        plain = comparable(place.run(PLAIN, *LOCAL, playbook))
        assert "own sort of [2, 1]" in str(plain)
        assert comparable(place.serve(*LOCAL, playbook)) == plain
        assert place.reasons() == []


def count_compilations(directory: Path, part: str) -> dict[str, str]:
    """Return an environment in which Python notes what Jinja compiles that contains a text."""
    (directory / "hook").mkdir()
    (directory / "hook/sitecustomize.py").write_text(NOTE)
    return {
        "PYTHONPATH": f"{directory}/hook",
        "NOTED_PART": part,
        "NOTES": f"{directory}/notes",
        # A file that is added here would be seen as a change.
        "PYTHONDONTWRITEBYTECODE": "1",
    }


def compilations(directory: Path) -> list[str]:
    return (directory / "notes").read_text().splitlines()
