"""Unit tests: where URL and token come from, and what is said when there is no service."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from virtplay.cli.connection import CannotConnect, check_url, find_connection

from tests.unit.cli.conftest import Run
from tests.unit.cli.service import TOKEN, FakeService, make_vm


@pytest.fixture
def configuration(tmp_path: Path) -> Path:
    """The configuration file, which is not there yet."""
    file = tmp_path / "config" / "virtplay" / "config.toml"
    file.parent.mkdir(parents=True)
    return file


def write_private(file: Path, text: str, mode: int = 0o600) -> Path:
    """Write the file and set its mode."""
    file.write_text(text)
    file.chmod(mode)
    return file


def test_order_is_options_environment_configuration_default(
    configuration: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(CannotConnect, match=r"cannot connect to http://localhost:3000: no token; "):
        find_connection(None, None)
    write_private(configuration, 'token = "t-config"')
    found = find_connection(None, None)
    assert (found.url, found.token) == ("http://localhost:3000", "t-config")
    write_private(configuration, 'url = "https://config:1"\ntoken = "t-config"')
    found = find_connection(None, None)
    assert (found.url, found.token) == ("https://config:1", "t-config")
    monkeypatch.setenv("VIRTPLAY_URL", "http://environment:2/")
    monkeypatch.setenv("VIRTPLAY_TOKEN", "t-environment")
    found = find_connection(None, None)
    assert (found.url, found.token) == ("http://environment:2", "t-environment")
    token_file = write_private(tmp_path / "token", "t-file\n")
    found = find_connection("http://option:3", token_file)
    assert (found.url, found.token) == ("http://option:3", "t-file")


def test_configuration_is_found_below_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    file = tmp_path / ".config" / "virtplay" / "config.toml"
    file.parent.mkdir(parents=True)
    write_private(file, 'token = "at-home"')
    for ignored in ("", "relative"):
        monkeypatch.setenv("XDG_CONFIG_HOME", ignored)
        assert find_connection(None, None).token == "at-home"


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620])
def test_token_in_a_file_of_others_is_refused(configuration: Path, run: Run, mode: int) -> None:
    write_private(configuration, 'token = "t"', mode)
    result = run("vm", "list")
    assert result.status == 1
    assert f"cannot use {configuration}: other users can read the token in it" in result.err
    write_private(configuration, 'url = "http://somewhere"', mode)
    assert ": no token; " in run("vm", "list").err, "a URL is no secret"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("token =", "not valid TOML"),
        ("token = 5", "token must be a string"),
        ('tokne = "x"', "unknown key tokne; valid keys: url, token"),
        ('token = "two words"', "cannot use the token"),
        ('token = "t"\nurl = "localhost:3000"', "cannot use the URL localhost:3000"),
    ],
)
def test_faults_of_the_configuration_are_named(
    configuration: Path, run: Run, text: str, words: str
) -> None:
    write_private(configuration, text)
    result = run("vm", "list")
    assert result.status == 1
    assert words in result.err
    assert result.err.count("\n") == 1


def test_broken_configuration_that_nobody_needs_is_left_alone(
    configuration: Path, service: FakeService, run: Run
) -> None:
    write_private(configuration, "][")
    service.reply_vms(make_vm())
    assert run("vm", "list").status == 0


def test_token_file(service: FakeService, run: Run, tmp_path: Path) -> None:
    service.reply_vms(make_vm())
    os.environ.pop("VIRTPLAY_TOKEN")
    private = write_private(tmp_path / "private", f"{TOKEN}\n")
    result = run("vm", "list", "--token-file", str(private))
    assert (result.status, result.err) == (0, "")
    result = run("vm", "list", "--token-file", str(write_private(private, TOKEN, 0o644)))
    assert (result.status, "warning: other users can read" in result.err) == (0, True)
    for bad, words in ((write_private(tmp_path / "empty", "\n"), "is empty"), (tmp_path, "cannot")):
        result = run("vm", "list", "--token-file", str(bad))
        assert (result.status, words in result.err) == (1, True)


@pytest.mark.parametrize(
    ("given", "used"),
    [
        ("http://localhost:3000/", "http://localhost:3000"),
        ("http://localhost:3000/api/v1", "http://localhost:3000"),
        ("https://virt.example/kvm/api/v1/", "https://virt.example/kvm"),
        ("http://[::1]:3000", "http://[::1]:3000"),
    ],
)
def test_url_as_people_write_it(given: str, used: str) -> None:
    assert check_url(given) == used


@pytest.mark.parametrize(
    "given",
    ["localhost:3000", "ftp://x", "http://", "http://x:99999", "http://x:0", "http://u:p@x",
     "http://[::1", "http://x?a=b", "http://x\n"[:-1] + "\x07"],
)  # fmt: skip
def test_unusable_url_is_refused(given: str) -> None:
    with pytest.raises(CannotConnect, match="cannot use"):
        check_url(given)


def test_nobody_listens(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VIRTPLAY_TOKEN", "t")
    # Bound and not listening: connections are refused, and no other test can take the port.
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}"
        result = run("vm", "list", "--url", url)
    assert result.status == 1
    assert (
        result.err == f"virtplay: cannot reach {url}: Connection refused; is the service running?\n"
    )


def test_wrong_token(service: FakeService, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VIRTPLAY_TOKEN", "wrong")
    result = run("vm", "list")
    assert result.status == 1
    assert "cannot authenticate" in result.err
    assert "(UNAUTHORIZED)" in result.err


def test_answer_of_something_else(service: FakeService, run: Run) -> None:
    service.reply("GET", "/vms", "<html>")
    result = run("vm", "list")
    assert result.status == 1
    assert "HTTP 200 with text/plain; charset=utf-8 is not from Virtplay" in result.err


def test_proxy_of_the_environment_does_not_get_loopback_requests(
    service: FakeService, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    service.reply_vms(make_vm())
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    assert run("vm", "list").status == 0


def test_name_that_is_not_utf8_is_an_error_and_no_traceback(service: FakeService, run: Run) -> None:
    result = run("vm", "create", "a\udcff", "--template", "micro")
    assert (result.status, result.err) == (
        1,
        "virtplay: cannot send the request: an argument is not valid UTF-8\n",
    )


def test_help_loads_no_large_library() -> None:
    code = (
        "import sys\nsys.argv = ['virtplay', '--help']\nfrom virtplay.cli import main\n"
        "try: main()\nexcept SystemExit: pass\n"
        "print([m for m in ('httpx', 'rich', 'pydantic', 'tortoise', 'sanic', 'asyncio')"
        " if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
    assert "Exit status:" in done.stdout


@pytest.mark.parametrize(
    ("group", "commands"),
    [
        ("vm", "list show create update delete start stop restart pause resume status"),
        ("job", "list show watch log"),
        ("host", "list show"),
        ("template", "list"),
    ],
)
def test_every_command_helps_with_an_example(run: Run, group: str, commands: str) -> None:
    for command in commands.split():
        result = run(group, command, "--help")
        assert result.status == 0
        assert f"  Example:\n    virtplay {group} {command}" in result.out
        assert "--token " not in result.out
