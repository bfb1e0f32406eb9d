"""Acceptance: every command that docs/playbooks.md shows does what it says, in its order."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from tests.acceptance import guests
from tests.acceptance.shell import run_line
from tests.lab import Lab
from tests.lab.lab import Host

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs/playbooks.md"
DECLARED = ROOT / "inventory/vms.yml"
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


def test_every_playbook_is_shown() -> None:
    shown = set(re.findall(r"playbooks/(\w+)\.yml", "".join(shown_commands())))
    about_hosts = {path.stem for path in (ROOT / "playbooks").glob("*.yml")} - {"service"}
    assert shown == about_hosts


def test_shown_declaration_is_the_file_that_is_there() -> None:
    assert yaml.safe_load(shown_declaration()) == yaml.safe_load(DECLARED.read_text())


@pytest.mark.timeout(600)
def test_shown_commands_run(lab: Lab, one: Host, tmp_path: Path) -> None:
    declared = tmp_path / "vms.yml"
    declared.write_text(shown_declaration().replace("kvm1", one.name))
    before = guests.traces(one)
    fleet_runs = 0
    for command in shown_commands():
        line = command.replace("inventory/hosts.yml", str(lab.inventory)).replace("kvm1", one.name)
        if "vm_stop" in command:
            guests.booted(one, VM)
        said = run_line(line.replace("inventory/vms.yml", str(declared))).stdout
        if "playbooks/vms.yml" in command:
            expect_of_fleet(fleet_runs, said, one)
            fleet_runs += 1
        else:
            expect_after(command, one)
    assert fleet_runs == 4
    assert guests.traces(one) == before


def shown_declaration() -> str:
    """The YAML block that declares VMs."""
    blocks = re.findall(r"```yaml\n(.*?)```", PAGE.read_text(), re.S)
    (block,) = [block for block in blocks if "libvirt_domain_vms:" in block]
    return str(block)


def expect_of_fleet(run: int, said: str, host: Host) -> None:
    """What the runs of vms.yml say, and what the host shows: looked, made, again, removed."""
    made = {"shop-1": "running", "shop-2": "shut off"}
    (changed,) = re.findall(r"changed=(\d+)", said)
    told = [
        "2 created (shop-1, shop-2), 1 unchanged",
        "2 created (shop-1, shop-2), 1 unchanged",
        "3 unchanged",
        "2 removed (shop-1, shop-2)",
    ]
    assert f"{host.name}: {told[run]}" in said
    assert (changed == "0") == (run == 2)
    assert ("+++ after: shop-1, changes" in said) == (run == 0)
    if run in (1, 2):
        assert {name: guests.power(host, name) for name in made} == made
        assert host.run("virsh", "domblkinfo", "shop-2", "vda").stdout.split()[1] == str(2 << 30)
    else:
        assert not made.keys() & set(guests.domains(host))


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
