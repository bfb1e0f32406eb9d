"""What does not respond is asked again, though not while a process still waits for it."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from ansible_collections.virtplay.libvirt.plugins.module_utils.host import silence
from ansible_collections.virtplay.libvirt.plugins.module_utils.host.silence import Silence


@pytest.fixture(autouse=True)
def note(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "run/note.json"
    monkeypatch.setattr(silence, "NOTE", path)
    return path


def test_name_is_known_until_it_has_responded() -> None:
    first = Silence()
    assert "/srv/a" not in first
    first.add(["/srv/a", "/srv/b"])
    first.remove(["/srv/b"])
    first.write()
    second = Silence()
    assert second.names() == {"/srv/a"}
    assert "/srv/a" in second
    second.remove(["/srv/a"])
    assert "/srv/a" not in second
    # Another observation has found something else meanwhile.
    third = Silence()
    third.add(["/srv/c"])
    third.write()
    second.write()
    assert Silence().names() == {"/srv/c"}


def test_name_is_not_asked_while_the_process_exists_that_waits_for_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with subprocess.Popen(["sleep", "600"]) as process:
        with monkeypatch.context() as patch:
            patch.setattr(os, "getpid", lambda: process.pid)
            noted = Silence()
            noted.add(["/srv/a"])
            noted.write()
        assert (Silence().names(), Silence().unasked()) == ({"/srv/a"}, set())
        process.kill()
        # A zombie: its parent has not waited for it.
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert Silence().unasked() == {"/srv/a"}
    assert Silence().unasked() == {"/srv/a"}


def test_nothing_new_writes_nothing(note: Path) -> None:
    noted = Silence()
    noted.remove(["/srv/a"])
    noted.write()
    assert not note.exists()


def test_note_that_cannot_be_written_costs_nothing_else(note: Path) -> None:
    noted = Silence()
    noted.add(["/srv/a"])
    note.parent.touch()
    noted.write()
    note.parent.unlink()
    # A directory is in its place.
    note.mkdir(parents=True)
    noted.write()
    assert list(note.parent.iterdir()) == [note]


@pytest.mark.parametrize("text", ["", "[]", "{"])
def test_unreadable_note_is_none(note: Path, text: str) -> None:
    note.parent.mkdir()
    note.write_text(text)
    assert Silence().names() == set()


@pytest.mark.parametrize("process", ["", "x 1", "99999999 1", "1 1"])
def test_process_that_never_was_waits_for_nothing(note: Path, process: str) -> None:
    note.parent.mkdir()
    note.write_text(f'{{"/a": "{process}"}}')
    assert Silence().unasked() == {"/a"}
