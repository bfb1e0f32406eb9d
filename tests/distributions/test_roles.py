"""Distributions: the roles on a host of the release, each in check mode, run, and run again."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable
from importlib.metadata import version as installed
from pathlib import Path
from typing import Any

import yaml

from tests.acceptance.guests import booted, domains, in_guest, power, traces
from tests.distributions.hosts import SMALL, Hypervisor, Prepared, remove_vm
from tests.distributions.report import Row
from tests.unit.collection.elsewhere import Elsewhere, install_collection

PACKAGES = {"libvirt": "libvirt-daemon", "QEMU": "qemu-system-x86", "OVMF": "ovmf"}
REACHED = {"running": "running", "stopped": "shut off", "paused": "paused"}


def test_bare_host_is_prepared(
    prepared: Prepared, release: str, row: Row, version: Callable[[str, str], None]
) -> None:
    host = prepared.hypervisor.host
    version(
        "Python",
        host.run("python3", "-c", "import platform as p; print(p.python_version())").stdout,
    )
    for package, name in (
        ("libvirt-daemon", "libvirt"),
        ("qemu-system-x86", "QEMU"),
        ("ovmf", "OVMF"),
    ):
        version(name, host.run("dpkg-query", "-Wf", "${Version}", package).stdout)
    version("ansible-core", installed("ansible-core"))
    assert f"VERSION_CODENAME={release}" in host.run("cat", "/etc/os-release").stdout
    with row("`host_prepare` without systemd: check on a bare host, run, again, check"):
        changes = [run.changed for run in prepared.host_prepare]
        assert changes[0] > 0
        assert changes[1] > 0
        assert changes[2:] == [0, 0]
        assert [run.warnings for run in prepared.host_prepare] == [[]] * 4
    with row("`image_prepare` micro: check, run, again, check"):
        changes = [run.changed for run in prepared.image_prepare]
        assert changes[0] > 0
        assert changes[1] > 0
        assert changes[2:] == [0, 0]


def test_life_of_a_vm(
    hypervisor: Hypervisor, vm: str, row: Row, version: Callable[[str, str], None]
) -> None:
    host, act = hypervisor.host, hypervisor.domain
    before = traces(host)
    # With less memory, the kernel ends the guest agent while the balloon grows.
    given = {
        **SMALL, "uuid": vm, "name": "life", "title": "Life", "state": "running",
        "memory": 192, "memory_max": 256, "vcpus_max": 2, "labels": {"tier": "web"},
    }  # fmt: skip
    with row("`vm_create`: check, run, again, check with diff"):
        assert act("create", "--check", **given).changed == 1
        assert domains(host) == before["domains"]
        assert act("create", **given).changed == 1
        booted(host, vm)
        assert act("create", **given).changed == 0
        assert act("create", "--check", "--diff", **given).changed == 0
    version("kernel of micro", in_guest(host, vm, "/bin/uname", "-r"))

    with row("`vm_pause`, `vm_resume`, `vm_stop` (ACPI), `vm_start`: check, run, again"):
        steps = {"pause": "paused", "resume": "running", "stop": "stopped", "start": "running"}
        for action, state in steps.items():
            assert act(action, "--check", uuid=vm).changed == 1
            done = act(action, uuid=vm)
            assert (done.changed, done.domain["state"]) == (1, state)
            assert power(host, vm) == REACHED[state]
            assert act(action, uuid=vm).changed == 0
            if state == "running":
                booted(host, vm)

    with row("`vm_update` for the next boot, `vm_restart`"):
        later = act("update", uuid=vm, memory_max=320)
        assert (later.changed, later.result["applies_at"]) == (1, "next_boot")
        assert later.domain["pending"] == {"memory_max": 320}
        first = in_guest(host, vm, "/bin/cat", "/proc/sys/kernel/random/boot_id")
        again = act("restart", uuid=vm)
        assert (again.changed, again.domain["memory_max"]) == (1, 320)
        assert "memory_max" not in again.domain["pending"]  # memory is, until the balloon has grown
        booted(host, vm)
        assert in_guest(host, vm, "/bin/cat", "/proc/sys/kernel/random/boot_id") != first

    with row("`vm_update` of a running VM (CPU, memory, disks, network, texts): check, run, again"):
        network = [{"source": "default"}, {"source": "default", "model": "e1000e"}]
        wanted: dict[str, Any] = {
            "uuid": vm, "vcpus": 2, "memory": 224, "title": "Later", "labels": {"tier": "db"},
            "disks": [{"target": "vda", "size": 2}, {"target": "vdb", "size": 1}],
            "interfaces": network, "autostart": True,
        }  # fmt: skip
        planned = act("update", "--check", "--diff", **wanted)
        done = act("update", **wanted)
        assert (planned.changed, done.changed) == (1, 1)
        assert done.result["changes"] == planned.result["changes"]
        assert done.result["applies_at"] == "now"
        assert act("update", **wanted).changed == 0
        # What the guest makes of a new CPU is its own affair: see docs/distributions.md.
        assert host.run("virsh", "vcpucount", vm, "--current", "--live").stdout.strip() == "2"
        assert "vdb" in in_guest(host, vm, "/bin/ls", "/sys/block")

    with row("`vm_delete`: check, run, again; nothing is left"):
        assert act("delete", "--check", uuid=vm, force=True).changed == 1
        assert act("delete", uuid=vm, force=True).changed == 1
        assert act("delete", uuid=vm, force=True).changed == 0
        assert traces(host) == before


def test_declared_vms_are_listed_by_the_inventory(
    hypervisor: Hypervisor, row: Row, tmp_path: Path
) -> None:
    host = hypervisor.host
    names = ("declared-1", "declared-2")
    given: dict[str, Any] = {
        "libvirt_domain_vms_defaults": {**SMALL, "labels": {"team": "shop"}},
        "libvirt_domain_vms": [{"name": names[0], "state": "running"}, {"name": names[1]}],
    }
    try:
        with row("`vms.yml`: check, run, again, check"):
            assert hypervisor.play("vms", "--check", **given).changed > 0
            assert not domains(host) & set(names)
            assert hypervisor.play("vms", **given).changed > 0
            assert hypervisor.play("vms", **given).changed == 0
            assert hypervisor.play("vms", "--check", **given).changed == 0
            assert [power(host, name) for name in names] == ["running", "shut off"]
        with row("inventory plugin"):
            (tmp_path / "home").mkdir()
            user = install_collection(tmp_path / "home", tmp_path)
            listed = list_inventory(user, hypervisor.lab.inventory)
            assert set(names) <= listed["_meta"]["hostvars"].keys()
    finally:
        for name in names:
            found = host.run("virsh", "domuuid", name, check=False).stdout.strip()
            if found:
                remove_vm(host, str(uuid.UUID(found)))


def list_inventory(user: Elsewhere, inventory: Path) -> dict[str, Any]:
    """The VMs that the inventory plugin lists of a lab's hosts."""
    source = {"plugin": "virtplay.libvirt.libvirt", "inventory": [str(inventory)]}
    (user.home / "libvirt.yml").write_text(yaml.safe_dump(source))
    done = user.run("ansible-inventory", "-i", "libvirt.yml", "--list")
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found
