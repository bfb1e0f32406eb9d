"""Lab tests: domains in states that nobody expects, on a real libvirt; no guest has to boot."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from typing import Any

import pytest
from ansible_collections.virtplay.libvirt.plugins.module_utils.snapshot.plan import (
    CHECKPOINTS_VERSION,
    JOBS_VERSION,
)

from lab import Host, Lab
from tests.acceptance.service import wait_for
from tests.lab.locks import halted, wait_for_force
from tests.lab.modules import run_module, run_modules, start_module
from tests.lab.plays import IMAGES

pytestmark = [
    pytest.mark.lab,
    pytest.mark.usefixtures("lab_machine"),
    # After those of test_host_info: each has a small lab of its own.
    pytest.mark.xdist_group("test_host_info"),
]

DOMAIN = """<domain type='qemu'><name>{name}</name><uuid>{name}</uuid>
<memory unit='MiB'>64</memory><vcpu current='1'>4</vcpu>
<os><type arch='x86_64' machine='q35'>hvm</type></os><on_crash>preserve</on_crash><devices>
<disk type='file' device='disk'><driver name='qemu' type='qcow2'/>
<source file='{image}'/><target dev='vda' bus='virtio'/></disk>
<panic model='isa'/></devices></domain>"""

# Boot sectors: mov dx, 0x505; mov al, 1; out dx, al (the guest has panicked); hlt; jmp.
PANIC = "ba0505 b001 ee f4 ebfd"
# xor ax, ax; mov ds, ax; then for ever int 0x13 (write), at sectors that rise by 128: the packet
# (one sector, from 0x7c00, to sector 128) is at 0x20.
WRITE = (
    "31c0 8ed8 b443 b000 b280 be207c cd13 8106287c8000 ebed 000000000000000000"
    "1000 0100 007c 0000 8000 0000 0000 0000"
)

WRITE_DISK = """
import sys
with open(sys.argv[1], "wb") as disk:
    disk.write(bytes.fromhex(sys.argv[2]))
    disk.truncate(10 << 20)
"""


class Domain:
    """A domain of virsh, whose guest is the BIOS alone."""

    def __init__(
        self, host: Host, *, defined: bool = True, boot: str = "", folder: str = IMAGES
    ) -> None:
        self.host, self.uuid = host, str(uuid.uuid4())
        self.image = f"{folder}/{self.uuid}-vda.qcow2"
        self.xml = DOMAIN.format(name=self.uuid, image=self.image)
        raw = f"{IMAGES}/{self.uuid}.raw"
        sector = bytes.fromhex(boot).ljust(510, b"\0").hex() + "55aa" if boot else ""
        host.run("python3", "-c", WRITE_DISK, raw, sector)
        host.run("qemu-img", "convert", "-f", "raw", "-O", "qcow2", raw, self.image)
        host.run("rm", raw)
        if defined:
            host.run("virsh", "-q", "define", "/dev/stdin", stdin=self.xml)
        self.act = partial(run_module, host, "domain", uuid=self.uuid)
        self.snapshot = partial(run_module, host, "snapshot", uuid=self.uuid)

    def virsh(self, command: str, *arguments: str, **more: Any) -> str:
        return str(self.host.run("virsh", "-q", command, self.uuid, *arguments, **more).stdout)

    def state(self) -> str:
        """Return libvirt's state and reason, "" without a domain."""
        return self.virsh("domstate", "--reason", check=False).strip()

    def is_saved(self) -> bool:
        return "Managed save:   yes" in self.virsh("dominfo")

    def remove(self) -> None:
        self.virsh("destroy", check=False)
        everything = ("--managed-save", "--snapshots-metadata", "--checkpoints-metadata")
        self.virsh("undefine", *everything, check=False)
        self.host.run("rm", "-f", self.image)


@pytest.fixture(scope="module")
def small_host() -> Iterator[Host]:
    with Lab(hosts=1, prepare=False) as running:
        (host,) = running.hosts
        host.run("virsh", "-q", "pool-define-as", "default", "dir", "--target", IMAGES)
        host.run("virsh", "-q", "pool-start", "default")
        yield host


@pytest.fixture
def domain(small_host: Host) -> Iterator[Domain]:
    made = Domain(small_host)
    yield made
    made.remove()


