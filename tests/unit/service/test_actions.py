"""Unit tests: actions, their playbooks and the line that does the same by hand."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from virtplay.actions import RULES, VALIDATION, Action, command_line, mark_unsafe, playbook
from virtplay.files import PROJECT
from virtplay.jobs import runner
from virtplay.jobs.launcher import Launcher
from virtplay.jobs.specification import Specification
from virtplay.settings import Settings

from tests.unit.service.test_steps import tasks_of

HOSTILE = [
    "{{ lookup('pipe','touch /tmp/virtplay-pwned') }}",
    "{% for x in range(9) %}{% endfor %}",
    "{# comment #}",
    "$(touch /tmp/virtplay-pwned)",
    "x;id",
    "`id`",
    "-e foo=bar",
    "--limit=all",
    "a b creates=/etc/passwd",
    'it\'s "quoted" \\ and more',
    "line one\nline two",
    "</name><devices>",
    "右 虚拟机 🚀",
]


def variables_of(line: str) -> dict[str, Any]:
    """The extra variables of a command line, read back as a shell and Ansible would."""
    words = shlex.split(line)
    return dict(json.loads(words[words.index("-e") + 1]))


@pytest.mark.parametrize("text", HOSTILE)
def test_command_line_is_shell_quoted_and_marks_what_looks_like_a_template(text: str) -> None:
    line = command_line("vm_create", "kvm1", ["/i/a.yml", "/i/b c.yml"], {"title": text})
    words = shlex.split(line)
    assert words[:8] == [
        "ansible-playbook", "playbooks/vm_create.yml", "-i", "/i/a.yml", "-i", "/i/b c.yml",
        "--limit", "kvm1",
    ]  # fmt: skip
    assert len(words) == 10
    expected: Any = {"__ansible_unsafe": text} if "{" in text else text
    assert variables_of(line) == {"title": expected}


@pytest.mark.parametrize("text", HOSTILE)
def test_a_shell_gives_ansible_exactly_these_words(text: str, tmp_path: Path) -> None:
    line = command_line("vm_start", "kvm1", ["/i.yml"], {"libvirt_domain_title": text})
    shown = subprocess.run(
        ["sh", "-c", line.replace("ansible-playbook", "printf '%s\\0'", 1)],
        capture_output=True,
        check=True,
        cwd=tmp_path,
    ).stdout.decode()
    assert shown.split("\0")[:-1] == shlex.split(line)[1:]


def test_templates_are_marked_at_any_depth_of_the_command_line() -> None:
    values = {"labels": {"a": "{{ x }}"}, "keys": ["k", "{{ y }}"], "n": 3, "b": True, "z": None}
    assert variables_of(command_line("vm_create", "h", [], values)) == {
        "labels": {"a": {"__ansible_unsafe": "{{ x }}"}},
        "keys": ["k", {"__ansible_unsafe": "{{ y }}"}],
        "n": 3,
        "b": True,
        "z": None,
    }


def test_a_label_key_that_looks_like_a_template_cannot_be_marked_and_so_must_not_pass() -> None:
    # Ansible reads templates in values only; the schema refuses such keys besides.
    assert mark_unsafe({"{{ k }}": "v"}) == {"{{ k }}": {"__ansible_unsafe": "v"}}


def test_mark_unsafe_marks_every_text_and_nothing_else() -> None:
    value = {"a": "x", "b": ["y", {"c": "z"}], "d": 1, "e": True, "f": None, "g": 1.5, "h": ("t",)}
    assert mark_unsafe(value) == {
        "a": {"__ansible_unsafe": "x"},
        "b": [{"__ansible_unsafe": "y"}, {"c": {"__ansible_unsafe": "z"}}],
        "d": 1,
        "e": True,
        "f": None,
        "g": 1.5,
        "h": [{"__ansible_unsafe": "t"}],
    }


def test_every_action_has_rules_and_a_playbook_of_its_name() -> None:
    assert set(RULES) == set(Action)
    for action in Action:
        assert playbook(action) == f"playbooks/{action.value}.yml"
        assert (PROJECT / playbook(action)).is_file()


def test_only_what_somebody_waited_for_is_not_repeated() -> None:
    assert [a for a in Action if not RULES[a].repeatable] == [Action.CONSOLE_OPEN]


def test_time_limits_are_longer_than_the_longest_wait_for_a_guest() -> None:
    longest = next(m.le for m in Settings.model_fields["stop_timeout"].metadata if hasattr(m, "le"))
    assert RULES[Action.VM_STOP].time_limit > longest
    assert RULES[Action.VM_RESTART].time_limit > longest


@pytest.fixture(scope="module")
def listed_tasks() -> dict[str, list[str]]:
    """Action → the tasks that ansible-playbook lists for its playbook."""
    books = [playbook(action) for action in Action]
    output = subprocess.run(
        [Path(sys.executable).with_name("ansible-playbook"), "--list-tasks", *books],
        cwd=PROJECT,
        env={**os.environ, "ANSIBLE_CONFIG": str(PROJECT / "ansible.cfg")},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    found: dict[str, list[str]] = {}
    name = ""
    for line in output.splitlines():
        if match := re.match(r"playbook: playbooks/(\w+)\.yml", line):
            name = match[1]
            found[name] = []
        elif "TAGS: [" in line and not line.strip().startswith("play #"):
            found[name].append(line.split("TAGS:")[0].strip())
    return found


@pytest.mark.slow
@pytest.mark.parametrize("action", Action)
def test_rules_know_the_number_of_tasks(action: Action, listed_tasks: dict[str, list[str]]) -> None:
    tasks = len(listed_tasks[action.value])
    if action == Action.VM_CREATE:
        # Those that are included if the host lacks the template, and the first two of them again.
        tasks = len(list(tasks_of(PROJECT / playbook(action)))) + 2
    assert RULES[action].tasks + RULES[action].validated == tasks


@pytest.mark.slow
@pytest.mark.parametrize("action", [a for a in Action if RULES[a].tasks <= 2])
def test_a_power_action_is_one_task_beside_the_validation(
    action: Action, listed_tasks: dict[str, list[str]]
) -> None:
    validation, work = listed_tasks[action.value]
    assert "Check the variables" in validation
    assert "Check the variables" not in work


@pytest.mark.slow
@pytest.mark.parametrize("skipped", [None, VALIDATION])
async def test_the_validation_of_arguments_counts_as_a_task_in_a_real_run(
    tmp_path: Path, skipped: str | None
) -> None:
    inventory = tmp_path / "hosts.yml"
    inventory.write_text(
        "hypervisors:\n  hosts:\n    kvm1:\n      ansible_connection: local\n"
        "      libvirt_domain_uri: test:///nowhere\n      libvirt_fork_server: false\n"
    )
    run = await runner.start(
        Launcher(Settings(launcher="off", state_dir=tmp_path)),
        Specification(
            project_dir=str(PROJECT),
            playbook=playbook(Action.VM_START),
            inventory=[str(inventory)],
            variables={"libvirt_domain_name": "vm-001"},
            skip_tags=skipped,
            time_limit=60,
        ),
        tmp_path / "job",
    )
    events = [event async for batch in run.batches() for event in batch]
    tasks = [event["task"] for event in events if event["event"] == "playbook_on_task_start"]
    assert ("Check the variables" in tasks) == (skipped is None)
    assert len(tasks) == RULES[Action.VM_START].tasks + (skipped is None)
    assert [event["event"] for event in events].count("playbook_on_stats") == 1
    assert events[-1]["event"] == "exit"


def test_a_job_process_whose_service_has_died_runs_nothing(tmp_path: Path) -> None:
    # Not even the specification is there; 1 adopts the children of a process that dies.
    command = [sys.executable, "-m", "virtplay.jobs.play", str(tmp_path), "1"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr, list(tmp_path.iterdir())) == ("", "", [])
