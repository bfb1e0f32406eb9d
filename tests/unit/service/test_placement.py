"""Unit tests: which host gets a VM, and the figures when none does."""

from typing import Any

import pytest
from virtplay.errors import InsufficientResources, ValidationFailed
from virtplay.hosts.placement import HostRoom, Need, Overcommit, place
from virtplay.units import GIB

DEFAULT = frozenset({"default"})


def room(name: str = "kvm1", **values: Any) -> HostRoom:
    """A host with 4 CPUs, 8 GiB of memory, 100 GiB of disk, but for `values`."""
    standard: dict[str, Any] = {
        "cpus": 4,
        "memory": 8192,
        "disk_free": 100 * GIB,
        "networks": DEFAULT,
        "bridges": frozenset({"br0"}),
    }
    return HostRoom(name=name, **{**standard, **values})


@pytest.mark.parametrize(
    ("values", "available"),
    [
        ({}, {"cpu": 16, "memory": 7680, "disk": 100}),
        ({"promised_cpu": 6}, {"cpu": 10, "memory": 7680, "disk": 100}),
        ({"promised_memory": 7000}, {"cpu": 16, "memory": 680, "disk": 100}),
        ({"promised_disk": 30 * GIB + 1}, {"cpu": 16, "memory": 7680, "disk": 69}),
        ({"disk_free": GIB - 1}, {"cpu": 16, "memory": 7680, "disk": 0}),
        ({"promised_cpu": 99, "promised_memory": 99999}, {"cpu": 0, "memory": 0, "disk": 100}),
        ({"promised_disk": 200 * GIB}, {"cpu": 16, "memory": 7680, "disk": 0}),
        ({"memory": 256}, {"cpu": 16, "memory": 0, "disk": 100}),
        (
            {"overcommit": Overcommit(cpu=1.5, memory=2.0, disk=3.0, reserved_memory=0)},
            {"cpu": 6, "memory": 16384, "disk": 300},
        ),
        (
            {"overcommit": Overcommit(cpu=0.5, memory=0.5, disk=0.5, reserved_memory=8192)},
            {"cpu": 2, "memory": 0, "disk": 50},
        ),
        ({"cpus": 0, "memory": 0, "disk_free": 0}, {"cpu": 0, "memory": 0, "disk": 0}),
    ],
)
def test_available_counts_overcommit_reserve_and_promises(
    values: dict[str, Any], available: dict[str, int]
) -> None:
    assert room(**values).available == available


def test_of_hosts_with_the_same_cpus_the_one_with_more_memory_is_taken() -> None:
    # CPUs have the larger share on both, as the VMs of kvm1 are stopped.
    assert place([room("kvm1", promised_memory=300), room("kvm2")], Need(2, 128, 1)) == "kvm2"


@pytest.mark.parametrize(
    ("need", "short"),
    [
        (Need(16, 7680, 100), {}),
        (Need(17, 1, 1), {"cpu": {"needed": 17, "available": 16}}),
        (Need(1, 7681, 1), {"memory": {"needed": 7681, "available": 7680}}),
        (Need(1, 1, 101), {"disk": {"needed": 101, "available": 100}}),
        (
            Need(17, 7681, 101),
            {
                "cpu": {"needed": 17, "available": 16},
                "memory": {"needed": 7681, "available": 7680},
                "disk": {"needed": 101, "available": 100},
            },
        ),
    ],
)
def test_lacks_names_each_short_resource_and_the_last_unit_fits(
    need: Need, short: dict[str, Any]
) -> None:
    assert room().lacks(need) == short


def test_insufficient_resources_names_the_figures_of_every_host_tried() -> None:
    rooms = [room("kvm1", promised_cpu=15), room("kvm2", promised_memory=7600)]
    with pytest.raises(InsufficientResources) as caught:
        place(rooms, Need(2, 512, 10))
    assert caught.value.details == {
        "needed": {"cpu": 2, "memory": 512, "disk": 10},
        "hosts": [
            {
                "host": "kvm1",
                "short": {"cpu": {"needed": 2, "available": 1}},
                "available": {"cpu": 1, "memory": 7680, "disk": 100},
            },
            {
                "host": "kvm2",
                "short": {"memory": {"needed": 512, "available": 80}},
                "available": {"cpu": 16, "memory": 80, "disk": 100},
            },
        ],
    }
    assert caught.value.message == (
        "cannot place the VM: kvm1 has 4 CPUs × virtplay_overcommit_cpu 4 = 16 vCPUs, 15 promised"
        " to VMs that run or are being created, 2 more needed; kvm2 has (8192 - 512 reserved) MiB ×"
        " virtplay_overcommit_memory 1 = 7680 MiB of memory, 7600 promised to VMs, 512 more needed;"
        " stop a VM, delete a VM or reduce its memory, raise virtplay_overcommit_cpu or"
        " virtplay_overcommit_memory, or add a host"
    )


