"""Lab tests: snapshots of real guests; what they bring back is read in the guest itself."""

from __future__ import annotations

import json
import sysconfig
import time
from collections.abc import Callable
from typing import Any

import pytest

from tests.acceptance.guests import agent, booted, in_guest, power
from tests.lab import Host
from tests.lab.plays import IMAGES, REPOSITORY, Play

pytestmark = pytest.mark.lab

# A sector that no file of the guest lies in.
SECTOR = 1_800_000
Make = Callable[..., None]


@pytest.fixture
def make(host: Host, identity: str, play: Play) -> Make:
    """Make the test's VM, the smallest there is; a running one has booted afterwards."""

    def run(state: str = "running", **values: Any) -> None:
        small = {"template": "micro", "vcpus": 1, "memory": 96, "disk": 1, "state": state}
        made = play("vm_create", **{"name": f"vm-{identity[:8]}", **small, **values})
        assert not made.get("failed"), made
        if state == "running":
            booted(host, identity)

    return run


def write_mark(host: Host, domain: str, mark: str) -> None:
    """Write a mark into the guest's memory (its root is there) and onto its disk."""
    script = (
        f"echo {mark} > /mark;"
        f"echo {mark} | dd of=/dev/vda bs=512 seek={SECTOR} conv=notrunc,fsync 2>/dev/null; sync"
    )
    in_guest(host, domain, "/bin/sh", "-c", script)


def read_marks(host: Host, domain: str) -> tuple[str, str]:
    """Read the marks in memory and on the disk, the latter from the disk itself."""
    script = (
        "cat /mark 2>/dev/null || echo none; echo 3 > /proc/sys/vm/drop_caches;"
        f"dd if=/dev/vda bs=512 skip={SECTOR} count=1 2>/dev/null | head -n 1 | tr -d '\\0'"
    )
    memory, _, disk = in_guest(host, domain, "/bin/sh", "-c", script).partition("\n")
    return memory.strip(), disk.strip()


def tree(result: dict[str, Any]) -> dict[str, str | None]:
    return {entry["name"]: entry["parent"] for entry in result["snapshots"]}


def current(result: dict[str, Any]) -> list[str]:
    return [entry["name"] for entry in result["snapshots"] if entry["current"]]


def held(host: Host, identity: str, disk: str = "vda") -> list[str]:
    """The names of the snapshots in an image, whatever libvirt knows."""
    listed = host.run(
        "qemu-img", "info", "-U", "--output=json", f"{IMAGES}/{identity}-{disk}.qcow2"
    )
    return [found["name"] for found in json.loads(listed.stdout).get("snapshots", [])]


def known(host: Host, identity: str) -> list[str]:
    return host.run("virsh", "-q", "snapshot-list", identity, "--name").stdout.split()


# --- what comes back --------------------------------------------------------------------------


def test_running_guest_gets_its_disk_and_memory_back(
    host: Host, identity: str, play: Play, make: Make
) -> None:
    make(title="Then", labels={"tier": "web"})
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
    make(
        disk=None,
        disks=[{"target": "vda", "size": 1, "template": "micro"}, {"target": "vdb", "size": 1}],
    )
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
    texts = {"title": "Übung 🚀 </description><b>/..\\", "description": "a\r\nb\n\n{{ 7*7 }} ]]>"}
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


@pytest.mark.parametrize("state", ["running", "stopped"])
def test_guest_with_uefi_is_left_untouched(
    state: str, host: Host, identity: str, play: Play
) -> None:
    # Not waited for: firmware under emulation takes long, and it need not be up for this.
    values = {"template": "micro", "vcpus": 1, "memory": 128, "disk": 1, "firmware": "efi"}
    play("vm_create", name=f"vm-{identity[:8]}", state=state, **values)
    before = host.run("virsh", "dumpxml", identity).stdout
    refused = play("snapshot_create", name="one")
    assert refused["code"] == "SNAPSHOT_NOT_POSSIBLE"
    assert "UEFI" in refused["msg"]
    assert host.run("virsh", "dumpxml", identity).stdout == before
    assert held(host, identity) == known(host, identity) == []


def test_delete_of_vm_with_uefi_and_snapshots_leaves_nothing(
    host: Host, identity: str, play: Play
) -> None:
    values = {"template": "micro", "vcpus": 1, "memory": 128, "disk": 1, "firmware": "efi"}
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


# --- crashes ----------------------------------------------------------------------------------

Run = tuple[dict[str, Any], int]
"""A module's arguments, and the number of the step that it does not survive (0: none)."""


def run_modules(host: Host, *runs: Run, module: str = "snapshot") -> list[dict[str, Any] | None]:
    """Run a module without Ansible, once after the other; None for one that has crashed."""
    paths = [str(REPOSITORY / "collections"), sysconfig.get_path("purelib")]
    asked = json.dumps({"paths": paths, "module": module, "runs": runs})
    done = host.run("python3", str(REPOSITORY / "tests/lab/crash.py"), stdin=asked)
    results: list[dict[str, Any] | None] = json.loads(done.stdout)
    assert [result for result in results if result and result.get("failed")] == []
    return results


def end_state(host: Host, identity: str, result: dict[str, Any] | None) -> dict[str, Any]:
    """All that a run leaves, but for the moments and sizes that differ each time."""
    assert result is not None
    changing = ("created_at", "size_bytes")
    entries = [
        {key: value for key, value in entry.items() if key not in changing}
        for entry in result["snapshots"]
    ]
    domain = {key: result["domain"][key] for key in ("title", "state", "metadata")}
    fence = host.run("cat", f"/var/lib/virtplay/fence/{identity}.json").stdout
    return {
        "entries": entries,
        "domain": domain,
        "images": sorted(held(host, identity)),
        "fence": {key: value for key, value in json.loads(fence).items() if value},
    }


