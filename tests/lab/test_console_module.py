"""Lab tests: the module `console` and the serial stream, on a real hypervisor over SSH."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shlex
import subprocess
import sys
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from lab import Host, Lab
from tests.rfb import NONE, VNC_AUTHENTICATION, RfbRefused, Screen, shake_hands

pytestmark = pytest.mark.lab

REPOSITORY = Path(__file__).resolve().parents[2]
MODULE_UTILS = REPOSITORY / "collections/ansible_collections/virtplay/libvirt/plugins/module_utils"
PASSWORD = "zQ7-pass"
OTHER = "another1"
Play = Callable[..., dict[str, Any]]
Vm = dict[str, Any]


@pytest.fixture
def host(lab: Lab) -> Host:
    return lab.hosts[0]


@pytest.fixture
def play(lab: Lab, host: Host, tmp_path: Path) -> Play:
    """Run a playbook; no output of it may hold a password."""

    def run(action: str, *options: str, **variables: Any) -> dict[str, Any]:
        path = tmp_path / "variables.json"
        path.write_text(json.dumps(variables))
        done = subprocess.run(
            [
                str(Path(sys.executable).with_name("ansible-playbook")),
                f"playbooks/{action}.yml",
                *("-i", str(lab.inventory), "--limit", host.name, "-e", f"@{path}", *options),
            ],
            cwd=REPOSITORY,
            env=os.environ | {"ANSIBLE_STDOUT_CALLBACK": "ansible.posix.json"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert PASSWORD not in done.stdout + done.stderr
        assert not re.search(r"passwd=", done.stdout + done.stderr)
        results = [task["hosts"] for task in json.loads(done.stdout)["plays"][0]["tasks"]]
        result: dict[str, Any] = [of[host.name] for of in results if host.name in of][-1]
        return result

    return run


@pytest.fixture
def vm(host: Host, play: Play) -> Iterator[Vm]:
    """A running guest."""
    identity = str(uuid.uuid4())
    made = play(
        "vm_create",
        "--diff",
        libvirt_domain_uuid=identity,
        libvirt_domain_name=f"vm-{identity[:8]}",
        libvirt_domain_template="micro",
        libvirt_domain_vcpus=1,
        libvirt_domain_memory=128,
        libvirt_domain_disk=1,
        libvirt_domain_state="running",
    )
    yield made["domain"]
    host.run("virsh", "destroy", identity, check=False)
    host.run("virsh", "undefine", identity, check=False)
    host.run("sh", "-c", f"rm -f /var/lib/libvirt/images/{identity}-*")
    host.run("virsh", "-q", "pool-refresh", "default")


def open_console(play: Play, vm: Vm, *options: str, **values: Any) -> dict[str, Any]:
    values = {"uuid": vm["uuid"], "password": PASSWORD, **values}
    variables = {f"libvirt_console_{key}": value for key, value in values.items()}
    return play("console_open", *options, **variables)


def graphics(host: Host, vm: Vm, *options: str) -> str:
    xml = host.run("virsh", "dumpxml", *options, vm["uuid"]).stdout
    found = re.search(r"<graphics [^>]*>", xml)
    assert found
    return found[0]


@asynccontextmanager
async def ssh(lab: Lab, *arguments: str) -> AsyncIterator[Any]:
    process = await asyncio.create_subprocess_exec(
        str(lab.directory / "ssh"),
        *arguments,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def log_in(lab: Lab, host: Host, port: int, password: str) -> Screen:
    """Log in to a VNC on the host's loopback."""
    async with ssh(lab, "-W", f"127.0.0.1:{port}", host.name) as process:

        async def write(data: bytes) -> None:
            process.stdin.write(data)
            await process.stdin.drain()

        async with asyncio.timeout(120):
            return await shake_hands(process.stdout.readexactly, write, password)


async def refused(lab: Lab, host: Host, port: int, password: str) -> None:
    with pytest.raises(RfbRefused):
        await log_in(lab, host, port, password)


async def lets_in(lab: Lab, host: Host, port: int) -> bool:
    """Whether the password opens the screen just now."""
    try:
        await log_in(lab, host, port, PASSWORD)
    except RfbRefused:
        return False
    return True


