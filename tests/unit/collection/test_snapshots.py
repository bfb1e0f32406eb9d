"""The snapshots of a domain as a list: parents first, the current one, what memory takes."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ansible_collections.virtplay.libvirt.plugins.module_utils.domain.console_xml import (
    LONG_AGO,
    set_password,
    utc_text,
)
from ansible_collections.virtplay.libvirt.plugins.module_utils.domain.xml import parse_xml
from ansible_collections.virtplay.libvirt.plugins.module_utils.snapshot import change
from ansible_collections.virtplay.libvirt.plugins.module_utils.snapshot import list as listing
from ansible_collections.virtplay.libvirt.plugins.module_utils.snapshot.change import (
    consoles_aside,
    erase,
)
from ansible_collections.virtplay.libvirt.plugins.module_utils.snapshot.list import (
    fill_sizes,
    list_snapshots,
)
from ansible_collections.virtplay.libvirt.plugins.module_utils.snapshot.qcow2 import read_image

from tests.unit.collection.fake_libvirt import OTHER, fake, libvirtError

NO_SNAPSHOT = 72


class Snapshot:
    def __init__(
        self, name: str, parent: str | None, at: int = 100, error: libvirtError | None = None
    ) -> None:
        self.name, self.error = name, error
        above = f"<parent><name>{parent}</name></parent>" if parent else ""
        self.xml = (
            f"<domainsnapshot><name>{name}</name><state>running</state>{above}"
            f"<creationTime>{at}</creationTime><memory snapshot='internal'/></domainsnapshot>"
        )

    def getName(self) -> str:  # noqa: N802
        return self.name

    def getXMLDesc(self, _flags: int) -> str:  # noqa: N802
        if self.error:
            raise self.error
        return self.xml


class Domain:
    def __init__(self, *listed: Snapshot, current: str | None = None) -> None:
        self.listed, self.current = listed, current

    def listAllSnapshots(self, _flags: int) -> tuple[Snapshot, ...]:  # noqa: N802
        return self.listed

    def snapshotCurrent(self, _flags: int) -> Snapshot:  # noqa: N802
        if self.current is None:
            raise libvirtError("none", NO_SNAPSHOT)
        return Snapshot(self.current, None)


@pytest.fixture(autouse=True)
def _libvirt(monkeypatch: pytest.MonkeyPatch) -> None:
    fake(monkeypatch, change, listing)


@pytest.mark.parametrize(
    ("listed", "names"),
    [
        ([], []),
        ([("b", None, 200), ("a", None, 100)], ["a", "b"]),
        # All within one second: libvirt's clock doesn't tell which was first.
        ([("a", "b", 100), ("b", "c", 100), ("c", None, 100)], ["c", "b", "a"]),
        # A circle would be libvirt's fault, and is no reason to hang.
        ([("a", "b", 100), ("b", "a", 100)], ["a", "b"]),
    ],
)
def test_parents_come_first(listed: list[tuple[str, str | None, int]], names: list[str]) -> None:
    entries, xmls = list_snapshots(Domain(*(Snapshot(*facts) for facts in listed)))
    assert [entry["name"] for entry in entries] == names
    assert xmls.keys() == set(names)


def test_current_one_is_marked() -> None:
    domain = Domain(Snapshot("a", None), Snapshot("b", "a"), current="b")
    assert [entry["current"] for entry in list_snapshots(domain)[0]] == [False, True]


def test_one_that_was_deleted_meanwhile_is_left_out() -> None:
    gone = Snapshot("b", "a", error=libvirtError("gone", NO_SNAPSHOT))
    entries, _xmls = list_snapshots(Domain(Snapshot("a", None), gone))
    assert [entry["name"] for entry in entries] == ["a"]


def test_other_failures_are_not_taken_for_a_deletion() -> None:
    lost = Snapshot("b", "a", error=libvirtError("connection lost", OTHER))
    with pytest.raises(libvirtError):
        list_snapshots(Domain(lost))


def test_size_stays_open_without_an_image() -> None:
    entries, _xmls = list_snapshots(Domain(Snapshot("a", None)))
    fill_sizes(entries, [None])
    assert entries[0]["has_memory"]
    assert entries[0]["size_bytes"] is None


class Screen:
    """A running domain with one VNC, given as its attributes."""

    def __init__(self, error: libvirtError | None = None, **attributes: str) -> None:
        self.graphics, self.error = {"type": "vnc", **attributes}, error

    def XMLDesc(self, flags: int) -> str:  # noqa: N802
        assert flags == 1, "with secrets"
        words = " ".join(f"{key}='{value}'" for key, value in self.graphics.items())
        return f"<domain><devices><graphics {words}/></devices></domain>"

    def updateDeviceFlags(self, xml: str, flags: int) -> None:  # noqa: N802
        assert flags == 1, "live"
        if self.error:
            raise self.error
        self.graphics = dict(parse_xml(xml).attrib)


def sight_of(*, active: bool = True) -> Any:
    return SimpleNamespace(current=SimpleNamespace(active=active), label="web")


def open_screen(seconds: float, **values: Any) -> Screen:
    """One whose password runs out in so many seconds."""
    return Screen(passwd="secret", passwdValidTo=utc_text(time.time() + seconds), **values)


def test_password_of_an_open_console_is_aside_and_comes_back() -> None:
    screen = open_screen(60)
    before = dict(screen.graphics)
    with consoles_aside(screen, sight_of()):
        assert screen.graphics["passwd"] not in ("", "secret")
        assert screen.graphics["passwdValidTo"] == LONG_AGO
    assert screen.graphics == before
    with pytest.raises(libvirtError, match="disk is full"), consoles_aside(screen, sight_of()):
        raise libvirtError("disk is full")
    assert screen.graphics == before


def test_password_that_has_run_out_goes_for_good() -> None:
    screen = open_screen(-1)
    with consoles_aside(screen, sight_of()):
        pass
    assert screen.graphics["passwd"] != "secret"
    assert screen.graphics["passwdValidTo"] == LONG_AGO


def test_password_given_meanwhile_stays() -> None:
    screen = open_screen(60)
    with consoles_aside(screen, sight_of()):
        xml = parse_xml(screen.XMLDesc(1)).find("devices/graphics")
        screen.updateDeviceFlags(set_password(xml, "newer", "2999-01-01T00:00:00"), 1)
    assert screen.graphics["passwd"] == "newer"


@pytest.mark.parametrize(
    ("screen", "active"),
    [
        (Screen(passwd="nobodys", passwdValidTo=LONG_AGO), True),
        (Screen(passwd="of the owner"), True),
        (Screen(), True),
        (open_screen(60), False),
        (open_screen(60, error=libvirtError("unsupported")), True),
    ],
)
def test_all_else_stays_as_it_is(screen: Screen, active: bool) -> None:
    before = dict(screen.graphics)
    with consoles_aside(screen, sight_of(active=active)):
        assert screen.graphics == before
    assert screen.graphics == before


@pytest.mark.needs("qemu-img")
def test_snapshot_is_erased_from_the_variables_too(tmp_path: Path) -> None:
    paths = [str(tmp_path / name) for name in ("vda", "vdb", "vars")]
    for path in paths:
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", path, "1M"], check=True)
        for name in ("a", "b", "a"):
            subprocess.run(["qemu-img", "snapshot", "-c", name, path], check=True)
    disks = [
        {"target": target, "path": path, "format": "qcow2", "type": "file"}
        for target, path in zip(("vda", "vdb"), paths[:2], strict=True)
    ]
    view = SimpleNamespace(
        current=SimpleNamespace(config={"disks": disks}),
        images={"vda": None, "vdb": None},
        variables={paths[2]: None},
    )
    # vdb was added later: what it holds is of somebody else.
    erase(view, ["vda"], "a")
    names = [[held.name for held in read_image(path).snapshots] for path in paths]
    assert names == [["b"], ["a", "b", "a"], ["b"]]
