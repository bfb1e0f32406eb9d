"""Distributions: a host of Debian 12 that became one of the release, with its VMs."""

from __future__ import annotations

import uuid
from typing import Any

import pytest
from lxml import etree

from lab import Host, Lab
from tests.acceptance.guests import booted, domain_xml, power
from tests.distributions.hosts import SMALL, Hypervisor, remove_vm
from tests.distributions.report import Row
from tests.lab.snapshots import known, read_marks, write_mark

# What a host keeps of its VMs. Programs and their settings are the new release's.
STATE = (
    *("etc/libvirt/qemu", "etc/libvirt/storage", "etc/libvirt/secrets", "etc/virtplay"),
    *("var/lib/libvirt", "var/lib/virtplay"),
)
TPM_STATE = "tpm2/tpm2-00.permall"


def upgrade(old: Host, new: Host) -> None:
    """Give the state of the old host to the new one, whose own goes, while no libvirtd runs."""
    old.kill_libvirtd()
    archive = f"/tmp/{uuid.uuid4()}.tar"  # both hosts have this machine's /tmp
    try:
        old.run("mkdir", "-p", *(f"/{path}" for path in STATE))
        old.run("tar", "-C", "/", "--sparse", "-cf", archive, *STATE)
        new.kill_libvirtd()
        # As after a reboot: nothing runs.
        new.run("sh", "-c", "pkill -x dnsmasq; ip link delete virbr0", check=False)
        new.run("rm", "-rf", *(f"/run/libvirt/{kind}" for kind in ("network", "storage", "qemu")))
        for path in STATE:
            new.run("rm", "-rf", f"/{path}")
        new.run("tar", "-C", "/", "-xf", archive)
    finally:
        old.run("rm", "-f", archive)
    old.start_libvirtd()
    new.start_libvirtd()
    new.run("virsh", "uri", timeout=120)


@pytest.fixture
def old(mixed: Lab) -> Hypervisor:
    return Hypervisor(mixed, mixed.hosts[0])


@pytest.fixture
def new(mixed: Lab) -> Hypervisor:
    return Hypervisor(mixed, mixed.hosts[1])


def test_upgrade_in_place_from_debian_12(old: Hypervisor, new: Hypervisor, row: Row) -> None:
    plain, saved, uefi = (str(uuid.uuid4()) for _ in range(3))
    given: dict[str, dict[str, Any]] = {
        plain: {**SMALL, "name": "plain", "labels": {"tier": "web"}, "title": "From Debian 12"},
        saved: {**SMALL, "name": "saved"},
        uefi: {**SMALL, "name": "uefi", "firmware": "efi", "memory": 192},
    }
    tpm = f"/var/lib/libvirt/swtpm/{uefi}"
    try:
        for identity, values in given.items():
            old.domain("create", uuid=identity, **values)
        add_tpm(old.host, uefi)
        for identity in given:
            old.domain("start", uuid=identity)
        for identity in (plain, saved):
            booted(old.host, identity)
            write_mark(old.host, identity, "first")
        old.snapshot("create", uuid=plain, name="before")
        # A name that Debian 12 takes.
        old.host.run("virsh", "snapshot-create-as", plain, "by hand", timeout=120)
        write_mark(old.host, plain, "second")
        old.domain("stop", uuid=plain)
        old.snapshot("create", uuid=plain, name="off")
        old.host.run("virsh", "managedsave", saved, timeout=120)
        booted(old.host, uefi, 120)
        # libvirt 9.0 chooses the firmware at each start, and shows it only meanwhile.
        variables = domain_xml(old.host, uefi).findtext("os/nvram")
        old.domain("stop", uuid=uefi, force=True)
        kept = checksum(old.host, variables)
        kept_tpm = checksum(old.host, f"{tpm}/{TPM_STATE}")
        upgrade(old.host, new.host)
    finally:
        for identity in given:
            remove_vm(old.host, identity)
    try:
        with row("upgrade in place: `host_prepare` twice, then check with diff of each VM"):
            new.play("host_prepare")
            assert new.play("host_prepare").changed == 0
            for identity, values in given.items():
                told = new.domain("create", "--check", "--diff", uuid=identity, **values)
                assert told.changed == 0, told.result
            assert sorted(known(new.host, plain)) == ["before", "by hand", "off"]
        with row("upgrade in place: start; restore of the snapshot with memory from Debian 12"):
            assert new.domain("start", uuid=plain).changed == 1
            booted(new.host, plain)
            assert read_marks(new.host, plain) == ("none", "second")
            new.snapshot("restore", uuid=plain, name="before", force=True)
            assert read_marks(new.host, plain) == ("first", "first")
        with row("upgrade in place: snapshot with memory and a blank in its name: refused"):
            of = {"libvirt_snapshot_uuid": plain, "libvirt_snapshot_name": "by hand"}
            for action, force in (("restore", {"libvirt_snapshot_force": True}), ("delete", {})):
                said = new.refusal(f"snapshot_{action}", **of, **force)
                assert "its name has other characters" in said
            assert power(new.host, plain) == "running"
            new.host.run("virsh", "destroy", plain)
            assert new.snapshot("delete", uuid=plain, name="by hand").changed == 1
            assert new.domain("start", uuid=plain).changed == 1
        with row("upgrade in place: new snapshot, delete the old ones"):
            assert new.snapshot("create", uuid=plain, name="after").changed == 1
            for name in ("before", "off", "after"):
                assert new.snapshot("delete", uuid=plain, name=name).changed == 1
            assert known(new.host, plain) == []
        with row("upgrade in place: a saved VM goes on where it was"):
            assert new.domain("start", uuid=saved).changed == 1
            assert power(new.host, saved) == "running"
            assert read_marks(new.host, saved) == ("first", "first")
        with row("upgrade in place: a VM keeps variables (UEFI) and TPM; delete leaves nothing"):
            assert checksum(new.host, variables) == kept
            assert checksum(new.host, f"{tpm}/{TPM_STATE}") == kept_tpm
            assert new.domain("start", uuid=uefi).changed == 1
            booted(new.host, uefi, 120)
            assert domain_xml(new.host, uefi).findtext("os/nvram") == variables
            assert new.domain("delete", uuid=uefi, force=True).changed == 1
            for path in (variables, tpm):
                assert new.host.run("test", "-e", path, check=False).returncode == 1
    finally:
        for identity in given:
            remove_vm(new.host, identity)


