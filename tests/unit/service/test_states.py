"""Unit tests: which job status may follow which."""

import itertools

import pytest
from virtplay.actions import RULES, Action
from virtplay.states import (
    FINISHED_JOB,
    JOB_MOVES,
    POWER_STATUS,
    UNFINISHED_JOB,
    JobStatus,
    VmStatus,
)

ALLOWED = {
    ("queued", "running"),
    ("queued", "cancelled"),
    ("queued", "failed"),
    ("running", "queued"),
    ("running", "cancelling"),
    ("running", "cancelled"),
    ("running", "succeeded"),
    ("running", "failed"),
    ("running", "lost"),
    ("cancelling", "cancelled"),
    ("cancelling", "succeeded"),
    ("cancelling", "failed"),
    ("cancelling", "lost"),
}


@pytest.mark.parametrize(("old", "new"), list(itertools.product(JobStatus, JobStatus)))
def test_job_moves_are_exactly_these(old: JobStatus, new: JobStatus) -> None:
    assert (new in JOB_MOVES[old]) == ((old.value, new.value) in ALLOWED)


def test_every_job_status_is_either_finished_or_unfinished() -> None:
    assert set(FINISHED_JOB) | set(UNFINISHED_JOB) == set(JobStatus)
    assert not set(FINISHED_JOB) & set(UNFINISHED_JOB)


def test_finished_jobs_move_no_more_and_unfinished_ones_can_finish() -> None:
    assert all(not JOB_MOVES[status] for status in FINISHED_JOB)
    assert all(set(JOB_MOVES[status]) & set(FINISHED_JOB) for status in UNFINISHED_JOB)


def test_vm_statuses_are_those_of_the_api() -> None:
    assert [status.value for status in VmStatus] == [
        "creating", "stopped", "starting", "running", "stopping", "restarting", "pausing",
        "paused", "resuming", "updating", "restoring", "deleting", "error", "unreachable",
    ]  # fmt: skip


def test_no_power_state_leaves_a_vm_in_a_status_that_only_a_job_ends() -> None:
    of_jobs = {RULES[action].status for action in Action}
    resting = {status for power, status in POWER_STATUS.items() if power != "stopping"}
    assert not of_jobs & resting
