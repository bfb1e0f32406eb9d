"""Tests of what the report of a run says, how far it is, and what it never says."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from ansible_collections.virtplay.libvirt.plugins.plugin_utils.run_report import (
    Domains,
    Meter,
    Redactor,
    command_of,
    failure_of,
    result_line,
    result_of,
    total_tasks,
)

UUID = "11111111-2222-4333-8444-555555555555"
OTHER = "22222222-2222-4333-8444-555555555555"


def test_progress_rises_over_plays_and_batches() -> None:
    meter = Meter([2, 2])
    seen = []
    # The first play in two batches of one half each, the second with a task nobody knew of.
    for play, share, tasks in ((0, 0.5, 2), (0, 0.5, 2), (1, 1.0, 3)):
        meter.begin_play(play, share)
        seen += [meter.begin_task() for _ in range(tasks)]
    assert seen == [0, 12, 25, 37, 50, 75, 99]


def test_progress_of_a_run_without_tasks_is_none() -> None:
    meter = Meter([])
    meter.begin_play(0, 1.0)
    assert [meter.begin_task(), meter.begin_task()] == [0, 0]


def test_tasks_are_counted_through_blocks_and_without_ansibles_own() -> None:
    task, own = SimpleNamespace(implicit=False), SimpleNamespace(implicit=True)
    asked = SimpleNamespace(implicit=False, tags=["image", "never"])
    inner = SimpleNamespace(block=[task, own, asked], rescue=[task, task], always=[task])
    assert total_tasks([SimpleNamespace(block=[own, inner, task], rescue=[], always=[])]) == 3


@pytest.mark.parametrize(
    ("variables", "listed"),
    [
        ({}, []),
        ({"libvirt_domain_name": "web"}, [{"name": "web"}]),
        (
            {"libvirt_domain_uuid": UUID, "libvirt_domain_name": "web"},
            [{"uuid": UUID, "name": "web"}],
        ),
        ({"libvirt_snapshot_domain": "web"}, [{"name": "web"}]),
        ({"libvirt_domain_name": "{{ lookup('pipe', 'id') }}"}, []),
        ({"libvirt_domain_uuid": "not one", "libvirt_domain_name": 7}, []),
        (
            {"libvirt_domain_name": "a\nb\0" + "c" * 300},
            [{"name": ("a b" + " " + "c" * 300)[:255]}],
        ),
    ],
)
def test_run_is_about_the_domain_that_it_names(
    variables: dict[str, Any], listed: list[dict[str, str]]
) -> None:
    assert Domains(variables).listed() == listed


def test_run_is_about_the_domains_of_its_results() -> None:
    domains = Domains({"libvirt_domain_name": "web"})
    first = {"domain": {"uuid": UUID, "name": "vm-001"}}
    assert [domains.add(first, "kvm1"), domains.add(first, "kvm1")] == [True, False]
    for odd in ({}, {"domain": None}, {"domain": {"name": "no uuid"}}, {"vms": 3}, {"vms": [1]}):
        assert not domains.add(odd, "kvm1")
    assert domains.listed() == [{"uuid": UUID, "name": "vm-001", "host": "kvm1"}]
    assert domains.add({"domain": {"uuid": OTHER}}, "kvm2")
    assert [domain["uuid"] for domain in domains.listed()] == [UUID, OTHER]


def test_of_several_vms_those_count_that_were_touched() -> None:
    domains = Domains({})
    vms = [
        {"name": "web-1", "outcome": "created"},
        {"name": "web-2", "outcome": "unchanged"},
        {"name": "web-3", "outcome": "failed", "msg": "no room"},
        {"name": "of another module"},
    ]
    assert [domains.add({"vms": vms}, host) for host in ("kvm1", "kvm2", "kvm1")] == [
        True, True, False,
    ]  # fmt: skip
    names = [(domain["name"], domain["host"]) for domain in domains.listed()]
    assert names == [("web-1", "kvm1"), ("web-3", "kvm1"), ("web-1", "kvm2"), ("web-3", "kvm2")]


def test_of_many_power_actions_each_domain_counts() -> None:
    domains = Domains({})
    outcomes = [
        {"name": "web-1", "uuid": None, "failed": False, "domain": {"uuid": UUID, "name": "web-1"}},
        {"name": "web-2", "uuid": None, "failed": True, "msg": "it is stopped"},
        {"name": "of another module"},
        "odd",
    ]
    assert domains.add({"domains": outcomes}, "kvm1")
    assert domains.listed() == [
        {"uuid": UUID, "name": "web-1", "host": "kvm1"}, {"name": "web-2", "host": "kvm1"},
    ]  # fmt: skip


def test_of_very_many_domains_the_first_thousand_are_told() -> None:
    domains = Domains({})
    vms = [{"name": f"web-{number}", "outcome": "changed"} for number in range(1500)]
    assert domains.add({"vms": vms}, "kvm1")
    assert len(domains.listed()) == 1000
    assert not domains.add({"domain": {"uuid": UUID}}, "kvm1")


SECRETS: dict[str, Any] = {
    "libvirt_console_password": "k4rT9wqz",
    "database": {"users": [{"name": "alice", "passwd": "correct horse"}]},
    "api_token": "t0ken-of-mine",
    "libvirt_domain_user_data": "#cloud-config\nsecret: yes",
    "libvirt_domain_vms": [{"name": "web", "userData": "#cloud-config of mine"}],
    "libvirt_domain_vms_defaults": {"user_data": "#cloud-config of all"},
    "my_secret": ["one-secret", {"x": "two-secret"}],
    "password": "abc",  # three letters would blot out half the log
    "token": 12345,
    "libvirt_domain_name": "web",
    "motd": "not hidden",
}


def test_secrets_are_taken_out_of_every_text() -> None:
    redactor = Redactor(SECRETS, ["service-token"])
    hidden = [
        "k4rT9wqz",
        "correct horse",
        "t0ken-of-mine",
        "one-secret",
        "two-secret",
        "service-token",
        "#cloud-config of mine",
        "#cloud-config of all",
    ]
    text = redactor.text(" | ".join([*hidden, "alice", "web", "not hidden", "abc"]))
    assert text == " | ".join(["********"] * len(hidden) + ["alice", "web", "not hidden", "abc"])
    data = redactor.data([{"before": None, "after": {"k4rT9wqz": ["x k4rT9wqz", 1, True]}}])
    assert data == [{"before": None, "after": {"********": ["x ********", 1, True]}}]
    failure = failure_of({"msg": "cannot log in with correct horse"}, redactor)
    assert failure["msg"] == "cannot log in with ********"


def test_texts_are_what_the_service_takes() -> None:
    redactor = Redactor({}, [])
    assert redactor.text("\x1b[0;31ma\x00\ud800b\x1b[0m\tc") == "a\ufffd?b\tc"
    assert len(redactor.text("x" * 30_000)) == 20_000
    assert redactor.line("a\n  b\u202ec") == "a b c"
    deep: Any = "x"
    for _ in range(40):
        deep = [deep]
    assert "x" in str(redactor.data(deep))


def test_command_shows_what_is_done_and_no_other_variable() -> None:
    arguments = {
        **{"args": ("playbooks/vm_start.yml",), "inventory": ("inventory/hosts.yml",)},
        **{
            "subset": "kvm1",
            "tags": ["all"],
            "skip_tags": ("a", "b"),
            "check": True,
            "diff": False,
        },
        "extra_vars": ("@secrets.yml", "libvirt_console_password=k4rT9wqz"),
    }
    assert command_of(arguments, {**SECRETS, "libvirt_domain_force": True}, "ansible-playbook") == (
        "ansible-playbook playbooks/vm_start.yml -i inventory/hosts.yml --limit kvm1"
        " --skip-tags a,b --check -e libvirt_domain_name=web -e libvirt_domain_force=True"
    )


def test_result_has_the_changes_of_a_module_of_ours_and_nothing_else() -> None:
    redactor = Redactor({}, [])
    change = {"field": "vcpus", "before": 1, "after": 2}
    answer = {"changed": True, "domain": None, "changes": [change], "applies_at": "live", "x": "y"}
    wanted = {"changed": True, "domain": {}, "changes": [change], "applies_at": "live"}
    assert result_of(answer, redactor) == wanted
    assert "changes" not in result_of({**answer, "changes": [change] * 201}, redactor)
    assert result_of({"censored": "no_log", "changed": True}, redactor) == {"changed": True}


@pytest.mark.parametrize(
    ("answer", "wanted"),
    [
        ({"msg": "cannot", "code": "VM_NOT_FOUND"}, {"msg": "cannot", "code": "VM_NOT_FOUND"}),
        ({"msg": "rc 3", "stderr": "oh\n", "code": "no code"}, {"msg": "rc 3\noh"}),
        ({"module_stderr": "Traceback"}, {"msg": "Traceback"}),
        ({"msg": ["a", "list"]}, {"msg": "['a', 'list']"}),
        ({}, {"msg": "the task gave no reason"}),
    ],
)
def test_failure_says_why(answer: dict[str, Any], wanted: dict[str, Any]) -> None:
    assert failure_of(answer, Redactor({}, [])) == {"changed": False, **wanted}


def test_lines_are_as_on_the_terminal() -> None:
    assert result_line("ok", "kvm1") == "ok: [kvm1]"
    assert result_line("changed", "kvm1", item=0, text="x") == "changed: [kvm1] => (item=0) => x"
