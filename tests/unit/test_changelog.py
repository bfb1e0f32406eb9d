"""The release notes."""

from __future__ import annotations

from pathlib import Path

import pytest
import virtplay

from scripts import changelog


def test_release_notes_have_each_change_once_by_section(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    notes = tmp_path / "CHANGELOG.md"
    monkeypatch.setattr(changelog, "CHANGELOG", notes)
    monkeypatch.setattr(changelog, "FRAGMENTS", tmp_path)
    (tmp_path / "a.yml").write_text("bugfixes: [a ``fix``]\nminor_changes: [one]\n")
    (tmp_path / "b.yml").write_text("minor_changes: ['two\n  lines']\n")
    notes.write_text("# Changelog\n\n## 0.0.1\n\n- old\n")
    changes = "### Minor changes\n\n- one\n- two lines\n\n### Bug fixes\n\n- a `fix`\n"
    heading = f"# Changelog\n\n## {virtplay.__version__}\n\n"
    assert changelog.write_notes(collection=False) == f"{heading}{changes}\n## 0.0.1\n\n- old\n"
    notes.write_text(f"# Changelog\n\n## {virtplay.__version__} (unreleased)\n\n- by hand\n")
    changelog.main()
    assert notes.read_text() == f"{heading}- by hand\n\n{changes}"
    assert list(tmp_path.glob("*.yml")) == []
    (tmp_path / "c.yml").write_text("changes: [one]\n")
    with pytest.raises(ValueError, match=r"c\.yml: its sections must be of major_changes"):
        changelog.write_notes(collection=False)
    (tmp_path / "c.yml").write_text("release_summary: Nothing would show it.\n")
    with pytest.raises(ValueError, match=r"c\.yml: its sections must be of major_changes"):
        changelog.write_notes(collection=False)


def test_release_notes_of_this_version_are_complete() -> None:
    text = changelog.write_notes(collection=True)
    for folder in (changelog.FRAGMENTS, changelog.COLLECTION / "fragments"):
        for path in folder.glob("*.yml"):
            own = changelog.describe([path], "###", summary=folder != changelog.FRAGMENTS)
            assert own
            for line in own.splitlines():
                assert not line.startswith("- ") or line in text