def test_memory_that_debian_13_saved_is_not_loaded(mixed: Lab, new: Hypervisor, row: Row) -> None:
    if len(mixed.hosts) < 3:
        pytest.skip("there is nothing between")
    trixie = Hypervisor(mixed, mixed.hosts[2])
    vm = str(uuid.uuid4())
    try:
        trixie.domain("create", **SMALL, name="saved-by-10", uuid=vm, state="running")
        booted(trixie.host, vm)
        write_mark(trixie.host, vm, "first")
        trixie.snapshot("create", uuid=vm, name="before")
        write_mark(trixie.host, vm, "second")
        trixie.domain("stop", uuid=vm)
        upgrade(trixie.host, new.host)
    finally:
        remove_vm(trixie.host, vm)
    try:
        with row("upgrade from Debian 13: memory is not loaded (QEMU); the guard restores the VM"):
            new.play("host_prepare")
            new.domain("start", uuid=vm)
            booted(new.host, vm)
            assert read_marks(new.host, vm) == ("none", "second")
            write_mark(new.host, vm, "third")
            of = {"libvirt_snapshot_uuid": vm, "libvirt_snapshot_name": "before"}
            more = {"libvirt_snapshot_force": True, "libvirt_snapshot_guard": "now"}
            assert "virtio" in new.refusal("snapshot_restore", **of, **more)
            assert power(new.host, vm) == "shut off"
            assert sorted(known(new.host, vm)) == ["before", "now"]
            assert new.snapshot("restore", uuid=vm, name="now").changed == 1
            assert power(new.host, vm) == "running"
            assert read_marks(new.host, vm) == ("third", "third")
            assert new.snapshot("delete", uuid=vm, name="before").changed == 1
    finally:
        remove_vm(new.host, vm)


def add_tpm(host: Host, identity: str) -> None:
    """Give a VM an emulated TPM, as one does with virsh."""
    root = domain_xml(host, identity, "--inactive")
    tpm = etree.SubElement(root.find("devices"), "tpm", model="tpm-crb")
    etree.SubElement(tpm, "backend", type="emulator", version="2.0")
    host.run("virsh", "-q", "define", "/dev/stdin", stdin=etree.tostring(root, encoding="unicode"))


def checksum(host: Host, path: str) -> str:
    """The checksum of a file."""
    return host.run("sha256sum", path).stdout.split()[0]
