"""Unit tests: which processes a job ends, with real ones."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import psutil
import pytest
from virtplay.jobs import processes, runner
from virtplay.jobs.launcher import Launcher
from virtplay.jobs.processes import MARK, end_strays
from virtplay.settings import Settings

JOB = f"""
import os, subprocess, sys
from virtplay.jobs import processes, runner

processes.TERM_SECONDS = 0.3
processes.become_subreaper()
sleep = [{sys.executable!r}, "-c", "import time; print(flush=True); time.sleep(300)"]
deaf = "import signal, time; signal.signal(15, signal.SIG_IGN); print(flush=True); time.sleep(300)"
parent = '''
import os, subprocess, sys
child = subprocess.Popen(sys.argv[3:])
print(child.pid, flush=True)
if sys.argv[2] == "stays":
    child.wait()
'''

def start(*words):
    return subprocess.Popen(words, stdout=subprocess.PIPE, start_new_session=True)

def start_parent(*words):
    process = start(sys.executable, "-c", parent, *words)
    return process, int(process.stdout.readline()), process.stdout.readline()

ignores = start(sys.executable, "-c", deaf)
ignores.stdout.readline()
orphan_parent, orphan, _ = start_parent("", "goes", *sleep)
orphan_parent.wait()
nested_parent, nested, _ = start_parent("", "stays", *sleep)
zombie = start("true")
master, proxy, _ = start_parent("ssh: /run/x [mux]", "stays", *sleep)
print(ignores.pid, orphan, nested_parent.pid, nested, zombie.pid, flush=True)
print(master.pid, proxy, flush=True)
processes.end_descendants()
"""


def pids(line: str) -> list[int]:
    return [int(word) for word in line.split()]


@contextlib.contextmanager
def killed(found: list[int]) -> Iterator[None]:
    """Leave none of these behind, whatever the test finds."""
    try:
        yield
    finally:
        for pid in found:
            with contextlib.suppress(psutil.Error):
                psutil.Process(pid).kill()


def test_a_job_ends_its_descendants_but_no_shared_ssh_connection() -> None:
    result = subprocess.run(
        [sys.executable, "-c", JOB], stdout=subprocess.PIPE, text=True, check=True, timeout=300
    )
    ended, shared = map(pids, result.stdout.splitlines())
    with killed([*ended, *shared]):
        assert [pid for pid in ended if psutil.pid_exists(pid)] == []
        assert [pid for pid in shared if not psutil.pid_exists(pid)] == []


def test_strays_of_a_job_are_those_with_its_directory_in_the_environment(tmp_path: Path) -> None:
    def start(directory: Path, *words: str) -> subprocess.Popen[bytes]:
        program = "import time; time.sleep(300)"
        return subprocess.Popen([sys.executable, "-c", program, *words], env={MARK: str(directory)})

    job, longer = tmp_path / "job-1", tmp_path / "job-10"
    stray, other, master = start(job), start(longer), start(job, "ssh: /run/x [mux]")
    with killed([stray.pid, other.pid, master.pid]):
        end_strays(job)
        assert stray.wait(120) is not None
        assert (other.poll(), master.poll()) == (None, None)


def test_processes_that_cannot_be_killed_are_left_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: set[tuple[int, int]] = set()

    def send(found: Sequence[psutil.Process], number: int) -> None:
        sent.update((process.pid, number) for process in found)
        time.sleep(0.01)

    # No signal ends a process that waits for dead storage.
    monkeypatch.setattr(processes, "_send", send)
    monkeypatch.setattr(processes, "TERM_SECONDS", 0.1)
    monkeypatch.setattr(processes, "KILL_SECONDS", 0.1)
    with subprocess.Popen(["sleep", "300"], env={MARK: str(tmp_path)}) as child:
        processes.end_descendants()
        assert sent >= {(child.pid, signal.SIGTERM), (child.pid, signal.SIGKILL)}
        end_strays(tmp_path)
        child.kill()


async def test_halted_job_process_is_killed_with_what_it_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "END_SECONDS", 0.2)
    # Not with this process's output: asyncio, unlike uvloop, waits until nobody holds the pipe:
    # https://github.com/python/cpython/issues/119710
    program = (
        "import subprocess, time; silent = subprocess.DEVNULL; "
        "print(subprocess.Popen(['sleep', '300'], stdout=silent).pid, flush=True); time.sleep(300)"
    )
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", program, stdout=asyncio.subprocess.PIPE, env={MARK: str(tmp_path)}
    )
    assert process.stdout is not None
    child = int(await process.stdout.readline())
    with killed([process.pid, child]):
        process.send_signal(signal.SIGSTOP)
        async with asyncio.timeout(60):
            await runner.Run(process, tmp_path).end()
        assert process.returncode in (-signal.SIGTERM, -signal.SIGKILL)
        assert not psutil.pid_exists(child) or psutil.Process(child).status() == "zombie"


def test_a_zombie_is_no_stray(tmp_path: Path) -> None:
    child = subprocess.Popen(["true"], env={MARK: str(tmp_path)})
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    end_strays(tmp_path)
    assert child.wait(120) == 0


async def test_a_launcher_that_is_still_starting_is_nothing_to_report(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    socket = tmp_path / "socket"
    launcher = Launcher(Settings(launcher=str(socket), state_dir=tmp_path))
    for levels in ([], ["WARNING"]):  # without a socket, and with one that nobody serves
        process = await launcher.start(tmp_path / "job", os.environ)
        process.kill()
        await process.wait()
        assert [record.levelname for record in caplog.records] == levels
        socket.touch()
