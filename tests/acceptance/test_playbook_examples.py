"""Acceptance: every command that docs/playbooks.md shows does what it says, in its order."""

from __future__ import annotations

import re
from pathlib import Path

from tests.acceptance import guests
from tests.acceptance.shell import run_line
from tests.lab import Lab
from tests.lab.lab import Host

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs/playbooks.md"
VM = "web-1"


def shown_commands() -> list[str]:
    """Every ansible-playbook command of the page, in order."""
    blocks = re.findall(r"```sh\n(.*?)```", PAGE.read_text(), re.S)
    return [
        command.strip()
        for block in blocks
        for command in re.split(r"^(?=ansible-playbook )", block, flags=re.M)
        if command.strip()
    ]


def test_shown_commands_run(lab: Lab, one: Host) -> None:
    commands = shown_commands()
    assert len(commands) >= 12
    before = guests.traces(one)
    for command in commands:
        line = command.replace("inventory/hosts.yml", str(lab.inventory)).replace("kvm1", one.name)
        if "vm_stop" in command:
            guests.booted(one, VM)
        run_line(line)
        expect_after(command, one)
    assert guests.traces(one) == before


def expect_after(command: str, host: Host) -> None:
    """What the host shows once a command of the page has run."""
    match = re.search(r"playbooks/(\w+)\.yml", command)
    assert match
    if match[1].startswith("snapshot_"):
        name = re.search(r'"libvirt_snapshot_name": "([\w-]+)"', command)
        assert name
        listed = host.run("virsh", "-q", "snapshot-list", VM, "--name").stdout.split()
        assert (name[1] in listed) == (match[1] != "snapshot_delete"), command
        return
    if "--check" in command or match[1] == "vm_delete":
        assert VM not in guests.domains(host), command
        return
    power = {
        "vm_create": "shut off",
        "vm_start": "running",
        "vm_pause": "paused",
        "vm_resume": "running",
        "vm_restart": "running",
        "vm_stop": "shut off",
    }
    if match[1] in power:
        assert guests.power(host, VM) == power[match[1]], command
