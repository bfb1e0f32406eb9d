"""Unit tests: what `virtplay up` and `virtplay uninstall` do to a machine, but for its packages."""

from __future__ import annotations

import fcntl
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest
from pydantic import SecretStr
from virtplay import settings as settings_file
from virtplay.cli import machine
from virtplay.errors import CannotStart
from virtplay.files import PROJECT
from virtplay.machine import packages, prepare, unit
from virtplay.machine.uninstall import plan, remove
from virtplay.settings import Settings, default_state_dir

Popen = subprocess.Popen[bytes]
STRANGE = "notes.txt"
UNINSTALL = """
import sys
from pathlib import Path
from virtplay.cli import main
from virtplay.machine import unit
unit.FILE = Path(sys.argv.pop(1))
sys.argv[0] = "virtplay"
main()
"""


@pytest.fixture(autouse=True)
def unit_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The place of the unit file, which is not there yet; this process may act as root there.

    No test finds the unit of the machine: its service would be uninstalled.
    """
    file = tmp_path / "virtplay.service"
    monkeypatch.setattr(unit, "FILE", file)
    monkeypatch.setattr(unit, "as_root", lambda *words: list(words))
    return file


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Settings with a state directory as the service leaves it, and somebody else's file in it."""
    state = tmp_path / "state"
    for name in ("jobs/job-000001/log", "observation/rounds/events.jsonl", "backups/one"):
        (state / name).parent.mkdir(parents=True, exist_ok=True)
        (state / name).write_text("")
    names = ("virtplay.sqlite3", "virtplay.sqlite3-wal", "token", "lock", "host_prepare.log")
    for name in (*names, STRANGE):
        (state / name).write_text("")
    return Settings(state_dir=state)


