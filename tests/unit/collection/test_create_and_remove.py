"""What a creation and a deletion mean on a host: derived identities, interfaces, the plan."""

from __future__ import annotations

import json
import re
import uuid as uuids
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ansible_collections.virtplay.libvirt.plugins.module_utils.domain import create, remove, xml
from ansible_collections.virtplay.libvirt.plugins.module_utils.domain.create import Creation
from ansible_collections.virtplay.libvirt.plugins.module_utils.domain.devices import (
    NewDisk,
    derive_mac,
    prepare_interface,
)
from ansible_collections.virtplay.libvirt.plugins.module_utils.domain.plan import Current
from ansible_collections.virtplay.libvirt.plugins.module_utils.domain.task import derive_uuid
from ansible_collections.virtplay.libvirt.plugins.module_utils.domain.users import FileUsers
from ansible_collections.virtplay.libvirt.plugins.module_utils.failure import Failure
from ansible_collections.virtplay.libvirt.plugins.module_utils.host import files, firmware
from ansible_collections.virtplay.libvirt.plugins.module_utils.states import DomainState

UUID = "0157c680-d8f0-4d2a-855a-94a165065017"
OURS, THEIRS = f"/srv/{UUID}-vda.qcow2", "/srv/somebody.qcow2"


def test_uuid_of_a_name_is_the_same_each_time_and_another_on_another_host() -> None:
    given = derive_uuid("host-1", "web")
    assert given == derive_uuid("host-1", "web") == str(uuids.UUID(given))
    assert uuids.UUID(given).version == 8
    assert len({given, derive_uuid("host-2", "web"), derive_uuid("host-1", "db")}) == 3


def test_mac_addresses_are_of_single_cards_and_differ() -> None:
    macs = [derive_mac(UUID, number) for number in range(50)]
    assert macs == [derive_mac(UUID, number) for number in range(50)]
    assert len(set(macs)) == 50
    for mac in macs:
        assert re.fullmatch(r"52(:[0-9a-f]{2}){5}", mac)


def test_templates_that_a_host_lacks_are_found_before_anything_is_made(tmp_path: Path) -> None:
    for name, values in {"old": {"spec_hash": "1"}, "older": {}}.items():
        manifest = {"file": "image", "virtual_size_bytes": 1, **values}
        (tmp_path / f"{name}.json").write_text(json.dumps(manifest))
    (tmp_path / "image").touch()
    disks = [{"template": name} for name in ("none", "old", "older")] + [{}, {"template": "old"}]

    def missing(**wanted: str) -> list[str]:
        return list(create.missing_templates(disks, wanted, tmp_path))

    assert missing() == missing(old="1") == ["none"]
    assert missing(old="2", older="1", unused="3") == ["none", "old", "older"]
    assert missing(old="", older="") == ["none", "old", "older"]  # to be fetched again
    reasons = create.missing_templates(disks, {"old": "2"}, tmp_path)
    assert reasons == {
        "none": "cannot find template 'none' on the host",
        "old": "cannot use template 'old': the host has another version of it",
    }


class Connection:
    def networkLookupByName(self, name: str) -> str:  # noqa: N802
        return name


@pytest.fixture
def bridges(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "NETWORK_DEVICES", tmp_path)
    (tmp_path / "br0/bridge").mkdir(parents=True)
    (tmp_path / "eth0").mkdir()


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ({}, ("network", "default", derive_mac(UUID, 3), "virtio")),
        ({"source": "lab", "model": "e1000"}, ("network", "lab", derive_mac(UUID, 3), "e1000")),
        (
            {"type": "bridge", "source": "br0", "mac": "52:54:00:AB:CD:EF"},
            ("bridge", "br0", "52:54:00:ab:cd:ef", "virtio"),
        ),
    ],
)
def test_interface_is_completed(
    wanted: dict[str, Any], expected: tuple[str, ...], bridges: None
) -> None:
    made = prepare_interface(Connection(), UUID, 3, wanted)
    assert (made.type, made.source, made.mac, made.model) == expected


@pytest.mark.parametrize(
    ("wanted", "words"),
    [
        ({"type": "bridge"}, "the name of the bridge, is required"),
        ({"type": "bridge", "source": "eth0"}, "the host has no bridge of that name"),
        ({"type": "bridge", "source": "../br0"}, "the host has no bridge of that name"),
        ({"type": "bridge", "source": ".."}, "the host has no bridge of that name"),
        ({"mac": "01:00:5e:00:00:01"}, "cannot use MAC address"),
        ({"mac": "52:54:00:00:00"}, "cannot use MAC address"),
        ({"mac": "52:54:00:00:00:01'/>"}, "cannot use MAC address"),
    ],
)
def test_interface_that_cannot_be(wanted: dict[str, Any], words: str, bridges: None) -> None:
    with pytest.raises(Failure, match=words) as caught:
        prepare_interface(Connection(), UUID, 0, wanted)
    assert caught.value.code == "VALIDATION_ERROR"


