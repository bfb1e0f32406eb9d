"""Collection tests: the pure parts of an observation, and the process that can be abandoned."""

from __future__ import annotations

import json
import os
import select
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.virtplay.libvirt.plugins.module_utils.failure import Failure
from ansible_collections.virtplay.libvirt.plugins.module_utils.host import (
    child_process,
    files,
    qemu_process,
)
from ansible_collections.virtplay.libvirt.plugins.module_utils.host import facts as host_facts
from ansible_collections.virtplay.libvirt.plugins.module_utils.host.child_process import (
    run_in_child,
)
from ansible_collections.virtplay.libvirt.plugins.module_utils.host.facts import (
    list_networks,
    measure_pools,
    read_networks,
    read_templates,
)
from ansible_collections.virtplay.libvirt.plugins.module_utils.observe.statistics import (
    balloon_period,
    has_monitor_values,
    read_statistics,
)

from tests.unit.collection.fake_libvirt import NO_NETWORK, fake, libvirtError

# As libvirt 9.0 with QEMU 7.2 answers for a running guest; vCPU 1 is offline.
RECORD: dict[str, Any] = {
    "vcpu.current": 2,
    "vcpu.maximum": 4,
    "vcpu.0.state": 1,
    "vcpu.0.time": 400000000,
    "vcpu.0.wait": 0,
    "vcpu.0.delay": 37925747,
    "vcpu.2.state": 1,
    "vcpu.2.time": 7,
    "balloon.current": 65536,
    "balloon.maximum": 131072,
    "balloon.usable": 1000,
    "balloon.major_fault": 12,
    "balloon.last-update": 1795355534,
    "balloon.rss": 54700,
    "block.count": 2,
    "block.0.name": "vda",
    "block.0.path": "/a.qcow2",
    "block.0.rd.reqs": 1,
    "block.0.rd.bytes": 512,
    "block.0.rd.times": 3965705,
    "block.0.capacity": 104857600,
    "block.1.name": "sda",
    "net.count": 1,
    "net.0.name": "vnet1",
    "net.0.rx.bytes": 90,
    "net.0.rx.pkts": 1,
    "net.0.tx.drop": 3,
}
MAC = "52:54:00:e4:4e:35"
NOW = RECORD["balloon.last-update"]


def read(
    record: dict[str, Any],
    cpu_time_ns: int | None = None,
    macs: dict[str, str] | None = None,
    period: int = 5,
) -> dict[str, Any]:
    stats: dict[str, Any] = read_statistics(record, cpu_time_ns, macs or {}, now=NOW, period=period)
    return stats


def test_record_is_nested_with_our_names_and_units() -> None:
    assert read(RECORD, 710000000, {"vnet1": MAC}) == {
        "cpu_time_ns": 710000000,
        "vcpu": [
            {"vcpu": 0, "state": 1, "time_ns": 400000000, "wait_ns": 0, "delay_ns": 37925747},
            {"vcpu": 2, "state": 1, "time_ns": 7},
        ],
        "balloon": {
            "actual_bytes": 65536 * 1024,
            "maximum_bytes": 131072 * 1024,
            "usable_bytes": 1024000,
            "major_fault": 12,
            "rss_bytes": 54700 * 1024,
        },
        "block": [
            {
                "target": "vda",
                "read_requests": 1,
                "read_bytes": 512,
                "read_time_ns": 3965705,
                "capacity_bytes": 104857600,
            },
            {"target": "sda"},
        ],
        "interface": [
            {"target": "vnet1", "rx_bytes": 90, "rx_packets": 1, "tx_drop": 3, "mac": MAC}
        ],
    }


def test_what_libvirt_does_not_give_is_absent() -> None:
    empty: dict[str, Any] = {"vcpu": [], "balloon": {}, "block": [], "interface": []}
    assert read({}) == empty


GUEST = {"usable_bytes", "major_fault"}
HOST = {"actual_bytes", "maximum_bytes", "rss_bytes"}


@pytest.mark.parametrize(
    ("age", "period", "known"),
    [
        (0, 5, HOST | GUEST),
        (59, 5, HOST | GUEST),
        (61, 5, HOST),
        # The host's clock was set back.
        (-5, 5, HOST | GUEST),
        # Somebody has chosen a longer period.
        (1000, 300, HOST | GUEST),
        (1201, 300, HOST),
        # Nobody asks the driver: what it has said at its start is old.
        (61, 0, HOST),
        (None, 5, HOST),
    ],
)
def test_figures_that_the_guest_has_not_renewed_are_unknown(
    age: int | None, period: int, known: set[str]
) -> None:
    record = {**RECORD, "balloon.last-update": NOW - (age or 0)}
    if age is None:
        del record["balloon.last-update"]
    assert read(record, period=period)["balloon"].keys() == known