def libvirt_version(host: Host) -> int:
    """The version of a host's libvirt as libvirt counts it, 9000000 for 9.0.0."""
    major, minor, patch = map(int, host.run("virsh", "--version").stdout.split("."))
    return (major * 1000 + minor) * 1000 + patch


def told(result: dict[str, Any]) -> dict[str, tuple[str, bool]]:
    return {c["field"]: (c["applies"], c["destroys"]) for c in result["changes"]}


def test_restart_with_force_ends_in_a_running_guest_whatever_that_does_meanwhile(
    small_host: Host, domain: Domain
) -> None:
    domain.virsh("start")
    first = {"job": "job-000001", "generation": 1}
    force = {"uuid": domain.uuid, "state": "restarted", "force": True}
    again = partial(run_module, small_host, "domain", **force)
    note = f"grep -q job-000001 /var/lib/virtplay/fence/{domain.uuid}.json && echo noted"
    with ExitStack() as modules:
        waiting = modules.enter_context(
            start_module(
                small_host, "domain", uuid=domain.uuid, state="restarted", timeout=3600, **first
            )
        )
        wait_for("the wait", lambda: small_host.run("sh", "-c", note, check=False).stdout, 60)
        with halted(small_host, "job-000001"):
            forced = modules.enter_context(start_module(small_host, "domain", **force))
            wait_for_force(small_host, f"restart {domain.uuid}")
            domain.virsh("destroy")  # the guest shuts down just before the power is cut
        assert waiting()["code"] == "SUPERSEDED"
        assert told(forced()) == {"state": ("live", False)}
    assert domain.state() == "running (booted)"
    # A job may find it stopped without a wait: its service has ended the play that held the lock.
    domain.virsh("destroy")
    assert again()["code"] == "VM_ALREADY_STOPPED"
    assert again(job="job-000002", generation=2)["domain"]["state"] == "running"
    # Run again after a crash of the service, it does nothing twice.
    assert again(job="job-000002", generation=3)["domain"]["state"] == "running"
    assert domain.state() == "running (booted)"


def test_saved_memory_is_kept_until_somebody_gives_it_up(domain: Domain) -> None:
    assert domain.snapshot(snapshot="off")["changed"]
    assert domain.act(state="running")["domain"]["state_reason"] == "booted"
    domain.virsh("managedsave")

    changed = domain.act(vcpus=2, memory=96, title="New")
    assert told(changed) == {
        "title": ("offline", False),
        "vcpus": ("next_boot", False),
        "memory": ("next_boot", False),
        "memory_max": ("next_boot", False),
    }
    assert changed["applies_at"] == "next_boot"
    shown = changed["domain"]
    assert (shown["state"], shown["state_reason"], shown["has_managed_save"]) == (
        "stopped",
        "saved",
        True,
    )
    assert (shown["title"], shown["vcpus"], shown["memory"]) == ("New", 1, 64)
    assert domain.act(vcpus=2, memory=96, title="New")["changed"] is False
    refused = [
        domain.act(disks=[{"target": "vda", "size": 1}]),
        domain.act(state="absent"),
        domain.snapshot(snapshot="off", state="restored"),
        domain.snapshot(snapshot="off", state="restored", guard="g"),
        domain.snapshot(snapshot="two"),
        domain.act(state="restarted", force=True),
    ]
    assert [result["code"] for result in refused] == [
        *["VM_HAS_SAVED_STATE"] * 4,
        "SNAPSHOT_NOT_POSSIBLE",
        "VM_ALREADY_STOPPED",
    ]
    assert domain.act(state="stopped")["changed"] is False
    assert domain.is_saved()

    started = domain.act(state="running")["domain"]
    assert (started["state_reason"], started["has_managed_save"]) == ("restored", False)
    assert (started["title"], started["vcpus"]) == ("New", 1)
    assert started["pending"] == {"vcpus": 2, "memory": 96, "memory_max": 96}

    domain.virsh("managedsave")
    planned = domain.snapshot(
        snapshot="off", state="restored", force=True, _ansible_check_mode=True
    )
    assert told(planned)["has_managed_save"] == ("offline", True)
    assert domain.is_saved()
    back = domain.snapshot(snapshot="off", state="restored", force=True, guard="g")
    assert [entry["name"] for entry in back["snapshots"]] == ["off", "g"]
    assert not domain.is_saved()

    domain.act(state="running")
    domain.virsh("managedsave")
    dropped = domain.act(state="stopped", force=True)
    assert told(dropped) == {"has_managed_save": ("offline", True)}
    assert (dropped["domain"]["state_reason"], domain.is_saved()) == ("unknown", False)