def test_creation_is_described_by_every_declared_field() -> None:
    disks = [
        NewDisk("vda", "default", "a", "/a", 0, None, "linked"),
        NewDisk("vdb", "fast", "b", "/b", 3 << 30, None, "full"),
    ]
    cards = (
        xml.Interface("52:54:00:00:00:01"),
        xml.Interface("52:54:00:00:00:02", "bridge", "br0", "e1000"),
    )
    spec = xml.DomainSpec(UUID, "web", 2, 8, 1024, 1024, virt_type="qemu", interfaces=cards)
    desired = {
        "name": "web",
        "title": "Web server",
        "description": None,
        "vcpus": 2,
        "memory": 1024,
        "autostart": False,
        "disks": [
            {"template": "debian12", "clone": "linked", "pool": "default"},
            {"size": 3, "clone": "full", "pool": "fast"},
        ],
        "interfaces": [
            {"ip": "203.0.113.5"},
            {"type": "bridge", "source": "br0", "model": "e1000", "mac": "52:54:00:00:00:02"},
        ],
        "metadata": {"template": "debian12", "labels": {"tier": "web"}, "os": None},
        "seed": {"ssh_keys": ["ssh-ed25519 SECRET"], "user_data": "#!SECRET", "hostname": None},
    }
    assert create.describe(Creation(spec, "", disks), desired) == {
        "title": "Web server",
        "vcpus": 2,
        "memory": 1024,
        "autostart": False,
        "virt_type": "qemu",
        "disks.vda.size": "that of the template",
        "disks.vda.template": "debian12",
        "disks.vdb.size": 3,
        "disks.vdb.clone": "full",
        "disks.vdb.pool": "fast",
        "interfaces[0].network": "default",
        "interfaces[0].ip": "203.0.113.5",
        "interfaces[1].bridge": "br0",
        "interfaces[1].model": "e1000",
        "interfaces[1].mac": "52:54:00:00:00:02",
        "metadata.labels": {"tier": "web"},
        "seed": ["ssh_keys", "user_data"],
    }


def current(*paths: str | None, snapshots: int = 0) -> Current:
    disks = [{"target": f"vd{chr(97 + n)}", "path": path} for n, path in enumerate(paths)]
    config = {"name": "vm-001", "uuid": UUID, "disks": disks}
    return Current(DomainState.STOPPED, {}, True, config, config, "<domain/>", snapshots=snapshots)


@pytest.mark.parametrize(
    ("paths", "keep", "destroyed", "stays"),
    [
        ((OURS,), False, [OURS], []),
        ((OURS,), True, [], [OURS]),
        ((OURS, THEIRS, None), False, [OURS], [THEIRS]),
        ((), False, [], []),
    ],
)
def test_deletion_takes_what_is_ours_and_nothing_else(
    paths: tuple[str | None, ...], keep: bool, destroyed: list[str], stays: list[str]
) -> None:
    changes, kept = remove.plan(current(*paths), FileUsers(), keep_disks=keep, force=False)
    assert [change.before for change in changes if change.destroys] == destroyed
    assert list(kept) == stays
    assert (changes[0].field, changes[0].after) == ("state", "absent")


def test_deletion_says_that_snapshots_and_reservations_go_too() -> None:
    domain = current(snapshots=2)
    domain.reservations = {"52:54:00:00:00:01": ("default", "203.0.113.5")}
    with pytest.raises(Failure, match="it has 2 snapshots") as caught:
        remove.plan(domain, FileUsers(), keep_disks=False, force=False)
    assert caught.value.code == "VM_HAS_SNAPSHOTS"
    changes, _stays = remove.plan(domain, FileUsers(), keep_disks=False, force=True)
    assert [(change.field, change.before, change.destroys) for change in changes[1:]] == [
        ("snapshots", 2, True),
        ("interfaces.52:54:00:00:00:01.ip", "203.0.113.5", False),
    ]


@pytest.mark.parametrize(
    ("users", "reason"),
    [
        (FileUsers({OURS: "web"}), "domain web uses it"),
        (
            FileUsers({THEIRS: "web"}, ("db",)),
            "the storage of domain db, which may use it, cannot be read",
        ),
    ],
)
def test_deletion_keeps_what_another_domain_stands_on(users: FileUsers, reason: str) -> None:
    changes, stays = remove.plan(current(OURS), users, keep_disks=False, force=True)
    assert stays == {OURS: reason}
    assert [change.before for change in changes if change.destroys] == []
    assert remove.describe_stays("vm-001", stays) == (
        f"these disks of vm-001 stay on the host: {OURS} ({reason})"
    )


