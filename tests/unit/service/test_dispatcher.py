"""Which of the queued jobs start now, and which of them as one play."""

from typing import Any

import pytest
from virtplay.actions import Action, goes_together, power_options
from virtplay.jobs.dispatcher import BATCH_HOSTS, BATCH_ROUNDS, BATCH_VMS, Work, choose
from virtplay.settings import Settings
from virtplay.store.jobs import ReadyJob

FORCE = {"libvirt_domain_force": True}


def job(number: int, action: str = "vm_pause", host: str = "kvm1", **values: Any) -> ReadyJob:
    return ReadyJob(number, action, action != "console_open", host, **values)


def numbers(
    *ready: ReadyJob, running: tuple[tuple[ReadyJob, ...], ...] = (), **limits: int
) -> list[list[int]]:
    """The numbers of the jobs that start, those of a batch together."""
    settings = Settings(bootstrap_token="x" * 10).model_copy(
        update={"job_workers": 8, "jobs_per_host": 4, **limits}
    )
    works = [Work({each.id: each for each in jobs}) for jobs in running]
    return [[each.id for each in jobs] for jobs in choose(settings, ready, works)]


@pytest.mark.parametrize(
    ("action", "variables", "together"),
    [
        ("vm_start", {}, True), ("vm_pause", {}, True), ("vm_resume", {}, True),
        ("vm_stop", {}, False), ("vm_stop", {"libvirt_domain_force": False}, False),
        ("vm_stop", FORCE, True), ("vm_restart", {}, False), ("vm_restart", FORCE, True),
        ("vm_create", FORCE, False), ("vm_delete", FORCE, False), ("console_open", {}, False),
    ],
)  # fmt: skip
def test_only_what_waits_for_no_guest_goes_together(
    action: str, variables: dict[str, Any], together: bool
) -> None:
    assert goes_together(action, variables) == together


def test_the_options_of_a_domain_are_its_jobs_variables_and_the_state() -> None:
    variables = {"libvirt_domain_uuid": "u", "libvirt_domain_name": "n", **FORCE}
    assert power_options(Action.VM_STOP, variables) == {
        "uuid": "u", "name": "n", "force": True, "state": "stopped",
    }  # fmt: skip


def test_what_is_ready_and_may_go_together_does_with_any_action_and_host() -> None:
    ready = (
        job(1), job(2, "vm_create"), job(3, "vm_start", "kvm2"), job(4, "vm_stop", variables=FORCE),
        job(5, "vm_stop"),
    )  # fmt: skip
    assert numbers(*ready) == [[4, 1, 3], [2], [5]]


def test_what_cuts_the_power_does_not_wait_until_other_guests_have_shut_down() -> None:
    ready = job(2, "vm_stop"), job(3, "vm_restart", variables=FORCE), job(4, "vm_stop")
    assert numbers(*ready, running=((job(1, "vm_stop"),),), jobs_per_host=2) == [[3]]


def test_an_action_that_another_release_has_queued_stops_no_other() -> None:
    assert numbers(job(1), job(2, "vm_fly"), job(3)) == [[1, 3], [2]]


def test_a_batch_has_as_many_hosts_as_ansible_works_on_at_once() -> None:
    ready = [job(number, host=f"kvm{number}") for number in range(BATCH_HOSTS + 2)]
    first, second = numbers(*ready, job(100, host=f"kvm{BATCH_HOSTS}"))
    assert len(first) == BATCH_HOSTS
    assert second == [BATCH_HOSTS, BATCH_HOSTS + 1, 100]


def test_a_batch_has_as_many_vms_of_a_host_as_one_result_can_report() -> None:
    ready = [job(number) for number in range(BATCH_VMS + 5)]
    assert [len(each) for each in numbers(*ready, jobs_per_host=64)] == [BATCH_VMS]


def test_one_alone_is_no_batch() -> None:
    assert numbers(job(1), job(2, "vm_create")) == [[1], [2]]


def test_a_batch_takes_one_worker_and_one_place_of_each_host() -> None:
    ready = (*(job(number) for number in range(1, 6)), job(6, "vm_create"), job(7, "vm_create"))
    assert numbers(*ready, jobs_per_host=2) == [[1, 2, 3, 4, 5], [6]]
    assert numbers(*ready, job_workers=1) == [[1, 2, 3, 4, 5]]
    busy = (tuple(job(number, host="kvm2") for number in range(11, 15)),)
    assert numbers(*ready, running=busy, job_workers=2) == [[1, 2, 3, 4, 5]]


def test_a_host_without_a_place_is_left_out_of_the_batch() -> None:
    running = tuple((job(number, "vm_create"),) for number in (11, 12))
    ready = (job(1), job(2, host="kvm2"), job(3), job(4, host="kvm2"))
    assert numbers(*ready, running=running, jobs_per_host=2) == [[2, 4]]


def test_without_a_worker_nothing_starts() -> None:
    assert numbers(job(1), job(2), running=((job(11, "vm_create"),),), job_workers=1) == []


def test_a_batch_has_no_more_of_a_host_than_its_time_limit_is_for() -> None:
    many = [job(number) for number in range(1, 30)]
    (batch,) = numbers(*many, job(30, host="kvm2"), jobs_per_host=2)
    assert len(batch) == 2 * BATCH_ROUNDS + 1
    assert batch[-1] == 30


def test_a_request_has_only_so_many_running() -> None:
    ready = [job(number, bulk_id=1, at_once=2) for number in range(1, 6)]
    assert numbers(*ready, job(9)) == [[1, 2, 9]]
    assert numbers(*ready[1:], running=((ready[0],),)) == [[2]]
    assert numbers(*ready[2:], running=(tuple(ready[:2]),)) == []
    slow = [job(number, "vm_stop", bulk_id=1, at_once=2) for number in range(1, 6)]
    assert numbers(*slow) == [[1], [2]]


def test_jobs_that_hold_no_vm_have_limits_of_their_own() -> None:
    assert numbers(job(1), job(2, "console_open"), job_workers=1) == [[1], [2]]


def test_what_runs_is_not_started_again() -> None:
    assert numbers(job(1), job(2), job(3), running=((job(1), job(2)),)) == [[3]]
