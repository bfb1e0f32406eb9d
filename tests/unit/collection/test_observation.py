"""How one domain's entry in host_info is put together from what several sources say."""

from __future__ import annotations

import dataclasses
import threading
import time
from typing import Any

import pytest
from ansible_collections.virtplay.libvirt.plugins.module_utils.host.images import Image
from ansible_collections.virtplay.libvirt.plugins.module_utils.observe import observation
from ansible_collections.virtplay.libvirt.plugins.module_utils.observe.addresses import Sighting
from ansible_collections.virtplay.libvirt.plugins.module_utils.observe.background import Background
from ansible_collections.virtplay.libvirt.plugins.module_utils.observe.monitor import MonitorResults
from ansible_collections.virtplay.libvirt.plugins.module_utils.observe.observation import (
    _complete,
    _find_domains,
    _Found,
    _without_lease,
)

from tests.unit.collection.fake_libvirt import NO_DOMAIN, fake, libvirtError

GIB = 1 << 30
PATH = "/srv/vda.qcow2"
IMAGE = Image(PATH, "qcow2")
MAC = "52:54:00:00:00:01"


def seen(
    record: dict[str, Any] | None = None, *, active: bool = True, has_agent: bool = False
) -> _Found:
    facts = {
        "name": "vm-001",
        "disks": [
            {"target": "vda", "path": PATH, "format": "qcow2"},
            {"target": "vdb", "path": None},
        ],
        "interfaces": [
            {"type": "network", "source": "default", "mac": MAC, "target": "vnet0"},
            {"type": "user", "source": None, "mac": None, "target": None},
        ],
    }
    return _Found("u", None, active, record or {}, facts, has_agent, 7 if active else None)


def block(**fields: int) -> dict[str, Any]:
    named = {"block.count": 1, "block.0.name": "vda"}
    return named | {f"block.0.{key}": value for key, value in fields.items()}


@pytest.mark.parametrize(
    ("answer", "files", "sizes"),
    [
        ({}, {}, {}),
        (block(capacity=2 * GIB), {}, {"capacity_bytes": 2 * GIB, "size": 2.0}),
        # What libvirt calls allocation is the end of the last write.
        (block(capacity=2 * GIB, allocation=0), {}, {"capacity_bytes": 2 * GIB, "size": 2.0}),
        # A block device takes its whole size.
        (
            block(capacity=2 * GIB, allocation=0),
            {IMAGE: {"capacity_bytes": 2 * GIB}},
            {"capacity_bytes": 2 * GIB, "size": 2.0},
        ),
        # QEMU knows the size of the disk, the file system what it takes.
        (
            block(capacity=2 * GIB, allocation=99),
            {IMAGE: {"capacity_bytes": GIB, "allocation_bytes": 5}},
            {"capacity_bytes": 2 * GIB, "allocation_bytes": 5, "size": 2.0},
        ),
        (
            {},
            {IMAGE: {"capacity_bytes": GIB, "allocation_bytes": 5}},
            {"capacity_bytes": GIB, "allocation_bytes": 5, "size": 1.0},
        ),
    ],
)
def test_sizes_of_a_disk_come_from_who_knows_them(
    answer: dict[str, Any], files: dict[Image, dict[str, int]], sizes: dict[str, Any]
) -> None:
    entry = _complete(seen(), MonitorResults(records={"u": answer}), files)
    assert entry["disks"] == [
        {"target": "vda", "path": PATH, "format": "qcow2", **sizes},
        {"target": "vdb", "path": None},
    ]


@pytest.mark.parametrize(
    ("stuck", "answer", "active", "expected"),
    [
        (set(), {}, True, False),
        ({"u"}, {}, True, True),
        # It answered after all, between two looks.
        ({"u"}, {"balloon.rss": 1}, True, False),
        ({"u"}, {}, False, False),
        ({"other"}, {}, True, False),
    ],
)
def test_stuck_is_who_runs_and_has_not_answered(
    stuck: set[str], answer: dict[str, Any], active: bool, expected: bool
) -> None:
    answers = MonitorResults(records={"u": answer}, stuck=stuck)
    assert _complete(seen(active=active), answers, {})["stuck"] is expected


