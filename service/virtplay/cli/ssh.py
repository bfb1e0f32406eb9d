"""Command line: opens a shell in a guest with OpenSSH, through the VM's host where necessary."""

import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import NamedTuple, NoReturn
from urllib.parse import urlsplit

from virtplay.cli.client import Client, JsonObject, path_of
from virtplay.cli.connection import is_loopback
from virtplay.cli.faults import ClientError
from virtplay.cli.following import NoAddress, wait_for_address
from virtplay.cli.screen import print_notes
from virtplay.states import VmStatus

PORT = 22
FRESH_SECONDS = 300.0
"""How long after the start of a VM its SSH server may not be ready yet."""
READY_SECONDS = 60.0
"""How long the SSH server of such a VM is waited for."""
POLL_SECONDS = 0.2
COMING = (VmStatus.CREATING, VmStatus.STARTING, VmStatus.RESTARTING)
"""The statuses of a VM that may run soon."""
USERS = {
    "almalinux": "almalinux",
    "alpine": "alpine",
    "arch": "arch",
    "centos": "cloud-user",
    "debian": "debian",
    "fedora": "fedora",
    "freebsd": "freebsd",
    "micro": "root",
    "opensuse": "opensuse",
    "rhel": "cloud-user",
    "rocky": "rocky",
    "ubuntu": "ubuntu",
}
"""Beginning of a VM's `os` → the first user of the cloud image."""
NEW_HOST_KEYS = ("micro",)
"""Systems whose host key is new after every boot."""
NO_JUMP = "none"


class CannotLogIn(ClientError):
    """The VM cannot be reached by SSH now."""

    code = "CANNOT_LOG_IN"


class Target(NamedTuple):
    """What ssh connects to."""

    address: str
    user: str | None
    jump: str | None
    """The host between, as ssh -J takes it; None for a direct connection."""


def exec_ssh(
    client: Client,
    vm_name: str,
    *,
    user: str | None,
    identity: Path | None,
    jump: str | None,
    wait: bool,
    command: Sequence[str],
) -> NoReturn:
    """Become ssh, which is connected to the guest; CannotLogIn, NoAddress.

    With `wait`, a VM that is created, started or has no address yet is waited for. The SSH server
    of a VM that was started just now is waited for in any case.
    """
    vm = client.get(path_of("vms", vm_name))
    shown = f"VM {vm['name']} ({vm['id']})"
    if not vm["ip"]:
        if vm["status"] not in (*COMING, VmStatus.RUNNING):
            raise CannotLogIn(f"cannot log in to {shown}: it is {vm['status']}")
        if not wait and vm["status"] in COMING:
            raise CannotLogIn(
                f"cannot log in to {shown}: it is {vm['status']}; --wait waits for it"
            )
        if not wait:
            raise NoAddress(
                f"cannot log in to {shown}: its address is not known yet; --wait waits for it, and"
                f" virtplay vm console {vm['id']} needs none"
            )
        begun = time.monotonic()
        vm = wait_for_address(client, vm["id"], vm["name"], quiet=False, begun=begun)
    elif vm["status"] in (VmStatus.STOPPED, VmStatus.PAUSED, VmStatus.ERROR):
        raise CannotLogIn(f"cannot log in to {shown}: it is {vm['status']}")
    between = (None if jump == NO_JUMP else jump) if jump else find_jump(client, vm)
    target = Target(vm["ip"], user or user_of(vm["os"]), between)
    client.close()
    if (wait or _is_fresh(vm)) and not wait_for_server(target, shown):
        # ssh goes on to say why.
        print_notes(
            [
                f"The SSH server of {shown} does not answer; see virtplay vm console {vm['id']} (a"
                " VM created without an SSH key may have none)"
            ]
        )
    arguments = ssh_arguments(vm, target, identity, command)
    sys.stdout.flush()
    try:
        os.execvp("ssh", arguments)  # noqa: S606
    except FileNotFoundError:
        raise CannotLogIn("cannot run ssh: it is not installed; install OpenSSH's client") from None