@pytest.mark.parametrize(
    ("values", "need", "vm", "message"),
    [
        (
            {"cpus": 2, "promised_cpu": 8},
            Need(1, 512, 1),
            None,
            "cannot place the VM: kvm1 has 2 CPUs × virtplay_overcommit_cpu 4 = 8 vCPUs, 8 promised"
            " to VMs that run or are being created, 1 more needed; stop a VM, raise"
            " virtplay_overcommit_cpu, or choose another host",
        ),
        (
            {"promised_memory": 7000, "stopped_memory": 6000},
            Need(0, 1024, 0),
            "web (vm-007)",
            "cannot change VM web (vm-007): kvm1 has (8192 - 512 reserved) MiB ×"
            " virtplay_overcommit_memory 1 = 7680 MiB of memory, 7000 promised to VMs (6000 of it"
            " to stopped ones), 1024 more needed; delete a VM or reduce its memory, or raise"
            " virtplay_overcommit_memory",
        ),
        (
            {"promised_disk": 90 * GIB, "overcommit": Overcommit(disk=1.5)},
            Need(0, 0, 61),
            None,
            "cannot place the VM: kvm1 has 100 GiB free in its pool default ×"
            " virtplay_overcommit_disk 1.5, 90 promised to disks that may grow, 61 more needed;"
            " delete a VM or enlarge the pool, raise virtplay_overcommit_disk, or choose another"
            " host",
        ),
    ],
)
def test_a_refusal_names_ratio_promises_and_remedy(
    values: dict[str, Any], need: Need, vm: str | None, message: str
) -> None:
    with pytest.raises(InsufficientResources) as caught:
        place([room(**values)], need, vm=vm)
    assert caught.value.message == message


def test_a_refusal_by_many_hosts_names_some_and_counts_the_rest() -> None:
    rooms = [room(f"kvm{n}", promised_cpu=16) for n in range(9)]
    with pytest.raises(
        InsufficientResources, match="; 4 more hosts have no room either;"
    ) as caught:
        place(rooms, Need(1, 1, 1))
    assert len(caught.value.details["hosts"]) == 9
    assert "kvm5" not in caught.value.message


def test_hosts_without_the_network_are_not_tried() -> None:
    rooms = [room("kvm1", networks=frozenset()), room("kvm2", promised_cpu=16)]
    with pytest.raises(InsufficientResources) as caught:
        place(rooms, Need(1, 1, 1))
    assert [entry["host"] for entry in caught.value.details["hosts"]] == ["kvm2"]


@pytest.mark.parametrize(
    ("need", "field"),
    [
        (Need(1, 1, 1, "network", "absent"), "network.network"),
        (Need(1, 1, 1, "bridge", "default"), "network.bridge"),
        (Need(1, 1, 1, "network", "br0"), "network.network"),
    ],
)
def test_network_that_no_host_has_is_a_wrong_field(need: Need, field: str) -> None:
    with pytest.raises(ValidationFailed) as caught:
        place([room()], need)
    assert [entry["field"] for entry in caught.value.details["fields"]] == [field]


def test_the_least_full_host_gets_the_vm() -> None:
    assert place([room("kvm1", promised_memory=512), room("kvm2")], Need(1, 512, 1)) == "kvm2"
    assert place([room("kvm1", promised_cpu=2), room("kvm2")], Need(1, 1, 1)) == "kvm2"


def test_fullness_is_a_share_and_not_an_amount() -> None:
    large = room("large", memory=65536, promised_memory=8192)
    small = room("small", promised_memory=2048)
    assert place([small, large], Need(1, 512, 1)) == "large"


def test_equal_hosts_are_filled_by_name_and_in_turn() -> None:
    promised = {"kvm1": 0, "kvm2": 0, "kvm3": 0}
    for _ in range(12):
        rooms = [room(name, promised_memory=amount) for name, amount in promised.items()]
        promised[place(rooms, Need(1, 512, 1))] += 512
    assert promised == {"kvm1": 2048, "kvm2": 2048, "kvm3": 2048}


def test_twenty_vms_fill_exactly_the_room_there_is() -> None:
    promised = {"kvm1": 0, "kvm2": 0}
    refused = 0
    for _ in range(20):
        rooms = [room(name, promised_memory=amount) for name, amount in promised.items()]
        try:
            promised[place(rooms, Need(1, 1024, 1))] += 1024
        except InsufficientResources:
            refused += 1
    assert promised == {"kvm1": 7168, "kvm2": 7168}
    assert refused == 6


def test_no_host_at_all_is_no_crash() -> None:
    with pytest.raises(ValidationFailed):
        place([], Need(1, 1, 1))
