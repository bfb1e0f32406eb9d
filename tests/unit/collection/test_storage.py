"""Volumes and templates: names, sizes, manifests, and the XML that libvirt makes volumes from."""

from __future__ import annotations

import errno
import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from ansible_collections.virtplay.libvirt.plugins.module_utils.failure import Failure
from ansible_collections.virtplay.libvirt.plugins.module_utils.host import storage
from ansible_collections.virtplay.libvirt.plugins.module_utils.host.storage import (
    Template,
    create_disk,
    disk_name,
    find_pool,
    find_template,
    find_volume,
    find_volume_at,
    is_ours,
    list_volumes,
    require_room,
    seed_name,
    volume_of,
    wanted_size,
)

from tests.unit.collection.fake_libvirt import (
    NO_POOL,
    NO_SUPPORT,
    NO_VOLUME,
    OTHER,
    SYSTEM_ERROR,
    fake,
    libvirtError,
)

UUID = "0157c680-d8f0-4d2a-855a-94a165065017"
GIB = 1 << 30
TEMPLATE = Template("micro", "/srv/templates/micro-1.qcow2", "qcow2", 2 * GIB, "micro")


class Volume:
    def __init__(self, xml: str = "") -> None:
        self.xml = xml
        self.sizes: list[int] = []

    def XMLDesc(self, _flags: int) -> str:  # noqa: N802
        return self.xml

    def resize(self, size: int, _flags: int) -> None:
        self.sizes.append(size)


class Pool:
    """A pool on a directory that knows the volumes it has seen at its last refresh."""

    def __init__(self, path: Path, *, active: bool = True, kind: str = "dir") -> None:
        self.path, self.active, self.kind = path, active, kind
        self.seen: set[str] = set()
        self.refreshes = 0

    def name(self) -> str:
        return "default"

    def isActive(self) -> bool:  # noqa: N802
        return self.active

    def XMLDesc(self, _flags: int) -> str:  # noqa: N802
        return f"<pool type='{self.kind}'><target><path>{self.path}</path></target></pool>"

    def refresh(self) -> None:
        self.refreshes += 1
        self.seen = {file.name for file in self.path.iterdir()}

    def listVolumes(self) -> list[str]:  # noqa: N802
        return sorted(self.seen)

    def storageVolLookupByName(self, name: str) -> str:  # noqa: N802
        if name not in self.seen:
            raise libvirtError("no such volume", NO_VOLUME)
        return f"volume {name}"

    def createXML(self, xml: str) -> Volume:  # noqa: N802
        return Volume(xml)

    def createXMLFrom(self, xml: str, source: object, _flags: int) -> Volume:  # noqa: N802
        assert source == "the template's volume"
        return Volume(xml)


class Connection:
    def __init__(self, *pools: Pool, error: libvirtError | None = None) -> None:
        self.pools, self.error = pools, error

    def storagePoolLookupByName(self, _name: str) -> Pool:  # noqa: N802
        if self.error:
            raise self.error
        return self.pools[0]

    def storageVolLookupByPath(self, _path: str) -> str:  # noqa: N802
        if self.error:
            raise self.error
        return "the template's volume"

    def listAllStoragePools(self, _flags: int) -> tuple[Pool, ...]:  # noqa: N802
        if self.error and self.error.code in (NO_SUPPORT, SYSTEM_ERROR):
            raise self.error
        return self.pools


@pytest.fixture(autouse=True)
def _libvirt(monkeypatch: pytest.MonkeyPatch) -> None:
    fake(monkeypatch, storage)
    storage.libvirt.VIR_CONNECT_LIST_STORAGE_POOLS_ACTIVE = 2


def test_volumes_are_named_after_the_uuid_alone() -> None:
    assert disk_name(UUID, "vda") == f"{UUID}-vda.qcow2"
    assert seed_name(UUID) == f"{UUID}-seed.iso"


@pytest.mark.parametrize(
    ("path", "ours"),
    [
        (f"/srv/{UUID}-vda.qcow2", True),
        (f"{UUID}-seed.iso", True),
        (f"/srv/{UUID}/disk.qcow2", False),
        (f"/srv/{UUID}.qcow2", False),
        ("/srv/other-vda.qcow2", False),
        ("", False),
    ],
)
def test_only_volumes_of_that_name_are_ours(path: str, ours: bool) -> None:
    assert is_ours(UUID, path) is ours


