"""Unit tests: which settings the service takes, and which it refuses."""

from pathlib import Path

import pytest
from pydantic import SecretStr
from virtplay.cli.server import load_settings
from virtplay.errors import CannotStart
from virtplay.files import PROJECT
from virtplay.settings import Settings


@pytest.mark.parametrize("text", ["your-token", "8letters", "a-b_c.d~e"])
def test_a_bootstrap_token_is_taken_as_it_is(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VIRTPLAY_BOOTSTRAP_TOKEN", text)
    assert load_settings().bootstrap_token == SecretStr(text)


def test_an_empty_bootstrap_token_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VIRTPLAY_BOOTSTRAP_TOKEN", "")
    assert load_settings().bootstrap_token is None


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (" your-token", "white space"),
        ("your-token\n", "white space"),
        ("          ", "white space"),
        ("7letter", "at least 8 characters"),
    ],
)
def test_a_bootstrap_token_that_nobody_could_want_is_refused(
    text: str, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VIRTPLAY_BOOTSTRAP_TOKEN", text)
    with pytest.raises(CannotStart) as caught:
        load_settings()
    assert caught.value.message.startswith("cannot use the settings: VIRTPLAY_BOOTSTRAP_TOKEN ")
    assert fault in caught.value.message
    assert text.strip() not in caught.value.message or not text.strip()


FLOATS = [name for name, field in Settings.model_fields.items() if field.annotation is float]


@pytest.mark.parametrize("name", FLOATS)
@pytest.mark.parametrize("text", ["inf", "-inf", "nan", "1e12", "-1"])
def test_a_number_that_is_no_time_is_refused(
    name: str, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(f"VIRTPLAY_{name.upper()}", text)
    with pytest.raises(CannotStart, match=f"cannot use the settings: VIRTPLAY_{name.upper()} "):
        load_settings()


def test_the_longest_times_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VIRTPLAY_JOB_RETENTION_DAYS", "36500")
    monkeypatch.setenv("VIRTPLAY_OBSERVE_INTERVAL", "86400")
    settings = load_settings()
    assert (settings.job_retention_days, settings.observe_interval) == (36_500, 86_400)


def test_an_inventory_is_looked_for_here_and_then_in_the_project(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    sources = "inventory/local.yml, hosts.yml, /etc/hosts"
    in_project = [str(PROJECT / "inventory/local.yml"), str(PROJECT / "hosts.yml"), "/etc/hosts"]
    running = Settings(inventory=sources)
    assert running.inventory_sources == in_project
    (tmp_path / "hosts.yml").touch()
    assert Settings(inventory=sources).inventory_sources[1] == str(tmp_path / "hosts.yml")
    # The jobs of a service run with the inventory that it has read.
    assert running.inventory_sources == in_project