def test_memory_of_before_a_restore_never_comes_back(domain: Domain) -> None:
    domain.act(state="running")
    domain.snapshot(snapshot="on")
    domain.virsh("managedsave")
    # libvirt leaves the saved memory, and would go on in it after the next stop.
    domain.virsh("snapshot-revert", "on")
    assert domain.act(state="running")["domain"]["has_managed_save"] is True
    assert told(domain.act(state="stopped", force=True)) == {
        "has_managed_save": ("offline", False),
        "state": ("live", True),
    }
    assert not domain.is_saved()
    domain.act(state="running")
    domain.virsh("managedsave")
    domain.virsh("snapshot-revert", "on")
    domain.virsh("destroy")
    assert domain.is_saved()
    started = domain.act(state="running")
    assert (started["domain"]["state_reason"], domain.is_saved()) == ("booted", False)
    domain.virsh("managedsave")
    back = domain.snapshot(snapshot="on", state="restored", force=True)
    assert (back["domain"]["state"], back["domain"]["has_managed_save"]) == ("running", False)
    assert not domain.is_saved()


def test_checkpoints_prevent_a_restore_before_the_guest_is_ended(domain: Domain) -> None:
    assert domain.snapshot(snapshot="off")["changed"]
    domain.virsh("start")
    domain.virsh("checkpoint-create-as", "c1")
    refused = domain.snapshot(snapshot="off", state="restored", force=True)
    assert refused["code"] == "SNAPSHOT_NOT_POSSIBLE"
    assert "it has checkpoints of a backup (c1)" in refused["msg"]
    assert domain.state() == "running (booted)"
    domain.virsh("destroy")
    domain.act(memory=96)
    assert domain.snapshot(snapshot="off", state="restored")["code"] == "SNAPSHOT_NOT_POSSIBLE"
    two = domain.snapshot(snapshot="two")
    if libvirt_version(domain.host) < CHECKPOINTS_VERSION:
        assert two["code"] == "SNAPSHOT_NOT_POSSIBLE"
    else:
        assert two["changed"]
        assert domain.snapshot(snapshot="two", state="absent")["changed"]
    # A backup program that has lost its checkpoints leaves their bitmaps.
    domain.virsh("checkpoint-delete", "c1", "--metadata")
    refused = domain.snapshot(snapshot="off", state="restored")
    assert "disk vda has dirty bitmaps (c1)" in refused["msg"]
    domain.host.run("qemu-img", "bitmap", "--remove", domain.image, "c1")
    assert not domain.snapshot(snapshot="off", state="restored").get("failed")


def test_snapshot_whose_name_qemu_refuses(domain: Domain) -> None:
    domain.virsh("snapshot-create-as", "by hand")
    domain.virsh("start")
    deleted = domain.snapshot(snapshot="by hand", state="absent", _ansible_check_mode=True)
    if libvirt_version(domain.host) < JOBS_VERSION:
        assert deleted["changed"]
    else:
        assert deleted["code"] == "SNAPSHOT_NOT_POSSIBLE"
        assert "while it is running: its name has other characters" in deleted["msg"]
        assert domain.virsh("snapshot-delete", "by hand", check=False) == ""
        assert domain.virsh("snapshot-list", "--name").split("\n")[0] == "by hand"
    restored = domain.snapshot(snapshot="by hand", state="restored", force=True)
    assert (restored["changed"], restored["domain"]["state"]) == (True, "stopped")
    assert domain.snapshot(snapshot="by hand", state="absent")["changed"]
    assert domain.virsh("snapshot-list", "--name") == ""


def starts(domain: Domain) -> int:
    """How often libvirt has started a QEMU for the domain, by its log."""
    log = domain.host.run("cat", f"/var/log/libvirt/qemu/{domain.uuid}.log").stdout
    return str(log).count(": starting up libvirt version")


