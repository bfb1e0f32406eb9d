"""Unit tests: how a console reaches a host, from its inventory variables."""

from __future__ import annotations

import asyncio
import getpass
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
from virtplay.console.address import Address, jump_address, program_command, read_address
from virtplay.errors import CannotStart, HostUnreachable
from virtplay.hosts.inventory import load_connection_defaults

PROJECT = Path("/project")


def read(defaults: dict[str, Any] | None = None, **variables: Any) -> Address:
    return read_address("kvm1", variables, defaults or {}, PROJECT)


def test_a_host_without_variables_is_reached_by_its_name() -> None:
    assert read() == Address("kvm1", host="kvm1")


def test_a_local_host_is_reached_directly() -> None:
    address = read(ansible_connection="local", ansible_python_interpreter="/opt/python")
    assert address == Address("kvm1", local=True, python="/opt/python")


def test_the_first_of_two_values_counts_as_on_the_command_line_of_ansible() -> None:
    address = read(
        ansible_host="198.51.100.7",
        ansible_port=2222,
        ansible_user="ops",
        ansible_ssh_private_key_file="keys/id",
        ansible_ssh_args="-C -o ControlMaster=auto",
        ansible_ssh_common_args="-o UserKnownHostsFile=/etc/kh -J jump.example.org",
        ansible_ssh_extra_args="-4vp22 -F /etc/other",
    )
    assert address.host == "198.51.100.7"
    assert address.lines == (
        "ControlMaster auto",
        "Port 2222",
        "IdentityFile /project/keys/id",
        "User ops",
        "UserKnownHostsFile /etc/kh",
        "ProxyJump jump.example.org",
        "Port 22",
    )
    assert address.config_files == ("/etc/other",)


@pytest.mark.parametrize(
    ("arguments", "lines"),
    [
        ("", ()),
        ("-o Port=22", ("Port 22",)),
        ("-oPort=22", ("Port 22",)),
        ("-o 'Port 22'", ("Port 22",)),
        ("-o Port = 22", None),
        ("-o 'Port = 22'", ("Port 22",)),
        ("-o 'ProxyCommand=ssh -W %h:%p a=b'", ("ProxyCommand ssh -W %h:%p a=b",)),
        ("-i '/a key'", ('IdentityFile "/a key"',)),
        ("-i/key -l ops -p 22", ("IdentityFile /key", "User ops", "Port 22")),
        ("-W host:22 -L 1:a:2 -q", ()),
        ("-p", None),
        ("-z", None),
        ("host", None),
        ("-o 'Port", None),
        ("--", None),
    ],
)
def test_arguments_of_ssh(arguments: str, lines: tuple[str, ...] | None) -> None:
    if lines is not None:
        assert read(ansible_ssh_common_args=arguments).lines == lines
        return
    with pytest.raises(HostUnreachable) as caught:
        read(ansible_ssh_common_args=arguments)
    assert caught.value.message.startswith("cannot reach a console on host kvm1: its SSH argument")


def test_no_config_file_is_read_when_it_is_none() -> None:
    assert read(ansible_ssh_args="-F none").config_files == ()
    assert read().config_files is None


@pytest.mark.parametrize(
    "variables",
    [
        {"ansible_host": "{{ address }}"},
        {"ansible_password": "{% if x %}y{% endif %}"},
        {"ansible_connection": "winrm"},
        {"ansible_become": True, "ansible_become_method": "doas"},
    ],
)
def test_what_cannot_be_used_is_named(variables: dict[str, Any]) -> None:
    with pytest.raises(HostUnreachable) as caught:
        read(**variables)
    assert next(reversed(variables)) in caught.value.message
    assert "%}" not in caught.value.message


@pytest.mark.parametrize(
    ("jumps", "host", "lines"),
    [
        ("hop", "hop", ("ProxyJump none",)),
        ("ops@hop:2222", "hop", ("ProxyJump none", "User ops", "Port 2222")),
        ("ssh://ops@hop:2222", "hop", ("ProxyJump none", "User ops", "Port 2222")),
        ("a@b@[2001:db8::7]:22", "2001:db8::7", ("ProxyJump none", "User a@b", "Port 22")),
        ("[2001:db8::7]", "2001:db8::7", ("ProxyJump none",)),
        ("me@one:1,two,three:3", "three", ("ProxyJump me@one:1,two", "Port 3")),
    ],
)
def test_the_way_goes_over_the_last_jump_first(
    jumps: str, host: str, lines: tuple[str, ...]
) -> None:
    address = read(ansible_ssh_common_args="-F /etc/other", ansible_port=7, ansible_password="x")
    expected = Address("kvm1", host=host, lines=lines, config_files=("/etc/other",))
    assert jump_address(address, jumps) == expected