def test_domain_that_is_off_has_sizes_and_no_counters() -> None:
    record = {**block(capacity=GIB), "vcpu.0.time": 5, "balloon.current": 1024}
    sizes = {IMAGE: {"capacity_bytes": GIB, "allocation_bytes": 5}}
    stats = _complete(seen(active=False), MonitorResults(records={"u": record}), sizes)["stats"]
    used = {"allocation_bytes": 5, "physical_bytes": 5}
    assert stats["block"] == [{"target": "vda", "capacity_bytes": GIB, **used}]
    assert not stats["vcpu"]
    assert not stats["balloon"]
    assert "cpu_time_ns" not in stats


def test_interface_gets_the_address_of_its_card() -> None:
    record = {"net.count": 1, "net.0.name": "vnet0", "net.0.rx.bytes": 3}
    (interface,) = _complete(seen(record), MonitorResults(), {})["stats"]["interface"]
    assert interface == {"target": "vnet0", "rx_bytes": 3, "mac": MAC}


@pytest.mark.parametrize(
    ("has_agent", "bridge", "booted", "asked"),
    [
        (True, None, None, 1),
        (True, "virbr0", None, 0),
        (True, "virbr0", 100.0, 0),
        # The lease is of the boot before.
        (True, "virbr0", 110.0, 1),
        (True, "virbr1", None, 1),
        (False, None, None, 0),
    ],
)
def test_agent_is_asked_for_addresses_only_where_no_lease_tells(
    has_agent: bool, bridge: str | None, booted: float | None, asked: int
) -> None:
    lease = Sighting({"mac": MAC, "ip": "203.0.113.5", "source": "lease"}, 105.0)
    leases = {(bridge, MAC): [lease]} if bridge else {}
    domain = dataclasses.replace(seen(has_agent=has_agent), booted=booted)
    assert len(_without_lease([domain], {"default": "virbr0"}, leases)) == asked


def test_dead_file_system_holds_nothing_up() -> None:
    answers = threading.Event()
    late = Background(lambda: {"ended": answers.wait(600)})
    assert late.collect(time.monotonic() + 0.1) == {}
    answers.set()
    assert late.collect(time.monotonic() + 60) == {"ended": True}


class Handle:
    """A stopped domain that libvirt describes, or for which it reports an error."""

    def __init__(self, name: str, error: libvirtError | None = None) -> None:
        self._name, self._error = name, error

    def name(self) -> str:
        return self._name

    UUIDString = name

    def isActive(self) -> bool:  # noqa: N802
        return False

    def XMLDesc(self, _flags: int) -> str:  # noqa: N802
        if self._error:
            raise self._error
        return f"<domain type='qemu'><name>{self._name}</name><memory>1024</memory></domain>"


class Connection:
    """A connection to a host with these domains."""

    def __init__(self, *handles: Handle, alive: bool = True) -> None:
        self._handles, self._alive = handles, alive

    def getAllDomainStats(self, _groups: int, _flags: int) -> list[Any]:  # noqa: N802
        return [(handle, {"state.state": 5, "state.reason": 1}) for handle in self._handles]

    def listAllDomains(self, _flags: int) -> list[Any]:  # noqa: N802
        return []

    def isAlive(self) -> bool:  # noqa: N802
        return self._alive


def test_domain_that_libvirt_cannot_describe_hides_no_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fake(monkeypatch, observation)
    broken = Handle("broken", libvirtError("internal error: odd"))
    gone = Handle("gone", libvirtError("no domain", NO_DOMAIN))
    found = _find_domains(Connection(Handle("b"), broken, gone, Handle("a")))
    assert [domain.facts["name"] for domain in found] == ["a", "b", "broken"]
    # It is listed, or the service would take it for deleted.
    entry = _complete(found[2], MonitorResults(), {})
    assert (entry["state"], entry["unreadable"]) == (
        "stopped",
        "cannot read domain broken: internal error: odd",
    )
    assert "unreadable" not in found[0].facts
    with pytest.raises(libvirtError, match="odd"):
        _find_domains(Connection(broken, alive=False))