def test_restart_that_crashes_at_any_step_is_done_once(domain: Domain) -> None:
    domain.act(state="running")
    steps = 0
    while True:
        before = starts(domain)
        run = {"uuid": domain.uuid, "state": "restarted", "force": True, "job": f"job-{steps}"}
        crashed, completed, again = run_modules(
            domain.host,
            ({**run, "generation": 3 * steps + 1}, steps + 1),
            ({**run, "generation": 3 * steps + 2}, 0),
            # The service has died before it could read the result.
            ({**run, "generation": 3 * steps + 3}, 0),
            module="domain",
        )
        assert starts(domain) == before + 1, steps
        for each in (completed, again):
            assert each is not None
            assert told(each) == {"state": ("live", True)}, steps
            assert each["domain"]["state"] == "running"
        if crashed is not None:
            break
        steps += 1
    assert steps >= 4
    domain.act(state="restarted", force=True)
    domain.act(state="restarted", force=True)
    assert starts(domain) == before + 3, "by hand each run restarts it"


def test_transient_domain_is_never_stopped_for_a_restart(small_host: Host) -> None:
    domain = Domain(small_host, defined=False)
    try:
        domain.host.run("virsh", "-q", "create", "/dev/stdin", stdin=domain.xml)
        assert domain.act(state="restarted")["code"] == "VALIDATION_ERROR"
        restarted = domain.act(state="restarted", force=True)
        assert told(restarted) == {"state": ("live", True)}
        assert (restarted["domain"]["persistent"], domain.state()) == (False, "running (booted)")
        domain.virsh("suspend")
        assert domain.act(state="restarted", force=True)["domain"]["state"] == "running"
        planned = domain.act(state="stopped", force=True, _ansible_check_mode=True)
        assert told(planned)["persistent"] == ("live", True)
        assert domain.act(state="stopped", force=True)["domain"]["state"] == "stopped"
        assert domain.state() == ""
    finally:
        domain.remove()


def test_crashed_guest_whose_qemu_is_kept_is_active(small_host: Host) -> None:
    domain = Domain(small_host, boot=PANIC)
    try:
        domain.virsh("start")
        wait_for("the panic", lambda: domain.state() == "crashed (panicked)", 30)
        refused = [
            domain.act(state="running"),
            domain.act(state="stopped"),
            domain.act(state="restarted"),
            domain.act(state="paused"),
            domain.act(state="resumed"),
            domain.act(state="absent"),
            domain.snapshot(snapshot="one"),
        ]
        assert [result.get("code") for result in refused] == [
            "VM_ALREADY_RUNNING",
            *["GUEST_NOT_RESPONDING"] * 4,
            "VM_ALREADY_RUNNING",
            "SNAPSHOT_NOT_POSSIBLE",
        ]
        later = domain.act(memory=96)
        assert (later["domain"]["state"], later["applies_at"]) == ("crashed", "next_boot")
        assert (later["domain"]["state_reason"]) == "panicked"
        stopped = domain.act(state="stopped", force=True)["domain"]
        assert (stopped["state"], stopped["state_reason"]) == ("stopped", "destroyed")
        domain.virsh("start")
        wait_for("the panic", lambda: domain.state() == "crashed (panicked)", 30)
        assert domain.act(state="absent", force=True)["domain"] is None
        assert domain.state() == ""
    finally:
        domain.remove()


def test_somebody_elses_block_copy_is_waited_for(domain: Domain) -> None:
    copy = f"{domain.image}-copy"
    domain.snapshot(snapshot="off")
    domain.virsh("start")
    options = ("--transient-job", "--bandwidth", "1", "--bytes")
    domain.virsh("blockcopy", "vda", "--dest", copy, *options)
    try:
        refused = [
            domain.act(state="stopped"),
            domain.act(state="restarted"),
            domain.act(state="absent", force=True),
            domain.act(disks=[{"target": "vda", "size": 1}]),
            domain.snapshot(snapshot="one"),
            domain.snapshot(snapshot="off", state="absent"),
            domain.snapshot(snapshot="off", state="restored", force=True),
        ]
        assert {result.get("code") for result in refused} == {"OPERATION_IN_PROGRESS"}
        assert "a block copy of disk vda is in progress" in refused[0]["msg"]
        assert domain.act(state="paused")["domain"]["state"] == "paused"
        domain.virsh("blockjob", "vda", "--abort")

        # A backup that a program fetches lasts until that ends it.
        server = "<server transport='tcp' name='127.0.0.1' port='10809'/>"
        backup = f"<domainbackup mode='pull'>{server}</domainbackup>"
        domain.virsh("backup-begin", "/dev/stdin", stdin=backup)
        refused = [
            domain.act(state="absent", force=True),
            domain.snapshot(snapshot="off", state="restored", force=True),
        ]
        assert {result.get("code") for result in refused} == {"OPERATION_IN_PROGRESS"}
        assert "a backup is in progress" in refused[0]["msg"]
        assert domain.act(state="stopped", force=True)["domain"]["state"] == "stopped"
    finally:
        domain.host.run("rm", "-f", copy)


