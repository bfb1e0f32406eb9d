"""Tests of what is left of a restart that a run which died has begun; QEMU is a real process."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.virtplay.libvirt.plugins.module_utils.domain.plan import (
    Applies,
    Change,
    Current,
    Step,
)
from ansible_collections.virtplay.libvirt.plugins.module_utils.domain.restart import (
    begun_restart,
    note_reset,
    note_restart,
    noted_changes,
    plan_rest,
)
from ansible_collections.virtplay.libvirt.plugins.module_utils.failure import Failure
from ansible_collections.virtplay.libvirt.plugins.module_utils.host import qemu_process
from ansible_collections.virtplay.libvirt.plugins.module_utils.lock.fence import Fence
from ansible_collections.virtplay.libvirt.plugins.module_utils.states import (
    DomainReason,
    DomainState,
)

from tests.unit.collection.test_plan import domain

UUID = "11111111-2222-4333-8444-555555555555"
RUNNING = domain(DomainState.RUNNING)
STOPPED = domain(DomainState.STOPPED)
CHANGES = [Change("state", "running", "restarted", Applies.LIVE, destroys=True)]
FORCED = [Step.DESTROY, Step.START]


def make(tmp_path: Path, job: str | None = "job-000007") -> Fence:
    directories = {"lock_directory": tmp_path / "run", "fence_directory": tmp_path / "fence"}
    return Fence(UUID, label="vm-001", job=job, **directories)


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], None]]:
    """Start a QEMU, and end the one before."""
    monkeypatch.setattr(qemu_process, "RUN_DIRECTORY", tmp_path)
    qemus: list[subprocess.Popen[bytes]] = []

    def end() -> None:
        for qemu in qemus:
            qemu.kill()
            qemu.wait()

    def renew() -> None:
        end()
        time.sleep(0.02)  # the kernel counts starts in hundredths of a second
        qemus.append(subprocess.Popen(["sleep", "300"]))
        (tmp_path / f"{RUNNING.label}.pid").write_text(str(qemus[-1].pid))

    renew()
    yield renew
    end()


def rest(fence: Fence, current: Current) -> list[Step]:
    """What a later run of the same job still does."""
    note = begun_restart(fence)
    assert note is not None
    steps: list[Step] = plan_rest(current, note, force=True)
    return steps


def test_restart_that_has_ended_nothing_is_done(tmp_path: Path, start: Callable[[], None]) -> None:
    note_restart(make(tmp_path), RUNNING, CHANGES)
    assert rest(make(tmp_path), RUNNING) == FORCED


def test_restart_of_which_only_the_start_lacks_is_completed(
    tmp_path: Path, start: Callable[[], None]
) -> None:
    note_restart(make(tmp_path), RUNNING, CHANGES)
    assert rest(make(tmp_path), STOPPED) == [Step.START]


def test_restart_that_is_done_is_not_done_again(tmp_path: Path, start: Callable[[], None]) -> None:
    note_restart(make(tmp_path), RUNNING, CHANGES)
    start()
    assert rest(make(tmp_path), RUNNING) == []
    assert rest(make(tmp_path), domain(DomainState.PAUSED)) == [Step.RESUME]


def test_reset_is_not_done_again_though_qemu_stays(
    tmp_path: Path, start: Callable[[], None]
) -> None:
    transient = replace(RUNNING, persistent=False)
    note_restart(make(tmp_path), transient, CHANGES)
    assert rest(make(tmp_path), transient) == [Step.RESET]
    note_reset(make(tmp_path))
    assert rest(make(tmp_path), transient) == []


def test_guest_that_was_saved_meanwhile_does_not_go_on(
    tmp_path: Path, start: Callable[[], None]
) -> None:
    note_restart(make(tmp_path), RUNNING, CHANGES)
    saved = replace(STOPPED, has_managed_save=True, reason=DomainReason.SAVED)
    with pytest.raises(Failure, match="its memory is saved"):
        rest(make(tmp_path), saved)


@pytest.mark.parametrize("job", ["job-000008", None])
def test_note_is_for_its_job_alone(
    tmp_path: Path, start: Callable[[], None], job: str | None
) -> None:
    note_restart(make(tmp_path), RUNNING, CHANGES)
    assert begun_restart(make(tmp_path, job)) is None
    # A run by hand leaves no note: nobody repeats it.
    note_restart(make(tmp_path, job), RUNNING, CHANGES)
    kept: Any = begun_restart(make(tmp_path))
    assert (kept is None) == (job is not None)


def test_changes_are_those_of_the_run_that_began(tmp_path: Path, start: Callable[[], None]) -> None:
    note_restart(make(tmp_path), RUNNING, CHANGES)
    note: Any = begun_restart(make(tmp_path))
    assert noted_changes(note) == CHANGES
