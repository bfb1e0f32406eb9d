"""The events of a play of several jobs, split into those of each job."""

from typing import Any

from virtplay.jobs.progress import Progress
from virtplay.jobs.splitting import split

HOSTS = {"job-1": "kvm1", "job-2": "kvm1", "job-3": "kvm2"}


def outcome(job: str, **values: Any) -> dict[str, Any]:
    return {
        "name": f"vm-{job[-1]}", "job": job, "changed": True, "failed": False, "warnings": [],
        "changes": [{"field": "state", "before": "running", "after": "paused"}],
        "applies_at": "now", "domain": {"state": "paused"}, "waited_seconds": 0.0, **values,
    }  # fmt: skip


def result(*outcomes: dict[str, Any], event: str = "runner_on_ok") -> dict[str, Any]:
    res = {"changed": True, "domains": list(outcomes), "msg": "1 of 2 VMs"}
    return {"event": event, "host": "kvm1", "task": "Change", "text": "all of it", "res": res}


def test_what_is_about_the_play_is_about_every_job() -> None:
    event = {"event": "playbook_on_task_start", "task": "Change", "host": "", "text": "TASK"}
    assert split(event, HOSTS) == dict.fromkeys(HOSTS, event)


def test_what_is_about_a_host_is_about_its_jobs() -> None:
    event = {"event": "runner_on_unreachable", "host": "kvm1", "text": "x", "res": {"msg": "no"}}
    assert split(event, HOSTS) == {"job-1": event, "job-2": event}


def test_each_job_has_the_result_of_its_domain_as_if_it_were_alone() -> None:
    fault = {
        "failed": True, "changed": False, "msg": "cannot pause vm-2: it is outdated",
        "code": "STALE_GENERATION", "seen_generation": 9,
    }  # fmt: skip
    failed = {key: value for key, value in outcome("job-2", **fault).items() if key != "domain"}
    outcomes = outcome("job-1", warnings=["vm-1 is odd"]), failed
    parts = split(result(*outcomes, event="runner_on_failed"), HOSTS)
    assert list(parts) == ["job-1", "job-2"]
    assert parts["job-1"]["text"] == (
        "[WARNING]: vm-1 is odd\nchanged: [kvm1] => vm-1 (state: running → paused)"
    )
    assert parts["job-2"]["text"] == (
        "fatal: [kvm1]: FAILED! => cannot pause vm-2: it is outdated (STALE_GENERATION)"
    )
    progress = Progress(2)
    progress.take(parts["job-1"])
    assert (progress.changed, progress.error) == (True, None)
    assert progress.result is not None
    assert progress.result["domain"] == {"state": "paused"}
    progress = Progress(2)
    progress.take(parts["job-2"])
    assert progress.error is not None
    assert (progress.error["code"], progress.seen_generation) == ("STALE_GENERATION", 9)
    assert progress.result is None


def test_what_did_not_change_is_ok() -> None:
    part = split(result(outcome("job-1", changed=False, changes=[])), HOSTS)["job-1"]
    assert part["text"] == "ok: [kvm1] => vm-1"


def test_a_job_that_the_host_does_not_name_has_no_result() -> None:
    assert list(split(result(outcome("job-1")), HOSTS)) == ["job-1"]