@pytest.mark.parametrize(
    ("xml", "period"),
    [
        ("<memballoon model='virtio'><stats period='5'/></memballoon>", 5),
        ("<memballoon model='virtio'/>", 0),
        ("<memballoon model='none'/>", 0),
        ("", 0),
    ],
)
def test_period_of_the_balloon(xml: str, period: int) -> None:
    assert balloon_period(f"<domain><devices>{xml}</devices></domain>") == period


@pytest.mark.parametrize(
    ("record", "answered"),
    [
        (RECORD, True),
        # What NOWAIT gives for a domain that it skipped, here one whose QEMU is stuck.
        ({"balloon.current": 65536, "balloon.maximum": 65536, "block.0.name": "vda"}, False),
        ({}, False),
    ],
)
def test_skipped_domain_is_told_from_one_that_answered(
    record: dict[str, Any], answered: bool
) -> None:
    assert has_monitor_values(record) is answered


class Network:
    """A network that answers, or fails at every question."""

    def __init__(self, name: str, error: libvirtError | None = None) -> None:
        self._name, self.error = name, error

    def name(self) -> str:
        return self._name

    def XMLDesc(self, _flags: int) -> str:  # noqa: N802
        if self.error:
            raise self.error
        return f"<network><name>{self._name}</name><bridge name='virbr0'/></network>"

    def isActive(self) -> bool:  # noqa: N802
        return True

    def autostart(self) -> bool:
        return False


