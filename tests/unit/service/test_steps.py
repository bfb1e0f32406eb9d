"""Unit tests: every task that a job can show has a step in users' words."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from virtplay.actions import RULES, Action, playbook
from virtplay.files import PROJECT
from virtplay.jobs.steps import ALONE, STEPS, TOGETHER, Step, step_of

STRUCTURE = ("ansible.builtin.import_role", "ansible.builtin.import_tasks")
"""What Ansible replaces by other tasks before the play begins, so that it never starts."""
ANYTHING_BUT_VMS = {"host_observe", "host_prepare", "service"}
WAIT = {"libvirt_domain_force": False, "libvirt_domain_timeout": 90}


def flat(tasks: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Yield the tasks, and those of blocks in place of the blocks."""
    for task in tasks:
        if "block" not in task:
            yield task
        for part in ("block", "rescue", "always"):
            yield from flat(task.get(part, []))


def tasks_of_role(role: str, name: str, outer: tuple[str, ...] = ()) -> Iterator[str]:
    """Yield the names of the tasks of a role's file, and of those that it imports or includes.

    A file that one of its outer files includes again has no further ones.
    """
    if name in outer:
        return
    folder = PROJECT / "roles" / role / "tasks"
    for task in flat(yaml.safe_load((folder / f"{name}.yml").read_text())):
        if not task.keys() & set(STRUCTURE):
            yield task["name"]
        for how in ("import_tasks", "include_tasks"):
            if target := task.get(f"ansible.builtin.{how}"):
                file = target if isinstance(target, str) else target["file"]
                yield from tasks_of_role(role, Path(file).stem, (*outer, name))
        if included := task.get("ansible.builtin.include_role"):
            yield from tasks_of_role(included["name"], included.get("tasks_from", "main"))


def tasks_of(book: Path) -> Iterator[str]:
    """Yield the names of the tasks of a playbook."""
    for play in yaml.safe_load(book.read_text()):
        for task in flat([*play.get("pre_tasks", []), *play["tasks"]]):
            if "never" in task.get("tags", []):
                continue
            if role := task.get("ansible.builtin.import_role"):
                yield from tasks_of_role(role["name"], role.get("tasks_from", "main"))
            else:
                yield task["name"]


@pytest.fixture(scope="module")
def shown() -> set[str]:
    """The tasks of all playbooks that change VMs, by the service or by hand."""
    books = [b for b in (PROJECT / "playbooks").glob("*.yml") if b.stem not in ANYTHING_BUT_VMS]
    assert {PROJECT / playbook(action) for action in Action} <= set(books)
    return {name for book in books for name in tasks_of(book)}


def test_every_task_that_a_job_shows_has_a_step_and_no_other_task_has(shown: set[str]) -> None:
    assert STEPS.keys() == shown


def test_steps_are_short_and_no_names_of_tasks(shown: set[str]) -> None:
    for task in shown:
        words = step_of(task, "", {}).words
        assert words not in shown
        assert len(words) <= 50
        assert words[0].isupper()
        assert not words.endswith(".")


@pytest.mark.parametrize(
    ("task", "variables", "step"),
    [
        ("Create the VM", {"libvirt_domain_state": "running"}, "Creating disk, starting VM"),
        ("Create the VM", {}, "Creating disk and VM"),
        ("Delete the VM", {"libvirt_domain_keep_disks": True}, "Deleting VM, keeping its disks"),
        ("Stop the VM", {"libvirt_domain_force": True}, "Cutting the power"),
        ("Stop the VM", {}, "Stopping"),
        ("Restart the VM", {"libvirt_domain_force": True}, "Restarting"),
        ("Restore the snapshot", {"libvirt_snapshot_guard": "snap-002"},
         "Taking guard snapshot, then restoring"),
    ],
)  # fmt: skip
def test_words_follow_what_was_requested(task: str, variables: dict[str, Any], step: str) -> None:
    assert step_of(task, "", variables) == Step(step)


@pytest.mark.parametrize("page", ["docs/api.md", "docs/zh-CN/api.md"])
def test_page_lists_the_steps_of_a_creation(page: str) -> None:
    (paragraph,) = (
        text for text in (PROJECT / page).read_text().split("\n\n") if "`stepStartedAt`" in text
    )
    listed = re.findall(r"`([A-Z][a-z]+ [^`]+)`", paragraph.replace("\n", " "))
    book = PROJECT / playbook(Action.VM_CREATE)
    steps = {
        step_of(task, Action.VM_CREATE, variables).words: None
        for variables in ({}, {"libvirt_domain_state": "running"})
        for task in tasks_of(book)
    }
    assert listed == list(steps)


@pytest.mark.parametrize("task", ["Stop the VM", "Restart the VM"])
def test_only_a_shutdown_waits_for_its_guest(task: str) -> None:
    step = step_of(task, "", WAIT)
    assert "waiting for the guest to shut down" in step.words.lower()
    assert step.timeout == 90
    assert step_of(task, "", {**WAIT, "libvirt_domain_force": True}).timeout is None


def test_jobs_of_one_play_have_the_steps_of_their_actions() -> None:
    assert {action for action in Action if RULES[action].state} == set(ALONE)
    for action, task in ALONE.items():
        variables = {"libvirt_domain_force": True}
        assert step_of(TOGETHER, action, variables) == step_of(task, action, variables)
