"""Unit tests: what `virtplay up` and `virtplay uninstall` do to a machine, but for its packages."""

from __future__ import annotations

import fcntl
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import SecretStr
from virtplay import settings as settings_file
from virtplay.errors import CannotStart
from virtplay.files import PROJECT
from virtplay.machine import packages, prepare, unit
from virtplay.machine.uninstall import plan, remove
from virtplay.settings import Settings, default_state_dir

STRANGE = "notes.txt"


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
    """Run `virtplay uninstall`, without a terminal."""
    return subprocess.run(
        [sys.executable, "-m", "virtplay.cli", "uninstall", *options],
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
    (settings.state_dir / STRANGE).unlink()
    remove(plan(settings, purge=True))
    assert not settings.state_dir.exists()


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
