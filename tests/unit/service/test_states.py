"""Unit tests: which job status may follow which."""

import itertools

import pytest
from ansible_collections.virtplay.libvirt.plugins.module_utils.states import ERROR_REASONS
from virtplay.actions import RULES, Action
from virtplay.states import (
    FINISHED_JOB,
    JOB_MOVES,
    PAUSED_BY_QEMU,
    UNFINISHED_JOB,
    DomainState,
    JobStatus,
    VmStatus,
    fault_of,
    power_status,
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
    resting = {power_status(state) for state in DomainState if state != "stopping"}
    assert not of_jobs & resting


def test_reasons_are_those_of_the_collection() -> None:
    assert set(PAUSED_BY_QEMU) == set(ERROR_REASONS)


@pytest.mark.parametrize(
    ("state", "reason", "status", "fault"),
    [
        ("paused", "user", VmStatus.PAUSED, None),
        ("paused", "from_snapshot", VmStatus.PAUSED, None),
        ("paused", "io_error", VmStatus.ERROR, "an I/O error of a disk"),
        ("paused", "unknown", VmStatus.ERROR, "an error that libvirt does not name"),
        ("paused", "crashed", VmStatus.ERROR, "its guest has crashed"),
        ("crashed", "panicked", VmStatus.ERROR, "its QEMU is kept"),
        ("stopped", "crashed", VmStatus.STOPPED, None),
        ("stopped", "saved", VmStatus.STOPPED, None),
        ("running", "unknown", VmStatus.RUNNING, None),
        ("suspended", "unknown", VmStatus.PAUSED, None),
        ("", "", VmStatus.ERROR, None),
    ],
)
def test_guest_that_no_person_has_stopped_is_an_error(
    state: str, reason: str, status: VmStatus, fault: str | None
) -> None:
    assert power_status(state, reason) == status
    found = fault_of(state, reason)
    assert (found is None) == (fault is None)
    assert fault is None or (found and fault in found[0])
