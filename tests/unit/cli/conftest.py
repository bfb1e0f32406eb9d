"""Unit tests: the fixtures of the command line's tests."""

import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from virtplay.cli import following, main

from tests.unit.cli.service import TOKEN, FakeService, serve_fake


@dataclass(frozen=True)
class Result:
    """What a command left: exit status, standard output and standard error."""

    status: int
    out: str
    err: str


Run = Callable[..., Result]


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeService]:
    """A scripted service, and an environment that leads the command line to it."""
    with serve_fake() as fake:
        monkeypatch.setenv("VIRTPLAY_URL", fake.url)
        monkeypatch.setenv("VIRTPLAY_TOKEN", TOKEN)
        yield fake


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """No setting of the machine that the tests run on reaches the command line."""
    for name in list(os.environ):
        if name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setattr(following, "POLL_SECONDS", 0.01)
    monkeypatch.setenv("TZ", "Europe/Berlin")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs `virtplay` with these arguments in this process."""

    def run_command(*arguments: str) -> Result:
        monkeypatch.setattr(sys, "argv", ["virtplay", *arguments])
        capsys.readouterr()
        try:
            main()
            status = 0
        except SystemExit as stop:
            status = stop.code if isinstance(stop.code, int) else 0 if stop.code is None else 1
        out, err = capsys.readouterr()
        return Result(status, out, err)

    return run_command
