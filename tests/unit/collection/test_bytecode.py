"""Tests of the compiled files that a host keeps, with real zips and real Python processes."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

PACKAGE = "ansible_collections/virtplay/libvirt/plugins/module_utils"
COLLECTIONS = Path(__file__).parents[3] / "collections"
RUNTIME = {path.stem: path for path in (COLLECTIONS / PACKAGE / "runtime").glob("*.py")}
pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root uses it, as on hosts")

PROGRAM = """
import sys, traceback
bytecode = {}
exec(open(sys.argv[3]).read(), bytecode)
bytecode["use_bytecode"](sys.argv[2])
sys.path.insert(0, sys.argv[1])
from ansible_collections.virtplay.libvirt.plugins.module_utils import room, simple
from ansible_collections.virtplay.libvirt.plugins.module_utils.room import inner
print(simple.ANSWER, inner.outer(), simple.__file__, room.__path__[0], inner.__package__)
try:
    simple.fail()
except ValueError:
    traceback.print_exc()
"""


def pack(path: Path, answer: int, *, more: str = "") -> Path:
    """Write a zip as Ansible sends it."""
    names = PACKAGE.split("/")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for depth in range(1, len(names) + 1):
            archive.writestr("/".join([*names[:depth], "__init__.py"]), "")
        simple = f"ANSWER = {answer}\n{more}\ndef fail():\n    raise ValueError('on purpose')\n"
        archive.writestr(f"{PACKAGE}/simple.py", simple)
        archive.writestr(f"{PACKAGE}/room/__init__.py", "")
        archive.writestr(
            f"{PACKAGE}/room/inner.py",
            "from ..simple import ANSWER\n\n\ndef outer():\n    return ANSWER + 1\n",
        )
    return path


def run(archive: Path, directory: Path) -> subprocess.CompletedProcess[str]:
    """Import from a zip as a module does."""
    return subprocess.run(
        [sys.executable, "-c", PROGRAM, str(archive), str(directory), str(RUNTIME["bytecode"])],
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """Where compiled files are kept."""
    return tmp_path / "bytecode"


def kept(directory: Path) -> list[str]:
    """The name of each kept module below PACKAGE."""
    package = PACKAGE.replace("/", ".") + "."
    names = [path.name.rsplit(".", 3)[0] for path in directory.iterdir()]
    return sorted(name.removeprefix(package) for name in names if name.startswith(package))


def test_what_is_imported_is_kept_and_used(directory: Path, tmp_path: Path) -> None:
    archive = pack(tmp_path / "one.zip", 1)
    first = run(archive, directory)
    expected = f"1 2 {archive}/{PACKAGE}/simple.py {archive}/{PACKAGE}/room"
    assert first.stdout.startswith(expected), first.stderr
    assert first.stdout.strip().endswith(".module_utils.room")
    assert "line 4, in fail" in first.stderr
    assert "raise ValueError('on purpose')" in first.stderr  # the source is found for it
    assert kept(directory) == ["room", "room.inner", "simple"]
    assert directory.stat().st_mode & 0o777 == 0o700
    before = {path: path.stat().st_mtime_ns for path in directory.iterdir()}
    second = run(archive, directory)
    assert (second.stdout, second.stderr) == (first.stdout, first.stderr)
    assert {path: path.stat().st_mtime_ns for path in directory.iterdir()} == before


def test_a_changed_source_is_compiled_again(directory: Path, tmp_path: Path) -> None:
    for answer in (1, 2):  # of the same size
        assert run(pack(tmp_path / "one.zip", answer), directory).stdout.startswith(f"{answer} ")
    assert kept(directory) == ["room", "room.inner", "simple", "simple"]


def test_kept_code_is_what_runs(directory: Path, tmp_path: Path) -> None:
    run(pack(tmp_path / "one.zip", 1), directory)
    run(pack(tmp_path / "other.zip", 5), directory)
    one, other = sorted(directory.glob("*simple*"), key=lambda path: path.stat().st_mtime_ns)
    one.write_bytes(other.read_bytes())
    assert run(pack(tmp_path / "one.zip", 1), directory).stdout.startswith("5 ")


@pytest.mark.parametrize("damage", [b"", b"\0\0\0\0", b"of another Python", None])
def test_a_damaged_file_is_compiled_again(
    directory: Path, tmp_path: Path, damage: bytes | None
) -> None:
    archive = pack(tmp_path / "one.zip", 1)
    run(archive, directory)
    [path] = directory.glob("*simple*")
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2] if damage is None else damage)
    assert run(archive, directory).stdout.startswith("1 ")
    assert path.read_bytes() == whole


def test_the_number_of_files_is_bounded(directory: Path, tmp_path: Path) -> None:
    archive = pack(tmp_path / "one.zip", 1)
    run(archive, directory)
    for number in range(1001):
        (directory / f"old.{number}").touch()
    assert run(pack(tmp_path / "other.zip", 2), directory).stdout.startswith("2 ")
    assert len(list(directory.iterdir())) < 10


WATCHED = """
import runpy, sys

def watch(event, arguments):
    if event == "compile" and "_payload.zip" in str(arguments[1]):
        print(arguments[1], file=sys.stderr)

sys.addaudithook(watch)
runpy.run_path(sys.argv.pop(), run_name="__main__")
"""
"""Runs what Ansible sends, and prints which files of its zip are compiled."""


def test_all_that_ansible_sends_is_compiled_once(directory: Path, tmp_path: Path) -> None:
    sent = send(tmp_path, "power", "name=web-1 state=running")
    sent.write_text(sent.read_text().replace("/run/virtplay/modules", str(directory)))
    first, second = [
        subprocess.run(
            [sys.executable, "-c", WATCHED, str(sent)], capture_output=True, text=True, check=False
        )
        for _ in range(2)
    ]
    assert "missing required arguments: domains" in first.stdout
    assert second.stdout == first.stdout
    for file in ("ansible/__init__.py", "module_utils/basic.py", "modules/power.py", "values.py"):
        assert f"{file}\n" in first.stderr
    # zipimport compiles packages when pkgutil.extend_path looks for them; they are almost empty.
    assert all(file.endswith("/__init__.py") for file in second.stderr.splitlines()), second.stderr


def send(directory: Path, module: str, arguments: str, *variables: str) -> Path:
    """Return the program that Ansible sends to a host for a module, which runs it here once."""
    words = (word for each in variables for word in ("-e", each))
    return sent_by(
        directory,
        module,
        "ansible",
        "host",
        "-m",
        f"virtplay.libvirt.{module}",
        "-a",
        arguments,
        *words,
    )


def sent_by(directory: Path, module: str, program: str, *arguments: str) -> Path:
    """Return what one of Ansible's programs sends to a host for a module."""
    subprocess.run(
        [
            *(Path(sys.executable).parent / program, "-i", "host,", "-c", "local"),
            *("-e", f"ansible_python_interpreter={sys.executable}", *arguments),
        ],
        env=os.environ
        | {
            "ANSIBLE_COLLECTIONS_PATH": str(COLLECTIONS),
            "ANSIBLE_KEEP_REMOTE_FILES": "true",
            "ANSIBLE_PIPELINING": "false",
            "ANSIBLE_REMOTE_TMP": str(directory / "sent"),
        },
        cwd=directory,
        stdout=subprocess.DEVNULL,
        check=False,
    )
    [sent] = directory.glob(f"sent/*/AnsiballZ_{module}.py")
    return sent
