"""Storage that holds a process that cannot be killed is not tried again while it does."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from ansible_collections.virtplay.libvirt.plugins.module_utils.host import dead_storage
from ansible_collections.virtplay.libvirt.plugins.module_utils.host.dead_storage import (
    dead_places,
    note_dead,
)
from ansible_collections.virtplay.libvirt.plugins.module_utils.host.files import read_stat


@pytest.fixture(autouse=True)
def note(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "run/note.json"
    monkeypatch.setattr(dead_storage, "NOTE", path)
    return path


def test_place_is_dead_as_long_as_its_process_exists(monkeypatch: pytest.MonkeyPatch) -> None:
    assert dead_places() == {}
    with subprocess.Popen(["sleep", "600"]) as process:
        with monkeypatch.context() as patch:
            patch.setattr(os, "getpid", lambda: process.pid)
            note_dead(["/srv/a"], {})
        note_dead(["/srv/b"], dead_places())
        fields = read_stat(process.pid)
        assert fields is not None
        assert dead_places().keys() == {"/srv/a", "/srv/b"}
        assert dead_places()["/srv/a"] == f"{process.pid} {fields[19]}"
        process.kill()
    # Its process has ended, so the storage has responded: it is tried again.
    assert dead_places().keys() == {"/srv/b"}


def test_known_place_keeps_its_process(note: Path) -> None:
    note_dead(["/srv/a"], {"/srv/a": "1 1"})
    assert not note.exists()


@pytest.mark.parametrize("text", ["", "[]", "{", '{"/a": "x 1"}', '{"/a": "99999999 1"}'])
def test_other_notes_say_nothing(note: Path, text: str) -> None:
    note.parent.mkdir()
    note.write_text(text)
    assert dead_places() == {}