async def open_directly(lab: Lab, host: Host, identity: str, kind: str = "vnc") -> dict[str, Any]:
    """What the program says that the service sends over SSH in the module's place."""
    source = (MODULE_UTILS / "console_open.py").read_text()
    command = shlex.join(["/usr/bin/python3", "-c", source, "qemu:///system", identity, kind])
    async with ssh(lab, host.name, command) as process:
        given = json.dumps({"password": OTHER, "seconds": 60}).encode()
        said, errors = await asyncio.wait_for(process.communicate(given), 120)
        assert process.returncode == 0, errors
        result: dict[str, Any] = json.loads(said)
        return result


async def test_password_lets_in_while_it_is_valid(lab: Lab, host: Host, play: Play, vm: Vm) -> None:
    port = vm["graphics"]["port"]
    assert vm["graphics"]["host"] == "127.0.0.1"
    # From its first start on it asks, and nobody has an answer.
    await refused(lab, host, port, "")
    dry = open_console(play, vm, "--check", "--diff")
    assert (dry["changed"], dry["console"]["password_set"]) == (True, True)
    await refused(lab, host, port, PASSWORD)

    opened = open_console(play, vm)
    assert opened["changed"] is True
    assert opened["domain"]["state"] == "running"
    assert opened["console"] == {
        "type": "vnc",
        "host": "127.0.0.1",
        "port": port,
        "password_set": True,
        "seconds": 60,
    }
    screen = await log_in(lab, host, port, PASSWORD)
    assert screen.securities == [VNC_AUTHENTICATION]
    assert screen.width > 0
    await refused(lab, host, port, OTHER)

    # Neither the definition nor what libvirt shows without being asked for secrets has it.
    assert PASSWORD not in graphics(host, vm)
    assert PASSWORD not in graphics(host, vm, "--inactive", "--security-info")
    kept = host.run("grep", "-rlF", PASSWORD, "/etc/libvirt", "/var/log/libvirt", check=False)
    assert kept.stdout == ""

    # Nor has a snapshot that is taken meanwhile, and the password goes on opening the screen.
    play("snapshot_create", libvirt_snapshot_uuid=vm["uuid"], libvirt_snapshot_name="meanwhile")
    shown = host.run("virsh", "snapshot-dumpxml", "--security-info", vm["uuid"], "meanwhile")
    assert "passwd=" in shown.stdout
    kept = host.run("grep", "-rlF", PASSWORD, "/var/lib/libvirt/qemu", check=False)
    assert (PASSWORD in shown.stdout, kept.stdout) == (False, "")
    assert await log_in(lab, host, port, PASSWORD)
    play("snapshot_delete", libvirt_snapshot_uuid=vm["uuid"], libvirt_snapshot_name="meanwhile")

    # The program without Ansible does the same.
    assert await open_directly(lab, host, vm["uuid"]) == {
        "type": "vnc",
        "host": "127.0.0.1",
        "port": port,
        "password_set": True,
    }
    assert (await log_in(lab, host, port, OTHER)).securities == [VNC_AUTHENTICATION]
    await refused(lab, host, port, PASSWORD)
    assert OTHER not in graphics(host, vm, "--inactive", "--security-info")

    open_console(play, vm, seconds=1)
    async with asyncio.timeout(120):
        while await lets_in(lab, host, port):  # noqa: ASYNC110 - QEMU wakes nobody
            await asyncio.sleep(0.2)


async def test_redefined_and_restarted_vm_still_asks(
    lab: Lab, host: Host, play: Play, vm: Vm
) -> None:
    before = graphics(host, vm, "--inactive", "--security-info")
    assert "passwd=" in before
    changed = play(
        "vm_update",
        "--diff",
        libvirt_domain_uuid=vm["uuid"],
        libvirt_domain_title="Other",
        libvirt_domain_memory=128,
    )
    assert changed["changed"] is True
    assert graphics(host, vm, "--inactive", "--security-info") == before
    restarted = play("vm_restart", libvirt_domain_uuid=vm["uuid"], libvirt_domain_force=True)
    port = restarted["domain"]["graphics"]["port"]
    await refused(lab, host, port, PASSWORD)
    assert open_console(play, vm)["console"]["password_set"] is True
    assert await log_in(lab, host, port, PASSWORD)


