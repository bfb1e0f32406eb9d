"""Tests of the fence, with real locks between real processes."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.virtplay.libvirt.plugins.module_utils.failure import Failure
from ansible_collections.virtplay.libvirt.plugins.module_utils.lock.fence import Fence, sweep

UUID = "11111111-2222-4333-8444-555555555555"
HOLDER = """
import sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from ansible_collections.virtplay.libvirt.plugins.module_utils.lock.fence import Fence
base = Path(sys.argv[2])
fence = Fence(sys.argv[3], label="vm-001", task="start vm-001", job=sys.argv[4] or None,
              lock_directory=base / "run", fence_directory=base / "fence")
with fence.hold(600, force=sys.argv[5:] == ["force"]):
    print("held", flush=True)
    sys.stdin.readline()
"""
LOCK = f"run/{UUID}.lock"


def make(tmp_path: Path, generation: int | None = None, job: str = "job-000008") -> Fence:
    return Fence(
        UUID,
        label="vm-001",
        task="stop vm-001",
        job=job,
        generation=generation,
        lock_directory=tmp_path / "run",
        fence_directory=tmp_path / "fence",
    )


def refused(fence: Fence, timeout: float = 0.2) -> Failure:
    with pytest.raises(Failure) as refusal, fence.hold(timeout):
        pass
    failure: Failure = refusal.value
    return failure


@contextmanager
def process(
    tmp_path: Path, job: str, *words: str, **environment: str
) -> Iterator[subprocess.Popen[str]]:
    """Another process that takes the lock, says so, and holds it until it gets a line.

    At the end of the block it is killed.
    """
    collections = str(Path(__file__).resolve().parents[3] / "collections")
    started = subprocess.Popen(
        [sys.executable, "-c", HOLDER, collections, str(tmp_path), UUID, job, *words],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, **environment},
    )
    try:
        yield started
    finally:
        started.kill()
        started.communicate()


@contextmanager
def holding(tmp_path: Path, job: str = "job-000007", **environment: str) -> Iterator[Any]:
    """Another process that holds the lock until it gets a line."""
    with process(tmp_path, job, **environment) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        yield holder


def test_second_process_waits_and_is_told_who_holds_the_lock(tmp_path: Path) -> None:
    with holding(tmp_path) as holder:
        started = time.monotonic()
        failure = refused(make(tmp_path), timeout=0.5)
        assert time.monotonic() - started >= 0.5
    assert failure.code == "OPERATION_IN_PROGRESS"
    pattern = (
        r"cannot stop vm-001: job-000007 \(start vm-001, process (\d+), since \d\d:\d\d:\d\d UTC\)"
        r" holds the lock; waited 0.5 s"
    )
    found = re.fullmatch(pattern, failure.message)
    assert found is not None
    assert int(found[1]) == holder.pid
    # The lock goes with its process, however that ends, and its note misleads nobody.
    assert "job-000007" in (tmp_path / LOCK).read_text()
    with make(tmp_path).hold(60):
        pass


def test_run_by_hand_is_named_by_its_user_and_where_its_login_came_from(tmp_path: Path) -> None:
    login = {"SSH_CONNECTION": "198.51.100.7 50000 198.51.100.9 22", "SUDO_USER": "alice"}
    with holding(tmp_path, job="", **login):
        message = refused(make(tmp_path)).message
    assert "a run by alice from 198.51.100.7 (start vm-001, process" in message


def test_wait_is_told_when_it_was_worth_while(tmp_path: Path) -> None:
    fence = make(tmp_path)
    with holding(tmp_path) as holder:
        threading.Timer(0.4, lambda: print(file=holder.stdin, flush=True)).start()
        with fence.hold(600):
            waited = fence.waited()
    assert waited["waited_seconds"] >= 0.3
    assert waited["waited_for"].startswith("job-000007 (start vm-001, process")
    alone = make(tmp_path)
    with alone.hold(1):
        assert alone.waited() == {"waited_seconds": 0.0, "waited_for": None}
    assert (tmp_path / LOCK).read_text() == ""  # nothing is left to be believed


@pytest.mark.parametrize(
    "note",
    [
        "",
        "{",
        "[]",
        '{"job": "job-000001"}',
        # As a process leaves it that is killed: of one that has ended, or whose number is reused.
        '{"job": "job-000001", "by": null, "task": "x", "pid": 4194304, "began": "1", "since": 1}',
        '{"job": "job-1", "task": "x", "pid": OURS, "began": "1", "since": 1}',
        '{"job": "job-000001", "by": null, "task": "x", "pid": 4194304, "began": null, "since": 1}',
    ],
)
def test_note_of_a_holder_that_died_is_not_believed(tmp_path: Path, note: str) -> None:
    with holding(tmp_path):
        # Not in the parameters, which name the test: each worker has another number.
        (tmp_path / LOCK).write_text(note.replace("OURS", str(os.getpid())))
        message = refused(make(tmp_path)).message
    assert message == "cannot stop vm-001: another process holds the lock; waited 0.2 s"


def test_lower_generation_is_refused_and_equal_one_accepted(tmp_path: Path) -> None:
    with make(tmp_path, 5).hold(1):
        pass
    failure = refused(make(tmp_path, 4))
    assert failure.code == "STALE_GENERATION"
    assert "the host has seen 5" in failure.message
    assert failure.facts == {"seen_generation": 5}
    for generation in (5, 6, None):
        with make(tmp_path, generation).hold(1):
            pass
    assert make(tmp_path).recall()["generation"] == 6


def test_generation_in_the_metadata_counts_when_the_file_is_gone(tmp_path: Path) -> None:
    make(tmp_path, 5).check(5)
    with pytest.raises(Failure, match="the host has seen 7"):
        make(tmp_path, 5).check(7)


def test_generation_is_stored_before_the_work_and_survives_its_failure(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), make(tmp_path, 9).hold(1):
        raise RuntimeError("work failed")
    assert refused(make(tmp_path, 8)).code == "STALE_GENERATION"


def test_facts_are_added_to_what_is_remembered(tmp_path: Path) -> None:
    fence = make(tmp_path, 2)
    fence.remember(generation=2)
    fence.remember(kept=["/pool/a"])
    assert fence.recall() == {"generation": 2, "kept": ["/pool/a"]}


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "7"])
def test_damaged_file_counts_as_nothing_remembered(tmp_path: Path, text: str) -> None:
    path = tmp_path / "fence" / f"{UUID}.json"
    path.parent.mkdir()
    path.write_text(text)
    assert make(tmp_path).recall() == {}
    with make(tmp_path, 1).hold(1):
        pass
    assert json.loads(path.read_text()) == {"generation": 1}


def test_lock_is_not_opened_through_a_symbolic_link(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (tmp_path / "run" / f"{UUID}.lock").symlink_to(victim)
    with pytest.raises(OSError, match="symbolic links"), make(tmp_path).hold(0.1):
        pass
    assert victim.read_text() == "precious"


def test_sweep_takes_old_files_that_name_no_disks(tmp_path: Path) -> None:
    texts = {"old": "{}", "kept": '{"kept": ["/x"]}', "new": "{}", "half": '{"creating": ["/y"]}'}
    for name, text in texts.items():
        path = tmp_path / f"{name}.json"
        path.write_text(text)
        if name != "new":
            os.utime(path, (0, 0))
    sweep(tmp_path)
    assert {path.stem for path in tmp_path.iterdir()} == {"kept", "new", "half"}


def test_holder_lets_go_for_one_with_force_and_for_no_other(tmp_path: Path) -> None:
    fence = make(tmp_path)
    request = tmp_path / "run" / f"{UUID}.force"
    with ExitStack() as processes:
        with fence.hold(1):
            assert refused(make(tmp_path)).code == "OPERATION_IN_PROGRESS"
            fence.let_go()
            other = processes.enter_context(process(tmp_path, "job-000009", "force"))
            deadline = time.monotonic() + 300
            while not (request.exists() and "job-000009" in request.read_text()):
                assert time.monotonic() < deadline, "it has not asked"
                assert other.poll() is None, "it has ended"
                time.sleep(0.01)
            with pytest.raises(Failure) as superseded:
                fence.let_go()
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
    assert superseded.value.code == "SUPERSEDED"
    assert re.fullmatch(
        r"cannot stop vm-001: job-000009 \(start vm-001, process \d+, since .*\) has superseded it,"
        " with force",
        superseded.value.message,
    )
    # The request ends with its process, however that has ended.
    with fence.hold(1):
        fence.let_go()


def test_outdated_run_with_force_does_not_even_ask(tmp_path: Path) -> None:
    with make(tmp_path, 5).hold(1):
        with pytest.raises(Failure) as refusal, make(tmp_path, 4).hold(60, force=True):
            pass
        assert refusal.value.code == "STALE_GENERATION"
        assert not (tmp_path / "run" / f"{UUID}.force").exists()
