"""Tests of what making, restoring and deleting a snapshot would change, and of every refusal."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from ansible_collections.virtplay.libvirt.plugins.module_utils.domain.plan import Current
from ansible_collections.virtplay.libvirt.plugins.module_utils.domain.xml import parse_domain
from ansible_collections.virtplay.libvirt.plugins.module_utils.failure import Failure
from ansible_collections.virtplay.libvirt.plugins.module_utils.snapshot.plan import (
    SnapshotView,
    check_new_name,
    entry_to_be,
    find_obstacles,
    plan_creation,
    plan_deletion,
    plan_restore,
    qcow2_variables,
    split_disks,
    tree_with,
    tree_without,
)
from ansible_collections.virtplay.libvirt.plugins.module_utils.snapshot.qcow2 import (
    Qcow2Image,
    Qcow2Snapshot,
)
from ansible_collections.virtplay.libvirt.plugins.module_utils.snapshot.xml import parse_snapshot
from ansible_collections.virtplay.libvirt.plugins.module_utils.states import (
    DomainReason,
    DomainState,
)
from ansible_collections.virtplay.libvirt.plugins.module_utils.values import SNAPSHOT

GIB = 1 << 30
OLD, NEW = 9_000_000, 10_010_000
VDA = (
    "<disk type='file' device='disk'><driver name='qemu' type='qcow2'/>"
    "<source file='/images/a-vda.qcow2'/><target dev='vda' bus='virtio'/></disk>"
)
SEED = (
    "<disk type='file' device='cdrom'><driver name='qemu' type='raw'/>"
    "<source file='/images/a-seed.iso'/><target dev='sda' bus='scsi'/><readonly/></disk>"
)
PFLASH = "<loader readonly='yes' type='pflash'>/code.fd</loader>"


def definition(devices: str = VDA + SEED, system: str = "", memory: int = 96) -> str:
    return (
        "<domain type='qemu'><name>vm-001</name><uuid>u</uuid>"
        f"<memory unit='MiB'>{memory}</memory><vcpu>1</vcpu><os><type>hvm</type>{system}</os>"
        f"<devices>{devices}</devices></domain>"
    )


def snapshot_xml(name: str, state: str = "shutoff", parent: str = "", domain: str = "") -> str:
    memory = "internal" if state != "shutoff" else "no"
    inside = f"<parent><name>{parent}</name></parent>" if parent else ""
    return (
        f"<domainsnapshot><name>{name}</name><state>{state}</state>{inside}"
        f"<creationTime>1795366578</creationTime><memory snapshot='{memory}'/>"
        "<disks><disk name='vda' snapshot='internal'/><disk name='sda' snapshot='no'/></disks>"
        f"{domain or definition()}</domainsnapshot>"
    )


def image(*names: str, active: str = "", size: int = GIB) -> Qcow2Image:
    """An image of size bytes whose snapshots are numbered from 1 and 1 GiB large."""
    return Qcow2Image(
        size,
        tuple(
            Qcow2Snapshot(str(number), name, 0, GIB, name == active)
            for number, name in enumerate(names, 1)
        ),
    )


def view(
    *xmls: str,
    current: str = "",
    state: DomainState = DomainState.STOPPED,
    xml: str = "",
    images: dict[str, Qcow2Image | None] | None = None,
    persistent: bool = True,
    version: int = OLD,
    saved: bool = False,
    jobs: tuple[str, ...] = (),
    **more: Any,
) -> SnapshotView:
    xml = xml or definition()
    config = parse_domain(xml)
    entries = [parse_snapshot(each) for each in xmls]
    for entry in entries:
        entry["current"] = entry["name"] == current
    names = [entry["name"] for entry in entries]
    return SnapshotView(
        Current(
            *(state, {}, persistent, config, config, xml, xml),
            has_managed_save=saved,
            reason=DomainReason.SAVED if saved else DomainReason.UNKNOWN,
            jobs=jobs,
        ),
        version,
        entries,
        dict(zip(names, xmls, strict=True)),
        {"vda": image(*names)} if images is None else images,
        **more,
    )


def wanted(name: str = "one", **values: Any) -> dict[str, Any]:
    return {"name": name, "origin": "manual", **values}


def refusal(call: Any, *args: Any, **values: Any) -> tuple[str, str]:
    with pytest.raises(Failure) as refused:
        call(*args, **values)
    return refused.value.code, refused.value.message


SAVED = ("VM_HAS_SAVED_STATE", "its memory is saved")


# --- names and times --------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a", "_x", "2026-11-22", "auto.1_b", "a" * 64, "0x"])
def test_names_that_can_be(name: str) -> None:
    check_new_name(name)


@pytest.mark.parametrize(
    "name", ["", "-a", ".a", "a/b", "a b", "a\n", "ü", "🚀", "7", "007", "٣", "a" * 65, "$(id)"]
)
def test_names_that_cannot_be(name: str) -> None:
    assert refusal(check_new_name, name)[0] == "VALIDATION_ERROR"


@pytest.mark.parametrize(
    "text", ["2026-12-31T23:59:00Z", "2026-12-31T23:59:00.123456789+01:00", "2026-12-31 23:59:00z"]
)
def test_moments(text: str) -> None:
    assert SNAPSHOT.find_faults({"expires_at": text}) == []


@pytest.mark.parametrize(
    "text", ["", "soon", "2026-12-31", "2026-13-01T00:00:00Z", "2026-12-31T23:59:00", "1795366578"]
)
def test_no_moments(text: str) -> None:
    (fault,) = SNAPSHOT.find_faults({"expires_at": text})
    assert fault.startswith(f"cannot use expires_at {text!r}: it must be a time like ")


# --- what can be ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("xml", "active", "version", "reason"),
    [
        (definition(), True, OLD, None),
        (definition(system=PFLASH + "<nvram>/v.fd</nvram>"), True, NEW, "UEFI"),
        (definition(system=PFLASH + "<nvram>/v.fd</nvram>"), False, OLD, "UEFI"),
        (definition(system=PFLASH), False, NEW, "UEFI"),
        (definition(system=PFLASH + "<nvram format='qcow2'>/v</nvram>"), True, OLD, "UEFI"),
        (definition(system=PFLASH + "<nvram format='qcow2'>/v</nvram>"), True, NEW, None),
        (definition(system="<loader type='rom'>/code.fd</loader>"), True, OLD, None),
        (definition(SEED), False, OLD, "no writable disk"),
        (definition(VDA.replace("</disk>", "<readonly/></disk>")), False, OLD, "no writable disk"),
        (definition(VDA.replace("'qcow2'", "'raw'")), False, OLD, "vda is raw, not qcow2"),
        (definition(VDA.replace(" type='qcow2'", "")), False, OLD, "unknown format"),
        (
            definition(VDA.replace("type='file'", "type='network'")),
            False,
            OLD,
            "disk vda is of type network, and not stored on the host",
        ),
        (
            definition(VDA.replace("device='disk'", "device='lun'")),
            False,
            OLD,
            "disk vda is a SCSI device of the host (lun)",
        ),
        (definition(VDA.replace("</disk>", "<shareable/></disk>")), False, OLD, "shared with"),
        (definition(VDA.replace("</disk>", "<encryption/></disk>")), True, OLD, "is encrypted"),
        (
            definition(VDA.replace("vda.qcow2'/>", "vda.qcow2'><encryption/></source>")),
            False,
            OLD,
            "disk vda is encrypted",
        ),
        (
            definition(VDA.replace("</disk>", "<transient/></disk>")),
            False,
            OLD,
            "disk vda is transient",
        ),
        (
            definition(VDA + "<hostdev mode='subsystem'/>"),
            True,
            OLD,
            "host device is passed through",
        ),
        (
            definition(VDA + VDA.replace("'vda'", "'vdb'")),
            False,
            OLD,
            "disks vda and vdb have the same image",
        ),
        (
            definition(VDA + VDA.replace("'vda'", "'vdb'").replace("a-vda", "b-vda")),
            False,
            OLD,
            None,
        ),
        (definition(VDA + "<hostdev mode='subsystem'/>"), False, OLD, None),
        (
            definition(VDA + "<interface type='hostdev'/>"),
            True,
            OLD,
            "host device is passed through",
        ),
        (definition(VDA + "<filesystem type='mount'/>"), True, OLD, "shares a directory"),
    ],
)
def test_obstacles(xml: str, active: bool, version: int, reason: str | None) -> None:
    found = find_obstacles(xml, active=active, version=version)
    assert bool(found) == bool(reason)
    assert reason is None or reason in found[0]


# --- variables of UEFI firmware ---------------------------------------------------------------

VARIABLES = "/var/lib/libvirt/qemu/nvram/vm-001_VARS.qcow2"
QCOW2 = f"<nvram template='/t.qcow2' templateFormat='qcow2' format='qcow2'>{VARIABLES}</nvram>"
UEFI = definition(system=PFLASH + QCOW2)
WANTED = {"name": "new", "origin": "manual"}


def uefi_view(*xmls: str, held: Qcow2Image | None, **values: Any) -> SnapshotView:
    return view(*xmls, xml=UEFI, version=NEW, variables={VARIABLES: held}, **values)


@pytest.mark.parametrize(
    ("system", "path"),
    [
        (PFLASH + QCOW2, VARIABLES),
        (PFLASH + QCOW2.replace(VARIABLES, f"<source file='{VARIABLES}'/>"), VARIABLES),
        (PFLASH + "<nvram>/v.fd</nvram>", None),
        (PFLASH + "<nvram format='raw'>/v.fd</nvram>", None),
        ("", None),
    ],
)
def test_variables_in_qcow2_are_found(system: str, path: str | None) -> None:
    assert qcow2_variables(definition(system=system)) == path


@pytest.mark.parametrize(("version", "remedy"), [(OLD, "requires libvirt 10.10"), (NEW, "README")])
def test_raw_variables_are_refused_with_what_can_be_done(version: int, remedy: str) -> None:
    xml = definition(system=PFLASH + "<nvram>/v.fd</nvram>")
    (reason,) = find_obstacles(xml, active=True, version=version)
    assert remedy in reason


def test_snapshot_of_a_uefi_domain_needs_readable_variables() -> None:
    assert plan_creation(uefi_view(held=image()), WANTED, known=False)
    with pytest.raises(Failure, match="start it once") as caught:
        plan_creation(uefi_view(held=None), WANTED, known=False)
    assert caught.value.code == "SNAPSHOT_NOT_POSSIBLE"


def test_state_of_a_tpm_is_in_a_snapshot_with_memory_alone() -> None:
    xml = definition(VDA + "<tpm model='tpm-crb'><backend type='emulator'/></tpm>")
    assert find_obstacles(xml, active=True, version=OLD) == []
    (reason,) = find_obstacles(xml, active=False, version=NEW)
    assert "state of its TPM" in reason


def test_snapshot_that_only_the_variables_hold_is_not_overwritten() -> None:
    found = uefi_view(held=image("new"))
    with pytest.raises(Failure, match=f"in UEFI variables {VARIABLES}") as caught:
        plan_creation(found, WANTED, known=False)
    assert caught.value.code == "SNAPSHOT_EXISTS"
    assert plan_creation(found, WANTED, known=True)


def test_restore_needs_the_snapshot_in_the_variables_too() -> None:
    taken = snapshot_xml("a", domain=UEFI)
    assert plan_restore(uefi_view(taken, held=image("a")), "a", force=True)
    for held in (image("b"), None):
        with pytest.raises(Failure, match="do not contain that snapshot") as caught:
            plan_restore(uefi_view(taken, held=held), "a", force=True)
        assert caught.value.code == "SNAPSHOT_NOT_POSSIBLE"


def test_restore_of_a_stopped_domain_is_skipped_only_with_the_variables_of_then() -> None:
    taken = snapshot_xml("a", domain=UEFI)
    disks = {"vda": image("a", active="a")}
    then = uefi_view(taken, held=image("a", active="a"), images=disks, current="a")
    assert plan_restore(then, "a", force=False) == []
    other = uefi_view(taken, held=image("a"), images=disks, current="a")
    assert plan_restore(other, "a", force=False)


def test_number_of_another_snapshot_in_the_variables_is_noticed() -> None:
    # Snapshot 1 of the variables is "x": QEMU would take it for the one named "1".
    found = uefi_view(snapshot_xml("1", domain=UEFI), held=image("x"), images={"vda": image()})
    with pytest.raises(Failure, match=r"UEFI variables .* another snapshot with that number"):
        plan_deletion(found, "1")


def test_uefi_that_libvirt_chose_by_itself_is_seen() -> None:
    xml = definition().replace("<os>", "<os firmware='efi'>")
    assert "UEFI" in find_obstacles(xml, active=False, version=OLD)[0]


def test_media_and_empty_drives_are_left_out() -> None:
    empty = "<disk type='file' device='floppy'><target dev='fda'/></disk>"
    assert split_disks(definition(VDA + SEED + empty)) == (["vda"], ["sda", "fda"])


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"persistent": False}, "transient"),
        ({"images": {"vda": None}}, "not a readable qcow2"),
        ({"state": DomainState.SUSPENDED}, "it is suspended"),
        ({"state": DomainState.CRASHED}, "it is crashed"),
        ({"saved": True}, "its memory is saved, and no snapshot can include it"),
        ({"checkpoints": ("c1",)}, "it has checkpoints of a backup (c1)"),
    ],
)
def test_creation_is_refused(values: dict[str, Any], reason: str) -> None:
    code, message = refusal(plan_creation, view(**values), wanted(), known=False)
    assert code == "SNAPSHOT_NOT_POSSIBLE"
    assert reason in message
    assert message.startswith("cannot create snapshot one of vm-001: ")


def test_checkpoints_prevent_few_snapshots() -> None:
    """A running guest can have both, and from 11.3 on a stopped one too."""
    running = view(state=DomainState.RUNNING, checkpoints=("c1",))
    newer = view(checkpoints=("c1",), version=11_003_000)
    for seen in (running, newer):
        assert plan_creation(seen, wanted(), known=False)


@pytest.mark.parametrize(
    ("version", "name", "possible"),
    [
        (10_009_000, "by hand", True),
        (10_010_000, "by hand", False),
        (12_008_000, "übung", False),
        (12_008_000, "1.by_hand-", True),
    ],
)
def test_names_that_qemu_refuses_in_jobs(version: int, name: str, possible: bool) -> None:
    def view_of(state: DomainState, held: str) -> SnapshotView:
        xml = snapshot_xml(name, held)
        images = {"vda": image(name)}
        return view(xml, state=state, images=images, version=version)

    reason = "its name has other characters"
    stopped, running = DomainState.STOPPED, DomainState.RUNNING
    if possible:
        assert plan_deletion(view_of(running, "running"), name)
        assert plan_restore(view_of(running, "running"), name, force=True)
    else:
        for refused in (
            refusal(plan_deletion, view_of(running, "shutoff"), name),
            refusal(plan_restore, view_of(running, "running"), name, force=True),
            refusal(plan_restore, view_of(stopped, "running"), name, force=True),
        ):
            assert refused[0] == "SNAPSHOT_NOT_POSSIBLE"
            assert reason in refused[1]
    # qemu-img takes any name.
    assert plan_deletion(view_of(stopped, "running"), name)
    assert plan_restore(view_of(running, "shutoff"), name, force=True)


def test_snapshots_of_an_occupied_domain_are_left_alone() -> None:
    seen = view(snapshot_xml("a"), state=DomainState.RUNNING, jobs=("a backup",))
    for refused in (
        refusal(plan_creation, seen, wanted(), known=False),
        refusal(plan_deletion, seen, "a"),
        refusal(plan_restore, seen, "a", force=True),
    ):
        assert refused[0] == "OPERATION_IN_PROGRESS"
        assert "a backup is in progress" in refused[1]


# --- create -----------------------------------------------------------------------------------


def test_creation_tells_what_it_holds() -> None:
    fields = {
        c.field: (c.after, str(c.applies))
        for c in plan_creation(
            view(state=DomainState.PAUSED), wanted(title="One", description=""), known=False
        )
    }
    assert fields == {
        "snapshots.one": ("disks and memory", "live"),
        "snapshots.one.title": ("One", "live"),
    }
    planned = entry_to_be(view(snapshot_xml("p"), current="p"), wanted(title="One"))
    assert (planned["title"], planned["parent"], planned["state"]) == ("One", "p", "stopped")


@pytest.mark.parametrize(
    ("present", "asked", "taken"),
    [
        ({}, {}, False),
        ({"title": "T"}, {"title": "T"}, False),
        ({"title": "T"}, {}, False),
        ({"title": "T"}, {"title": "U"}, True),
        ({"description": "D"}, {"description": "E"}, True),
        ({"description": None}, {"description": ""}, False),
        ({"job": "job-1", "title": "T"}, {"job": "job-1", "title": "U"}, False),
        ({"job": "job-1"}, {"job": "job-2"}, True),
        ({"job": None}, {"job": "job-2"}, True),
        ({"job": "job-1"}, {}, False),
    ],
)
def test_name_that_is_taken(present: dict[str, Any], asked: dict[str, Any], taken: bool) -> None:
    seen = view(snapshot_xml("one"))
    seen.entries[0].update(present)
    if taken:
        code, _ = refusal(plan_creation, seen, wanted(**asked), known=False)
        assert code == "SNAPSHOT_EXISTS"
    else:
        assert plan_creation(seen, wanted(**asked), known=False) == []


def test_snapshot_that_only_the_image_knows_is_overwritten_only_when_it_is_ours() -> None:
    seen = view(images={"vda": image("one")})
    assert refusal(plan_creation, seen, wanted(), known=False)[0] == "SNAPSHOT_EXISTS"
    assert plan_creation(seen, wanted(), known=True)


def test_existing_one_is_no_change_whatever_has_become_impossible() -> None:
    seen = view(snapshot_xml("one"), xml=definition(SEED), images={})
    assert plan_creation(seen, wanted(), known=False) == []


# --- delete -----------------------------------------------------------------------------------


def test_deletion_keeps_the_children() -> None:
    seen = view(
        snapshot_xml("a"),
        snapshot_xml("b", parent="a"),
        snapshot_xml("c", parent="b"),
        snapshot_xml("d", parent="b"),
        current="b",
    )
    changes = {c.field: (c.before, c.after, c.destroys) for c in plan_deletion(seen, "b")}
    assert changes == {
        "snapshots.b": ("b", None, True),
        "snapshots.c.parent": ("b", "a", False),
        "snapshots.d.parent": ("b", "a", False),
        "snapshots.current": ("b", "a", False),
    }
    after = tree_without(seen.entries, "b")
    assert {entry["name"]: entry["parent"] for entry in after} == {"a": None, "c": "a", "d": "a"}
    assert [entry["name"] for entry in after if entry["current"]] == ["a"]
    assert plan_deletion(seen, "none") == []


def test_deletion_that_qemu_would_not_do_is_refused() -> None:
    uefi = definition(system=PFLASH)
    running = {"state": DomainState.RUNNING, "xml": uefi}
    seen = view(snapshot_xml("a"), **running)
    assert refusal(plan_deletion, seen, "a")[0] == "SNAPSHOT_NOT_POSSIBLE"
    assert plan_deletion(view(snapshot_xml("a"), xml=uefi), "a")
    # Gone from the image already: only libvirt has to forget it.
    assert plan_deletion(view(snapshot_xml("a"), images={"vda": image()}, **running), "a")


@pytest.mark.parametrize("plan", [plan_deletion, lambda s, n: plan_restore(s, n, force=True)])
def test_name_that_is_another_ones_number_is_refused(plan: Any) -> None:
    seen = view(snapshot_xml("x"), snapshot_xml("1"))
    code, message = refusal(plan, seen, "1")
    assert (code, "with that number" in message) == ("SNAPSHOT_NOT_POSSIBLE", True)


def test_restore_of_a_name_that_an_image_contains_twice_is_refused() -> None:
    seen = view(snapshot_xml("x"), images={"vda": image("x", "y", "x")})
    code, message = refusal(lambda s, n: plan_restore(s, n, force=True), seen, "x")
    assert (code, "several snapshots of that name" in message) == ("SNAPSHOT_NOT_POSSIBLE", True)
    assert plan_deletion(seen, "x")


def test_external_snapshot_is_left_to_virsh() -> None:
    xml = snapshot_xml("x").replace("'internal'", "'external'")
    for plan in (plan_deletion, lambda s, n: plan_restore(s, n, force=True)):
        assert refusal(plan, view(xml), "x")[0] == "SNAPSHOT_NOT_POSSIBLE"


# --- restore ----------------------------------------------------------------------------------


def test_restore_of_what_is_there_changes_nothing() -> None:
    as_then = {"vda": image("a", active="a")}
    assert (
        plan_restore(view(snapshot_xml("a"), current="a", images=as_then), "a", force=False) == []
    )
    written = {"vda": image("a")}
    assert plan_restore(view(snapshot_xml("a"), current="a", images=written), "a", force=False)
    assert plan_restore(view(snapshot_xml("a"), images=as_then), "a", force=False)
    one_written = {"vda": image("a", active="a"), "vdb": image("a")}
    both = VDA + VDA.replace("vda", "vdb")
    then = snapshot_xml("a", domain=definition(both))
    seen = view(then, current="a", images=one_written, xml=definition(both))
    assert plan_restore(seen, "a", force=False)
    smaller = snapshot_xml("a", domain=definition(memory=64))
    changes = plan_restore(view(smaller, current="a", images=as_then), "a", force=False)
    assert ("memory", 96, 64) in [(c.field, c.before, c.after) for c in changes]


def test_restore_tells_what_it_turns_back() -> None:
    card = "<interface type='network'><mac address='52:00:00:00:00:01'/><source network='{}'/>"
    then = definition(VDA + SEED + card.format("old") + "</interface>")
    now = definition(VDA + SEED + card.format("new") + "</interface>", memory=128)
    seen = view(
        snapshot_xml("a", "running", domain=then),
        xml=now,
        images={"vda": image("a", size=2 * GIB)},
    )
    changes = {
        c.field: (c.before, c.after, c.destroys)
        for c in plan_restore(seen, "a", force=False, guard=wanted("guard", origin="guard"))
    }
    assert changes == {
        "snapshots.guard": (None, "disks", False),
        "snapshots.current": (None, "a", False),
        "state": ("stopped", "running", False),
        "memory": (128, 96, False),
        "memory_max": (128, 96, False),
        "interfaces.52:00:00:00:00:01": ("network new None", "network old None", False),
        "disks.vda.size": (2, 1, True),
    }
    without_guard = plan_restore(seen, "a", force=False)
    assert without_guard[0].destroys is True


@pytest.mark.parametrize(
    ("values", "code", "text"),
    [
        ({"state": DomainState.RUNNING}, "VM_ALREADY_RUNNING", "it is running"),
        ({"state": DomainState.PAUSED}, "VM_ALREADY_RUNNING", "it is paused"),
        ({"images": {"vda": image()}}, "SNAPSHOT_NOT_POSSIBLE", "does not contain"),
        ({"images": {}}, "SNAPSHOT_NOT_POSSIBLE", "was detached since"),
        ({"missing": ["/images/a-seed.iso"]}, "SNAPSHOT_NOT_POSSIBLE", "does not exist any more"),
        ({"persistent": False}, "SNAPSHOT_NOT_POSSIBLE", "transient"),
        ({"saved": True}, "VM_HAS_SAVED_STATE", "its memory is saved"),
        ({"saved": True, "current": "a", "images": {"vda": image("a", active="a")}}, *SAVED),
        ({"jobs": ("a block copy of disk vda",)}, "OPERATION_IN_PROGRESS", "copy of disk vda is"),
        # QEMU would end the domain and only then fail, so force does not help.
        (
            {"state": DomainState.RUNNING, "checkpoints": ("c2", "c1")},
            "SNAPSHOT_NOT_POSSIBLE",
            "it has checkpoints of a backup (c1, c2)",
        ),
        (
            {"images": {"vda": replace(image("a"), bitmaps=("b",))}},
            "SNAPSHOT_NOT_POSSIBLE",
            "disk vda has dirty bitmaps (b)",
        ),
        (
            {"xml": definition(VDA + VDA.replace("vda", "vdb"))},
            "SNAPSHOT_NOT_POSSIBLE",
            "vdb was added since",
        ),
        (
            {"xml": definition(VDA.replace("a-vda", "b-vda"))},
            "SNAPSHOT_NOT_POSSIBLE",
            "vda was then in /images/a-vda.qcow2",
        ),
    ],
)
def test_restore_is_refused(values: dict[str, Any], code: str, text: str) -> None:
    found, message = refusal(plan_restore, view(snapshot_xml("a"), **values), "a", force=False)
    assert found == code
    assert text in message


@pytest.mark.parametrize("state", [DomainState.STOPPED, DomainState.RUNNING])
def test_restore_removes_saved_memory(state: DomainState) -> None:
    """Also what a running guest has left behind: libvirt would go on in it at the next start."""
    changes = plan_restore(view(snapshot_xml("a"), state=state, saved=True), "a", force=True)
    found = {change.field: change.destroys for change in changes}
    assert found["has_managed_save"] is (state == DomainState.STOPPED)


def test_guard_of_a_saved_domain_has_its_disks_alone() -> None:
    seen = view(snapshot_xml("a"), saved=True)
    guard = wanted("guard", origin="guard")
    changes = plan_restore(seen, "a", force=True, guard=guard)
    assert ("snapshots.guard", "disks") in [(change.field, change.after) for change in changes]
    assert refusal(plan_restore, seen, "a", force=False, guard=guard)[0] == "VM_HAS_SAVED_STATE"


def test_restore_of_none_is_refused() -> None:
    assert refusal(plan_restore, view(), "a", force=True)[0] == "SNAPSHOT_NOT_FOUND"


def test_guard_is_made_once() -> None:
    seen = view(snapshot_xml("a"), snapshot_xml("guard"))
    guard = wanted("guard", origin="guard")
    assert refusal(plan_restore, seen, "a", force=True, guard=guard)[0] == "SNAPSHOT_EXISTS"
    changes = plan_restore(seen, "a", force=True, guard=guard, guard_is_made=True)
    assert [c.field for c in changes] == ["snapshots.current"]
    same = wanted("a", origin="guard")
    assert refusal(plan_restore, seen, "a", force=True, guard=same)[0] == "VALIDATION_ERROR"


def test_restore_that_had_begun_is_not_asked_for_force_again() -> None:
    seen = view(snapshot_xml("a"), state=DomainState.RUNNING)
    assert plan_restore(seen, "a", force=False, resumed=True)


def test_marker_moves() -> None:
    seen = view(snapshot_xml("a"), snapshot_xml("b"), current="b")
    new = entry_to_be(seen, wanted("c"))
    after = tree_with(seen.entries, new, "a")
    assert [(entry["name"], entry["current"]) for entry in after] == [
        ("a", True),
        ("b", False),
        ("c", False),
    ]


VOLUME = VDA.replace("type='file'", "type='volume'").replace(
    "file='/images/a-vda.qcow2'", "pool='default' volume='a-vda.qcow2'"
)


def test_volume_is_the_same_whose_path_only_the_host_knows() -> None:
    assert "volume='a-vda.qcow2'" in VOLUME
    seen = view(snapshot_xml("a", domain=definition(VOLUME)), xml=definition(VOLUME))
    for disk in (*seen.current.config["disks"], *seen.current.live["disks"]):
        disk["path"] = "/images/a-vda.qcow2"
    assert plan_restore(seen, "a", force=True)
    moved = view(
        snapshot_xml("a", domain=definition(VOLUME)), xml=definition(VOLUME.replace("default", "b"))
    )
    assert "vda was then in default/a-vda.qcow2" in refusal(plan_restore, moved, "a", force=True)[1]