async def test_vm_that_was_not_made_here(lab: Lab, host: Host, play: Play, vm: Vm) -> None:
    def redefine(wrong: str) -> None:
        host.run("virsh", "destroy", vm["uuid"])
        xml = host.run("virsh", "dumpxml", "--inactive", vm["uuid"]).stdout
        xml = re.sub(r"<graphics.*?</graphics>", wrong, xml, flags=re.DOTALL)
        host.run("virsh", "define", "/dev/stdin", stdin=xml)
        host.run("virsh", "start", vm["uuid"])

    redefine("<graphics type='vnc' port='-1' autoport='yes' listen='127.0.0.1'/>")
    opened = open_console(play, vm)
    assert (opened["changed"], opened["console"]["password_set"]) == (False, False)
    directly = await open_directly(lab, host, vm["uuid"])
    assert directly == {key: opened["console"][key] for key in directly}
    assert (await log_in(lab, host, opened["console"]["port"], "")).securities == [NONE]

    redefine("<graphics type='vnc' port='-1' autoport='yes' listen='0.0.0.0'/>")
    assert open_console(play, vm)["code"] == "CONSOLE_NOT_AVAILABLE"
    assert (await open_directly(lab, host, vm["uuid"]))["code"] == "CONSOLE_NOT_AVAILABLE"
    redefine("")
    refusal = open_console(play, vm)
    assert refusal["code"] == "CONSOLE_NOT_AVAILABLE"
    directly = await open_directly(lab, host, vm["uuid"])
    assert directly["code"] == "CONSOLE_NOT_AVAILABLE"
    assert refusal["msg"].endswith(f": {directly['msg']}")

    host.run("virsh", "destroy", vm["uuid"])
    for kind in ("vnc", "serial"):
        assert open_console(play, vm, type=kind)["code"] == "VM_ALREADY_STOPPED"
        assert (await open_directly(lab, host, vm["uuid"], kind))["code"] == "VM_ALREADY_STOPPED"
    absent = str(uuid.uuid4())
    assert open_console(play, vm, uuid=absent)["code"] == "VM_NOT_FOUND"
    assert (await open_directly(lab, host, absent))["code"] == "VM_NOT_FOUND"


def stream_command(vm: Vm) -> str:
    source = (MODULE_UTILS / "console_stream.py").read_text()
    return shlex.join(["/usr/bin/python3", "-c", source, "qemu:///system", vm["uuid"]])


async def see(process: Any, mark: bytes) -> bytes:
    said = b""
    async with asyncio.timeout(60):
        while mark not in said:
            piece = await process.stdout.read(4096)
            assert piece, said
            said += piece
    return said


async def test_serial_stream(lab: Lab, host: Host, play: Play, vm: Vm) -> None:
    opened = open_console(play, vm, type="serial")
    assert opened["changed"] is False
    assert (opened["console"]["host"], opened["console"]["port"]) == (None, None)
    async with ssh(lab, host.name, stream_command(vm)) as first:
        assert await first.stderr.readline() == b"open\n"
        async with asyncio.timeout(60):
            reading = asyncio.create_task(see(first, b"~ # "))
            while not reading.done():
                first.stdin.write(b"\n")
                await asyncio.wait([reading], timeout=2)
            await reading
        first.stdin.write(b"echo mark-$((6 * 7))\n")
        await see(first, b"mark-42")
        async with ssh(lab, host.name, stream_command(vm)) as second:
            assert await second.stderr.readline() == b"open\n"
            said = (await asyncio.wait_for(first.communicate(), 120))[1]
            assert (first.returncode, b"taken" in said) == (5, True)
            second.stdin.write(b"echo mark-$((6 * 8))\n")
            await see(second, b"mark-48")
            host.run("virsh", "destroy", vm["uuid"])
            await asyncio.wait_for(second.communicate(), 120)
            assert second.returncode == 4
    async with ssh(lab, host.name, stream_command(vm)) as third:
        _, said = await asyncio.wait_for(third.communicate(), 120)
        assert (third.returncode, said.startswith(b"cannot open the console: ")) == (3, True)


async def test_serial_stream_ends_with_its_client(lab: Lab, host: Host, vm: Vm) -> None:
    async with ssh(lab, host.name, stream_command(vm)) as process:
        assert await process.stderr.readline() == b"open\n"
        process.stdin.close()
        assert await asyncio.wait_for(process.wait(), 120) == 0