def test_deletion_keeps_uefi_variables_that_another_domain_has_too() -> None:
    domain, path = current(), "/srv/vars.fd"
    domain.config_xml = f"<domain><os><nvram>{path}</nvram></os></domain>"
    for users, expected in (({}, {}), ({path: "web"}, {path: "domain web uses it"})):
        found = FileUsers(users)
        assert remove.plan(domain, found, keep_disks=False, force=False)[1] == expected


@pytest.mark.parametrize(
    ("version", "files", "found"),
    [
        (9_000_000, ("code", "variables"), False),
        (11_003_000, ("code", "variables"), True),
        (12_008_000, ("code", "variables"), True),
        (12_008_000, ("code",), False),
        (12_008_000, ("variables",), False),
    ],
)
def test_variables_in_qcow2_need_a_libvirt_and_a_prepared_host(
    version: int,
    files: tuple[str, ...],
    found: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("code", "variables"):
        monkeypatch.setattr(firmware, f"_{name.upper()}", tmp_path / name)
    for name in files:
        (tmp_path / name).touch()
    chosen = firmware.Uefi(str(tmp_path / "code"), str(tmp_path / "variables"))
    conn = SimpleNamespace(getLibVersion=lambda: version)
    assert firmware.find_uefi(conn) == (chosen if found else None)


@pytest.mark.parametrize(
    ("system", "gone"),
    [
        # As libvirt shows on forky what was defined on Debian 12.
        (
            "<os firmware='efi'><loader type='rom'>/usr/share/ovmf/OVMF.amdsev.fd</loader></os>",
            True,
        ),
        ("<os firmware='efi'/>", True),
        # Not its own, or somebody else's choice of a place.
        ("<os><type>hvm</type></os>", False),
        ("<os firmware='efi'><loader type='pflash'/><nvram>/srv/vars.fd</nvram></os>", False),
    ],
)
def test_variables_that_libvirt_does_not_know_of_any_more_are_deleted(
    system: str, gone: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(xml, "_NVRAM_DIRECTORY", str(tmp_path))
    variables = tmp_path / "vm-001_VARS.fd"
    variables.touch()
    domain = current()
    domain.config_xml = f"<domain><name>vm-001</name>{system}</domain>"
    for _attempt in range(2):
        remove.remove_variables(domain)
        assert variables.exists() is not gone


TPM = "/var/lib/libvirt/swtpm/x"


@pytest.mark.parametrize(
    ("paths", "keep", "users", "stays"),
    [
        ((OURS,), False, {}, {}),
        # Disks that stay may be sealed by it: of the same name, the VM gets the same UUID again.
        ((OURS,), True, {}, {OURS: "as requested"}),
        ((THEIRS,), False, {}, {THEIRS: "Virtplay did not create it"}),
        ((OURS,), False, {TPM: "web"}, {TPM: "domain web uses it"}),
    ],
)
def test_state_of_a_tpm_goes_and_stays_with_the_disks(
    paths: tuple[str, ...], keep: bool, users: dict[str, str], stays: dict[str, str]
) -> None:
    domain = current(*paths)
    tpm = "<tpm><backend type='emulator'/></tpm>"
    domain.config_xml = f"<domain><uuid>x</uuid><devices>{tpm}</devices></domain>"
    changes, kept = remove.plan(domain, FileUsers(users), keep_disks=keep, force=False)
    if TPM not in stays and stays:
        stays = {**stays, TPM: remove._MAY_UNSEAL}
    assert kept == stays
    assert [c.destroys for c in changes if c.field == "tpm"] == ([] if TPM in kept else [True])


class Undefined:
    """A domain that notes the flags of its undefinition."""

    flags = 0

    def undefineFlags(self, flags: int) -> None:  # noqa: N802 - the binding's own name
        self.flags = flags


@pytest.mark.parametrize("keep", [True, False])
def test_undefinition_says_what_becomes_of_the_tpm(
    keep: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ("MANAGED_SAVE", "SNAPSHOTS_METADATA", "CHECKPOINTS_METADATA", "NVRAM", "KEEP_NVRAM")
    old = {f"VIR_DOMAIN_UNDEFINE_{name}": 1 << bit for bit, name in enumerate(names)}
    new = {"VIR_DOMAIN_UNDEFINE_TPM": 1 << 8, "VIR_DOMAIN_UNDEFINE_KEEP_TPM": 1 << 9}
    domain = Undefined()
    for known, expected in ((old, 0), ({**old, **new}, 1 << 9 if keep else 1 << 8)):
        monkeypatch.setattr(remove, "libvirt", SimpleNamespace(**known, libvirtError=OSError))
        remove.undefine(domain, keep_tpm=keep)
        assert domain.flags & (3 << 8) == expected
