"""The programs and templates of the role virtplay_service."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import subprocess
import sys
import tarfile
from contextlib import closing
from pathlib import Path

import jinja2
import pytest
import yaml
from ansible.plugins.filter.core import regex_replace

ROLE = Path(__file__).parents[2] / "roles" / "virtplay_service"
FILES = ROLE / "files"
ODD = ["plain", "with space", 'a "quoted" word', "$HOME `id` \\n #no comment", "it's", "ü=ö"]


def pack(source: Path, target: Path) -> subprocess.CompletedProcess[str]:
    """Run pack_release.py."""
    return subprocess.run(
        [sys.executable, FILES / "pack_release.py", source, target],
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A project with what an installation needs, and with what it must not have."""
    root = tmp_path / "checkout"
    for name, text in {
        "pyproject.toml": '[project]\nname = "virtplay"\n',
        "ansible.cfg": "",
        "service/virtplay/__init__.py": '__version__ = "1.2.3"\n',
        "service/virtplay/__pycache__/app.cpython-311.pyc": "x",
        "service/web/node_modules/@novnc/novnc/core/rfb.js": "x",
        "playbooks/vm_start.yml": "---\n",
        "roles/virtplay_service/files/install_release.sh": "#!/bin/sh\n",
        "tests/test_app.py": "",
        "var/token": "secret",
        ".git/config": "",
    }.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    (root / "roles/virtplay_service/files/install_release.sh").chmod(0o755)
    return root


def test_release_has_what_an_installation_needs_and_nothing_else(
    checkout: Path, tmp_path: Path
) -> None:
    packed = json.loads(pack(checkout, tmp_path / "release.tar.gz").stdout)
    assert packed["release"].startswith("1.2.3-")
    assert packed["page"] is True
    with tarfile.open(tmp_path / "release.tar.gz") as archive:
        members = {member.name: member for member in archive.getmembers()}
    assert set(members) == {
        "ansible.cfg",
        "playbooks/vm_start.yml",
        "pyproject.toml",
        "roles/virtplay_service/files/install_release.sh",
        "service/virtplay/__init__.py",
        "service/web/node_modules/@novnc/novnc/core/rfb.js",
    }
    assert members["roles/virtplay_service/files/install_release.sh"].mode == 0o755
    assert all(member.uid == 0 and not member.mode & 0o022 for member in members.values())


def test_release_is_named_by_its_files_alone(checkout: Path, tmp_path: Path) -> None:
    first = json.loads(pack(checkout, tmp_path / "one.tar.gz").stdout)["release"]
    os.utime(checkout / "ansible.cfg", (1, 1))
    (checkout / "tests/test_app.py").write_text("changed")
    again = json.loads(pack(checkout, tmp_path / "two.tar.gz").stdout)["release"]
    assert again == first
    assert (tmp_path / "one.tar.gz").read_bytes() == (tmp_path / "two.tar.gz").read_bytes()
    (checkout / "ansible.cfg").write_text("[defaults]\n")
    assert json.loads(pack(checkout, tmp_path / "two.tar.gz").stdout)["release"] != first


@pytest.mark.parametrize("prefix", ["", "virtplay-1.2.3/"])
def test_archive_of_a_checkout_is_the_same_release(
    checkout: Path, tmp_path: Path, prefix: str
) -> None:
    wanted = json.loads(pack(checkout, tmp_path / "release.tar.gz").stdout)
    with tarfile.open(tmp_path / "given.tar.xz", "w:xz") as archive:
        archive.add(checkout, prefix or ".")
    assert json.loads(pack(tmp_path / "given.tar.xz", tmp_path / "x").stdout) == wanted


def test_what_is_not_the_service_is_refused(checkout: Path, tmp_path: Path) -> None:
    shutil.rmtree(checkout / "service")
    done = pack(checkout, tmp_path / "release.tar.gz")
    assert done.returncode == 1
    assert done.stderr == (
        f"cannot install the service from {checkout}: it has no service/virtplay/__init__.py\n"
    )
    done = pack(tmp_path / "nothing.tar.gz", tmp_path / "release.tar.gz")
    assert done.returncode == 1
    assert done.stderr.startswith("cannot read the archive ")


def test_sqlite_comes_back_as_it_was_with_what_only_the_log_had(tmp_path: Path) -> None:
    database, copy = tmp_path / "virtplay.sqlite3", tmp_path / "copy"

    def run(verb: str) -> None:
        subprocess.run(
            [sys.executable, FILES / "database_copy.py", verb, copy],
            env={"VIRTPLAY_STATE_DIR": str(tmp_path)},
            check=True,
        )

    with closing(sqlite3.connect(database, isolation_level=None)) as open_database:
        open_database.execute("PRAGMA journal_mode=WAL")
        open_database.execute("CREATE TABLE vm (name TEXT)")
        open_database.execute("INSERT INTO vm VALUES ('kept')")
        assert (tmp_path / "virtplay.sqlite3-wal").stat().st_size
        run("save")
        open_database.execute("UPDATE vm SET name = 'ruined'")
        open_database.execute("CREATE TABLE newer (id INT)")
    run("restore")
    with closing(sqlite3.connect(database)) as again:
        assert again.execute("SELECT name FROM vm").fetchall() == [("kept",)]
        assert again.execute("SELECT name FROM sqlite_master").fetchall() == [("vm",)]
    assert copy.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("value", ODD)
def test_settings_reach_the_shell_as_they_are(tmp_path: Path, value: str) -> None:
    environment = jinja2.Environment(trim_blocks=True, keep_trailing_newline=True)
    environment.filters["regex_replace"] = regex_replace
    template = environment.from_string((ROLE / "templates" / "virtplay.env.j2").read_text())
    file = tmp_path / "virtplay.env"
    file.write_text(
        template.render(ansible_managed="", __virtplay_service_environment={"VIRTPLAY_X": value})
    )
    done = subprocess.run(
        ["sh", "-c", f'. {file} && printf %s "$VIRTPLAY_X"'], capture_output=True, check=True
    )
    assert done.stdout.decode() == value


@pytest.mark.parametrize("family", ["Debian", "RedHat"])
def test_every_distribution_has_every_name(family: str) -> None:
    names = yaml.safe_load((ROLE / "vars" / f"{family}.yml").read_text())
    other = yaml.safe_load((ROLE / "vars" / "Debian.yml").read_text())
    assert names.keys() == other.keys()
    assert all(
        names[each]
        for each in names
        if each.endswith("packages") or each.endswith("default_python")
    )