def test_resume_after_an_io_error_holds_only_with_room(small_host: Host) -> None:
    folder = f"{IMAGES}/full"
    small_host.run("mkdir", folder)
    small_host.run("mount", "-t", "tmpfs", "-o", "size=1M", "full", folder)
    domain = Domain(small_host, boot=WRITE, folder=folder)
    try:
        domain.virsh("start")
        wait_for("the full disk", lambda: domain.state() == "paused (I/O error)", 30)
        (seen,) = run_module(small_host, "host_info")["host_info"]["domains"]
        assert (seen["state"], seen["state_reason"]) == ("paused", "io_error")
        assert seen["disk_errors"] == {"vda": "no space"}
        refused = domain.act(state="resumed")
        assert refused["code"] == "GUEST_NOT_RUNNING"
        assert "(vda: no space); make room" in refused["msg"]
        small_host.run("mount", "-o", "remount,size=64M", folder)
        resumed = domain.act(state="resumed")["domain"]
        assert (resumed["state"], resumed["state_reason"]) == ("running", "unpaused")
    finally:
        domain.remove()
        small_host.run("umount", folder)
        small_host.run("rmdir", folder)


def test_image_that_the_guest_has_is_never_shrunk(domain: Domain) -> None:
    later = f"{domain.image}-later"
    domain.host.run("qemu-img", "resize", "-q", domain.image, "4G")
    domain.host.run("qemu-img", "create", "-q", "-f", "qcow2", later, "1G")
    domain.virsh("start")
    xml = domain.xml.replace(domain.image, later)
    domain.host.run("virsh", "-q", "define", "/dev/stdin", stdin=xml)
    try:
        refused = domain.act(disks=[{"target": "vda", "size": 2}])
        assert "cannot shrink disk vda" in refused["msg"]
        assert domain.act(disks=[{"target": "vda", "size": 4}])["changed"] is False
        domain.act(disks=[{"target": "vda", "size": 5}])
        assert f"{5 << 30}" in domain.virsh("domblkinfo", "vda")
    finally:
        domain.host.run("rm", "-f", later)


@pytest.mark.parametrize("force", [True, False])
def test_guest_that_could_not_start_again_is_not_ended(domain: Domain, force: bool) -> None:
    domain.virsh("start")
    later = f"{domain.image}-later"
    xml = domain.xml.replace(domain.image, later)
    domain.host.run("virsh", "-q", "define", "/dev/stdin", stdin=xml)
    refused = domain.act(state="restarted", force=force)
    assert refused["msg"] == f"cannot restart {domain.uuid}: {later} does not exist"
    assert domain.state().startswith("running")


@pytest.mark.parametrize("pool", ["active", "inactive"])
def test_kept_disks_are_kept_with_all_that_they_are_based_on(domain: Domain, pool: str) -> None:
    host, overlay = domain.host, f"{domain.image}-overlay"
    source = f"<source pool='default' volume='{domain.uuid}-vda.qcow2-overlay'/>"
    xml = domain.xml.replace(f"<source file='{domain.image}'/>", source)
    host.run(
        "virsh",
        "-q",
        "define",
        "/dev/stdin",
        stdin=xml.replace("disk type='file'", "disk type='volume'"),
    )
    host.run("qemu-img", "create", "-q", "-f", "qcow2", "-b", domain.image, "-F", "qcow2", overlay)
    host.run("virsh", "-q", "pool-refresh", "default")
    if pool == "inactive":
        host.run("virsh", "-q", "pool-destroy", "default")
    try:
        assert domain.act(state="absent", keep_disks=True)["changed"]
        if pool == "inactive":
            host.run("virsh", "-q", "pool-start", "default")
        for _run in range(2):
            assert domain.act(state="absent", keep_disks=True)["changed"] is False
        assert domain.act(state="absent")["changed"] is False
        host.run("ls", domain.image, overlay)
    finally:
        host.run("virsh", "-q", "pool-start", "default", check=False)
        host.run("rm", "-f", overlay)


