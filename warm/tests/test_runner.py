"""Tests: ansible-runner sees the same events, ends and statuses through a server."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from running import (
    CLIENT,
    PYTHON,
    Warm,
    copy_place,
    processes_with,
    wait_for,
    warm,
    without_times,
    write_play,
)

pytest.importorskip("ansible_runner")
pytestmark = pytest.mark.slow

DATA = Path(__file__).with_name("data")
# They differ in each run.
VOLATILE = {"start", "end", "delta", "duration", "created", "pid", "runner_ident", "command"}
# They count events, whose order among several hosts differs.
COUNTED = {"counter", "start_line", "end_line"}
IDENTIFIERS = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Warm]:
    """A place whose server has the settings of ansible-runner."""
    with warm(tmp_path_factory.mktemp("warm"), "--runner") as place:
        programs = place.directory / "bin"
        programs.mkdir()
        program = programs / "ansible-playbook"
        program.write_text(f'#!/bin/sh\nexec {shlex.join(CLIENT)} "$@"\n')
        program.chmod(0o700)
        yield place


def run(
    place: Warm, directory: Path, playbook: Path, is_warm: bool, end: str = "", **more: Any
) -> dict[str, Any]:
    path = place.environment["PATH"]
    programs = {"PATH": f"{place.directory}/bin:{path}" if is_warm else path}
    shutil.rmtree(directory / "private", ignore_errors=True)
    done = place.run(
        [PYTHON, str(DATA / "run_with_runner.py")],
        *(directory, playbook, end, json.dumps(more)),
        more=programs,
    )
    assert done.code == 0, done.err
    assert place.reasons() == [], place.log.read_text()
    found: dict[str, Any] = json.loads(done.out)
    return found


def comparable(result: dict[str, Any]) -> list[str]:
    """Return the lines of a result without what differs in each run."""
    names: dict[str, str] = {}

    def name(match: re.Match[str]) -> str:
        return names.setdefault(match[0], f"identifier {len(names)}")

    events = result["events"]
    by_host: dict[str, list[Any]] = {}
    for event in events:
        by_host.setdefault(event["event_data"].get("host", ""), []).append(event)
    text = json.dumps(_without_volatile({**result, "events": by_host}), indent=1)
    text = IDENTIFIERS.sub(name, text)
    text = re.sub(r"j?\d{6,}\.\d+", "JOB", text)
    return without_times(text).splitlines()


def _without_volatile(value: Any) -> Any:
    if isinstance(value, dict):
        return {
            key: sorted(each) if key == "ansible_facts" else _without_volatile(each)
            for key, each in value.items()
            if key not in VOLATILE | COUNTED
        }
    if isinstance(value, list):
        return [_without_volatile(each) for each in value]
    return value


def test_events_are_the_same(served: Warm) -> None:
    directory = copy_place(served, "events")
    (directory / "roles/a_role/tasks").mkdir(parents=True)
    task = "- name: Task of a role\n  ansible.builtin.debug: {msg: of a role}\n"
    (directory / "roles/a_role/tasks/main.yml").write_text(task)
    (directory / "included.yml").write_text(task)
    # As text, since ansible-lint does not find its role.
    shutil.copy(DATA / "events.yml.txt", directory / "events.yml")
    results = [
        run(
            served,
            directory,
            directory / "events.yml",
            is_warm,
            inventory={"all": {"hosts": {"one": {}, "two": {}}}},
            forks=1,
            extravars={"given": "word"},
        )
        for is_warm in (False, True)
    ]
    plain, through = map(comparable, results)
    assert through == plain
    assert results[1]["rc"] == 2
    assert len(results[1]["events"]) > 60
    counters = [event["counter"] for event in results[1]["events"]]
    assert counters == list(range(1, len(counters) + 1))


@pytest.mark.parametrize(("end", "status"), [("cancel", "canceled"), ("timeout", "timeout")])
def test_run_is_ended_the_same_way(end: str, status: str, served: Warm) -> None:
    directory = copy_place(served, "ended")
    waits = directory / "waits"
    task = {"ansible.builtin.shell": f"touch '{waits}'; exec sleep 600"}
    playbook = write_play(directory / "play.yml", task, connection="local")
    inventory: dict[str, Any] = {"all": {"hosts": {"localhost": {}}}}
    results = []
    for is_warm in (False, True):
        waits.unlink(missing_ok=True)
        found = run(served, directory, playbook, is_warm, end, inventory=inventory)
        if is_warm:
            wait_for(lambda: not processes_with(served.mark, "sleep\x00600"), "end of the task")
        else:
            served.remove_strays()
        results.append((found["status"], found["rc"], [e["event"] for e in found["events"]]))
    assert results[1] == results[0]
    assert results[1][:2] == (status, 254)
    served.remove_strays()


def test_example_of_the_readme_runs(tmp_path: Path) -> None:
    text = (Path(__file__).parents[1] / "README.md").read_text()
    (block,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    with warm(tmp_path) as place:
        write_play(place.project / "playbook.yml", {"ansible.builtin.ping": {}})
        (place.project / "example.py").write_text(block)
        more = {"ANSIBLE_WARM_SOCKET": ""}
        done = place.run([PYTHON], "example.py", more=more)
        assert "successful" in done.out, done.err
        assert len(place.reasons()) == 1
        sockets = place.runtime / "ansible-warm"
        wait_for(lambda: [each for each in sockets.iterdir() if each.is_socket()], "server")
        done = place.run([PYTHON], "example.py", more=more)
        assert "successful" in done.out, done.err
        assert place.reasons() == []
        for pid in processes_with(str(sockets)):
            os.kill(pid, signal.SIGTERM)
        wait_for(lambda: not list(sockets.iterdir()), "end of the manager")
        sockets.rmdir()
