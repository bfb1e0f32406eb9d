"""Tests of the callback plugin vms_summary: what it tells of a run, however that has ended."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ansible_collections.virtplay.libvirt.plugins.callback import vms_summary
from ansible_collections.virtplay.libvirt.plugins.callback.vms_summary import (
    MODULE,
    CallbackModule,
)

ROOT = Path(__file__).resolve().parents[3]
HOSTS = ["kvm1", "kvm2", "kvm3", "kvm4"]
COMPARE = SimpleNamespace(action=MODULE, check_mode=True)
APPLY = SimpleNamespace(action=MODULE, check_mode=False)
OTHER = SimpleNamespace(action="ansible.builtin.command", check_mode=False)


class Run:
    """A run of a play over HOSTS, as the plugin sees it, and what the plugin prints."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.plugin = CallbackModule()
        self.plugin._display = SimpleNamespace(banner=self.said.append, display=self.said.append)
        manager = SimpleNamespace(get_vars=lambda play: {"ansible_play_hosts_all": HOSTS})
        self.plugin.v2_playbook_on_play_start(SimpleNamespace(get_variable_manager=lambda: manager))

    def begin(self, task: Any) -> None:
        self.plugin.v2_playbook_on_task_start(task, False)

    def answer(self, host: str, task: Any, *, how: str = "ok", **answer: Any) -> None:
        named = SimpleNamespace(get_name=lambda: host)
        result = SimpleNamespace(host=named, task=task, result=answer)
        getattr(self.plugin, f"v2_runner_on_{how}")(result)

    def end(self) -> list[str]:
        self.said.clear()
        self.plugin.v2_playbook_on_stats(None)
        return list(self.said)


def vms(**outcomes: str) -> list[dict[str, str]]:
    """What became of VMs, by their names."""
    return [{"name": name, "outcome": outcome} for name, outcome in outcomes.items()]


@pytest.fixture
def run() -> Run:
    return Run()


def test_every_host_of_the_play_is_told_of_once(run: Run) -> None:
    run.begin(COMPARE)
    run.answer("kvm1", COMPARE, vms=vms(a="created", b="changed", c="unchanged"))
    run.answer("kvm2", COMPARE, vms=vms(d="created", e="removed"))
    run.answer("kvm3", COMPARE, how="unreachable", unreachable=True)
    run.begin(APPLY)
    # A loop over batches in the middle of which a host is lost, and one in which a VM failed.
    done = [{"vms": vms(a="created")}, {"unreachable": True}]
    run.answer("kvm1", APPLY, how="unreachable", results=done)
    run.answer("kvm2", APPLY, how="failed", results=[{"vms": vms(d="failed")}])
    run.answer("kvm2", APPLY, vms=vms(e="removed"))
    assert run.end() == [
        "SUMMARY",
        "kvm1: 1 created (a), 1 unchanged, 1 not done (b)",
        "kvm2: 1 removed (e), 1 failed (d)",
        "not compared: kvm4",
        "all: 1 created, 1 removed, 1 unchanged, 1 failed, 1 not done",
        "not reached: kvm3",
    ]
    assert run.end() == []


def test_dry_run_tells_what_would_be_done(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vms_summary.context, "CLIARGS", {"check": True})
    run.begin(COMPARE)
    for host in HOSTS:
        run.answer(host, COMPARE, vms=vms(a="created"))
    told = run.end()
    assert told[0] == "SUMMARY OF THE DRY RUN"
    assert told[1:] == [*(f"{host}: 1 created (a)" for host in HOSTS), "all: 4 created"]


def test_host_that_is_compared_twice_is_told_of_as_a_whole(run: Run) -> None:
    for name in ("a", "b"):
        run.answer("kvm1", COMPARE, vms=vms(**{name: "created"}))
        run.answer("kvm1", APPLY, vms=vms(**{name: "created"}))
    assert run.end() == ["SUMMARY", "kvm1: 2 created (a, b)"]


def test_module_in_a_playbook_of_ones_own_is_told_of(run: Run) -> None:
    renamed = SimpleNamespace(action="domains", resolved_action=MODULE, check_mode=False)
    run.answer("kvm1", renamed, vms=vms(a="created"))
    assert run.end() == ["SUMMARY", "kvm1: 1 created (a)"]


def test_other_runs_have_no_summary(run: Run) -> None:
    run.begin(OTHER)
    run.answer("kvm1", OTHER, changed=True)
    run.answer("kvm2", OTHER, how="unreachable", unreachable=True)
    assert run.end() == []


@pytest.mark.slow
def test_summary_ends_a_run_that_has_reached_no_host(tmp_path: Path) -> None:
    """Nobody answers at the hosts' address, and Ansible ends a run at a batch that is lost."""
    group = {
        "vars": {
            "ansible_host": "192.0.2.1",
            "ansible_timeout": 1,
            "libvirt_domain_vms_defaults": {"vcpus": 1, "memory": 64},
            "libvirt_domain_vms": [{"name": "web-1"}],
            "libvirt_domain_vms_serial": 1,
        },
        "hosts": {"kvm1": None, "kvm2": None},
    }
    inventory = tmp_path / "hosts.yml"
    inventory.write_text(json.dumps({"hypervisors": group}))
    done = subprocess.run(
        [
            str(Path(sys.executable).with_name("ansible-playbook")),
            *("playbooks/vms.yml", "-i", str(inventory), "--check"),
        ],
        cwd=ROOT,
        env=os.environ | {"ANSIBLE_NOCOLOR": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 4, done.stdout
    recap, summary = re.split(r"^SUMMARY OF THE DRY RUN \*+$", done.stdout, flags=re.M)
    assert "PLAY RECAP" in recap
    assert summary.split("\n") == ["", "not compared: kvm2", "not reached: kvm1", ""]