def test_nothing_is_changed_that_another_domain_stands_on(domain: Domain) -> None:
    host = domain.host
    host.run(
        "sh",
        "-ec",
        "mkdir -p /srv/other /mnt/other; virsh -q pool-define-as o dir --target /srv/other",
    )
    domain.snapshot(snapshot="off")
    host.run("qemu-io", "-c", "write -P 7 0 64k", domain.image)
    other = Domain(host, defined=False)
    top = "/srv/other/top.qcow2"
    over = f"qemu-img create -q -f qcow2 -b {domain.image} -F qcow2 {top}"
    volume = "<source pool='o' volume='top.qcow2'/>"
    direct = f"<source file='{domain.image}'/>"
    mounted = f"<source file='/mnt/other/{domain.uuid}-vda.qcow2'/>"
    mount = f"mount --bind {IMAGES} /mnt/other; virsh -q start {other.uuid}"
    save = (
        f"virsh -q start {other.uuid}; virsh -q managedsave {other.uuid}; "
        f"virsh -q detach-disk {other.uuid} vda --config"
    )
    try:
        for kind, source, command in (
            ("volume", volume, over),  # of an inactive pool
            ("file", direct, save),
            ("file", mounted, mount),
        ):
            xml = other.xml.replace(f"<source file='{other.image}'/>", source)
            xml = xml.replace("disk type='file'", f"disk type='{kind}'")
            host.run("virsh", "-q", "define", "/dev/stdin", stdin=xml)
            host.run("sh", "-ec", command)
            for check in (True, False) if source == volume else ():
                refused = domain.snapshot(
                    snapshot="off", state="restored", force=True, _ansible_check_mode=check
                )
                assert refused.get("code") == "SNAPSHOT_NOT_POSSIBLE", (source, refused)
                assert f"domain {other.uuid} uses disk vda" in refused["msg"]
            deleted = domain.act(state="absent", force=True)
            assert f"domain {other.uuid} uses it" in str(deleted["warnings"])
            host.run("ls", domain.image)
            host.run("virsh", "-q", "define", "/dev/stdin", stdin=domain.xml)
            other.virsh("destroy", check=False)
            other.virsh("undefine", "--managed-save")
    finally:
        other.remove()
        host.run("umount", "/mnt/other", check=False)
        host.run("sh", "-c", "virsh -q pool-undefine o; rm -rf /srv/other")


def test_renamed_domain_is_not_the_one_of_its_old_name(small_host: Host) -> None:
    act = partial(run_module, small_host, "domain")
    wanted = {"vcpus": 1, "memory": 64, "disks": [{"size": 1}], "interfaces": []}
    uuid = act(name="before", **wanted)["domain"]["uuid"]
    small_host.run("virsh", "-q", "domrename", "before", "after")
    assert act(name="before", state="absent")["changed"] is False
    assert "is after now" in act(name="before", **{**wanted, "memory": 96})["msg"]
    assert act(name="before", state="running")["code"] == "VALIDATION_ERROR"
    assert act(name="after", state="absent")["changed"] is True
    assert act(uuid=uuid, state="absent")["changed"] is False


def test_guest_that_was_saved_while_paused_runs_after_its_start(domain: Domain) -> None:
    domain.virsh("start")
    domain.virsh("suspend")
    domain.virsh("managedsave")
    domain.virsh("start")
    # libvirt calls it migrating, as QEMU has read its memory like one that comes from elsewhere.
    assert domain.state() == "paused (migrating)"
    assert domain.act(state="running")["domain"]["state"] == "running"
    domain.virsh("suspend")
    domain.virsh("managedsave")
    assert domain.act(state="running")["domain"]["state"] == "running"
    assert domain.state().startswith("running")