def write_manifest(directory: Path, **values: Any) -> None:
    manifest = {"file": "micro-1.qcow2", "virtual_size_bytes": GIB, "os": "micro", **values}
    (directory / "micro.json").write_text(json.dumps(manifest))
    (directory / "micro-1.qcow2").write_bytes(b"x")


def test_template_is_read_from_its_manifest(tmp_path: Path) -> None:
    write_manifest(tmp_path)
    path = str(tmp_path / "micro-1.qcow2")
    assert find_template("micro", tmp_path) == Template("micro", path, "qcow2", GIB, "micro")


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"file": "gone.qcow2"}, "is not in"),
        ({"file": "../outside.qcow2"}, "is not in"),
        ({"file": "/etc/passwd"}, "is not in"),
        ({"file": "link.qcow2"}, "is not in"),
        ({"virtual_size_bytes": "large"}, "cannot read the manifest"),
        ({"virtual_size_bytes": None}, "cannot read the manifest"),
    ],
)
def test_bad_manifest_is_no_template(values: dict[str, Any], words: str, tmp_path: Path) -> None:
    directory = tmp_path / "templates"
    directory.mkdir()
    (tmp_path / "outside.qcow2").write_bytes(b"x")
    write_manifest(directory, **values)
    (directory / "link.qcow2").symlink_to(tmp_path / "outside.qcow2")
    with pytest.raises(Failure, match=words) as caught:
        find_template("micro", directory)
    assert caught.value.code == "TEMPLATE_NOT_FOUND"


@pytest.mark.parametrize("name", ["other", "../micro", "", "a/b", "micro\n"])
def test_template_that_is_not_there(name: str, tmp_path: Path) -> None:
    write_manifest(tmp_path)
    with pytest.raises(Failure, match="cannot find template"):
        find_template(name, tmp_path)


@pytest.mark.parametrize(
    ("size", "template", "expected"),
    [
        (3, None, 3 * GIB),
        (None, TEMPLATE, 2 * GIB),
        (2, TEMPLATE, 2 * GIB),
        (5, TEMPLATE, 5 * GIB),
        (None, None, "a size or a template is required"),
        (1, TEMPLATE, "at least 2 GiB are required"),
    ],
)
def test_size_of_a_disk(size: int | None, template: Template | None, expected: int | str) -> None:
    disk = {"target": "vda", "size": size}
    if isinstance(expected, int):
        assert wanted_size(disk, template) == expected
        return
    with pytest.raises(Failure, match=expected):
        wanted_size(disk, template)


def test_room_is_asked_of_the_file_system(tmp_path: Path) -> None:
    require_room(Pool(tmp_path), 1)
    with pytest.raises(Failure, match="are available") as caught:
        require_room(Pool(tmp_path), 1 << 60)
    assert caught.value.code == "INSUFFICIENT_RESOURCES"


@pytest.mark.parametrize(
    ("error", "is_absent"),
    [
        (libvirtError("not supported by the driver", NO_SUPPORT), True),
        (libvirtError("no socket of virtstoraged", SYSTEM_ERROR, errno.ENOENT), True),
        (libvirtError("virtstoraged is down", SYSTEM_ERROR, errno.ECONNREFUSED), False),
    ],
)
def test_host_without_storage_driver_has_no_pools(error: libvirtError, is_absent: bool) -> None:
    host = Connection(error=error)
    if is_absent:
        assert list_volumes(host, UUID) == []
        assert find_volume_at(host, "/srv/a.qcow2") is None
        with pytest.raises(Failure, match="libvirt on the host has no storage driver"):
            find_pool(host, "default")
        return
    for call in (list_volumes, find_volume_at, find_pool):
        with pytest.raises(libvirtError):
            call(host, "a")


def test_file_that_libvirt_has_not_seen_is_found_by_one_refresh(tmp_path: Path) -> None:
    pool = Pool(tmp_path)
    assert find_volume(pool, "new.qcow2") is None
    assert pool.refreshes == 0
    (tmp_path / "new.qcow2").write_bytes(b"x")
    assert find_volume(pool, "new.qcow2") == "volume new.qcow2"
    assert find_volume(pool, "new.qcow2") == "volume new.qcow2"
    assert pool.refreshes == 1


