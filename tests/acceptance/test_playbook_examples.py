"""Acceptance: every command that docs/playbooks.md shows does what it says, in its order."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from pathlib import Path

import yaml

from lab import Lab
from lab.lab import Host
from tests.acceptance import guests
from tests.acceptance.shell import run_line

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


def test_shown_commands_run(lab: Lab, one: Host, tmp_path: Path) -> None:
    declared = tmp_path / "vms.yml"
    declared.write_text(shown_declaration().replace("kvm1", one.name))
    before = guests.traces(one)
    observer = Observer(one)
    vms_runs = 0
    for command in shown_commands():
        line = command.replace("inventory/hosts.yml", str(lab.inventory)).replace("kvm1", one.name)
        if "vm_stop" in command:
            guests.booted(one, VM)
        said = run_line(line.replace("inventory/vms.yml", str(declared))).stdout
        if "playbooks/vms.yml" in command:
            expect_of_vms(vms_runs, said, one)
            vms_runs += 1
        else:
            observer.expect_after(command, said)
    assert vms_runs == 4
    assert guests.traces(one) == before


def shown_declaration() -> str:
    """The YAML block that declares VMs."""
    blocks = re.findall(r"```yaml\n(.*?)```", PAGE.read_text(), re.S)
    (block,) = [block for block in blocks if "libvirt_domain_vms:" in block]
    return str(block)


def expect_of_vms(run: int, said: str, host: Host) -> None:
    """What the runs of vms.yml say, and what the host shows: looked, made, again, removed."""
    made = {"shop-1": "running", "shop-2": "shut off"}
    (changed,) = re.findall(r"changed=(\d+)", said)
    told = [
        "2 created (shop-1, shop-2), 1 unchanged",
        "2 created (shop-1, shop-2), 1 unchanged",
        "3 unchanged",
        "2 removed (shop-1, shop-2)",
    ]
    assert said.rstrip().endswith(f"{host.name}: {told[run]}")
    assert (changed == "0") == (run == 2)
    assert ("+++ after: shop-1: changes" in said) == (run == 0)
    if run in (1, 2):
        assert {name: guests.power(host, name) for name in made} == made
        assert host.run("virsh", "domblkinfo", "shop-2", "vda").stdout.split()[1] == str(2 << 30)
    else:
        assert not made.keys() & set(guests.domains(host))


class Observer:
    """Looks at the host after each command, for what the page says of it and what that implies."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.process = 0  # of the VM's QEMU, when it was last seen

    def virsh(self, *words: str) -> str:
        """Return what virsh says, each run of blanks one blank."""
        return re.sub(r"[ \t]+", " ", self.host.run("virsh", "-q", *words).stdout).strip()

    def expect_after(self, command: str, said: str) -> None:
        """Ask libvirt what it has to say once a command has run, and has said this."""
        playbook = re.search(r"playbooks/(\w+)\.yml", command)
        assert playbook
        (changed,) = re.findall(r"changed=(\d+)", said)
        getattr(self, f"after_{playbook[1]}")(command, said, int(changed))

    def after_host_prepare(self, command: str, said: str, changed: int) -> None:
        names = re.findall(r"^TASK \[libvirt_host : (.*?)\]", said, re.M)
        some = [name for name in names if "network" not in name.lower() and "pool" not in name]
        assert bool(some) == ("--tags" not in command), names
        assert changed == 0, "the lab's hosts are prepared"
        network, *_ = self.virsh("net-list").splitlines()
        assert network.split() == ["default", "active", "yes", "yes"]
        pools = [line.split()[:2] for line in self.virsh("pool-list").splitlines()]
        assert pools == [["default", "active"], ["templates", "active"]]

    def after_image_prepare(self, command: str, said: str, changed: int) -> None:
        templates = "/var/lib/libvirt/templates"
        entry = json.loads(self.host.run("cat", f"{templates}/micro.json").stdout)
        self.host.run("qemu-img", "check", "-q", f"{templates}/{entry['file']}")
        assert changed == 0, "the lab's hosts have the template"

    def after_host_observe(self, command: str, said: str, changed: int) -> None:
        assert changed == 0
        assert VM not in guests.domains(self.host)

    def after_vm_create(self, command: str, said: str, changed: int) -> None:
        if "--check" in command:
            assert changed == 1
            assert f"+++ after: {VM}: changes" in said
            assert VM not in guests.domains(self.host)
            return
        assert guests.power(self.host, VM) == "shut off"
        xml = guests.domain_xml(self.host, VM)
        assert xml.find("vcpu").get("current") == "1"
        assert xml.findtext("currentMemory") == str(256 << 10)
        assert xml.findtext("title") == "Web server"
        assert xml.find("devices/interface/source").get("network") == "default"
        assert self.disk() == 1 << 30
        backing = xml.find("devices/disk/source").get("file")
        described = self.host.run("qemu-img", "info", "--output=json", backing).stdout
        assert "/templates/micro-" in json.loads(described)["full-backing-filename"]

    def after_vm_start(self, command: str, said: str, changed: int) -> None:
        assert guests.power(self.host, VM) == "running"
        self.process = guests.qemu_pid(self.host, VM)

    def after_vm_update(self, command: str, said: str, changed: int) -> None:
        assert f"+++ after: {VM}: changes" in said
        # At once, in the guest that runs, and for its next boot.
        assert self.virsh("vcpucount", VM, "--live", "--active") == "2"
        assert self.virsh("vcpucount", VM, "--config", "--active") == "2"
        assert self.disk() == 2 << 30
        assert guests.qemu_pid(self.host, VM) == self.process

    def after_vm_power(self, command: str, said: str, changed: int) -> None:
        assert changed == 1
        assert self.virsh("domstate", VM) == "running"
        if "--check" not in command:
            assert guests.qemu_pid(self.host, VM) != self.process
        self.process = guests.qemu_pid(self.host, VM)

    def after_vm_pause(self, command: str, said: str, changed: int) -> None:
        assert self.virsh("domstate", VM, "--reason") == "paused (user)"

    def after_vm_resume(self, command: str, said: str, changed: int) -> None:
        assert self.virsh("domstate", VM, "--reason") == "running (unpaused)"
        assert guests.qemu_pid(self.host, VM) == self.process

    def after_console_open(self, command: str, said: str, changed: int) -> None:
        live = guests.domain_xml(self.host, VM, "--security-info").find("devices/graphics")
        assert live.get("listen") == "127.0.0.1"
        assert f'"port": {live.get("port")}' in said
        assert live.get("passwd") == "k4rT9wqz"
        until = datetime.fromisoformat(live.get("passwdValidTo")).replace(tzinfo=UTC)
        assert 0 < (until - datetime.now(UTC)).total_seconds() <= 60
        # For the guest that runs alone: nothing of it is kept.
        kept = guests.domain_xml(self.host, VM, "--security-info", "--inactive")
        assert kept.find("devices/graphics").get("passwd") != "k4rT9wqz"

    def after_vm_restart(self, command: str, said: str, changed: int) -> None:
        assert guests.power(self.host, VM) == "running"
        assert guests.qemu_pid(self.host, VM) != self.process
        self.process = guests.qemu_pid(self.host, VM)

    def after_snapshot_create(self, command: str, said: str, changed: int) -> None:
        described = self.virsh("snapshot-info", VM, "before-upgrade")
        assert "State: running" in described, "the memory is in it"
        assert "Location: internal" in described
        assert "Before the upgrade" in self.virsh("snapshot-dumpxml", VM, "before-upgrade")

    def after_snapshot_restore(self, command: str, said: str, changed: int) -> None:
        assert changed == 1
        assert guests.power(self.host, VM) == "running"
        if "--check" in command:
            assert self.snapshots() == {"before-upgrade"}
            assert guests.qemu_pid(self.host, VM) == self.process
        else:
            assert self.snapshots() == {"before-upgrade", "before-restore"}
            assert self.virsh("snapshot-current", VM, "--name") == "before-upgrade"

    def after_snapshot_delete(self, command: str, said: str, changed: int) -> None:
        left = {"before-upgrade"} if '"before-restore"' in command else set()
        assert self.snapshots() == left

    def after_vm_stop(self, command: str, said: str, changed: int) -> None:
        # The guest went down when it was asked to; nobody killed it.
        assert self.virsh("domstate", VM, "--reason") == "shut off (shutdown)"

    def after_vm_delete(self, command: str, said: str, changed: int) -> None:
        assert VM not in guests.domains(self.host)

    def disk(self) -> int:
        """The size of the VM's disk in bytes."""
        return int(self.virsh("domblkinfo", VM, "vda").split()[1])

    def snapshots(self) -> set[str]:
        """The names of the VM's snapshots."""
        return set(self.virsh("snapshot-list", VM, "--name").split())