def test_saved_image_that_somebody_has_removed_blocks_nothing(domain: Domain) -> None:
    domain.virsh("start")
    domain.virsh("managedsave")
    domain.host.run("rm", f"/var/lib/libvirt/qemu/save/{domain.uuid}.save")
    assert domain.is_saved()
    assert domain.act(state="stopped", force=True)["domain"]["state"] == "stopped"
    assert domain.act(state="running")["domain"]["state"] == "running"
    assert domain.act(state="absent", force=True)["domain"] is None


def test_memory_of_numa_cells_is_not_ours_to_change(domain: Domain) -> None:
    cells = "<cpu><numa><cell id='0' cpus='0-3' memory='64' unit='MiB'/></numa></cpu><devices>"
    xml = domain.xml.replace("<devices>", cells)
    domain.host.run("virsh", "-q", "define", "/dev/stdin", stdin=xml)
    for check in (True, False):
        refused = domain.act(memory=128, _ansible_check_mode=check)
        assert "NUMA cells" in refused["msg"]
    assert domain.act(memory=48)["domain"]["memory"] == 48


def test_only_disks_that_are_said_are_deleted(small_host: Host) -> None:
    act = partial(run_module, small_host, "domain", name="web", interfaces=[], vcpus=1, memory=64)
    two = [{"size": 1}, {"target": "vdb", "size": 1}]
    uuid = act(disks=two)["domain"]["uuid"]
    first, second = (f"{IMAGES}/{uuid}-{target}.qcow2" for target in ("vda", "vdb"))
    small_host.run("cp", first, f"{first}.bak")
    small_host.run("virsh", "-q", "pool-refresh", "default")
    try:
        small_host.run("virsh", "-q", "detach-disk", "web", "vdb", "--config")
        assert [c["before"] for c in act(state="absent")["changes"]] == ["stopped", first, second]
        assert act(disks=two)["changed"]
        assert act(state="absent", keep_disks=True)["changed"]
        act(disks=two[:1])
        assert [c["before"] for c in act(state="absent")["changes"]] == ["stopped", first]
        small_host.run("ls", second, f"{first}.bak")
    finally:
        small_host.run("rm", "-f", second, f"{first}.bak")


def test_many_domains_get_their_power_states_and_one_that_fails_stops_none(
    small_host: Host,
) -> None:
    domains = [Domain(small_host) for _ in range(3)]

    def power(*states: str, **more: Any) -> dict[str, Any]:
        options = [
            {"uuid": domain.uuid, "state": state, "job": f"job-{number}", **more}
            for number, (domain, state) in enumerate(zip(domains, states, strict=False))
        ]
        return run_module(small_host, "power", domains=options, _ansible_check_mode=check)

    def states() -> list[str]:
        return [domain.state().partition(" ")[0] for domain in domains]

    try:
        check = True
        planned = power("running", "running", "running")
        assert [one["domain"]["state"] for one in planned["domains"]] == ["running"] * 3
        assert states() == ["shut"] * 3, "a dry run"
        check = False
        started = power("running", "running")
        assert started["changed"]
        assert [one["job"] for one in started["domains"]] == ["job-0", "job-1"]
        assert states() == ["running", "running", "shut"]

        mixed = power("paused", "running", "paused")
        assert mixed["failed"]
        assert [one["failed"] for one in mixed["domains"]] == [False, False, True]
        assert [one["changed"] for one in mixed["domains"]] == [True, False, False]
        assert mixed["domains"][2]["code"] == "VM_ALREADY_STOPPED"
        assert mixed["msg"] == f"1 of 3 VMs: {mixed['domains'][2]['msg']}"
        assert mixed["domains"][0]["domain"]["state_reason"] == "user"
        assert states() == ["paused", "running", "shut"]

        power("resumed", generation=7)
        assert states()[0] == "running"
        outdated = power("paused", "paused", generation=6)
        assert outdated["domains"][0]["code"] == "STALE_GENERATION"
        assert outdated["domains"][0]["seen_generation"] == 7
        assert outdated["domains"][1]["failed"] is False
        assert states() == ["running", "paused", "shut"]
        ended = power("stopped", "restarted", force=True)
        assert [one["failed"] for one in ended["domains"]] == [False, False]
        assert states() == ["shut", "running", "shut"]
    finally:
        for domain in domains:
            domain.remove()