def test_volumes_of_a_domain_are_listed_and_no_others(tmp_path: Path) -> None:
    pool = Pool(tmp_path)
    pool.seen = {f"{UUID}-vda.qcow2", f"{UUID}-seed.iso", "other-vda.qcow2"}
    assert list_volumes(Connection(pool), UUID) == [
        f"volume {UUID}-seed.iso",
        f"volume {UUID}-vda.qcow2",
    ]


@pytest.mark.parametrize("code", [NO_VOLUME, NO_POOL])
def test_path_that_no_pool_knows_has_no_volume(code: int) -> None:
    assert volume_of(Connection(error=libvirtError("unknown", code)), "/x") is None


def test_other_failures_are_not_taken_for_absence() -> None:
    with pytest.raises(libvirtError):
        volume_of(Connection(error=libvirtError("connection lost", OTHER)), "/x")


def test_pool_has_to_be_there_and_active(tmp_path: Path) -> None:
    with pytest.raises(Failure, match="the host has no pool of that name"):
        find_pool(Connection(error=libvirtError("unknown", NO_POOL)), "fast")
    with pytest.raises(Failure, match="it is not active"):
        find_pool(Connection(Pool(tmp_path, active=False)), "fast")


@pytest.mark.parametrize("kind", ["logical", "disk", "iscsi", "rbd", "zfs", "gluster"])
def test_pool_whose_volumes_are_no_files_is_refused_with_its_type(
    kind: str, tmp_path: Path
) -> None:
    connection = Connection(Pool(tmp_path, kind=kind))
    with pytest.raises(Failure, match=f"'lv': it is of type {kind}, and disks are") as caught:
        find_pool(connection, "lv")
    assert caught.value.code == "VALIDATION_ERROR"


@pytest.mark.parametrize("kind", ["dir", "fs", "netfs"])
def test_pool_of_files_is_used(kind: str, tmp_path: Path) -> None:
    pool = Pool(tmp_path, kind=kind)
    assert find_pool(Connection(pool), "fast") is pool


@pytest.mark.parametrize(
    ("kind", "disk", "refused"),
    [
        ("qcow2", {"type": "file", "format": "qcow2"}, False),
        ("raw", {"type": "file", "format": "raw"}, False),
        ("raw", {"type": "file", "format": None}, False),
        ("qcow2", {"type": "volume", "format": None}, False),
        # The guest has written the header into its raw disk.
        ("qcow2", {"type": "file", "format": "raw"}, True),
        ("qcow2", {"type": "file", "format": None}, True),
        ("raw", {"type": "volume", "format": "qcow2"}, True),
    ],
)
def test_disk_is_resized_only_as_what_it_is(
    kind: str, disk: dict[str, Any], refused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    volume = Volume(f"<volume><target><format type='{kind}'/></target></volume>")
    monkeypatch.setattr(storage, "find_volume_at", lambda _conn, _path: volume)
    disk = {"path": "/pool/a", **disk}
    if not refused:
        assert storage.require_volume(None, disk) is volume
        return
    with pytest.raises(Failure, match=f"looks like {kind}, but the VM has it as") as caught:
        storage.require_volume(None, disk)
    assert caught.value.code == "VALIDATION_ERROR"


@pytest.mark.parametrize(
    ("template", "clone", "backing", "resized"),
    [
        (None, "linked", None, []),
        (None, "full", None, []),
        (TEMPLATE, "linked", TEMPLATE.path, []),
        (TEMPLATE, "full", None, [5 * GIB]),
    ],
)
def test_disk_is_empty_or_over_its_template_or_a_copy(
    template: Template | None,
    clone: str,
    backing: str | None,
    resized: list[int],
    tmp_path: Path,
) -> None:
    name = "<disk>&.qcow2"
    made = create_disk(
        Connection(), Pool(tmp_path), name, size=5 * GIB, template=template, clone=clone
    )
    root = ElementTree.fromstring(made.xml)
    assert root.findtext("name") == name
    assert root.findtext("capacity") == str(2 * GIB if resized else 5 * GIB)
    assert root.findtext("backingStore/path") == backing
    assert root.findtext("target/permissions/mode") == "0600"
    assert made.sizes == resized
