"""Unit tests: virtplay vm ssh, and the waits for an address and an SSH server before it."""

import os
import socket
import stat
import subprocess
import threading
from pathlib import Path
from typing import Any

import pytest
from virtplay.cli import ssh
from virtplay.cli.client import Client
from virtplay.cli.connection import Connection
from virtplay.cli.ssh import Target, find_jump, ssh_arguments, user_of, wait_for_server

from tests.unit.cli.conftest import Run
from tests.unit.cli.service import TOKEN, FakeService, make_vm
from tests.unit.cli.test_hosts import make_host
from tests.unit.cli.test_jobs import PROGRAM

LOCAL = {"type": "local", "address": None, "port": None, "user": None}
REMOTE = {"type": "ssh", "address": "192.0.2.10", "port": None, "user": None}
NATTED: dict[str, Any] = {"type": "network", "network": "default"}
BRIDGED: dict[str, Any] = {"type": "bridge", "bridge": "br0"}


@pytest.mark.parametrize(
    ("url", "network", "connection", "jump"),
    [
        ("http://localhost:3000", NATTED, LOCAL, None),
        ("https://virt.example", NATTED, LOCAL, "virt.example"),
        ("http://localhost:3000", NATTED, REMOTE, "192.0.2.10"),
        ("https://virt.example", NATTED, {**REMOTE, "user": "ops", "port": 2222},
         "ops@192.0.2.10:2222"),
        ("https://virt.example", NATTED, {**REMOTE, "address": "2001:db8::1"}, "[2001:db8::1]"),
        ("https://virt.example", BRIDGED, REMOTE, None),
        ("http://localhost:3000", NATTED, {**REMOTE, "address": "127.0.0.1"}, None),
        ("http://localhost:3000", NATTED, {**REMOTE, "address": None}, None),
    ],
)  # fmt: skip
def test_guests_of_a_libvirt_network_are_reached_through_their_host(
    service: FakeService,
    url: str,
    network: dict[str, Any],
    connection: dict[str, Any],
    jump: str | None,
) -> None:
    service.reply("GET", "/hosts/kvm1", make_host(connection=connection))
    vm = make_vm(network=network).model_dump(mode="json")
    with Client(Connection(service.url, TOKEN)) as client:
        client.url = url
        assert find_jump(client, vm) == jump
    asked = [(method, path) for method, path, *_ in service.requests]
    assert asked == [("GET", "/hosts/kvm1")] * (network is NATTED), "only where it matters"


@pytest.mark.parametrize(
    ("system", "user"),
    [("debian12", "debian"), ("ubuntu24.04", "ubuntu"), ("rocky9", "rocky"), ("micro", "root"),
     ("windows11", None), ("", None)],
)  # fmt: skip
def test_the_user_is_the_first_one_of_the_cloud_image(system: str, user: str | None) -> None:
    assert user_of(system) == user


def test_a_guest_is_known_by_its_uuid_and_not_by_its_address() -> None:
    vm = make_vm(uuid="00000000-0000-4000-8000-00000000000a").model_dump(mode="json")
    target = Target("198.51.100.7", "debian", "kvm1")
    words = " ".join(ssh_arguments(vm, target, Path("key"), ["uname", "-a"]))
    assert "-o HostKeyAlias=virtplay-00000000-0000-4000-8000-00000000000a" in words
    assert words.endswith(" -J kvm1 -i key -l debian -- 198.51.100.7 uname -a")
    micro = make_vm(os="micro").model_dump(mode="json")
    assert "HostKeyAlias" not in " ".join(ssh_arguments(micro, target, None, []))


