"""Unit tests: where URL and token come from, and what is said when there is no service."""

import asyncio
import json
import os
import pwd
import re
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import typer
from virtplay import __version__
from virtplay.api.schemas.fields import Pagination
from virtplay.cli import COMMANDS, HELP, app, transport
from virtplay.cli.client import Client
from virtplay.cli.connection import CannotConnect, Connection, check_url, find_connection
from virtplay.cli.database import _note_time
from virtplay.cli.server import load_settings
from virtplay.errors import CannotCopy, CannotStart, VmAlreadyRunning
from virtplay.files import PROJECT
from virtplay.machine import database, unit
from virtplay.store.backup import applied_migrations, save_backup
from virtplay.store.database import place_of

from tests.unit.cli.conftest import Run
from tests.unit.cli.service import TOKEN, FakeService, make_vm, serve_fake
from tests.unit.cli.test_hosts import make_host


@pytest.fixture(autouse=True)
def own_state(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The state directory of the user, which is not there yet; the machine has no other service."""
    monkeypatch.setenv("VIRTPLAY_STATE_DIR", str(tmp_path / "mine"))
    monkeypatch.setattr(unit, "FILE", tmp_path / "unit")
    monkeypatch.setattr(database, "ROOT_STATE_DIR", tmp_path / "service")
    monkeypatch.setattr(database, "ROLE_COMMAND", tmp_path / "command")
    return tmp_path / "mine"


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
        ("HTTP://localhost:3000/api/v1", "http://localhost:3000"),
    ],
)
def test_url_as_people_write_it(given: str, used: str) -> None:
    assert check_url(given) == used


@pytest.mark.parametrize(
    "given",
    ["localhost:3000", "ftp://x", "http://", "http://x:99999", "http://x:0", "http://u:p@x",
     "http://[::1", "http://a..b", f"http://{'a' * 64}.example", "http://x?a=b",
     "http://x\n"[:-1] + "\x07"],
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


def test_answer_of_an_older_service(service: FakeService, run: Run) -> None:
    vm = make_vm().model_dump(mode="json")
    del vm["managed"]
    pagination = Pagination.of(1, 100, 1).model_dump()
    service.reply("GET", "/vms", {"vms": [vm], "pagination": pagination})
    assert run("vm", "list").status == 0
    result = run("vm", "list", "-o", "id,managed")
    assert (result.status, result.out) == (1, "")
    assert result.err.startswith(
        "virtplay: cannot use the response of the service: it has no managed;"
    )
    assert result.err.count("\n") == 1


def test_proxy_of_the_environment_does_not_get_loopback_requests(
    service: FakeService, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    service.reply_vms(make_vm())
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    assert run("vm", "list").status == 0


def test_name_that_is_not_utf8_is_an_error_and_no_traceback(service: FakeService, run: Run) -> None:
    result = run("vm", "create", "a\udcff", "--template", "micro")
    assert (result.status, result.err) == (
        2,
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


def all_commands(command: Any, *words: str) -> Iterator[tuple[tuple[str, ...], Any]]:
    """The words of every command below one, as the command line itself lists them."""
    if not hasattr(command, "list_commands"):
        yield words, command
        return
    for name in command.list_commands(None):
        yield from all_commands(command.get_command(None, name), *words, name)


ALL_COMMANDS = dict(all_commands(typer.main.get_command(app)))
COMMAND_WORDS = [*ALL_COMMANDS]
NUMBERS = {
    (words, each.opts[0]): each.type.name.split()[0]
    for words, command in ALL_COMMANDS.items()
    for each in command.params
    if each.type.name.split()[0] in ("int", "integer", "float")
}
"""Words of a command and its option → the type of its number."""


@pytest.mark.parametrize("words", COMMAND_WORDS, ids=" ".join)
def test_every_command_helps_with_an_example(run: Run, words: tuple[str, ...]) -> None:
    result = run(*words, "--help")
    name = " ".join(words)
    assert result.status == 0
    assert f"Usage: virtplay {name} " in result.out
    assert name == "version" or re.search(rf"\n  Example:\n    .*virtplay {name}\b", result.out)
    assert "--token " not in result.out
    assert not re.search("<(int|float|str|path)", result.out)


@pytest.mark.parametrize(("words", "option"), NUMBERS, ids=str)
def test_what_is_no_number_is_refused_in_plain_words(
    run: Run, words: tuple[str, ...], option: str
) -> None:
    result = run(*words, option, "abc")
    assert result.status == 2
    what = "a number" if NUMBERS[words, option] == "float" else "a whole number"
    assert f"Invalid value for '{option}': 'abc' is not {what}\n" in result.err


def test_options_with_numbers_are_found() -> None:
    assert {("serve",), ("vm", "create"), ("token", "create")} <= {words for words, _ in NUMBERS}
    assert {"float", "int"} <= {*NUMBERS.values()}


def test_commands_that_start_a_vm_offer_to_wait_for_its_address() -> None:
    waits = {
        words: each.help
        for words, command in ALL_COMMANDS.items()
        for each in command.params
        if "--no-wait" in each.secondary_opts
    }
    offered = {words for words, text in waits.items() if "address" in text}
    assert offered == {("vm", "create"), ("vm", "start"), ("vm", "restart")}
    assert {("vm", "stop"), ("vm", "delete"), ("snapshot", "create")} <= waits.keys()


def test_help_and_documentation_name_the_same_commands_of_the_services_machine() -> None:
    named = re.search(r"template send.*?service\. (.*?) run on the\s+machine", HELP, re.S)
    page = (PROJECT / "docs/cli.md").read_text()
    shown = re.search(r"running service\. (.*?) run on the machine", page)
    assert named
    assert shown
    words = re.findall(r"[a-z]+", named[1])
    assert re.findall(r"[a-z]+", shown[1].replace("virtplay ", "")) == words
    assert "uninstall" in words


def test_no_command_is_left_out() -> None:
    assert {words[0] for words in COMMAND_WORDS} == {*COMMANDS, "version"}
    assert {("vm", "ssh"), ("db", "restore"), ("token", "create"), ("up",)} <= {*COMMAND_WORDS}


LIST_NEEDS_NONE_OF = (
    "pydantic", "httpx", "rich", "tortoise", "sanic", "asyncio", "urllib.request", "websockets",
    "virtplay.cli.server", "virtplay.cli.snapshots", "virtplay.cli.following", "virtplay.settings",
)  # fmt: skip
"""What a list must not load; each of them takes a good part of the time in which it can answer."""


@pytest.mark.parametrize("command", ["vm list", "host list", "job list", "template list"])
def test_a_list_loads_little(service: FakeService, command: str) -> None:
    service.reply_vms(make_vm())
    service.reply("GET", "/hosts", {"hosts": [make_host()]})
    service.reply("GET", "/templates", {"templates": []})
    code = (
        f"import sys\nsys.argv = ['virtplay', *{command.split()!r}]\n"
        "from virtplay.cli import main\nmain()\n"
        f"print([m for m in {LIST_NEEDS_NONE_OF!r} if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
    assert len(service.requests) == 1


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """A certificate of localhost and 127.0.0.1, issued by itself, with its key."""
    file = tmp_path / "service.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256",
         "-nodes", "-days", "2", "-subj", "/CN=localhost", "-addext",
         "subjectAltName=DNS:localhost,IP:127.0.0.1", "-keyout", file, "-out", tmp_path / "cert"],
        check=True, capture_output=True,
    )  # fmt: skip
    with file.open("a") as opened:
        opened.write((tmp_path / "cert").read_text())
    return file


def test_https_is_used_with_a_certificate_that_is_trusted(
    run: Run, certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serve_fake(certificate) as service:
        monkeypatch.setenv("VIRTPLAY_TOKEN", TOKEN)
        service.reply_vms(make_vm())
        result = run("vm", "list", "--url", service.url)
        assert (result.status, service.requests) == (1, [])
        assert f"cannot trust the certificate of {service.url}: self-signed" in result.err
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        assert run("vm", "list", "--url", service.url).status == 0


def test_the_wrong_one_of_http_and_https_is_named(
    service: FakeService, run: Run, certificate: Path
) -> None:
    https = service.url.replace("http:", "https:")
    result = run("vm", "list", "--url", https)
    assert (result.status, service.requests) == (1, [])
    assert result.err == (
        f"virtplay: cannot use {https}: the service speaks http there, without TLS; use"
        f" {service.url}\n"
    )
    with serve_fake(certificate) as secure:
        http = secure.url.replace("https:", "http:")
        result = run("vm", "start", "vm-001", "--url", http)
        assert result.err == (
            f"virtplay: cannot use {http}: the service requires https there; use {secure.url}\n"
        )


def test_a_silent_http_service_is_recognized_behind_https(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A service may wait for the end of what it takes for a request, as Sanic 25.12 does."""
    monkeypatch.setattr(transport, "PROBE_SECONDS", 0.2)
    monkeypatch.setenv("VIRTPLAY_TOKEN", "t")

    def answer(listener: socket.socket) -> None:
        hello, _ = listener.accept()
        probe, _ = listener.accept()
        with hello, probe:
            assert hello.recv(4096).startswith(b"\x16\x03")
            assert probe.recv(4096).startswith(b"GET /healthz ")
            probe.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=answer, args=(listener,))
        thread.start()
        url = f"https://127.0.0.1:{listener.getsockname()[1]}"
        result = run("vm", "list", "--url", url)
        thread.join()
    assert "the service speaks http there, without TLS" in result.err