def test_a_password_is_not_shown() -> None:
    address = read(ansible_password="hunter22")
    assert address.password == "hunter22"
    assert "hunter22" not in repr(address)


@pytest.mark.parametrize(
    ("variables", "user"),
    [
        ({"ansible_become": "yes"}, "root"),
        ({"ansible_become": True}, "root"),
        ({"ansible_become": True, "ansible_become_user": "virt; id"}, "virt; id"),
        ({"ansible_become": "false", "ansible_become_user": "virt"}, None),
    ],
)
def test_the_stream_program_runs_as_the_user_that_ansible_becomes(
    variables: dict[str, Any], user: str | None
) -> None:
    words = list(program_command(read(**variables), "import x", "1-2"))
    plain = ["/usr/bin/python3", "-c", "import x", "qemu:///system", "1-2"]
    assert words == ([*("sudo", "-n", f"--user={user}", "--"), *plain] if user else plain)


def test_the_stream_program_of_a_local_host_becomes_nobody_that_the_service_is() -> None:
    variables: dict[str, Any] = {"ansible_connection": "local", "ansible_become": True}
    own = {**variables, "ansible_become_user": getpass.getuser()}
    assert program_command(read(**own), "import x", "1-2")[0] == "/usr/bin/python3"
    other = {**variables, "ansible_become_user": "somebody-else"}
    assert list(program_command(read(**other), "", ""))[:3] == [
        "sudo",
        "-n",
        "--user=somebody-else",
    ]


@pytest.mark.slow
async def test_defaults_are_the_settings_of_ansible(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "ansible.cfg").write_text(
        "[defaults]\nremote_user = ops\nremote_port = 22\ninterpreter_python = auto_silent\n"
        "private_key_file = keys/id\n"
        "[ssh_connection]\nssh_args = -o Port=2222\n[privilege_escalation]\nbecome = true\n"
        "become_user = virt\n"
    )
    defaults = await load_connection_defaults(tmp_path)
    address = read(defaults)
    key = "IdentityFile /project/keys/id"
    assert address.lines == ("Port 2222", "Port 22", key, "User ops")
    assert (address.python, address.become) == ("/usr/bin/python3", "virt")
    assert read(defaults, ansible_user="me").lines == ("Port 2222", "Port 22", key, "User me")
    # As for jobs, a variable of the environment counts more than the file.
    monkeypatch.setenv("ANSIBLE_REMOTE_USER", "env")
    monkeypatch.setenv("ANSIBLE_SSH_COMMON_ARGS", "-J jump.example.org")
    monkeypatch.setenv("ANSIBLE_BECOME", "false")
    address = read(await load_connection_defaults(tmp_path))
    assert address.lines[3:] == ("User env", "ProxyJump jump.example.org")
    assert address.become is None


@pytest.mark.slow
async def test_a_read_that_is_cancelled_leaves_no_process(tmp_path: Path) -> None:
    (tmp_path / "ansible.cfg").write_text("[defaults]\n")
    reading = asyncio.create_task(load_connection_defaults(tmp_path))
    async with asyncio.timeout(60):
        while not readers_of_settings():  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    assert readers_of_settings() == []


def readers_of_settings() -> list[psutil.Process]:
    """Return the children of this process that run ansible-config."""
    found = []
    for child in psutil.Process().children():
        # A child of another test may end in this moment.
        with suppress(psutil.NoSuchProcess):
            if "ansible-config" in str(child.cmdline()):
                found.append(child)
    return found


@pytest.mark.slow
async def test_nothing_is_taken_from_the_defaults_of_ansible_itself(tmp_path: Path) -> None:
    assert await load_connection_defaults(tmp_path) == {}


@pytest.mark.slow
async def test_settings_that_ansible_cannot_read_are_an_error(tmp_path: Path) -> None:
    (tmp_path / "ansible.cfg").write_text("[defaults\n")
    with pytest.raises(
        CannotStart, match=r"cannot read the configuration of Ansible: .*ansible\.cfg"
    ):
        await load_connection_defaults(tmp_path)
