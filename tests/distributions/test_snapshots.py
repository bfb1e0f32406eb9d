"""Distributions: snapshots and UEFI on a host of the release, run and run again."""

from __future__ import annotations

from typing import Any

from tests.acceptance.guests import agent, booted, domain_xml, power, traces
from tests.distributions.hosts import SMALL, Hypervisor
from tests.distributions.report import Row
from tests.lab.snapshots import known, read_marks, write_mark


def test_snapshot_with_memory(hypervisor: Hypervisor, vm: str, row: Row) -> None:
    host, act = hypervisor.host, hypervisor.snapshot
    hypervisor.domain("create", **SMALL, uuid=vm, name="memory", state="running")
    booted(host, vm)
    write_mark(host, vm, "first")
    with row("snapshot with memory: check, create, again, restore with guard, delete, again"):
        assert act("create", "--check", uuid=vm, name="one").changed == 1
        assert known(host, vm) == []
        assert act("create", uuid=vm, name="one").changed == 1
        assert act("create", uuid=vm, name="one").changed == 0
        write_mark(host, vm, "second")
        back: dict[str, Any] = {"uuid": vm, "name": "one", "force": True, "guard": "two"}
        back |= {"job": "job-1", "generation": 1}
        assert act("restore", "--check", **back).changed == 1
        assert read_marks(host, vm) == ("second", "second")
        assert act("restore", **back).changed == 1
        assert read_marks(host, vm) == ("first", "first")
        assert agent(host, vm, "guest-fsfreeze-status") == "thawed"
        write_mark(host, vm, "third")
        assert act("restore", **back).changed == 0
        assert read_marks(host, vm) == ("third", "third")
        assert act("restore", uuid=vm, name="two", force=True).changed == 1
        assert read_marks(host, vm) == ("second", "second")
        for name in ("one", "two"):
            assert act("delete", "--check", uuid=vm, name=name).changed == 1
            assert act("delete", uuid=vm, name=name).changed == 1
            assert act("delete", uuid=vm, name=name).changed == 0
        assert known(host, vm) == []


def test_snapshot_of_a_stopped_vm(hypervisor: Hypervisor, vm: str, row: Row) -> None:
    host, act = hypervisor.host, hypervisor.snapshot
    hypervisor.domain("create", **SMALL, uuid=vm, name="stopped")
    with row("snapshot of a stopped VM: create, again, restore after a change, again, delete"):
        assert act("create", uuid=vm, name="off").changed == 1
        assert act("create", uuid=vm, name="off").changed == 0
        assert act("restore", uuid=vm, name="off").changed == 0
        assert hypervisor.domain("update", uuid=vm, disk=2).changed == 1
        back = act("restore", uuid=vm, name="off")
        assert (back.changed, [disk["size"] for disk in back.domain["disks"]]) == (1, [1])
        assert act("restore", uuid=vm, name="off").changed == 0
        assert act("delete", uuid=vm, name="off").changed == 1
        assert known(host, vm) == []


def test_vm_with_uefi(hypervisor: Hypervisor, vm: str, row: Row) -> None:
    host, act = hypervisor.host, hypervisor.domain
    before = traces(host)
    given = {**SMALL, "uuid": vm, "name": "uefi", "firmware": "efi", "memory": 192}
    with row("VM with UEFI: check, create, again, boot; it keeps its variables"):
        assert act("create", "--check", **given, state="running").changed == 1
        assert act("create", **given, state="running").changed == 1
        booted(host, vm, 120)
        assert act("create", **given, state="running").changed == 0
        variables = domain_xml(host, vm).findtext("os/nvram")
        assert variables
        first = host.run("stat", "-c", "%i", variables).stdout
        assert act("stop", uuid=vm, force=True).changed == 1
        assert act("start", uuid=vm).changed == 1
        assert domain_xml(host, vm).findtext("os/nvram") == variables
        assert host.run("stat", "-c", "%i", variables).stdout == first
        booted(host, vm, 120)
    with row("VM with UEFI: delete leaves nothing"):
        assert act("delete", uuid=vm, force=True).changed == 1
        assert act("delete", uuid=vm, force=True).changed == 0
        assert traces(host) == before


def test_snapshot_of_a_vm_with_uefi(hypervisor: Hypervisor, vm: str, row: Row) -> None:
    host, act = hypervisor.host, hypervisor.snapshot
    given = {**SMALL, "uuid": vm, "name": "uefi-snapshot", "firmware": "efi", "memory": 192}
    hypervisor.domain("create", **given, state="running")
    variables = domain_xml(host, vm).find("os/nvram")
    if variables.get("format") != "qcow2":
        with row("snapshot of a VM with UEFI: refused"):
            said = hypervisor.refusal(
                "snapshot_create", libvirt_snapshot_uuid=vm, libvirt_snapshot_name="one"
            )
            assert "variables" in said
        return
    with row("snapshot of a VM with UEFI, with memory: create, again, restore, delete"):
        booted(host, vm, 120)
        write_mark(host, vm, "first")
        assert act("create", uuid=vm, name="one").changed == 1
        assert act("create", uuid=vm, name="one").changed == 0
        write_mark(host, vm, "second")
        assert act("restore", uuid=vm, name="one", force=True).changed == 1
        assert power(host, vm) == "running"
        assert read_marks(host, vm) == ("first", "first")
        assert act("delete", uuid=vm, name="one").changed == 1
        assert known(host, vm) == []
