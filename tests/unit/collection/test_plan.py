"""Tests of plans: the tables of power steps and of changes to a definition."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from ansible_collections.virtplay.libvirt.plugins.module_utils.domain.arguments import (
    DEFINITION,
    LIVE,
    WAITING,
    Wanted,
)
from ansible_collections.virtplay.libvirt.plugins.module_utils.domain.plan import (
    GIB,
    MIGRATION,
    Applies,
    Change,
    Current,
    Step,
    UpdatePlan,
    after,
    applies_at,
    loses_memory,
    plan_name,
    plan_power,
    plan_update,
    plan_variables,
)
from ansible_collections.virtplay.libvirt.plugins.module_utils.failure import Failure
from ansible_collections.virtplay.libvirt.plugins.module_utils.states import (
    DomainReason,
    DomainState,
)

RUNNING, PAUSED, STOPPED = DomainState.RUNNING, DomainState.PAUSED, DomainState.STOPPED
CRASHED, SUSPENDED = DomainState.CRASHED, DomainState.SUSPENDED
STOPPING = DomainState.STOPPING
MAC = "52:00:00:00:00:01"

POWER: list[tuple[DomainState, Wanted, bool, list[Step] | str]] = [
    (STOPPED, Wanted.PRESENT, False, []),
    (RUNNING, Wanted.PRESENT, False, []),
    (STOPPED, Wanted.RUNNING, False, [Step.START]),
    (CRASHED, Wanted.RUNNING, False, "VM_ALREADY_RUNNING"),
    (RUNNING, Wanted.RUNNING, False, []),
    (PAUSED, Wanted.RUNNING, False, [Step.RESUME]),
    (SUSPENDED, Wanted.RUNNING, False, [Step.WAKE]),
    (STOPPED, Wanted.STOPPED, False, []),
    (CRASHED, Wanted.STOPPED, False, "GUEST_NOT_RESPONDING"),
    (CRASHED, Wanted.STOPPED, True, [Step.DESTROY]),
    (RUNNING, Wanted.STOPPED, False, [Step.SHUT_DOWN]),
    (RUNNING, Wanted.STOPPED, True, [Step.DESTROY]),
    (PAUSED, Wanted.STOPPED, False, [Step.RESUME, Step.SHUT_DOWN]),
    (PAUSED, Wanted.STOPPED, True, [Step.DESTROY]),
    (STOPPED, Wanted.RESTARTED, False, "VM_ALREADY_STOPPED"),
    (STOPPED, Wanted.RESTARTED, True, "VM_ALREADY_STOPPED"),
    (RUNNING, Wanted.RESTARTED, False, [Step.SHUT_DOWN, Step.START]),
    (RUNNING, Wanted.RESTARTED, True, [Step.DESTROY, Step.START]),
    (PAUSED, Wanted.RESTARTED, False, [Step.RESUME, Step.SHUT_DOWN, Step.START]),
    (CRASHED, Wanted.RESTARTED, False, "GUEST_NOT_RESPONDING"),
    (CRASHED, Wanted.RESTARTED, True, [Step.DESTROY, Step.START]),
    (CRASHED, Wanted.PAUSED, False, "GUEST_NOT_RESPONDING"),
    (CRASHED, Wanted.RESUMED, False, "GUEST_NOT_RESPONDING"),
    (CRASHED, Wanted.ABSENT, False, "VM_ALREADY_RUNNING"),
    (CRASHED, Wanted.ABSENT, True, [Step.DESTROY]),
    (STOPPING, Wanted.RUNNING, False, "VM_ALREADY_RUNNING"),
    (STOPPING, Wanted.STOPPED, False, [Step.SHUT_DOWN]),
    (STOPPED, Wanted.PAUSED, False, "VM_ALREADY_STOPPED"),
    (RUNNING, Wanted.PAUSED, False, [Step.SUSPEND]),
    (PAUSED, Wanted.PAUSED, False, []),
    (SUSPENDED, Wanted.PAUSED, False, "LIBVIRT_ERROR"),
    (STOPPED, Wanted.RESUMED, False, "VM_ALREADY_STOPPED"),
    (RUNNING, Wanted.RESUMED, False, []),
    (PAUSED, Wanted.RESUMED, False, [Step.RESUME]),
    (STOPPED, Wanted.ABSENT, False, []),
    (RUNNING, Wanted.ABSENT, False, "VM_ALREADY_RUNNING"),
    (PAUSED, Wanted.ABSENT, False, "VM_ALREADY_RUNNING"),
    (RUNNING, Wanted.ABSENT, True, [Step.DESTROY]),
]


SAVED: dict[str, Any] = {"has_managed_save": True, "reason": DomainReason.SAVED}
OUTDATED: dict[str, Any] = {"has_managed_save": True, "reason": DomainReason.DESTROYED}
TRANSIENT = {"persistent": False}
MIGRATING = {"reason": DomainReason.MIGRATION}
BACKUP = {"jobs": ["a backup"]}
LEAVING = {"jobs": [MIGRATION]}
# State, further values of the domain, wanted state, force, and steps or error code.
ODD: list[tuple[DomainState, dict[str, Any], Wanted, bool, list[Step] | str]] = [
    (STOPPED, SAVED, Wanted.RUNNING, False, [Step.START]),
    (STOPPED, SAVED, Wanted.STOPPED, False, []),
    (STOPPED, SAVED, Wanted.STOPPED, True, [Step.DISCARD]),
    (STOPPED, SAVED, Wanted.RESTARTED, True, "VM_ALREADY_STOPPED"),
    (STOPPED, SAVED, Wanted.RESUMED, False, "VM_ALREADY_STOPPED"),
    (STOPPED, SAVED, Wanted.ABSENT, False, "VM_HAS_SAVED_STATE"),
    (STOPPED, SAVED, Wanted.ABSENT, True, []),
    # The guest has run since it was saved: the image is older than its disks.
    (RUNNING, OUTDATED, Wanted.RUNNING, False, []),
    (RUNNING, OUTDATED, Wanted.STOPPED, False, [Step.DISCARD, Step.SHUT_DOWN]),
    (RUNNING, OUTDATED, Wanted.RESTARTED, True, [Step.DISCARD, Step.DESTROY, Step.START]),
    (STOPPED, OUTDATED, Wanted.RUNNING, False, [Step.DISCARD, Step.START]),
    (STOPPED, OUTDATED, Wanted.STOPPED, True, [Step.DISCARD]),
    (STOPPED, OUTDATED, Wanted.ABSENT, False, []),
    (RUNNING, TRANSIENT, Wanted.STOPPED, True, [Step.DESTROY]),
    (RUNNING, TRANSIENT, Wanted.RESTARTED, False, "VALIDATION_ERROR"),
    (RUNNING, TRANSIENT, Wanted.RESTARTED, True, [Step.RESET]),
    (PAUSED, TRANSIENT, Wanted.RESTARTED, True, [Step.RESET, Step.RESUME]),
    (CRASHED, TRANSIENT, Wanted.RESTARTED, True, [Step.RESET, Step.RESUME]),
    (SUSPENDED, TRANSIENT, Wanted.RESTARTED, True, [Step.WAKE, Step.RESET]),
    (RUNNING, TRANSIENT, Wanted.ABSENT, True, [Step.DESTROY]),
    *[
        (PAUSED, MIGRATING, wanted, True, "OPERATION_IN_PROGRESS")
        for wanted in Wanted
        if wanted is not Wanted.PRESENT
    ],
    (RUNNING, LEAVING, Wanted.STOPPED, True, "OPERATION_IN_PROGRESS"),
    (RUNNING, LEAVING, Wanted.PAUSED, False, "OPERATION_IN_PROGRESS"),
    (RUNNING, BACKUP, Wanted.PAUSED, False, [Step.SUSPEND]),
    (RUNNING, BACKUP, Wanted.STOPPED, False, "OPERATION_IN_PROGRESS"),
    (RUNNING, BACKUP, Wanted.STOPPED, True, [Step.DESTROY]),
    (RUNNING, BACKUP, Wanted.RESTARTED, False, "OPERATION_IN_PROGRESS"),
    (RUNNING, BACKUP, Wanted.ABSENT, True, "OPERATION_IN_PROGRESS"),
    (RUNNING, MIGRATING, Wanted.STOPPED, True, [Step.DESTROY]),
]


@pytest.mark.parametrize(
    ("state", "more", "wanted", "force", "expected"),
    [*((state, {}, *rest) for state, *rest in POWER), *ODD],
)
def test_power_plan(
    state: DomainState,
    more: dict[str, Any],
    wanted: Wanted,
    force: bool,
    expected: list[Step] | str,
) -> None:
    current = replace(domain(state), **more)
    if isinstance(expected, str):
        with pytest.raises(Failure, match=r"^cannot .*vm-001") as refusal:
            plan_power(current, wanted, force=force)
        assert refusal.value.code == expected
    else:
        assert plan_power(current, wanted, force=force) == expected


@pytest.mark.parametrize(
    ("state", "more", "force", "expected"),
    [
        (STOPPED, {}, True, [Step.START]),
        (STOPPED, OUTDATED, True, [Step.DISCARD, Step.START]),
        (RUNNING, {}, True, [Step.DESTROY, Step.START]),
        # Somebody has saved it meanwhile, or has shut it down before a restart without force.
        (STOPPED, SAVED, True, "VM_ALREADY_STOPPED"),
        (STOPPED, {}, False, "VM_ALREADY_STOPPED"),
    ],
)
def test_restart_with_force_starts_what_has_stopped_since_it_was_requested(
    state: DomainState, more: dict[str, Any], force: bool, expected: list[Step] | str
) -> None:
    current = replace(domain(state), **more)
    if isinstance(expected, str):
        with pytest.raises(Failure) as refusal:
            plan_power(current, Wanted.RESTARTED, force=force, was_active=True)
        assert refusal.value.code == expected
    else:
        assert plan_power(current, Wanted.RESTARTED, force=force, was_active=True) == expected


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ({"state": STOPPED}, None),
        ({"state": RUNNING}, "it is running; stop it first"),
        ({"state": PAUSED}, "it is paused; stop it first"),
        ({"state": STOPPED, "snapshots": 2}, "it has 2 snapshots"),
        ({"state": STOPPED, **SAVED}, "its memory is saved; start and stop it first"),
        ({"state": STOPPED, "nvram_has_name": True}, "the file of its UEFI variables has its name"),
    ],
)
def test_a_domain_that_cannot_be_renamed_keeps_its_name(
    more: dict[str, Any], reason: str | None
) -> None:
    plan = UpdatePlan()
    plan_name(plan, replace(domain(STOPPED), **more), "web-1")
    if reason is None:
        assert (plan.name, plan.warnings) == ("web-1", [])
        assert plan.changes == [Change("name", "vm-001", "web-1", Applies.OFFLINE)]
    else:
        assert (plan.name, plan.changes) == (None, [])
        assert plan.warnings == [f"cannot rename vm-001 to web-1: {reason}; it keeps its name"]


@pytest.mark.parametrize("wanted", [Wanted.RUNNING, Wanted.RESTARTED, Wanted.RESUMED])
def test_steps_to_a_running_guest_end_there(wanted: Wanted) -> None:
    for state in (RUNNING, PAUSED):
        current = domain(state)
        assert after(current, plan_power(current, wanted))[0] == RUNNING


@pytest.mark.parametrize(
    ("more", "steps", "expected", "lost"),
    [
        ({}, [Step.START], (RUNNING, DomainReason.BOOTED), False),
        (SAVED, [Step.START], (RUNNING, DomainReason.RESTORED), False),
        (SAVED, [Step.DISCARD], (STOPPED, DomainReason.UNKNOWN), True),
        (SAVED, [], (STOPPED, DomainReason.SAVED), False),
    ],
)
def test_saved_memory_is_used_up_or_lost(
    more: dict[str, Any],
    steps: list[Step],
    expected: tuple[DomainState, DomainReason],
    lost: bool,
) -> None:
    current = replace(domain(STOPPED), **{"reason": DomainReason.SHUTDOWN, **more})
    assert after(current, steps) == expected
    assert loses_memory(current, steps) is lost


def test_saved_guest_is_changed_at_its_next_boot() -> None:
    """Its start takes CPUs, memory and cards from the definition that was saved."""
    current = replace(domain(STOPPED), **SAVED)
    desired: dict[str, Any] = {
        "vcpus": 3,
        "memory": 512,
        "title": "New",
        "autostart": True,
        "interfaces": [{"mac": MAC, "source": "other"}],
        "disks": [{"target": "vdb", "size": 1}],
    }
    assert {key: change[2] for key, change in changes(current, **desired).items()} == {
        "title": "offline",
        "vcpus": "next_boot",
        "memory": "next_boot",
        "disks.vdb.size": "next_boot",
        f"interfaces.{MAC}.source": "next_boot",
        "autostart": "offline",
    }


@pytest.mark.parametrize(
    ("more", "code"),
    [
        ({"state": STOPPED, **SAVED}, "VM_HAS_SAVED_STATE"),
        (BACKUP, "OPERATION_IN_PROGRESS"),
        ({"state": PAUSED, **MIGRATING}, "OPERATION_IN_PROGRESS"),
    ],
)
def test_disk_of_a_saved_or_occupied_domain_does_not_grow(more: dict[str, Any], code: str) -> None:
    current = replace(domain(), **more)
    with pytest.raises(Failure, match=r"^cannot resize disk vda of vm-001: ") as refusal:
        plan_update(current, {"disks": [{"target": "vda", "size": 20}]})
    assert refusal.value.code == code


@pytest.mark.parametrize("more", [{"state": PAUSED, **MIGRATING}, {"jobs": ["a migration"]}])
def test_domain_that_migrates_is_not_changed(more: dict[str, Any]) -> None:
    current = replace(domain(), **more)
    with pytest.raises(Failure, match=r"^cannot change vm-001: a migration is in ") as refusal:
        plan_update(current, {"memory": 512})
    assert refusal.value.code == "OPERATION_IN_PROGRESS"
    assert not plan_update(current, {"memory": current.config["memory"]}).changes


def test_crashed_guest_is_changed_at_its_next_boot() -> None:
    current = domain(CRASHED)
    assert {key: change[2] for key, change in changes(current, vcpus=3, memory=512).items()} == {
        "vcpus": "next_boot",
        "memory": "next_boot",
    }


def config(**values: Any) -> dict[str, Any]:
    return {
        "uuid": "11111111-2222-4333-8444-555555555555",
        "name": "vm-001",
        "title": "Web",
        "description": None,
        "vcpus": 2,
        "vcpus_max": 8,
        "memory": 1024,
        "memory_max": 1024,
        "firmware": "bios",
        "virt_type": "qemu",
        "disks": [{"target": "vda", "path": "/pool/a.qcow2"}],
        "interfaces": [{"mac": MAC, "type": "network", "source": "default", "model": "virtio"}],
        "metadata": {"id": "vm-001", "template": "t", "os": "o", "labels": {"a": "b"}},
        **values,
    }


def domain(state: DomainState = RUNNING, **live: Any) -> Current:
    return Current(
        state=state,
        flags={"autostart": False},
        persistent=True,
        config=config(),
        live=config(**live),
        capacities={"vda": 10 * GIB},
    )


def changes(current: Current, **desired: Any) -> dict[str, tuple[Any, Any, str]]:
    plan = plan_update(current, desired)
    return {c.field: (c.before, c.after, str(c.applies)) for c in plan.changes}


@pytest.mark.parametrize(
    "desired",
    [
        {},
        {"title": "Web", "vcpus": 2, "memory": 1024, "vcpus_max": 8, "memory_max": 1024},
        {"description": ""},
        {"disks": [{"target": "vda", "size": 10}]},
        {"disks": [{"target": "vda", "size": None, "template": "t"}]},
        {"interfaces": [{"type": "network", "source": "default", "mac": MAC.upper()}]},
        {"interfaces": [{}]},
        {"interfaces": []},
        {"autostart": False},
        {"metadata": {"labels": {"a": "b"}, "os": None}},
        {"firmware": "bios", "virt_type": "auto"},
    ],
)
def test_what_is_equal_or_not_set_is_no_change(desired: dict[str, Any]) -> None:
    for state in (RUNNING, STOPPED):
        plan = plan_update(domain(state), desired)
        assert plan.changes == []
        assert plan.edits == {}


CHANGES: list[tuple[dict[str, Any], dict[str, tuple[Any, Any, str]]]] = [
    ({"title": "x"}, {"title": ("Web", "x", "live")}),
    ({"vcpus": 4}, {"vcpus": (2, 4, "live")}),
    # Its CPUs of the start cannot be unplugged.
    ({"vcpus": 1}, {"vcpus": (2, 1, "next_boot")}),
    (
        {"vcpus": 12},
        {"vcpus_max": (8, 12, "next_boot"), "vcpus": (2, 12, "next_boot")},
    ),
    ({"vcpus_max": 16}, {"vcpus_max": (8, 16, "next_boot")}),
    ({"memory": 512}, {"memory": (1024, 512, "live")}),
    (
        {"memory": 2048},
        {"memory_max": (1024, 2048, "next_boot"), "memory": (1024, 2048, "next_boot")},
    ),
    ({"disks": [{"target": "vda", "size": 20}]}, {"disks.vda.size": (10, 20, "live")}),
    ({"disks": [{"target": "vdb", "size": 1}]}, {"disks.vdb.size": (None, 1, "live")}),
    ({"autostart": True}, {"autostart": (False, True, "live")}),
    ({"metadata": {"labels": {}}}, {"metadata.labels": ({"a": "b"}, {}, "live")}),
    ({"metadata": {"id": "vm-009"}}, {"metadata.id": ("vm-001", "vm-009", "live")}),
    (
        {"interfaces": [{"type": "bridge", "source": "br0"}]},
        {f"interfaces.{MAC}.source": ("network default", "bridge br0", "live")},
    ),
    (
        {"interfaces": [{"model": "e1000e"}]},
        {f"interfaces.{MAC}.model": ("virtio", "e1000e", "next_boot")},
    ),
    (
        {"interfaces": [{"mac": "52:00:00:00:00:09"}]},
        {f"interfaces.{MAC}.mac": (MAC, "52:00:00:00:00:09", "next_boot")},
    ),
    (
        {"interfaces": [{}, {"type": "bridge", "source": "br0"}]},
        {"interfaces.1": (None, "br0", "live")},
    ),
    (
        {"interfaces": [{"ip": "203.0.113.7"}]},
        {f"interfaces.{MAC}.ip": (None, "203.0.113.7", "next_boot")},
    ),
]


@pytest.mark.parametrize(("desired", "expected"), CHANGES)
def test_changes_of_a_running_domain(
    desired: dict[str, Any], expected: dict[str, tuple[Any, Any, str]]
) -> None:
    assert changes(domain(), **desired) == expected


@pytest.mark.parametrize("desired", [desired for desired, _ in CHANGES])
def test_changes_of_a_stopped_domain_all_apply_offline(desired: dict[str, Any]) -> None:
    found = changes(domain(STOPPED), **desired)
    assert found
    assert {applies for _, _, applies in found.values()} == {"offline"}


def with_card(**values: Any) -> Current:
    """The domain with another network interface."""
    found = domain()
    found.config = {
        **found.config,
        "interfaces": [{**found.config["interfaces"][0], **values}],
    }
    return found


@pytest.mark.parametrize(
    ("card", "wanted", "expected"),
    [
        # A model that nobody may request stays, and can be left.
        ({"model": "ne2k_pci"}, {"source": "lab"}, {"source": "lab", "type": "network"}),
        ({"model": "igb"}, {"source": "lab", "mac": MAC}, {"source": "lab", "type": "network"}),
        ({"model": None}, {"type": "network", "source": "default"}, {}),
        ({"model": "vmxnet3"}, {"model": "virtio"}, {"model": "virtio"}),
        # Of another kind, what is not its connection can change.
        ({"type": "user", "source": None}, {"model": "e1000"}, {"model": "e1000"}),
        ({"type": "direct", "source": "eth0"}, {"model": "e1000"}, {"model": "e1000"}),
        ({"type": "hostdev", "source": None}, {}, {}),
        ({"virtual_port": "openvswitch"}, {"model": "e1000"}, {"model": "e1000"}),
    ],
)
def test_changes_of_a_card_that_others_made(
    card: dict[str, Any], wanted: dict[str, Any], expected: dict[str, Any]
) -> None:
    plan = plan_update(with_card(**card), {"interfaces": [wanted]})
    assert plan.edits.get("interfaces", {}).get(MAC, {}) == expected


@pytest.mark.parametrize(
    ("card", "reason"),
    [
        *(
            ({"type": kind, "source": source}, f"it is of type {kind}")
            for kind, source in (
                ("direct", "eth0"), ("user", None), ("ethernet", None), ("hostdev", None),
                ("vdpa", "/dev/vhost-vdpa-0"), ("vhostuser", "/tmp/x.sock"), ("internal", "lan"),
            )
        ),
        ({"virtual_port": "openvswitch"}, "it has a virtual port (openvswitch)"),
    ],
)  # fmt: skip
def test_card_that_cannot_move_says_why(card: dict[str, Any], reason: str) -> None:
    for wanted in ({"type": "network", "source": "lab"}, {"type": "bridge", "source": "br0"}):
        with pytest.raises(Failure, match="cannot connect interface") as refusal:
            plan_update(with_card(**card), {"interfaces": [wanted]})
        assert reason in refusal.value.message
        assert refusal.value.code == "VALIDATION_ERROR"


@pytest.mark.parametrize(
    ("desired", "words"),
    [
        ({"disks": [{"target": "vda", "size": 9}]}, "cannot shrink disk vda of vm-001"),
        ({"vcpus": 4, "vcpus_max": 2}, "vcpus_max is 2"),
        ({"memory": 4096, "memory_max": 2048}, "memory_max is 2048 MiB"),
        ({"firmware": "efi"}, "cannot change firmware"),
        ({"virt_type": "kvm"}, "cannot change virt_type"),
        ({"metadata": {"template": "u"}}, "cannot change the template of vm-001 from t to u"),
        ({"disks": [{"target": "vda", "template": "u"}]}, "cannot change the template"),
        ({"interfaces": [{"type": "bridge"}]}, "the name of the bridge, is required"),
    ],
)
def test_refused_changes(desired: dict[str, Any], words: str) -> None:
    with pytest.raises(Failure, match=words) as refusal:
        plan_update(domain(), desired)
    assert refusal.value.code == "VALIDATION_ERROR"
    assert str(refusal.value).startswith("cannot ")


def test_vcpus_go_down_live_as_far_as_they_can_be_unplugged() -> None:
    current = replace(domain(vcpus=4, virt_type="kvm"), hotpluggable_vcpus=2)
    assert plan_update(current, {"vcpus": 2}).live_vcpus == 2
    assert plan_update(current, {"vcpus": 1}).live_vcpus is None
    emulated = replace(domain(vcpus=4), hotpluggable_vcpus=2)
    assert plan_update(emulated, {"vcpus": 2}).live_vcpus is None


def test_value_waiting_for_the_next_boot_is_not_a_change_again() -> None:
    current = domain()
    current.config = config(vcpus=12, vcpus_max=12, memory=2048, memory_max=2048)
    assert changes(current, vcpus=12, memory=2048) == {}


def test_headroom_that_was_asked_for_stays() -> None:
    current = domain(STOPPED)
    current.config = current.live = config(memory=1024, memory_max=4096)
    assert "memory_max" not in plan_update(current, {"memory": 512}).edits
    assert "memory_max" not in plan_update(current, {"memory": 2048}).edits


def test_limit_follows_the_memory_without_being_news() -> None:
    plan = plan_update(domain(), {"memory": 512})
    assert plan.edits == {"memory": 512, "memory_max": 512}
    assert applies_at(plan.changes) == "now"


def test_reservation_moves_with_network_and_mac() -> None:
    current = domain()
    current.reservations = {MAC: ("default", "203.0.113.7")}
    assert plan_update(current, {"interfaces": [{}]}).reservations == {}
    moved = plan_update(current, {"interfaces": [{"type": "bridge", "source": "br0"}]})
    assert moved.reservations == {MAC: None}
    renamed = plan_update(current, {"interfaces": [{"mac": "52:00:00:00:00:09"}]})
    assert renamed.reservations == {MAC: None, "52:00:00:00:00:09": ("default", "203.0.113.7")}


def test_definition_of_a_transient_domain_is_refused() -> None:
    with pytest.raises(Failure, match="transient"):
        plan_update(replace(domain(), persistent=False), {"title": "x"})


def test_summary_says_when_all_is_in_effect() -> None:
    assert applies_at([]) is None
    assert applies_at(plan_update(domain(), {"title": "x"}).changes) == "now"
    assert applies_at(plan_update(domain(), {"title": "x", "vcpus": 9}).changes) == "next_boot"
    assert applies_at(plan_update(domain(STOPPED), {"vcpus": 9}).changes) == "now"


def test_every_value_of_a_definition_changes_live_or_at_the_next_boot() -> None:
    assert not set(LIVE) & set(WAITING)
    # The firmware is fixed, and of disks and interfaces each has a plan of its own.
    assert {*LIVE, *WAITING, "firmware", "disks", "interfaces"} == DEFINITION.keys()


def with_disks(*targets: str) -> Current:
    found = [{"target": target, "path": f"/pool/{target}.qcow2"} for target in targets]
    current = domain(disks=found)
    current.config["disks"] = found
    current.capacities = {target: (2 + n) * GIB for n, target in enumerate(targets)}
    return current


@pytest.mark.parametrize(
    ("targets", "target"),
    [(("vda",), "vda"), (("sda",), "sda"), (("hda",), "hda"), (("sda", "vda"), "sda")],
)
def test_disk_without_a_target_is_the_first_one_whatever_its_name(
    targets: tuple[str, ...], target: str
) -> None:
    plan = plan_update(with_disks(*targets), {"disks": [{"size": 4}]})
    assert (plan.grow_disks, plan.add_disks) == ({target: 4 * GIB}, [])
    assert [(c.field, c.before, c.after) for c in plan.changes] == [(f"disks.{target}.size", 2, 4)]
    with pytest.raises(Failure, match=f"cannot shrink disk {target} of vm-001"):
        plan_update(with_disks(*targets), {"disks": [{"size": 1}]})


def test_disk_without_a_target_is_never_created() -> None:
    for disk in ({"size": 4}, {"template": "t"}):
        with pytest.raises(Failure, match="first disk of vm-001: it has no disk") as refusal:
            plan_update(with_disks(), {"disks": [disk]})
        assert refusal.value.code == "VALIDATION_ERROR"


def test_same_disk_with_and_without_its_target_is_refused() -> None:
    with pytest.raises(Failure, match="cannot change disk sda of vm-001: it is listed twice"):
        plan_update(with_disks("sda"), {"disks": [{"size": 4}, {"target": "sda", "size": 3}]})


def test_template_of_the_first_disk_cannot_change_whatever_its_name() -> None:
    for disk in ({"template": "u"}, {"target": "sda", "template": "u"}):
        with pytest.raises(Failure, match="cannot change the template of vm-001 from t to u"):
            plan_update(with_disks("sda"), {"disks": [disk]})


@pytest.mark.parametrize(
    ("disk", "block", "active", "reason"),
    [
        ({"read_only": True}, False, True, "it is read-only"),
        ({"transient": True}, False, True, "it is transient"),
        ({"shareable": True}, False, True, "it is shared"),
        ({"path": "/dev/sdb"}, True, True, "/dev/sdb is a block device; grow the device itself"),
        ({"path": "/dev/sdb"}, True, False, "/dev/sdb is a block device; grow the device itself"),
        (
            {"format": "qcow2"},
            True,
            False,
            "it is on block device /pool/sda.qcow2; start the VM first",
        ),
        ({"format": "qcow2"}, True, True, ""),
        ({"encrypted": True}, False, False, "it is encrypted; start the VM first"),
        ({"encrypted": True}, False, True, ""),
        ({"sliced": True}, False, True, "it is a slice of /pool/sda.qcow2"),
        (
            {"path": None, "type": "network", "source": "rbd:a/b"},
            False,
            True,
            r"it is a disk of type network \(rbd:a/b\); grow it with the tools of its storage",
        ),
    ],
)
def test_disk_that_cannot_grow_is_refused_by_name(
    disk: dict[str, Any], block: bool, active: bool, reason: str
) -> None:
    current = with_disks("sda")
    current.state = RUNNING if active else STOPPED
    current.config["disks"][0].update(disk)
    current.block_devices = {"sda"} if block else set()
    assert plan_update(current, {"disks": [{"size": 2}]}).changes == []
    with pytest.raises(Failure, match="cannot shrink disk sda of vm-001"):
        plan_update(current, {"disks": [{"size": 1}]})
    if not reason:
        assert plan_update(current, {"disks": [{"size": 4}]}).grow_disks == {"sda": 4 * GIB}
        return
    with pytest.raises(Failure, match=f"^cannot resize disk sda of vm-001: {reason}") as refusal:
        plan_update(current, {"disks": [{"size": 4}]})
    assert refusal.value.code == "VALIDATION_ERROR"


def test_disk_of_unknown_size_is_refused_by_name() -> None:
    current = with_disks("sda")
    current.capacities = {}
    current.config["disks"][0].update(path=None, type="network", source="rbd:a/b")
    with pytest.raises(Failure, match=r"size of a disk of type network \(rbd:a/b\) is unknown"):
        plan_update(current, {"disks": [{"size": 4}]})


@pytest.mark.parametrize(
    ("more", "boots", "applies"),
    [
        ({"state": STOPPED}, False, Applies.OFFLINE),
        ({"state": STOPPED}, True, Applies.OFFLINE),
        ({"state": RUNNING}, False, Applies.NEXT_BOOT),
        ({"state": RUNNING}, True, Applies.OFFLINE),
        ({"state": STOPPED, **SAVED}, True, Applies.NEXT_BOOT),
        # A domain of somebody else, or one whose definition libvirt does not store.
        ({"state": STOPPED, "config": config(metadata=None)}, True, None),
        ({"state": RUNNING, "persistent": False}, False, None),
        ({"state": STOPPED, "may_lose_variables": False}, True, None),
    ],
)
def test_uefi_domain_of_ours_is_made_to_keep_its_variables(
    more: dict[str, Any], boots: bool, applies: Applies | None
) -> None:
    plan = UpdatePlan()
    found = replace(domain(), **{"may_lose_variables": True, **more})
    plan_variables(plan, found, boots=boots)
    if applies is None:
        assert (plan.edits, plan.changes) == ({}, [])
    else:
        assert plan.edits == {"keeps_variables": True}
        assert plan.changes == [Change("keeps_variables", False, True, applies)]


@pytest.mark.parametrize(
    ("now", "desired", "refused"),
    [
        ({"memory": 256, "memory_max": 256}, {"memory": 159}, True),
        ({"memory": 256, "memory_max": 256}, {"memory": 160}, False),
        # It boots with memory_max.
        ({"memory": 256, "memory_max": 512}, {"memory": 96}, False),
        ({"memory": 256, "memory_max": 512}, {"memory": 96, "memory_max": 128}, True),
        # What is too small already is no reason to refuse something else.
        ({"memory": 128, "memory_max": 128}, {"vcpus": 1}, False),
        ({"memory": 128, "memory_max": 128}, {"memory": 140}, False),
        ({"memory": 128, "memory_max": 128}, {"memory": 96}, True),
        ({"memory": 256, "memory_max": 256, "firmware": "bios"}, {"memory": 96}, False),
    ],
)
def test_uefi_domain_keeps_the_memory_that_its_firmware_needs(
    now: dict[str, Any], desired: dict[str, Any], refused: bool
) -> None:
    values = config(**{"firmware": "efi", **now})
    found = replace(domain(STOPPED), config=values, live=values)
    if not refused:
        plan_update(found, desired)
        return
    with pytest.raises(Failure, match="does not boot with less than 160 MiB") as caught:
        plan_update(found, desired)
    assert caught.value.code == "VALIDATION_ERROR"
