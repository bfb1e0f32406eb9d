"""Only one query waits for storage pools that do not respond, over all runs."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.virtplay.libvirt.plugins.module_utils.failure import Failure
from ansible_collections.virtplay.libvirt.plugins.module_utils.host import pool_watch
from ansible_collections.virtplay.libvirt.plugins.module_utils.host.files import read_stat


@pytest.fixture(autouse=True)
def note(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "run/note"
    monkeypatch.setattr(pool_watch, "NOTE", path)
    return path


def test_pools_hang_as_long_as_the_query_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not pool_watch.pools_hang()
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    monkeypatch.setattr(pool_watch, "_QUERY", "import sys; open(sys.argv[1]).read()")
    pool_watch.watch_pools(str(pipe))
    assert pool_watch.pools_hang()
    with pytest.raises(Failure, match="cannot delete vm-001: libvirt does not respond for"):
        pool_watch.require_pools("delete vm-001")
    pipe.write_text("the storage responds\n")
    while pool_watch.pools_hang():
        pass


def test_query_that_cannot_be_noted_ends(note: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started = []

    class Process(subprocess.Popen[bytes]):
        def __init__(self, *words: Any, **options: Any) -> None:
            super().__init__(*words, **options)
            started.append(self)

    monkeypatch.setattr(subprocess, "Popen", Process)
    monkeypatch.setattr(pool_watch, "_QUERY", "import time; time.sleep(3600)")
    note.parent.touch()
    pool_watch.watch_pools("")
    assert started[0].wait() == -signal.SIGKILL


@pytest.mark.parametrize("text", ["", "x", "1", "-1 -1", "99999999 1"])
def test_other_notes_say_nothing(note: Path, text: str) -> None:
    note.parent.mkdir()
    note.write_text(text)
    assert not pool_watch.pools_hang()


def test_process_that_got_the_number_later_is_another_one(note: Path) -> None:
    note.parent.mkdir()
    with subprocess.Popen(["sleep", "600"]) as other:
        fields = read_stat(other.pid)
        assert fields is not None
        note.write_text(f"{other.pid} {int(fields[19]) - 1}\n")
        assert not pool_watch.pools_hang()
        note.write_text(f"{other.pid} {fields[19]}\n")
        assert pool_watch.pools_hang()
        other.kill()