@pytest.mark.parametrize("state", ["running", "stopped"])
def test_creation_that_crashes_at_any_step_is_completed(
    state: str, host: Host, identity: str, make: Make
) -> None:
    make(state)
    run = {"uuid": identity, "snapshot": "one", "title": "One", "job": "job-1", "generation": 1}
    gone = {"uuid": identity, "snapshot": "one", "state": "absent"}
    expected = end_state(host, identity, *run_modules(host, (run, 0)))
    steps = 0
    while True:
        _, crashed, completed = run_modules(host, (gone, 0), (run, steps + 1), (run, 0))
        assert end_state(host, identity, completed) == expected, steps
        if crashed is not None:
            break
        steps += 1
        if state == "running":
            assert agent(host, identity, "guest-fsfreeze-status") == "thawed", steps
    assert steps >= (5 if state == "running" else 3)


def test_half_made_snapshot_is_deleted_whatever_comes_next(
    host: Host, identity: str, play: Play, make: Make
) -> None:
    make("stopped")
    image = f"{IMAGES}/{identity}-vda.qcow2"
    host.run("qemu-img", "snapshot", "-c", "half", image)
    refused = play("snapshot_create", name="half")
    assert refused["code"] == "SNAPSHOT_EXISTS"  # somebody else's, for all that is known
    fence = f"/var/lib/virtplay/fence/{identity}.json"
    note = json.dumps({"snapshot": {"name": "half", "frozen_since": None}})
    host.run("sh", "-c", f"mkdir -p /var/lib/virtplay/fence; cat > {fence}", stdin=note)
    play("snapshot_create", name="other")
    assert held(host, identity) == ["other"]
    host.run("qemu-img", "snapshot", "-c", "half", image)
    play("vm_start")
    host.run("sh", "-c", f"cat > {fence}", stdin=note)
    play("snapshot_delete", name="none")
    assert (held(host, identity), known(host, identity)) == (["other"], ["other"])
    assert power(host, identity) == "running"


@pytest.mark.parametrize("state", ["running", "stopped"])
def test_restore_that_crashes_at_any_step_is_completed(
    state: str, host: Host, identity: str, play: Play, make: Make
) -> None:
    make("running", title="Then")
    write_mark(host, identity, "first")
    play("snapshot_create", name="one")
    play("vm_update", title="Now")
    write_mark(host, identity, "second")
    if state == "stopped":
        host.run("virsh", "destroy", identity)
    play("snapshot_create", name="base")  # where every turn begins
    vm: dict[str, Any] = {"uuid": identity}
    run: dict[str, Any] = {
        **{"snapshot": "one", "state": "restored", "guard": "guard"},
        **{"job": "job-1", "generation": 1, "force": state == "running"},
    }

    begin: list[Run] = [
        ({**vm, "snapshot": "base", "state": "restored", "force": True}, 0),
        ({**vm, "snapshot": "guard", "state": "absent"}, 0),
    ]

    *_, restored = run_modules(host, *begin, (vm | run, 0))
    expected = end_state(host, identity, restored)
    assert (expected["domain"]["title"], expected["domain"]["state"]) == ("Now", "running")
    steps = 0
    while True:
        host.run("rm", "-f", f"/var/lib/virtplay/fence/{identity}.json")
        *_, crashed, completed = run_modules(host, *begin, (vm | run, steps + 1), (vm | run, 0))
        assert end_state(host, identity, completed) == expected, steps
        assert agent(host, identity, "guest-fsfreeze-status") == "thawed", steps
        assert read_marks(host, identity) == ("first", "first"), steps
        if crashed is not None:
            break
        steps += 1
    assert steps >= 9


def test_deletion_that_crashes_at_any_step_is_completed(
    host: Host, identity: str, make: Make
) -> None:
    make("stopped")
    vm: dict[str, Any] = {"uuid": identity}
    image = f"{IMAGES}/{identity}-vda.qcow2"
    gone = {"snapshot": "one", "state": "absent", "job": "job-1"}
    steps = 0
    while True:
        *_, crashed, after = run_modules(
            host,
            ({**vm, "snapshot": "two", "state": "absent"}, 0),
            ({**vm, "snapshot": "one"}, 0),
            ({**vm, "snapshot": "two"}, 0),
            (vm | gone, steps + 1),
            (vm | gone, 0),
        )
        assert after is not None
        assert (tree(after), held(host, identity)) == ({"two": None}, ["two"]), steps
        if crashed is not None:
            break
        steps += 1
    run_modules(host, ({**vm, "snapshot": "two", "state": "absent"}, 0))
    # Parts that are gone already, and some that are there twice.
    for change in ("-d", "-c"):
        run_modules(host, ({**vm, "snapshot": "one"}, 0))
        host.run("qemu-img", "snapshot", change, "one", image)
        [after] = run_modules(host, (vm | gone, 0))
        assert after is not None
        assert (tree(after), held(host, identity)) == ({}, []), change


# --- guests that do not answer ----------------------------------------------------------------


def test_guest_whose_agent_hangs_gets_its_snapshot_unfrozen(
    host: Host, identity: str, play: Play, make: Make
) -> None:
    make()
    in_guest(host, identity, "/bin/sh", "-c", "(sleep 1; killall -STOP qemu-ga) >/dev/null 2>&1 &")
    time.sleep(3)
    entry = play("snapshot_create", name="one")["snapshot"]
    assert (entry["frozen"], entry["has_memory"]) == (False, True)


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