@pytest.fixture
def fake_ssh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program ssh that prints its arguments, and exits with 7."""
    program = tmp_path / "bin" / "ssh"
    program.parent.mkdir()
    program.write_text('#!/bin/sh\nfor word; do echo "$word"; done\nexit 7\n')
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")


@pytest.mark.usefixtures("fake_ssh")
def test_ssh_gets_address_user_and_command(service: FakeService) -> None:
    service.reply_vms(make_vm(name="web", os="debian12"))
    service.reply("GET", "/hosts/kvm1", make_host(connection=REMOTE))
    arguments = ("vm", "ssh", "web", "--", "ls", "-l", "a b")
    done = subprocess.run([*PROGRAM, *arguments], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (7, "")
    words = done.stdout.splitlines()
    assert words[words.index("-J") + 1] == "192.0.2.10"
    assert words[words.index("-l") + 1 :] == ["debian", "--", "198.51.100.7", "ls", "-l", "a b"]
    more = ("vm", "ssh", "-l", "me", "--jump", "none", "web")
    done = subprocess.run([*PROGRAM, *more], capture_output=True, text=True, check=False)
    assert "-J" not in done.stdout
    asked = [path for path, *_ in service.asked("GET")]
    assert asked == ["/vms/vm-001", "/hosts/kvm1", "/vms/vm-001"], "no host is asked with --jump"
    assert done.stdout.splitlines()[-4:] == ["-l", "me", "--", "198.51.100.7"]


def test_a_vm_that_cannot_be_reached_is_named_with_a_remedy(service: FakeService, run: Run) -> None:
    service.reply_vms(make_vm(ip=None))
    result = run("vm", "ssh", "vm-001")
    assert (result.status, result.out) == (1, "")
    assert result.err == (
        "virtplay: cannot log in to VM name-1 (vm-001): its address is not known yet; --wait waits"
        " for it, and virtplay vm console vm-001 needs none\n"
    )
    service.reply_vms(make_vm(ip=None, status="creating"))
    assert run("vm", "ssh", "vm-001").err == (
        "virtplay: cannot log in to VM name-1 (vm-001): it is creating; --wait waits for it\n"
    )
    for status, ip in (("stopped", None), ("stopped", "198.51.100.7"), ("error", None)):
        service.reply_vms(make_vm(ip=ip, status=status))
        result = run("vm", "ssh", "vm-001", "--wait")
        assert result.err == f"virtplay: cannot log in to VM name-1 (vm-001): it is {status}\n"


def test_the_server_of_a_guest_is_waited_for(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(300)
        monkeypatch.setattr(ssh, "PORT", listener.getsockname()[1])
        greetings = [b"", b"", b"SSH-2.0-test\r\n"]

        def serve() -> None:
            for greeting in greetings:
                connection, _ = listener.accept()
                with connection:
                    connection.sendall(greeting)

        thread = threading.Thread(target=serve)
        thread.start()
        assert wait_for_server(Target("127.0.0.1", None, None), "VM web (vm-001)")
        thread.join()
    assert capsys.readouterr().err == "Waiting for the SSH server of VM web (vm-001) …\n"


UNKNOWN = "No ED25519 host key is known for kvm1.\nHost key verification failed."
CHANGED = "REMOTE HOST IDENTIFICATION HAS CHANGED!\nHost key verification failed."
REMEDY = "The host key of {} is not known here: connect to it once with ssh {}, or use --jump.\n"


@pytest.mark.parametrize(
    ("error", "jump", "note"),
    [
        ("Permission denied (publickey).", "kvm1", ""),
        (CHANGED, "kvm1", ""),
        (UNKNOWN, "me@kvm1", REMEDY.format("me@kvm1", "me@kvm1")),
        (UNKNOWN, "kvm1:2222", REMEDY.format("kvm1:2222", "ssh://kvm1:2222")),
    ],
)
def test_a_way_that_does_not_work_is_left_to_ssh_itself(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    error: str,
    jump: str,
    note: str,
) -> None:
    program = tmp_path / "ssh"
    program.write_text(f"#!/bin/sh\necho '{error}' >&2\nexit 255\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    # Without time for a second attempt, only the first one can be the reason to go on.
    monkeypatch.setattr(ssh, "READY_SECONDS", 0)
    assert wait_for_server(Target("198.51.100.7", None, jump), "VM web (vm-001)")
    assert capsys.readouterr().err == note


@pytest.mark.usefixtures("fake_ssh")
def test_wait_asks_until_the_address_is_known(service: FakeService) -> None:
    states = (("creating", None), ("starting", None), ("running", None), ("running", "127.0.0.1"))
    vms = [make_vm(status=status, ip=ip).model_dump(mode="json") for status, ip in states]
    service.reply("GET", "/vms/vm-001", *vms)
    service.reply("GET", "/hosts/kvm1", make_host(connection=LOCAL))
    code = "from virtplay.cli import main, ssh; ssh.READY_SECONDS = ssh.PORT = 0; main()"
    command = [PROGRAM[0], "-c", code, "vm", "ssh", "vm-001", "--wait"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 7
    assert "waiting for its address" in done.stdout
    assert done.stdout.splitlines()[-1] == "127.0.0.1"
    assert done.stderr == (
        "The SSH server of VM name-1 (vm-001) does not answer; see virtplay vm console vm-001 (a VM"
        " created without an SSH key may have none)\n"
    )
