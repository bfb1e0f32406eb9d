"""The Prometheus configuration and rules that are shipped: promtool, and names that exist."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from virtplay.actions import Action
from virtplay.api.routes import ROUTES
from virtplay.states import FINISHED_JOB, DomainState

from tests.unit.pages import anchors
from tests.unit.published import Labels, labels_of, published

DIRECTORY = Path(__file__).parents[2] / "prometheus"
CONFIGURATIONS = sorted(DIRECTORY.glob("prometheus*.yml"))
RUNBOOKS = "https://github.com/virtplay/virtplay/blob/main/"
RULE_FILES = sorted((DIRECTORY / "rules").glob("*.yml"), reverse=True)
RULE_TESTS = sorted((DIRECTORY / "tests").glob("*.yml"))
DOWN = "virtplay:vm_down_unexpectedly:timestamp_seconds"

needs_promtool = pytest.mark.needs("promtool")


def promtool(*arguments: str | Path) -> str:
    done = subprocess.run(
        ["promtool", *map(str, arguments)], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def rules() -> list[dict[str, Any]]:
    """All rules, those that record before those that alert."""
    return [
        rule
        for path in RULE_FILES
        for group in yaml.safe_load(path.read_text())["groups"]
        for rule in group["rules"]
    ]


def recorded() -> dict[str, Labels]:
    """What the service publishes, and what the rules record of it → labels."""
    found = published()
    # It asks for its own former value.
    found[DOWN] = frozenset({"host", "domain", "uuid", "reason"})
    for rule in rules():
        if "record" in rule:
            labels = labels_of(rule["expr"], found)
            assert found.setdefault(rule["record"], labels) == labels
    return found


@needs_promtool
@pytest.mark.parametrize("path", CONFIGURATIONS, ids=lambda path: path.name)
def test_configuration_is_one(path: Path, tmp_path: Path) -> None:
    shutil.copytree(DIRECTORY, tmp_path / "virtplay")
    shutil.copy(path, tmp_path)
    (tmp_path / "virtplay/token").write_text("a-token\n")
    said = promtool("check", "config", tmp_path / path.name)
    assert f"{len(RULE_FILES)} rule files found" in said


@pytest.mark.parametrize("path", CONFIGURATIONS, ids=lambda path: path.name)
def test_configuration_shows_its_token_wherever_it_asks(path: Path) -> None:
    paths = {route.path for route in ROUTES}
    for job in yaml.safe_load(path.read_text())["scrape_configs"]:
        assert job["authorization"] == {"credentials_file": "virtplay/token"}
        assert job["job_name"].startswith("virtplay"), "the alert VirtplayDown goes by it"
        for discovery in job.get("http_sd_configs", ()):
            assert discovery["authorization"] == {
                "type": "Bearer",
                "credentials_file": "virtplay/token",
            }
            assert "/" + discovery["url"].split("/", 3)[3] in paths


@pytest.mark.parametrize("path", CONFIGURATIONS, ids=lambda path: path.name)
def test_what_is_included_is_the_jobs_of_the_whole(path: Path) -> None:
    included = path.with_name(path.name.replace("prometheus", "scrape")).read_text()
    jobs = yaml.safe_load(path.read_text().replace("virtplay/token", "token"))["scrape_configs"]
    assert yaml.safe_load(included) == {"scrape_configs": jobs}


def test_every_alert_has_its_section_of_the_documentation() -> None:
    for rule in rules():
        if "alert" in rule:
            url = rule["annotations"]["runbook_url"]
            path, _, anchor = url.removeprefix(RUNBOOKS).partition("#")
            assert anchor == rule["alert"].lower()
            assert anchor in anchors(DIRECTORY.parent / path), anchor


def test_page_lists_every_alert_under_its_severity() -> None:
    page = (DIRECTORY.parent / "docs/monitoring.md").read_text()
    table = page.split("\n## Alerts\n", 1)[1].split("\n## ", 1)[0]
    rows = dict(re.findall(r"^\| (\w+) \| (.*\]\(.*) \|$", table, re.M))
    listed = {
        severity: sorted(re.findall(r"\(troubleshooting\.md#(\w+)\)", entries))
        for severity, entries in rows.items()
    }
    wanted: dict[str, list[str]] = {}
    for rule in rules():
        if "alert" in rule:
            wanted.setdefault(rule["labels"]["severity"], []).append(rule["alert"].lower())
    assert listed == {severity: sorted(names) for severity, names in wanted.items()}


@needs_promtool
def test_rules_are_ones() -> None:
    said = promtool("check", "rules", "--lint-fatal", *RULE_FILES)
    assert said.count("SUCCESS") == len(RULE_FILES)


@needs_promtool
@pytest.mark.parametrize("path", RULE_TESTS, ids=lambda path: path.name)
def test_rules_do_what_their_tests_say(path: Path) -> None:
    promtool("test", "rules", path)


def test_every_alert_and_its_silence_is_tested() -> None:
    cases: dict[str, set[bool]] = {}
    for path in RULE_TESTS:
        for test in yaml.safe_load(path.read_text())["tests"]:
            for case in test.get("alert_rule_test", ()):
                cases.setdefault(case["alertname"], set()).add(bool(case["exp_alerts"]))
    assert cases == {rule["alert"]: {True, False} for rule in rules() if "alert" in rule}


def test_rules_ask_for_what_there_is() -> None:
    metrics = recorded()
    for rule in rules():
        labels = labels_of(rule["expr"], metrics)
        if "record" in rule:
            # One name, one set of labels, whichever way the service is scraped.
            assert not labels & {"job", "instance"}, rule["record"]
            continue
        told = " ".join(rule["annotations"].values())
        assert set(re.findall(r"\$labels\.(\w+)", told)) <= labels, rule["alert"]


def test_tests_of_rules_are_made_of_what_there_is() -> None:
    metrics = recorded()
    for path in RULE_TESTS:
        for test in yaml.safe_load(path.read_text())["tests"]:
            for entry in test["input_series"]:
                assert labels_of(entry["series"], metrics)


KEEP_RUNNING = {
    Action.VM_CREATE,
    Action.VM_START,
    Action.VM_PAUSE,
    Action.VM_RESUME,
    Action.SNAPSHOT_CREATE,
    Action.SNAPSHOT_DELETE,
    Action.CONSOLE_OPEN,
}
"""The actions that never stop a VM: they do not explain a VM that went down."""


def test_rules_know_every_action_that_may_stop_a_vm() -> None:
    expressions = [rule["expr"] for rule in rules() if rule.get("record") == DOWN]
    named = {
        Action(action)
        for expression in expressions
        for actions in re.findall(r'\baction=~"([^"]*)"', expression)
        for action in actions.split("|")
    }
    assert named == set(Action) - KEEP_RUNNING


def test_rules_know_actions_states_and_outcomes() -> None:
    text = "".join(path.read_text() for path in RULE_FILES)
    for label, known in (
        ("action", set(Action)),
        ("state", set(DomainState)),
        ("status", set(FINISHED_JOB)),
    ):
        asked = {
            value
            for values in re.findall(rf'\b{label}=~?"([^"]*)"', text)
            for value in values.split("|")
        }
        assert asked
        assert asked <= known


@pytest.mark.parametrize(
    "wrong",
    [
        "libvirt_domain_cpu_seconds_total",
        'libvirt_up{hots="kvm1"}',
        "sum by (hots) (libvirt_up)",
        "libvirt_up * on (uuid) libvirt_domain_info",
        "libvirt_domain_state * on (uuid) group_left (nmae) libvirt_domain_info",
        "virtplay_host_cpus / libvirt_domain_info_virtual_cpus",
    ],
)
def test_what_there_is_not_is_found(wrong: str) -> None:
    with pytest.raises(AssertionError):
        labels_of(wrong, published())
