"""Tests: signals end a run through a server as they end the plain program."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest
from running import (
    CLIENT,
    LOCAL,
    PLAIN,
    WAIT_SECONDS,
    Done,
    Warm,
    comparable,
    copy_place,
    processes_with,
    wait_for,
    write_play,
)

pytestmark = pytest.mark.slow


def start_waiting(place: Warm, program: list[str], directory: Path) -> subprocess.Popen[str]:
    """Start a playbook and return when its task waits."""
    waits = directory / "waits"
    waits.unlink(missing_ok=True)
    task = {"ansible.builtin.shell": f"touch '{waits}'; exec sleep 600"}
    playbook = write_play(directory / "play.yml", task)
    # As a shell with job control does.
    process = place.start(program, *LOCAL, playbook, process_group=0)
    wait_for(waits.exists, "task")
    return process


def done(process: subprocess.Popen[str]) -> Done:
    out, err = process.communicate(timeout=WAIT_SECONDS)
    return comparable(Done(process.returncode, out, err))


def sleepers(place: Warm) -> list[int]:
    """Return the processes of tasks that wait."""
    return processes_with(place.mark, "sleep\x00600")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1])
def test_signal_ends_a_run_as_it_ends_the_plain_program(
    number: signal.Signals, served: Warm
) -> None:
    directory = copy_place(served, "signal")
    ended = []
    for program in (PLAIN, CLIENT):
        process = start_waiting(served, program, directory)
        process.send_signal(number)
        ended.append(done(process))
        if number in (signal.SIGINT, signal.SIGTERM):
            wait_for(lambda: not sleepers(served), f"end of the task of {program}")
        served.remove_strays()
    assert ended[1] == ended[0]
    assert ended[1].code == (99 if number == signal.SIGINT else -number)
    assert served.reasons() == []


def test_kill_of_the_client_ends_the_run_and_its_task(served: Warm) -> None:
    process = start_waiting(served, CLIENT, copy_place(served, "kill"))
    process.kill()
    assert done(process).code == -signal.SIGKILL
    wait_for(lambda: not served.forks(), "end of the run")
    wait_for(lambda: not sleepers(served), "end of the task")
    wait_for(lambda: not list(served.home.glob(".ansible/tmp/ansible-local-*-*.*")))


def test_kill_of_the_run_is_seen(served: Warm) -> None:
    directory = copy_place(served, "killed")
    process = start_waiting(served, CLIENT, directory)
    os.kill(served.run_in(directory), signal.SIGKILL)
    assert done(process).code == -signal.SIGKILL
    served.remove_strays()


def test_signals_before_the_run_begins_are_not_lost(served: Warm) -> None:
    playbook = write_play(
        copy_place(served, "early") / "play.yml", {"ansible.builtin.pause": {"seconds": 600}}
    )
    for _ in range(5):
        process = served.start(CLIENT, *LOCAL, playbook)
        process.terminate()
        assert done(process).code == -signal.SIGTERM
    wait_for(lambda: not served.forks(), "end of the runs")