def test_only_the_network_that_cannot_be_read_is_missing_and_it_is_said(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fake(monkeypatch, host_facts)
    warnings: list[str] = []
    networks = [
        Network("b"),
        Network("gone", libvirtError("Network not found", NO_NETWORK)),
        Network("broken", libvirtError("internal error")),
        Network("a"),
    ]
    assert [network["name"] for network in read_networks(networks, warnings)] == ["a", "b"]
    assert warnings == ["cannot read network broken: internal error"]


def test_host_without_network_driver_has_no_networks_and_says_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Connection:
        def listAllNetworks(self, _flags: int) -> list[Network]:  # noqa: N802
            raise libvirtError("this function is not supported by the connection driver")

    fake(monkeypatch, host_facts)
    warnings: list[str] = []
    assert list_networks(Connection(), warnings) == []
    assert warnings == [
        "cannot list the networks of the host: this function is not supported by the connection"
        " driver"
    ]


def test_child_hands_over_its_result() -> None:
    assert run_in_child(lambda: {"pid": os.getpid()}, 5)["pid"] != os.getpid()


def test_child_that_hangs_is_abandoned_at_the_deadline() -> None:
    with pytest.raises(TimeoutError):
        run_in_child(lambda: time.sleep(3600), 0.3)


def test_failure_crosses_the_process_border_with_its_code() -> None:
    def fail() -> None:
        raise Failure("cannot do it", "VM_NOT_FOUND")

    with pytest.raises(Failure, match="cannot do it") as caught:
        run_in_child(fail, 5)
    assert caught.value.code == "VM_NOT_FOUND"


def never() -> bool:
    return False


def test_child_finishes_after_its_report_and_without_its_parent(tmp_path: Path) -> None:
    goes_on, done = tmp_path / "on", tmp_path / "done"
    os.mkfifo(goes_on)
    os.mkfifo(done)

    def finish() -> None:
        goes_on.read_bytes()
        done.write_text(f"{os.getpid()} {os.getsid(0)}")

    # The report comes although the child waits.
    child = run_in_child(os.getpid, 60, is_done=never, finish=finish)
    goes_on.write_text("on")
    assert done.read_text() == f"{child} {child}"
    os.waitpid(child, 0)


def test_child_with_nothing_to_finish_is_reaped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(child_process, "_ATTEMPTS", 30_000)
    child = run_in_child(os.getpid, 60)
    with pytest.raises(ChildProcessError):
        os.waitpid(child, 0)


def test_child_finishes_after_a_failure_too(tmp_path: Path) -> None:
    done = tmp_path / "done"
    os.mkfifo(done)
    reader = os.open(done, os.O_RDONLY | os.O_NONBLOCK)

    def finish() -> None:
        done.write_text("done")

    with pytest.raises(RuntimeError, match="ZeroDivisionError"):
        run_in_child(lambda: 1 // 0, 60, is_done=never, finish=finish)
    assert select.select([reader], [], [], 60)[0]
    assert os.read(reader, 10) == b"done"
    os.close(reader)


def test_child_that_does_not_finish_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(child_process, "_LATEST", 1)
    child = run_in_child(os.getpid, 60, is_done=never, finish=lambda: time.sleep(3600))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGALRM


@pytest.mark.parametrize(("how", "said"), [("raise", "ZeroDivisionError"), ("die", "died")])
def test_crash_of_the_child_is_told(how: str, said: str) -> None:
    with pytest.raises(RuntimeError, match=said):
        run_in_child(lambda: 1 // 0 if how == "raise" else os._exit(3), 5)


def test_large_answer_is_read_whole() -> None:
    assert len(run_in_child(lambda: "x" * 5_000_000, 10)) == 5_000_000


@pytest.fixture
def qemu_named_oddly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Lay out a /proc with one QEMU, 500 ticks after boot; its process name has odd signs."""
    proc = tmp_path / "proc"
    (proc / "77").mkdir(parents=True)
    (proc / "stat").write_text("cpu 1 2 3\nbtime 1795353687\nprocesses 9\n")
    fields = ["S", *["0"] * 18, "500", *["0"] * 30]
    (proc / "77/stat").write_text(f"77 (qemu) :( x) {' '.join(fields)}\n")
    (tmp_path / "vm-001.pid").write_text("77")
    monkeypatch.setattr(files, "PROC", proc)
    monkeypatch.setattr(qemu_process, "RUN_DIRECTORY", tmp_path)
    monkeypatch.setattr(os, "sysconf", lambda _name: 100)
    return proc / "77/stat"


def test_start_time_of_qemu(qemu_named_oddly: Path) -> None:
    assert qemu_process.started_at("vm-001") == "2026-11-22T13:21:32.000Z"
    assert qemu_process.started_at("vm-002") is None


@pytest.mark.parametrize(("state", "seems"), [("S", False), ("R", False), ("T", True), ("D", True)])
def test_stopped_qemu_is_suspected(qemu_named_oddly: Path, state: str, seems: bool) -> None:
    qemu_named_oddly.write_text(qemu_named_oddly.read_text().replace(") S ", f") {state} "))
    assert qemu_process.seems_stopped("vm-001") is seems


def test_template_is_listed_when_manifest_and_image_are_there(tmp_path: Path) -> None:
    ready = {"name": "a", "file": "a-1.qcow2", "sha256": "00", "os": "a", "format": "qcow2"}
    (tmp_path / "a-1.qcow2").touch()
    (tmp_path / "a.json").write_text(json.dumps(ready))
    (tmp_path / "b.json").write_text(json.dumps(ready | {"name": "b", "file": "b-1.qcow2"}))
    (tmp_path / "c.json").write_text("{")
    (tmp_path / "d.json").write_text("[]")
    assert read_templates(tmp_path) == [
        {
            "name": "a",
            "file": "a-1.qcow2",
            "sha256": "00",
            "os": "a",
            "virtual_size_bytes": None,
            "created_at": None,
        }
    ]
    assert read_templates(tmp_path / "absent") == []


def test_pools_on_directories_are_measured(tmp_path: Path) -> None:
    def pool(name: str, **changes: Any) -> dict[str, Any]:
        return {"name": name, "type": "dir", "path": str(tmp_path), "active": True} | changes

    measured = measure_pools(
        [
            pool("a"),
            pool("off", active=False),
            pool("lvm", type="logical"),
            pool("gone", path=str(tmp_path / "absent")),
        ],
        time.monotonic() + 600,
    )
    assert list(measured) == ["a", "gone"]
    assert measured["gone"] == {"error": f"No such file or directory: {tmp_path}/absent"}
    sizes = measured["a"]
    assert sizes["allocation_bytes"] + sizes["available_bytes"] == sizes["capacity_bytes"] > 0


def test_broken_pool_is_shown_without_sizes_and_the_others_with_theirs() -> None:
    old = {"capacity_bytes": 9, "allocation_bytes": 5, "available_bytes": 4}
    pools = [{"name": name, **old} for name in ("a", "broken", "lvm")]
    warnings: list[str] = []
    new = {"capacity_bytes": 8, "allocation_bytes": 5, "available_bytes": 3}
    host_facts.update_pools(pools, {"a": new, "broken": {"error": "it is gone"}}, warnings)
    assert pools == [
        {"name": "a", **new},
        {"name": "broken", "error": "it is gone"},
        {"name": "lvm", **old},
    ]
    assert warnings == ["cannot measure storage pool broken: it is gone"]


def test_own_bridges_are_told_from_those_of_networks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("br0", "virbr0", "br-lan"):
        (tmp_path / name / "bridge").mkdir(parents=True)
    (tmp_path / "eth0").mkdir()
    monkeypatch.setattr(files, "NETWORK_DEVICES", tmp_path)
    networks = [
        {"bridge": "virbr0", "forward": "nat"},
        {"bridge": "br-lan", "forward": "bridge"},
        {"bridge": None, "forward": "isolated"},
    ]
    assert host_facts.read_bridges(networks) == ["br-lan", "br0"]
