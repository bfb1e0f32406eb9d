"""Unit tests: what the events of a play amount to."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from virtplay.jobs.progress import Progress, failure_of
from virtplay.jobs.steps import Step


def task(name: str = "t") -> dict[str, Any]:
    """The event of a task's start."""
    return {"event": "playbook_on_task_start", "task": name}


def ok(**res: Any) -> dict[str, Any]:
    """The event of a task's success."""
    return {"event": "runner_on_ok", "task": "t", "host": "kvm1", "res": res}


def failed(**res: Any) -> dict[str, Any]:
    """The event of a task's failure."""
    return {"event": "runner_on_failed", "task": "Start it", "host": "kvm1", "res": res}


@pytest.mark.parametrize(
    ("tasks", "percents"),
    [
        (1, [1]),
        (2, [1, 50]),
        (4, [1, 25, 50, 75]),
        (12, [1, 8, 16, 25, 33, 41, 50, 58, 66, 75, 83, 91]),
        (2, [1, 50, 66, 75, 80]),
        (0, [1, 50, 66]),
    ],
)
def test_percent_rises_with_the_tasks_also_when_there_are_more_than_expected(
    tasks: int, percents: list[int]
) -> None:
    progress = Progress(tasks)
    seen = []
    for _ in percents:
        assert progress.take(task())
        seen.append(progress.percent)
    assert seen == percents


EVENTS = st.sampled_from(
    [
        task(),
        ok(changed=True),
        ok(domain={"state": "running"}),
        failed(msg="x"),
        {"event": "runner_on_unreachable", "host": "kvm1", "res": {"msg": "no route"}},
        {"event": "playbook_on_stats"},
        {"event": "verbose"},
        {"event": "runner_on_ok"},
        {"event": "runner_on_failed", "res": None},
    ]
)


@given(st.integers(0, 40), st.lists(EVENTS, max_size=60))
def test_percent_never_falls_and_never_reaches_100(
    tasks: int, events: list[dict[str, Any]]
) -> None:
    progress = Progress(tasks)
    before = 0
    for event in events:
        moved = progress.take(event)
        assert before <= progress.percent <= 99
        assert moved or progress.percent == before
        before = progress.percent


def test_the_step_of_an_unknown_task_is_its_name_cut_to_its_column() -> None:
    progress = Progress(2)
    progress.take(task("x" * 999))
    assert progress.step == Step("x" * 255)


def test_a_step_of_several_tasks_begins_with_the_first() -> None:
    progress = Progress(4, "vm_create")
    seen = []
    for at, name in enumerate(
        ("Download the template to the host", "Build the guest micro", "x"), 1
    ):
        progress.take({**task(name), "at": float(at)})
        assert progress.step_started_at is not None
        seen.append((progress.step.words, progress.step_started_at.timestamp()))
    assert seen == [("Preparing template", 1.0), ("Preparing template", 1.0), ("x", 3.0)]
    assert progress.task == "x"


def test_the_first_failure_counts_and_an_ignored_one_does_not() -> None:
    progress = Progress(3)
    progress.take({**failed(msg="ignored"), "ignore_errors": True})
    assert progress.error is None
    progress.take(failed(msg="cannot start vm-001: no", code="VM_ALREADY_RUNNING"))
    progress.take(failed(msg="cannot undo", code="LIBVIRT_ERROR"))
    assert progress.error == {
        "code": "VM_ALREADY_RUNNING",
        "message": "cannot start vm-001: no",
        "task": "Start it",
        "host": "kvm1",
    }


def test_unreachable_is_an_error_of_its_own() -> None:
    event = {"event": "runner_on_unreachable", "host": "kvm1", "res": {"msg": "no route"}}
    error = failure_of(event)
    assert error["code"] == "HOST_UNREACHABLE"
    assert error["message"] == "cannot reach host kvm1: no route"


@pytest.mark.parametrize(
    ("res", "message"),
    [
        ({}, "the task failed without a message"),
        (None, "the task failed without a message"),
        ({"module_stderr": "Traceback"}, "Traceback"),
        ({"module_stderr": "Traceback:\n  File\nKeyError: 'x'\n"}, "KeyError: 'x'"),
        ({"msg": "m" * 1000}, "m" * 1000),
        ({"msg": "m" * 9999}, f"{'m' * 1000} …; read the job's log"),
    ],
)
def test_a_failure_without_a_code_is_the_playbooks(res: Any, message: str) -> None:
    error = failure_of({"event": "runner_on_failed", "res": res})
    assert (error["code"], error["message"]) == ("PLAYBOOK_FAILED", message)


def test_result_is_the_domain_modules_last_answer() -> None:
    progress = Progress(2)
    progress.take(ok(changed=False))
    assert progress.result is None
    progress.take(ok(changed=True, domain={"state": "stopped"}, changes=[], applies_at="now"))
    progress.take(ok(changed=False, image={"name": "micro"}))
    assert progress.result == {"domain": {"state": "stopped"}, "changes": [], "applies_at": "now"}
    assert progress.changed
    assert not progress.stats_seen
    progress.take({"event": "playbook_on_stats"})
    assert progress.stats_seen


def test_a_failed_task_may_still_say_what_the_domain_is() -> None:
    progress = Progress(1)
    progress.take(failed(msg="no", code="GUEST_NOT_RESPONDING", domain={"state": "running"}))
    assert progress.result == {"domain": {"state": "running"}}
    assert not progress.changed


def test_a_failed_loop_fails_for_the_reason_of_its_first_failed_item() -> None:
    progress = Progress(2)
    item = {"event": "runner_item_on_failed", "task": "Bring", "host": "kvm1"}
    progress.take({"event": "playbook_on_task_start", "task": "Bring"})
    progress.take({**item, "res": {"msg": "cannot use it", "code": "CHECKSUM_MISMATCH"}})
    progress.take({**item, "res": {"msg": "another", "code": "DOWNLOAD_FAILED"}})
    assert progress.error is None
    progress.take(failed(msg="One or more items failed"))
    assert progress.error is not None
    assert (progress.error["code"], progress.error["message"]) == (
        "CHECKSUM_MISMATCH",
        "cannot use it",
    )


def test_a_failed_item_of_an_earlier_task_is_not_the_reason() -> None:
    progress = Progress(2)
    item = {"event": "runner_item_on_failed", "res": {"msg": "ignored"}}
    progress.take(item)
    progress.take({"event": "playbook_on_task_start", "task": "Next"})
    progress.take(failed(msg="no", code="LIBVIRT_ERROR"))
    assert progress.error is not None
    assert progress.error["message"] == "no"