def uninstall(settings: Settings, *options: str) -> subprocess.CompletedProcess[str]:
    """Run `virtplay uninstall`, without a terminal and with the unit file of the test."""
    return subprocess.run(
        [sys.executable, "-c", UNINSTALL, str(unit.FILE), "uninstall", *options],
        env={**os.environ, "VIRTPLAY_STATE_DIR": str(settings.state_dir)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_database_stays_unless_it_is_to_be_purged(settings: Settings) -> None:
    kept = plan(settings, purge=False)
    assert f"the database and its backups in {settings.state_dir}" in kept.describe()
    assert f"delete the checkout {PROJECT}" in kept.describe()
    remove(kept)
    left = {path.name for path in settings.state_dir.iterdir()}
    assert left == {STRANGE, "backups", "virtplay.sqlite3", "virtplay.sqlite3-wal"}
    remove(plan(settings, purge=True))
    assert [path.name for path in settings.state_dir.iterdir()] == [STRANGE]
    (settings.state_dir / STRANGE).rename(settings.state_dir / "host_prepare.log")
    remove(plan(settings, purge=True))
    assert not settings.state_dir.exists()


@pytest.mark.parametrize("proof", [None, "link", "lock"])
def test_a_directory_of_somebody_else_is_left_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, proof: str | None
) -> None:
    var = tmp_path / "var"
    for name in ("a.log", "lock", "backups/one", "jobs/one", "token"):
        (var / name).parent.mkdir(parents=True, exist_ok=True)
        (var / name).write_text("")
    if proof == "link":
        (var / "virtplay.sqlite3").symlink_to(var / "a.log")
    if proof == "lock":
        (var / "observation").write_text("")
    before = sorted(var.rglob("*"))
    monkeypatch.chdir(tmp_path)
    planned = plan(Settings(state_dir=Path("var")), purge=True)
    assert f"{var}: it does not look like the state directory" in planned.describe()
    remove(planned)
    monkeypatch.setenv("VIRTPLAY_STATE_DIR", "var")
    machine.uninstall(purge=True, yes=True)
    assert sorted(var.rglob("*")) == before


def test_only_the_logs_of_ours_are_removed(settings: Settings) -> None:
    (settings.state_dir / "access.log").write_text("")
    remove(plan(settings, purge=True))
    left = {path.name for path in settings.state_dir.iterdir()}
    assert left == {STRANGE, "access.log"}


def test_a_service_with_postgres_has_left_a_state_directory(tmp_path: Path) -> None:
    for name in ("jobs", "observation"):
        (tmp_path / name).mkdir()
    (tmp_path / "lock").touch()
    remove(plan(Settings(state_dir=tmp_path), purge=False))
    assert not tmp_path.exists()


def test_the_directory_of_the_unit_is_removed_and_not_that_of_the_caller(
    settings: Settings, unit_file: Path, tmp_path: Path
) -> None:
    unit_file.write_text(unit.describe_unit(settings, settings.state_dir / unit.ENVIRONMENT))
    other = Settings(state_dir=tmp_path / "other")
    planned = plan(other, purge=False)
    assert planned.unit
    assert planned.directory == settings.state_dir
    assert settings.state_dir / "token" in planned.paths
    unit_file.write_text(unit_file.read_text().removeprefix(unit.MARK))
    assert plan(other, purge=False).directory == other.state_dir


def test_every_user_can_read_the_unit_whatever_the_umask_is(unit_file: Path) -> None:
    before = os.umask(0o077)
    try:
        unit._write_as_root(unit_file, f"{unit.MARK}ü\n")
    finally:
        os.umask(before)
    assert unit_file.stat().st_mode & 0o777 == 0o644
    assert unit_file.read_text() == f"{unit.MARK}ü\n"
    with pytest.raises(CannotStart, match="cannot write /nowhere/unit"):
        unit._write_as_root(Path("/nowhere/unit"), "")


def test_whether_the_unit_runs_is_asked_without_root(
    unit_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unit_file.write_text(unit.MARK)
    monkeypatch.setattr(unit, "as_root", lambda *words: ["sudo-is-not-needed", *words])
    monkeypatch.setenv("PATH", str(tmp_path))
    assert not unit.is_active(), "there is no systemctl"
    program = tmp_path / "systemctl"
    program.write_text('#!/bin/sh\n[ "$*" = "is-active --quiet virtplay.service" ]\n')
    program.chmod(0o755)
    assert unit.is_active()


def test_the_unit_has_no_settings_of_the_client_and_no_relative_paths(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pem").touch()
    for name in ("TLS_CERTIFICATE", "TLS_KEY", "PROJECT_DIR"):
        monkeypatch.setenv(f"VIRTPLAY_{name}", "pem")
    monkeypatch.setenv("VIRTPLAY_TOKEN", "secret")
    monkeypatch.setenv("VIRTPLAY_URL", "http://elsewhere")
    lines = unit.describe_environment(Settings()).splitlines()
    for name in ("TLS_CERTIFICATE", "TLS_KEY", "PROJECT_DIR"):
        assert f'VIRTPLAY_{name}="{tmp_path / "pem"}"' in lines
    assert not [line for line in lines if line.startswith(("VIRTPLAY_TOKEN=", "VIRTPLAY_URL="))]


@pytest.mark.slow
def test_uninstall_asks_and_never_takes_the_files_of_a_running_service(settings: Settings) -> None:
    before = sorted(settings.state_dir.iterdir())
    refused = uninstall(settings)
    assert refused.returncode == 2
    assert f"  {settings.state_dir / 'token'}\n" in refused.stdout
    assert "--yes" in refused.stderr
    with (settings.state_dir / "lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        busy = uninstall(settings, "--yes", "--purge")
    assert busy.returncode == 1
    assert "another virtplay serve uses the state directory" in busy.stderr
    assert sorted(settings.state_dir.iterdir()) == before
    done = uninstall(settings, "--yes", "--purge")
    assert done.returncode == 0, done.stderr
    assert [path.name for path in settings.state_dir.iterdir()] == [STRANGE]


def test_data_of_a_wheel_is_where_users_expect_it(monkeypatch: pytest.MonkeyPatch) -> None:
    assert default_state_dir() == Path("var")
    monkeypatch.setattr(settings_file, "IS_WHEEL", True)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert default_state_dir() == Path("/var/lib/virtplay/service")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.delenv("XDG_DATA_HOME", raising=False)
    assert Settings().state_dir == Path.home() / ".local/share/virtplay"
    monkeypatch.setenv("XDG_DATA_HOME", "/data")
    assert Settings().state_dir == Path("/data/virtplay")


def test_the_way_to_a_first_vm_names_the_token(tmp_path: Path) -> None:
    new = Settings(state_dir=tmp_path / "a b", port=3160)
    text = prepare.explain_use(new)
    assert f"export VIRTPLAY_TOKEN=$(cat '{new.token_file}')" in text
    assert "export VIRTPLAY_URL=http://localhost:3160" in text
    assert "vm-0" not in text
    for host, url in (
        ("192.0.2.5", "http://192.0.2.5:3000"),
        ("2001:db8::1", "http://[2001:db8::1]:3000"),
        ("::", "http://[::1]:3000"),
    ):
        assert f"export VIRTPLAY_URL={url}\n" in prepare.explain_use(
            Settings(state_dir=tmp_path, host=host)
        )
    for host in ("127.0.0.1", "0.0.0.0"):
        usual = prepare.explain_use(Settings(state_dir=tmp_path, host=host))
        assert "VIRTPLAY_URL" not in usual, "the command line looks there itself"
    given = new.model_copy(update={"bootstrap_token": SecretStr("a secret one")})
    assert "a secret one" not in prepare.explain_use(given)
    new.state_dir.mkdir()
    (new.state_dir / "virtplay.sqlite3").touch()
    assert "token create ANY-NAME" in prepare.explain_use(new)
    new.token_file.touch()
    assert "$(cat " in prepare.explain_use(new)


def test_what_would_fail_later_is_refused_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(CannotStart, match="cannot find the inventory /nowhere"):
        prepare.check_inventory(Settings(inventory="/nowhere"))
    with socket.create_server(("127.0.0.1", 0)) as used:
        port = used.getsockname()[1]
        with pytest.raises(CannotStart, match=f"cannot listen on .*:{port}: .* VIRTPLAY_PORT"):
            prepare.check_port(Settings(port=port))
    prepare.check_directory(tmp_path)
    prepare.check_directory(tmp_path / "new")
    monkeypatch.setattr(os, "geteuid", lambda: tmp_path.stat().st_uid + 1)
    with pytest.raises(CannotStart, match="it belongs to"):
        prepare.check_directory(tmp_path)


@pytest.mark.needs("dpkg-query")
def test_packages_are_known_by_what_is_installed() -> None:
    assert packages.is_installed("dpkg")
    assert not packages.is_installed("virtplay-no-such-package")
    assert packages.read_group(packages.GROUP)


@pytest.mark.parametrize("value", ["plain", 'a "quoted" word', "$HOME `id` \\n", "it's", "ü=ö"])
def test_settings_reach_the_unit_as_they_are(
    value: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The role's environment file has the same rules: those of a shell, as far as it is used."""
    monkeypatch.setenv("VIRTPLAY_X", value)
    monkeypatch.setenv("OTHER", "not for the service")
    text = unit.describe_environment(Settings(state_dir=tmp_path, port=3160))
    (tmp_path / "env").write_text(text)
    shown = subprocess.run(
        ["sh", "-c", '. "$0"; printf "%s %s" "$VIRTPLAY_PORT" "$VIRTPLAY_X"', tmp_path / "env"],
        env={"PATH": os.defpath},
        capture_output=True,
        check=True,
    )
    assert shown.stdout.decode() == f"3160 {value}"
    assert "OTHER" not in text
    assert f"EnvironmentFile={tmp_path}" in unit.describe_unit(Settings(), tmp_path)


UP = """
import sys
from virtplay.cli import main
from virtplay.machine import prepare
for name in ("check_port", "require_root", "install_packages"):
    setattr(prepare, name, lambda *_: None)
prepare.ANSIBLE_PLAYBOOK = sys.argv.pop(1)
sys.executable = sys.argv.pop(1)
sys.argv[0] = "virtplay"
main()
"""
DEAF = "exec 3>$FIFO; setsid sh -c 'trap \"\" TERM HUP; echo >&3 working; sleep 1000 & wait' & wait"
"""A play whose task is in a session of its own and ignores signals, as Ansible's may be."""


@contextmanager
def running_up(folder: Path, programs: dict[str, str]) -> Iterator[tuple[Popen, int]]:
    """`virtplay up` with these shell scripts as its programs, and the end of $FIFO to read from.

    The descriptor does not block. Afterwards, none of these processes is left.
    """
    fifo = folder / "fifo"
    os.mkfifo(fifo)
    for name, text in programs.items():
        (folder / name).write_text(f"#!/bin/sh\n{text}\n")
        (folder / name).chmod(0o755)
    output = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    try:
        up = subprocess.Popen(
            [sys.executable, "-c", UP, *(str(folder / name) for name in programs), "up"],
            env={**os.environ, "VIRTPLAY_STATE_DIR": str(folder / "state"), "FIFO": str(fifo)},
            start_new_session=True,
        )
        try:
            yield up, output
        finally:
            while left := processes_with("FIFO", str(fifo)):
                for process in left:
                    with suppress(psutil.NoSuchProcess):
                        process.kill()
                psutil.wait_procs(left, 60)
            up.wait(300)
    finally:
        os.close(output)


def processes_with(name: str, value: str) -> list[psutil.Process]:
    """Return the living processes that have this variable in their environment."""
    found = psutil.process_iter(["environ"])
    return [each for each in found if (each.info["environ"] or {}).get(name) == value]


def read_until_working(up: Popen, output: int) -> None:
    """Read from a pipe until a program of `up` says there that it is working."""
    seen, ended = b"", os.pidfd_open(up.pid)
    try:
        while b"working\n" not in seen:
            ready, _, _ = select.select([output, ended], [], [], 300)
            assert ready, "no program has begun"
            assert ready == [output], "up has ended"
            chunk = os.read(output, 100)
            assert chunk, "the program has ended"
            seen += chunk
    finally:
        os.close(ended)


@pytest.mark.parametrize(
    ("step", "number"),
    [("play", signal.SIGTERM), ("play", signal.SIGHUP), ("first VM", signal.SIGINT)],
)
def test_the_end_of_up_ends_what_it_runs_first(
    tmp_path: Path, step: str, number: signal.Signals
) -> None:
    programs = {
        "ansible-playbook": DEAF if step == "play" else "exit 0",
        "first-vm": "exec 3>$FIFO; trap 'sleep 0.3; echo >&3 deleted; exit 1' TERM;"
        " echo >&3 working; while :; do sleep 0.1 3>&-; done",
    }
    with running_up(tmp_path, programs) as (up, output):
        read_until_working(up, output)
        up.send_signal(number)
        assert up.wait(300) == 128 + number
        left = b""
        # Without a writer, the pipe has an end: no process is left. With one, it would block.
        while chunk := os.read(output, 100):
            left += chunk
    assert left == (b"deleted\n" if step == "first VM" else b"")
