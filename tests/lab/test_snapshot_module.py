"""Lab tests: snapshots of real guests; what they bring back is read in the guest itself."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from lab import Host
from tests.acceptance.guests import agent, agent_answers, booted, in_guest, power
from tests.acceptance.service import wait_for
from tests.lab.conftest import Make
from tests.lab.modules import run_module, run_modules
from tests.lab.plays import IMAGES, Play
from tests.lab.snapshots import held, known, read_marks, tree, write_mark

pytestmark = pytest.mark.lab
NOTE = "/run/virtplay/silent.json"


def current(result: dict[str, Any]) -> list[str]:
    return [entry["name"] for entry in result["snapshots"] if entry["current"]]


# --- what comes back --------------------------------------------------------------------------


def test_running_guest_gets_its_disk_and_memory_back(
    host: Host, identity: str, play: Play, make: Make
) -> None:
    make(title="Then", metadata={"labels": {"tier": "web"}})
    write_mark(host, identity, "first")
    made = play("snapshot_create", name="one", title="One", job="job-1", generation=1)
    entry = made["snapshot"]
    assert (entry["has_memory"], entry["state"], entry["frozen"]) == (True, "running", True)
    assert entry["size_bytes"] > 10_000_000
    assert made["domain"]["state"] == "running"
    write_mark(host, identity, "second")
    assert read_marks(host, identity) == ("second", "second")
    play("vm_update", title="Now", labels={"tier": "db"}, autostart=True)

    refused = play("snapshot_restore", name="one")
    assert refused["code"] == "VM_ALREADY_RUNNING"
    assert read_marks(host, identity) == ("second", "second")

    back = play("snapshot_restore", name="one", force=True, guard="two", job="job-2", generation=2)
    assert back["guard"]["origin"] == "guard"
    assert (back["domain"]["state"], back["domain"]["title"]) == ("running", "Now")
    assert back["domain"]["autostart"] is True
    metadata = back["domain"]["metadata"]
    assert (metadata["labels"], metadata["job"]) == ({"tier": "db"}, "job-2")
    assert read_marks(host, identity) == ("first", "first")
    assert agent(host, identity, "guest-fsfreeze-status") == "thawed"
    assert (tree(back), current(back)) == ({"one": None, "two": "one"}, ["one"])

    write_mark(host, identity, "third")
    values: dict[str, Any] = {"force": True, "guard": "two", "job": "job-2", "generation": 2}
    assert play("snapshot_restore", name="one", **values)["changed"] is False
    assert read_marks(host, identity) == ("third", "third")

    assert play("snapshot_restore", name="two", force=True)["changed"] is True
    assert read_marks(host, identity) == ("second", "second")


def test_stopped_guest_gets_its_disk_back(
    host: Host, identity: str, play: Play, make: Make
) -> None:
    make()
    write_mark(host, identity, "first")
    play("vm_stop", force=True)
    entry = play("snapshot_create", name="one")["snapshot"]
    assert (entry["has_memory"], entry["state"], entry["size_bytes"]) == (False, "stopped", 0)
    assert entry["frozen"] is None
    assert play("snapshot_restore", name="one")["changed"] is False
    play("vm_start")
    booted(host, identity)
    assert read_marks(host, identity) == ("none", "first")
    write_mark(host, identity, "second")
    assert play("snapshot_restore", name="one")["code"] == "VM_ALREADY_RUNNING"
    assert play("snapshot_restore", name="one", force=True)["domain"]["state"] == "stopped"
    assert play("snapshot_restore", name="one", force=True)["changed"] is False
    play("vm_start")
    booted(host, identity)
    assert read_marks(host, identity) == ("none", "first")


def test_paused_guest_comes_back_paused_and_from_being_stopped(
    host: Host, identity: str, play: Play, make: Make
) -> None:
    make()
    write_mark(host, identity, "first")
    play("vm_pause")
    entry = play("snapshot_create", name="one")["snapshot"]
    assert (entry["state"], entry["frozen"]) == ("paused", False)
    play("vm_stop", force=True)
    back = play("snapshot_restore", name="one")
    assert (back["domain"]["state"], power(host, identity)) == ("paused", "paused")
    play("vm_resume")
    assert read_marks(host, identity) == ("first", "first")


def test_disks_made_and_grown_since(host: Host, identity: str, play: Play, make: Make) -> None:
    make(disks=[{"target": "vda", "size": 1, "template": "micro"}, {"target": "vdb", "size": 1}])
    play("snapshot_create", name="one")
    assert held(host, identity, "vdb") == ["one"]
    play("vm_update", disks=[{"target": "vdb", "size": 2}])
    planned = play("snapshot_restore", "--check", name="one", force=True)
    assert {c["field"]: c["destroys"] for c in planned["changes"]} == {
        "snapshots.current": True,
        "disks.vdb.size": True,
    }
    back = play("snapshot_restore", name="one", force=True)
    assert [disk["size"] for disk in back["domain"]["disks"]] == [1, 1]
    play("vm_update", disks=[{"target": "vdc", "size": 1}])
    refused = play("snapshot_restore", name="one", force=True)
    assert refused["code"] == "SNAPSHOT_NOT_POSSIBLE"
    assert "vdc was added since" in refused["msg"]
    assert power(host, identity) == "running"
    play("snapshot_delete", name="one")
    assert (held(host, identity), held(host, identity, "vdb")) == ([], [])


# --- the tree ---------------------------------------------------------------------------------


def test_tree_is_shared_with_virsh(host: Host, identity: str, play: Play, make: Make) -> None:
    make("stopped")
    texts = {"title": "Übung 🚀 </description><b>/..\\", "description": "a\n\tb\n\n{{ 7*7 }} ]]>"}
    play("snapshot_create", name="one", expires_at="2030-01-01T00:00:00Z", **texts)
    host.run("virsh", "snapshot-create-as", identity, "by hand …", "Text 🚀")
    made = play("snapshot_create", name="three")
    assert tree(made) == {"one": None, "by hand …": "one", "three": "by hand …"}
    first, second, _ = made["snapshots"]
    assert {key: first[key] for key in texts} == texts
    assert first["expires_at"] == "2030-01-01T00:00:00Z"
    assert "Übung 🚀" in host.run("virsh", "snapshot-dumpxml", identity, "one").stdout
    assert (second["title"], second["description"]) == ("by hand …", "Text 🚀")
    assert (second["origin"], second["kind"]) == ("found", "internal")
    gone = play("snapshot_delete", name="by hand …")
    assert (tree(gone), current(gone)) == ({"one": None, "three": "one"}, ["three"])
    assert play("snapshot_delete", name="by hand …")["changed"] is False
    host.run("virsh", "snapshot-delete", identity, "one")
    last = play("snapshot_delete", "--check", name="three")
    assert (tree(last), known(host, identity), held(host, identity)) == ({}, ["three"], ["three"])


def test_delete_leaves_disks_alone_that_the_snapshot_is_not_in(
    host: Host, identity: str, play: Play, make: Make
) -> None:
    make("stopped")
    play("snapshot_create", name="one")
    for target, mode in (("vdy", ("--mode", "readonly")), ("vdz", ())):
        image = f"{IMAGES}/{identity}-{target}.qcow2"
        host.run("qemu-img", "create", "-q", "-f", "qcow2", image, "16M")
        host.run("qemu-img", "snapshot", "-c", "one", image)
        options = ("--driver", "qemu", "--subdriver", "qcow2", *mode, "--config")
        host.run("virsh", "attach-disk", identity, image, target, *options)
    assert play("snapshot_delete", name="one")["changed"] is True
    assert [held(host, identity, disk) for disk in ("vda", "vdy", "vdz")] == [[], ["one"], ["one"]]


def test_names_that_cannot_be_are_refused(
    host: Host, identity: str, play: Play, make: Make
) -> None:
    make("stopped")
    for name in ("a/b", "🚀", "-a", ".a", "a b", "", "1", "a" * 65, "$(id)"):
        assert play("snapshot_create", name=name)["code"] == "VALIDATION_ERROR", name
    assert play("snapshot_create", name="one", title="a\x07")["code"] == "VALIDATION_ERROR"
    assert play("snapshot_create", name="one", title="a\nb")["code"] == "VALIDATION_ERROR"
    assert play("snapshot_create", name="one", expires_at="soon")["code"] == "VALIDATION_ERROR"
    assert play("snapshot_restore", name="none 🚀")["code"] == "SNAPSHOT_NOT_FOUND"
    assert known(host, identity) == held(host, identity) == []
    play("snapshot_create", name="one", title="One", job="job-1")
    assert play("snapshot_create", name="one", job="job-2")["code"] == "SNAPSHOT_EXISTS"
    assert play("snapshot_create", name="one", title="Two")["code"] == "SNAPSHOT_EXISTS"
    assert play("snapshot_create", name="one", job="job-1")["changed"] is False


def test_dry_run_says_what_would_change_and_changes_nothing(
    host: Host, identity: str, play: Play, make: Make
) -> None:
    make("stopped")
    play("snapshot_create", name="one")
    play("vm_start")

    def dry(action: str, **values: Any) -> tuple[list[str], dict[str, Any]]:
        result = play(action, "--check", "--diff", **values)
        assert result["changed"] is True
        return (result["diff"][0]["before"] + result["diff"][0]["after"]).splitlines(), result

    words, planned = dry("snapshot_create", name="two", title="Two words")
    assert words == [
        "snapshots.two: none",
        "snapshots.two.title: none",
        "snapshots.two: disks and memory  (live)".replace("disks and memory", '"disks and memory"'),
        'snapshots.two.title: "Two words"  (live)',
    ]
    assert (tree(planned), current(planned)) == ({"one": None, "two": "one"}, ["two"])
    words, planned = dry("snapshot_restore", name="one", force=True, guard="guard")
    assert words[-2:] == ["snapshots.current: one  (live)", "state: stopped  (live)"]
    assert planned["domain"]["state"] == "stopped"
    words, _ = dry("snapshot_delete", name="one")
    assert words[-2:] == ["snapshots.one: none  (DESTROYED)", "snapshots.current: none  (live)"]
    assert known(host, identity) == held(host, identity) == ["one"]
    assert power(host, identity) == "running"


# --- what cannot be ---------------------------------------------------------------------------


@pytest.fixture
def raw_variables(host: Host) -> Iterator[None]:
    """New VMs have raw UEFI variables, also where libvirt could include qcow2 in snapshots."""
    template = "/var/lib/virtplay/firmware/OVMF_VARS_4M.qcow2"
    host.run("mv", template, f"{template}.aside")
    yield
    host.run("mv", f"{template}.aside", template)


@pytest.mark.usefixtures("raw_variables")
@pytest.mark.parametrize("state", ["running", "stopped"])
def test_guest_with_uefi_is_left_untouched(
    state: str, host: Host, identity: str, play: Play
) -> None:
    # Not waited for: firmware under emulation takes long, and it need not be up for this.
    values = {"template": "micro", "vcpus": 1, "memory": 160, "disk": 1, "firmware": "efi"}
    play("vm_create", name=f"vm-{identity[:8]}", state=state, **values)
    before = host.run("virsh", "dumpxml", identity).stdout
    refused = play("snapshot_create", name="one")
    assert refused["code"] == "SNAPSHOT_NOT_POSSIBLE"
    assert "UEFI" in refused["msg"]
    assert host.run("virsh", "dumpxml", identity).stdout == before
    assert held(host, identity) == known(host, identity) == []


@pytest.mark.usefixtures("raw_variables")
def test_delete_of_vm_with_uefi_and_snapshots_leaves_nothing(
    host: Host, identity: str, play: Play
) -> None:
    values = {"template": "micro", "vcpus": 1, "memory": 160, "disk": 1, "firmware": "efi"}
    play("vm_create", name=f"vm-{identity[:8]}", state="stopped", **values)
    for name in ("one", "two"):
        host.run("virsh", "snapshot-create-as", identity, name)
    host.run("virsh", "snapshot-current", identity, "one")
    host.run("virsh", "snapshot-create-as", identity, "three")
    play("vm_start")
    # QEMU could not delete it from the image, and libvirt would not say so.
    assert play("snapshot_delete", name="two")["code"] == "SNAPSHOT_NOT_POSSIBLE"
    assert sorted(known(host, identity)) == ["one", "three", "two"]
    assert play("vm_delete", force=True)["domain"] is None
    assert identity[:8] not in host.run("ls", "/var/lib/libvirt/qemu/nvram").stdout
    assert identity not in host.run("ls", IMAGES).stdout


def test_memory_without_room_is_said_before_anything_is_touched(
    host: Host, identity: str, play: Play, make: Make
) -> None:
    make("stopped")
    host.run("mkdir", "-p", f"/run/{identity}")
    host.run("mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", f"/run/{identity}")
    try:
        path, small = f"{IMAGES}/{identity}-vda.qcow2", f"/run/{identity}/small.qcow2"
        host.run("qemu-img", "create", "-q", "-f", "qcow2", small, "1G")
        xml = host.run("virsh", "dumpxml", "--inactive", identity).stdout
        host.run("virsh", "define", "/dev/stdin", stdin=xml.replace(path, small))
        play("vm_start")
        refused = play("snapshot_create", name="one")
        assert refused["code"] == "INSUFFICIENT_RESOURCES"
        assert known(host, identity) == []
        assert power(host, identity) == "running"
    finally:
        host.run("virsh", "destroy", identity, check=False)
        host.run("umount", f"/run/{identity}")


# --- guests that do not answer ----------------------------------------------------------------


def test_guest_whose_agent_hangs_gets_its_snapshot_unfrozen(
    host: Host, identity: str, play: Play, make: Make
) -> None:
    make()
    # Not before the agent has answered for this command, and until the cable is pulled.
    halt = "sleep 1; killall -STOP qemu-ga; while grep -q 1 carrier; do sleep 1; done"
    halt = f"cd /sys/class/net/eth0; ({halt}; killall -CONT qemu-ga) >/dev/null 2>&1 &"
    in_guest(host, identity, "/bin/sh", "-c", halt)
    wait_for("the agent's halt", lambda: not agent_answers(host, identity), 120)
    entry = play("snapshot_create", name="one")["snapshot"]
    assert (entry["frozen"], entry["has_memory"]) == (False, True)

    def observe() -> dict[str, Any]:
        found = run_module(host, "host_info")["host_info"]["domains"]
        return next(domain for domain in found if domain["uuid"] == identity)

    def waits_after_its_report() -> bool:
        assert "filesystems" not in observe()
        process = json.loads(host.run("cat", NOTE).stdout)[identity].split()[0]
        return host.run("test", "-d", f"/proc/{process}", check=False).returncode == 0

    # The first one waits for the agent; those that know it do so when they have reported.
    assert "filesystems" not in observe()
    wait_for("an observation that reports first", waits_after_its_report, 60)
    card = host.run("virsh", "-q", "domiflist", identity).stdout.split()[-1]
    host.run("virsh", "domif-setlink", identity, card, "down")
    wait_for("the agent's figures", lambda: "filesystems" in observe(), 60)
    wait_for("the note's end", lambda: identity not in host.run("cat", NOTE).stdout, 60)


def test_qemu_that_is_stuck_is_said_and_nothing_is_made(
    host: Host, identity: str, play: Play, make: Make
) -> None:
    make()
    pid = host.run("cat", f"/run/libvirt/qemu/vm-{identity[:8]}.pid").stdout.strip()
    host.run("kill", "-STOP", pid)
    try:
        failed = play("snapshot_create", name="one", freeze=False)
        assert failed["code"] == "GUEST_NOT_RESPONDING"
    finally:
        host.run("kill", "-CONT", pid)
    assert known(host, identity) == []
    assert play("snapshot_create", name="one")["changed"] is True


def test_observation_lists_snapshots_of_a_guest_that_is_stuck(
    host: Host, identity: str, play: Play, make: Make
) -> None:
    make()
    made = play("snapshot_create", name="one", title="One")["snapshot"]
    pid = host.run("cat", f"/run/libvirt/qemu/vm-{identity[:8]}.pid").stdout.strip()
    host.run("kill", "-STOP", pid)
    try:
        [seen] = run_modules(host, ({"timeout": 3}, 0), module="host_info")
    finally:
        host.run("kill", "-CONT", pid)
    assert seen is not None
    domains = seen["host_info"]["domains"]
    assert next(domain for domain in domains if domain["uuid"] == identity)["snapshots"] == [made]
