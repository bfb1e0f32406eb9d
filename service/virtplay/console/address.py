"""Reads how Ansible connects to a host from its inventory variables, as ssh_config lines."""

import getopt
import getpass
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from virtplay.errors import HostUnreachable

DEFAULT_PYTHON = "/usr/bin/python3"
DEFAULT_URI = "qemu:///system"
ROOT = "root"
ARGUMENTS = ("ansible_ssh_args", "ansible_ssh_common_args", "ansible_ssh_extra_args")
OPTIONS = "46AaCfGgKkMNnqsTtVvXxYyB:b:c:D:E:e:F:I:i:J:L:l:m:O:o:P:p:Q:R:S:W:w:"
"""The options of ssh, for getopt."""
OPTION_KEYS = {
    "-b": "BindAddress",
    "-i": "IdentityFile",
    "-J": "ProxyJump",
    "-l": "User",
    "-p": "Port",
}
"""Options with a key of ssh_config; of the others, only -o and -F decide about a connection."""
LOCAL_CONNECTIONS = ("local", "ansible.builtin.local")
SSH_CONNECTIONS = ("ssh", "smart", "paramiko", "paramiko_ssh", "ansible.builtin.ssh")


@dataclass(frozen=True)
class Address:
    """How consoles connect to a host: locally, or over SSH."""

    name: str
    local: bool = False
    host: str = ""
    lines: tuple[str, ...] = ()
    """Lines of ssh_config; the first line of each key counts."""
    config_files: tuple[str, ...] | None = None
    """Files that are read after the lines; None for OpenSSH's defaults."""
    password: str | None = field(default=None, repr=False)
    become: str | None = None
    """The user for sudo; None without sudo."""
    python: str = DEFAULT_PYTHON
    uri: str = DEFAULT_URI
    """The URI of libvirt on the host."""


def read_address(
    name: str, variables: Mapping[str, Any], defaults: Mapping[str, Any], directory: Path
) -> Address:
    """Read a host's variables; `defaults` are Ansible's settings for what they lack.

    A key's path is relative to `directory`. HostUnreachable names what cannot be used.
    """

    def value(*keys: str) -> Any:
        found = next((variables[key] for key in keys if variables.get(key) is not None), None)
        if found is None:
            found = next((defaults[key] for key in keys if key in defaults), None)
        if isinstance(found, str) and ("{{" in found or "{%" in found):
            raise _unusable(name, f"{keys[0]} is a template; consoles require a plain value")
        return found

    connection = str(value("ansible_connection") or "ssh")
    become = is_true(value("ansible_become"))
    method = value("ansible_become_method") or "sudo"
    if become and str(method).rsplit(".", 1)[-1] != "sudo":
        raise _unusable(name, f"ansible_become_method is {method}, but consoles support only sudo")
    python = str(value("ansible_python_interpreter") or DEFAULT_PYTHON)
    common: dict[str, Any] = {
        "become": str(value("ansible_become_user") or ROOT) if become else None,
        # auto and the like: Ansible would discover the interpreter.
        "python": DEFAULT_PYTHON if python.startswith("auto") else python,
        "uri": str(value("libvirt_console_uri") or DEFAULT_URI),
    }
    if connection in LOCAL_CONNECTIONS:
        return Address(name, local=True, **common)
    if connection not in SSH_CONNECTIONS:
        raise _unusable(
            name, f"ansible_connection is {connection}, but consoles support only ssh and local"
        )
    key = value("ansible_ssh_private_key_file", "ansible_private_key_file")
    settings = [
        ("Port", value("ansible_port", "ansible_ssh_port")),
        ("IdentityFile", directory / Path(str(key)).expanduser() if key else None),
        ("User", value("ansible_user", "ansible_ssh_user")),
        ("ConnectTimeout", value("ansible_timeout", "ansible_ssh_timeout")),
    ]
    own = [f"{option} {quote(str(given))}" for option, given in settings if given not in (None, "")]
    # The order of Ansible's own command line.
    (first, files), *others = [
        read_arguments(name, str(value(variable) or "")) for variable in ARGUMENTS
    ]
    lines = [*first, *own]
    for more, more_files in others:
        lines += more
        files = more_files if more_files is not None else files
    password = value("ansible_password", "ansible_ssh_pass", "ansible_ssh_password")
    return Address(
        name,
        host=str(value("ansible_host", "ansible_ssh_host") or name),
        lines=tuple(lines),
        config_files=files,
        password=str(password) if password is not None else None,
        **common,
    )


def read_arguments(name: str, text: str) -> tuple[list[str], tuple[str, ...] | None]:
    """Return the ssh_config lines for arguments of ssh, and the files of -F if it is among them."""
    try:
        words = shlex.split(text)
        options, rest = getopt.getopt(words, OPTIONS)
    except (ValueError, getopt.GetoptError) as error:
        raise _unusable(name, f"its SSH arguments cannot be read ({error})") from None
    if rest or "--" in words:
        raise _unusable(name, f"its SSH arguments contain {(rest or ['--'])[0]!r}, not an option")
    lines: list[str] = []
    files: tuple[str, ...] | None = None
    for option, given in options:
        if option == "-o":
            lines.append(option_line(given))
        elif option == "-F":
            files = () if given.lower() == "none" else (given,)
        elif key := OPTION_KEYS.get(option):
            lines.append(f"{key} {quote(given)}")
    return lines, files


def option_line(text: str) -> str:
    """Return a line of ssh_config for `Key=value` or `Key value` of ssh's -o."""
    key, separator, value = text.partition("=")
    if not separator or " " in key.strip():
        key, _, value = text.strip().partition(" ")
    return f"{key.strip()} {value.strip()}"


def jump_address(address: Address, jumps: str) -> Address:
    """Return the last of ProxyJump's hosts, with the hosts before it as its own ProxyJump.

    As with ssh, only the configuration files of the host itself apply to its jump hosts.
    """
    before, _, last = jumps.rpartition(",")
    user, _, place = last.strip().removeprefix("ssh://").rpartition("@")
    if place.startswith("["):
        host, _, port = place[1:].partition("]")
    else:
        host, _, port = place.partition(":")
    settings = (("User", user), ("Port", port.lstrip(":")))
    lines = [f"{option} {quote(given)}" for option, given in settings if given]
    return Address(
        address.name,
        host=host,
        lines=(f"ProxyJump {before or 'none'}", *lines),
        config_files=address.config_files,
    )


def quote(text: str) -> str:
    """Quote a value with spaces for ssh_config."""
    return f'"{text}"' if any(c.isspace() for c in text) else text


def is_true(value: object) -> bool:
    """Whether Ansible treats a variable as true."""
    return str(value).lower() in ("true", "yes", "on", "1", "y", "t")


def program_command(address: Address, source: str, *arguments: str) -> Sequence[str]:
    """Return the command of a program of consoles; its first argument is libvirt's URI."""
    user = address.become
    if address.local and user == getpass.getuser():
        user = None
    prefix = ["sudo", "-n", f"--user={user}", "--"] if user else []
    return [*prefix, address.python, "-c", source, address.uri, *arguments]


def _unusable(name: str, reason: str) -> HostUnreachable:
    return HostUnreachable(f"cannot reach a console on host {name}: {reason}")