def find_jump(client: Client, vm: JsonObject) -> str | None:
    """Return the machine through which a guest is reached, as ssh -J takes it; None if directly.

    A guest on a libvirt network is reached from its host: other machines may use the same
    addresses for guests of their own. One on a bridge has an address of the network around it.
    """
    if not vm["host"] or vm["network"].get("type") == "bridge":
        return None
    way = client.get(path_of("hosts", vm["host"]))["connection"]
    if way["type"] == "local":
        return None if is_loopback(client.url) else urlsplit(client.url).hostname
    address = way["address"]
    if not address or is_loopback(f"ssh://{_bracketed(address)}"):
        return None
    user = f"{way['user']}@" if way["user"] else ""
    port = f":{way['port']}" if way["port"] else ""
    return f"{user}{_bracketed(address)}{port}"


def ssh_arguments(
    vm: JsonObject, target: Target, identity: Path | None, command: Sequence[str]
) -> list[str]:
    """Return the command line of ssh.

    The guest's key is remembered for the VM, not for the address, which other VMs get later.
    """
    if vm["os"] in NEW_HOST_KEYS:
        keys = ["StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", "LogLevel=ERROR"]
    else:
        keys = [f"HostKeyAlias=virtplay-{vm['uuid']}", "StrictHostKeyChecking=accept-new"]
    words = ["ssh", "-o", "ConnectTimeout=10"]
    for setting in keys:
        words += ["-o", setting]
    for option, value in (("-J", target.jump), ("-i", identity), ("-l", target.user)):
        if value is not None:
            words += [option, str(value)]
    return [*words, "--", target.address, *command]


def user_of(system: str) -> str | None:
    """Return the first user of a cloud image by the VM's `os`; None for an unknown one."""
    name = re.match("[a-z]*", system.lower())
    return USERS.get(name[0]) if name else None


def wait_for_server(target: Target, shown: str) -> bool:
    """Return when the SSH server of the guest of `shown` answers; False after READY_SECONDS."""
    deadline = time.monotonic() + READY_SECONDS
    said = False
    while not _is_ready(target):
        if time.monotonic() >= deadline:
            return False
        if not said:
            print_notes([f"Waiting for the SSH server of {shown} …"])
            said = True
        time.sleep(POLL_SECONDS)
    return True


def _is_ready(target: Target) -> bool:
    if target.jump is None:
        with (
            suppress(OSError),
            socket.create_connection((target.address, PORT), 2) as connection,
        ):
            connection.settimeout(5)
            return connection.recv(4) == b"SSH-"
        return False
    words = ["ssh", "-o", "BatchMode=yes", "-o", "ConnectTimeout=5"]
    words += ["-W", f"{_bracketed(target.address)}:{PORT}", *_destination(target.jump)]
    try:
        done = subprocess.run(
            words, stdin=subprocess.DEVNULL, capture_output=True, timeout=20, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return True  # ssh itself will say what is wrong
    if b"Host key verification failed" in done.stderr and b"HAS CHANGED" not in done.stderr:
        way = target.jump if ":" not in target.jump else f"ssh://{target.jump}"
        unknown = f"The host key of {target.jump} is not known here: connect to it once with ssh"
        print_notes([f"{unknown} {way}, or use --jump."])
    # Another error than that of the guest's port is the way's own, which does not go away.
    return done.stdout.startswith(b"SSH-") or b"open failed" not in done.stderr


def _destination(jump: str) -> list[str]:
    """Return the arguments of ssh for what stands behind -J."""
    return ["--", f"ssh://{jump}"]


def _is_fresh(vm: JsonObject) -> bool:
    if not vm["startedAt"]:
        return False
    started = datetime.fromisoformat(vm["startedAt"])
    return (datetime.now(started.tzinfo) - started).total_seconds() < FRESH_SECONDS


def _bracketed(address: str) -> str:
    return f"[{address}]" if ":" in address else address