def test_a_closed_connection_is_opened_again(service: FakeService) -> None:
    service.reply_vms(make_vm())
    with Client(Connection(service.url, TOKEN)) as client:
        for _ in range(3):
            assert client.get("/vms/vm-001")["id"] == "vm-001"
        service.close_connections()
        assert client.get("/vms/vm-001")["id"] == "vm-001"
    assert service.connections == 2


def test_a_proxy_of_the_environment_is_used(
    service: FakeService, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    service.reply_vms(make_vm())
    monkeypatch.setenv("HTTP_PROXY", service.url.replace("http://", "http://me:p%40ss@"))
    assert run("vm", "list", "--url", "http://virt.example:3000").status == 0
    assert service.headers["Host"] == "virt.example:3000"
    assert service.headers["Proxy-Authorization"] == "Basic bWU6cEBzcw=="
    monkeypatch.setenv("NO_PROXY", "virt.example")
    assert run("vm", "list", "--url", "http://virt.example:3000").status == 1
    monkeypatch.setenv("HTTP_PROXY", "socks5://127.0.0.1:1")
    result = run("vm", "list", "--url", "http://other.example")
    assert "cannot use the proxy socks5://127.0.0.1:1" in result.err
    monkeypatch.setenv("HTTP_PROXY", "http://a..b:3128")
    result = run("vm", "list", "--url", "http://other.example")
    assert "cannot use the proxy http://a..b:3128" in result.err


def test_errors_are_json_on_request(service: FakeService, run: Run) -> None:
    service.reply_vms(make_vm(1))
    service.reply("POST", "/vms/vm-001/start", VmAlreadyRunning("cannot start it", hint=1))
    for arguments, status, code in (
        (["vm", "start", "vm-001"], 1, "VM_ALREADY_RUNNING"),
        (["vm", "show", ""], 2, "WRONG_USAGE"),
        (["vm", "show", "."], 2, "WRONG_USAGE"),
        (["host", "show", ".."], 2, "WRONG_USAGE"),
        (["job", "show", "foo"], 2, "WRONG_USAGE"),
        (["vm", "list", "--status", "runing"], 2, "WRONG_USAGE"),
        (["vm", "list", "--url", "nothing"], 2, "CANNOT_CONNECT"),
        (["vm", "delete", "vm-001"], 2, "NO_CONFIRMATION"),
    ):
        result = run(*arguments, "--json")
        assert (result.status, result.out) == (status, "")
        document = json.loads(result.err)
        assert document["success"] is False
        assert document["error"]["code"] == code
        assert document["error"]["message"].startswith(("cannot", "Invalid value"))
    assert run("vm", "start", "vm-001").err == "virtplay: cannot start it (VM_ALREADY_RUNNING)\n"


def test_choices_are_suggested(run: Run) -> None:
    result = run("vm", "list", "--status", "runing")
    assert result.status == 2
    assert "'runing' is not one of creating, stopped, " in result.err
    assert result.err.rstrip().endswith("; did you mean running?")
    result = run("vm", "create", "x", "--template", "micro", "--cpu", "two")
    assert "Invalid value for '--cpu': 'two' is not a whole number\n" in result.err
    for option, meant in (
        ("--ram", "--memory"), ("--vcpus", "--cpu"), ("--size", "--disk"), ("--tags", "--label"),
        ("--autostart", "--auto-start"),
    ):  # fmt: skip
        for command in (["create", "x", "--template", "micro"], ["update", "x"]):
            error = run("vm", *command, option, "2").err
            assert f"No such option: {option} (Possible options: {meant})" in error
    assert "Did you mean 'snapshot'?" in run("snapsot", "list").err


def test_version(run: Run) -> None:
    assert run("--version").out == run("version").out == f"virtplay {__version__}\n"


SUDO = "" if os.geteuid() == 0 else " sudo"


def test_a_command_that_reads_the_database_makes_none(
    run: Run, own_state: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    mine, service = own_state, tmp_path / "service"
    commands = (
        ("token", "list"),
        ("token", "create", "ci"),
        ("token", "revoke", "ci"),
        ("db", "backup", str(tmp_path / "file")),
    )
    for command in commands:
        result = run(*command)
        assert (result.status, result.err) == (
            1,
            f"virtplay: cannot find the database {mine}/virtplay.sqlite3: start the service, which"
            " creates it, or set VIRTPLAY_STATE_DIR or VIRTPLAY_DATABASE_URL as the service has"
            " it\n",
        )
    service.mkdir()  # such a directory is no service yet
    assert run("db", "restore", str(tmp_path / "file")).err == (
        f"virtplay: cannot read {tmp_path}/file: No such file or directory\n"
    )
    assert not mine.exists()
    (service / "virtplay.sqlite3").touch()
    (tmp_path / "file").touch()
    for command in (*commands, ("db", "restore", str(tmp_path / "file"))):
        error = run(*command).err
        program, words = Path("virtplay").absolute(), " ".join(command)
        own = "; or make a database of your own: virtplay db upgrade" * ("restore" in command)
        assert error == (
            f"virtplay: cannot find the database {mine}/virtplay.sqlite3: the service of this"
            f" machine runs as root in {service}; run:"
            f"{SUDO} env VIRTPLAY_STATE_DIR={service} {program} {words}{own}\n"
        )
    refuse_stat(monkeypatch, service / "virtplay.sqlite3")
    assert f"runs as root in {service}; run: " in run("token", "list").err
    assert not mine.exists()


@pytest.fixture
def other_service(tmp_path: Path) -> Path:
    """The state directory of another service of this machine; the user's own is `own_state`."""
    directory = tmp_path / "service"
    directory.mkdir()
    (directory / "virtplay.sqlite3").touch()
    return directory


def command_of(error: str) -> list[str]:
    """The words of the command that an error names."""
    return shlex.split(error.partition("; run: ")[2])


def write_unit(state: Path, url: str = "") -> str:
    """Write the unit of a service, and its settings; return the URL of its database."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VIRTPLAY_DATABASE_URL", url)
        settings = load_settings(state_dir=state)
        state.mkdir()
        (state / unit.ENVIRONMENT).write_text(unit.describe_environment(settings))
    unit.FILE.write_text(unit.describe_unit(settings, state / unit.ENVIRONMENT))
    return settings.database


@pytest.mark.parametrize(
    ("me", "user", "before"),
    [
        ("root", "root", ""),
        ("ann", "ann", ""),
        ("root", "ann", "runuser -u ann -- "),
        ("bob", "ann", "sudo -u ann "),
        ("bob", "root", "sudo "),
        ("", "root", "sudo "),
    ],
)
def test_the_command_for_the_database_of_a_unit_has_its_user_and_program(
    run: Run, other_service: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, me: str,
    user: str, before: str,
) -> None:  # fmt: skip
    state = tmp_path / "of the unit"
    monkeypatch.setattr(sys, "executable", "/home/ann's/python")
    monkeypatch.setattr(pwd, "getpwuid", lambda _uid: SimpleNamespace(pw_name=user))
    write_unit(state)

    def look_up(uid: int) -> SimpleNamespace:
        if not me:
            raise KeyError(uid)
        return SimpleNamespace(pw_name=me)

    monkeypatch.setattr(pwd, "getpwuid", look_up)
    monkeypatch.setattr(os, "geteuid", lambda: 0 if me == "root" else 1000)
    error = run("token", "list").err
    start = f"the service of this machine runs as {user} in {state}; run: {before}sh -c "
    assert start in error
    (script,) = shlex.split(error.partition(start)[2])
    directory, _, environment, command = script.split("; ")
    assert directory == "cd /"
    assert shlex.split(environment) == [".", f"{state}/{unit.ENVIRONMENT}"]
    program = ["/home/ann's/python", "-m", "virtplay.cli"]
    assert shlex.split(command) == [*program, "token", "list"]


def test_the_command_for_the_service_of_the_role_is_that_of_the_role(
    run: Run, other_service: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    template = PROJECT / "roles/virtplay_service/templates/virtplay.sh.j2"
    written = template.read_text().replace("{{ __virtplay_service_user }}", "virtplay")
    database.ROLE_COMMAND.write_text(written)
    (other_service / "virtplay.sqlite3").unlink()  # its database may be PostgreSQL
    monkeypatch.chdir(tmp_path)  # the program of the role changes to another directory
    Path("restore").touch()
    for uid, before in ((0, []), (1000, ["sudo"])):
        monkeypatch.setattr(os, "geteuid", lambda uid=uid: uid)
        error = run("token", "create", "my ci").err
        assert f"the service of this machine runs as virtplay in {other_service}; run: " in error
        start = [*before, str(database.ROLE_COMMAND)]
        assert command_of(error) == [*start, "token", "create", "my ci"]
        error = run("db", "restore", "--replace", "restore").err.partition("; or make")[0]
        assert command_of(error) == [*start, "db", "restore", f"{tmp_path}/restore", "--replace"]
        assert command_of(run("db", "backup", "db").err)[-3:] == ["db", "backup", f"{tmp_path}/db"]
    monkeypatch.setenv("VIRTPLAY_DATABASE_URL", f"sqlite://{tmp_path}/none")
    assert command_of(run("token", "list").err)[:4] == [
        "sudo", "env", "-u", "VIRTPLAY_DATABASE_URL",
    ]  # fmt: skip
    # The service of the role is the one whose settings the command has.
    monkeypatch.setattr(database, "ROOT_STATE_DIR", tmp_path / "mine")
    assert "start the service, which creates it" in run("token", "list").err
    monkeypatch.setattr(database, "ROOT_STATE_DIR", other_service)
    database.ROLE_COMMAND.write_text("a program that pip has installed")
    assert "start the service, which creates it" in run("token", "list").err


def test_the_command_for_the_service_of_a_unit_runs(
    run: Run, other_service: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    url = write_unit(tmp_path / "of the unit", f'sqlite://{tmp_path}/a $HOME"`id`\\')
    monkeypatch.chdir(tmp_path)
    with monkeypatch.context() as service:
        service.setenv("VIRTPLAY_DATABASE_URL", url)
        assert run("db", "upgrade").status == run("db", "backup", "my file").status == 0
    # The state directory may be that of the unit: only the database is elsewhere.
    for mine, other in (("mine", ""), ("of the unit", ""), ("mine", f"sqlite://{tmp_path}/none")):
        monkeypatch.setenv("VIRTPLAY_STATE_DIR", str(tmp_path / mine))
        monkeypatch.setenv("VIRTPLAY_DATABASE_URL", other)
        error = run("db", "restore", "my file").err
        command = error.partition("; run: ")[2].partition("; or make")[0]
        done = subprocess.run(
            command, shell=True, cwd="/", capture_output=True, text=True, check=True
        )
        place = place_of(url)
        assert done.stdout.startswith(f"restored the database {place} from {tmp_path}/my file,")


@pytest.mark.parametrize("name", ["", 'a $HOME"`id`\\'])
def test_the_service_of_a_unit_is_no_other_one(
    run: Run, own_state: Path, other_service: Path, monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path, name: str,
) -> None:  # fmt: skip
    mine, file = own_state, tmp_path / "file"
    assert run("db", "upgrade").status == run("db", "backup", str(file)).status == 0
    shutil.rmtree(mine)
    url = f"sqlite://{tmp_path}/{name}" if name else ""
    place = place_of(write_unit(mine, url))
    monkeypatch.setenv("VIRTPLAY_DATABASE_URL", url)
    assert run("token", "list").err.startswith(
        f"virtplay: cannot find the database {place}: start the service, which creates it,"
    )
    assert run("db", "restore", str(file)).out.startswith(f"restored the database {place} from ")
    assert run("token", "list").status == 0


def refuse_stat(monkeypatch: pytest.MonkeyPatch, path: Path) -> None:
    """Let the directory of a path hide it, as that of another user; root would see it."""
    stat = os.stat

    def refuse(file: Any, *args: Any, **options: Any) -> os.stat_result:
        if str(file) == str(path):
            raise PermissionError(13, "Permission denied", str(path))
        return stat(file, *args, **options)

    monkeypatch.setattr(os, "stat", refuse)


def test_a_database_that_is_hidden_is_not_taken_for_none(
    run: Run, other_service: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    # From Python 3.14 on, Path.exists returns False for it.
    monkeypatch.setattr(Path, "exists", lambda _path: False)
    place = tmp_path / "mine/virtplay.sqlite3"
    refuse_stat(monkeypatch, place)
    for command in (("token", "list"), ("db", "restore", str(tmp_path / "file"))):
        assert run(*command).err == (
            f"virtplay: cannot read the database {place}: run the command as its owner, or as"
            " root\n"
        )
    assert place.parent not in tmp_path.iterdir()
    with pytest.raises(CannotStart, match=f"cannot open the database at {place}: Permission"):
        asyncio.run(applied_migrations(f"sqlite://{place}"))
    with pytest.raises(CannotCopy, match=f"cannot save the database {place} in .*: Permission"):
        asyncio.run(save_backup(f"sqlite://{place}", tmp_path / "file"))


def test_a_restore_says_what_it_cannot_read_and_write(
    run: Run, own_state: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    state, file = own_state, tmp_path / "file"
    assert run("db", "upgrade").out == f"the database {state}/virtplay.sqlite3 is up to date\n"
    assert run("db", "backup", str(file)).status == 0
    result = run("db", "restore", str(file))
    assert result.out.startswith(
        f"restored the database {state}/virtplay.sqlite3 from {file}, made at "
    )
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for special in (str(pipe), "/dev/null", "/dev/fd/963"):
        assert run("db", "restore", special).err == (
            f"virtplay: cannot read {special}: it is a pipe or a device; write the backup into a"
            " file first\n"
        )
    for absent in ("/dev/shm/virtplay-none", str(tmp_path / "none")):
        assert run("db", "restore", absent).err == (
            f"virtplay: cannot read {absent}: No such file or directory\n"
        )
    assert run("db", "restore", str(tmp_path)).err == (
        f"virtplay: cannot read {tmp_path}: Is a directory\n"
    )
    with monkeypatch.context() as refused:
        refuse_stat(refused, file)
        assert run("db", "restore", str(file)).err == (
            f"virtplay: cannot read {file}: Permission denied\n"
        )

    def refuse(*_args: object, **_options: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(tempfile, "mkdtemp", refuse)
    assert run("db", "restore", str(file)).err == (
        f"virtplay: cannot restore {file}: {state}: Permission denied\n"
    )


@pytest.mark.parametrize(
    ("url", "place"),
    [
        ("postgres://me:se@cret@db.example:5432/virtplay?ssl=on", "db.example:5432/virtplay"),
        ("sqlite:///home/me@example/v.sqlite3", "/home/me@example/v.sqlite3"),
    ],
)
def test_a_database_is_named_without_its_password(url: str, place: str) -> None:
    assert place_of(url) == place


def test_a_backup_whose_time_cannot_be_noted_is_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state = tmp_path / "state"
    _note_time(state / "last-backup")
    assert capsys.readouterr().err == (
        f"virtplay: cannot note the time of the backup in {state}/last-backup: No such file or"
        " directory; set VIRTPLAY_STATE_DIR as the service has it\n"
    )
    assert not state.exists()
    state.mkdir()
    _note_time(state / "last-backup")
    os.utime(state / "last-backup", (1, 1))
    _note_time(state / "last-backup")
    assert (state / "last-backup").stat().st_mtime > 1
    assert capsys.readouterr().err == ""
    _note_time(state / "last-backup" / "last-backup")
    assert "cannot note the time of the backup in " in capsys.readouterr().err


def test_wrong_values_of_the_services_own_commands(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    for days in ("0", "-1", "nan", "1e9"):
        result = run("token", "create", "ci", "--expires-days", days)
        assert result.status == 2
        assert "--expires-days must be above 0 and at most" in result.err
    for command in ("backup", "restore"):
        result = run("db", command, "")
        assert result.status == 2
        assert "Invalid value for 'FILE': the name is empty" in result.err
    for command in ("serve", "up"):
        result = run(command, "--port", "99999")
        assert result.status == 2
        assert "Invalid value for '--port': 99999 is not between 1 and 65535" in result.err
    monkeypatch.setenv("VIRTPLAY_PORT", "99999")
    monkeypatch.setenv("VIRTPLAY_JOB_WORKERS", "many")
    result = run("token", "list")
    assert (result.status, result.err) == (
        1,
        "virtplay: cannot use the settings: VIRTPLAY_PORT must be less than or equal to 65535;"
        " VIRTPLAY_JOB_WORKERS must be a valid integer\n",
    )
    monkeypatch.delenv("VIRTPLAY_PORT")
    monkeypatch.delenv("VIRTPLAY_JOB_WORKERS")
    monkeypatch.setenv("VIRTPLAY_TLS_KEY", __file__)
    result = run("token", "list")
    assert result.err == (
        "virtplay: cannot use the settings: VIRTPLAY_TLS_CERTIFICATE and VIRTPLAY_TLS_KEY require"
        " each other\n"
    )
