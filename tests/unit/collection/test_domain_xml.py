"""Tests of domain XML: built, read and edited, in tables and golden files.

`WRITE_GOLDEN=1 pytest tests/unit/collection/test_domain_xml.py` rewrites the files.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.virtplay.libvirt.plugins.module_utils.domain.xml import (
    Disk,
    DomainSpec,
    Interface,
    agent_is_connected,
    build_domain,
    build_metadata,
    edit_domain,
    edit_interface,
    hotpluggable_vcpus,
    list_files,
    list_start_files,
    may_lose_variables,
    normalize,
    nvram_has_name,
    nvram_path,
    parse_domain,
    parse_xml,
    pending_values,
    tpm_path,
)
from ansible_collections.virtplay.libvirt.plugins.module_utils.failure import Failure
from ansible_collections.virtplay.libvirt.plugins.module_utils.host.firmware import Uefi

GOLDEN = Path(__file__).parent / "golden"
RUNNING = {"vcpus": 2, "vcpus_max": 4, "memory": 512, "memory_max": 1024, "name": "vm-001"}
UUID = "11111111-2222-4333-8444-555555555555"
MAC = "52:00:00:00:00:01"
SPEC = DomainSpec(
    uuid=UUID,
    name="vm-001",
    vcpus=2,
    vcpus_max=8,
    memory=2048,
    memory_max=4096,
    title="Web Server",
    disks=(
        Disk("vda", f"/pool/{UUID}-vda.qcow2"),
        Disk("sda", f"/pool/{UUID}-seed.iso", format="raw", bus="scsi", device="cdrom"),
    ),
    interfaces=(Interface(MAC),),
    metadata={
        "id": "vm-001",
        "job": "job-000001",
        "generation": 3,
        "template": "debian12",
        "os": "debian12",
        "labels": {"tier": "web"},
    },
)
SPECS = {
    "kvm": SPEC,
    "qemu": replace(SPEC, virt_type="qemu"),
    "efi_on_bridge": replace(
        SPEC, firmware="efi", interfaces=(Interface(MAC, "bridge", "br0", "e1000e"),)
    ),
    "efi_with_qcow2_variables": replace(
        SPEC, firmware="efi", uefi=Uefi("/usr/share/OVMF/code.fd", "/var/lib/x/vars.qcow2")
    ),
}
NASTY = [
    "</name><devices>",
    "<!DOCTYPE x [<!ENTITY e SYSTEM 'file:///etc/passwd'>]>&e;",
    "{{ lookup('pipe', 'id') }}",
    "a & b < c > \"d\" 'e'",
    "日本語 \U0001f600 \u202e",
    "$(id); x",
    "]]>",
]


@pytest.mark.parametrize("name", SPECS)
def test_built_domain_is_the_golden_file(name: str) -> None:
    built = build_domain(SPECS[name])
    path = GOLDEN / f"domain_{name}.xml"
    if os.environ.get("WRITE_GOLDEN"):
        path.parent.mkdir(exist_ok=True)
        path.write_text(built)
    assert built == path.read_text()


def test_parse_gives_back_what_build_was_given() -> None:
    parsed = parse_domain(build_domain(SPEC))
    assert parsed == {
        "uuid": UUID,
        "name": "vm-001",
        "title": "Web Server",
        "description": None,
        "vcpus": 2,
        "vcpus_max": 8,
        "memory": 2048,
        "memory_max": 4096,
        "firmware": "bios",
        "virt_type": "kvm",
        "machine": "q35",
        "disks": [
            {
                "target": "vda",
                "type": "file",
                "device": "disk",
                "format": "qcow2",
                "read_only": False,
                "shareable": False,
                "path": f"/pool/{UUID}-vda.qcow2",
                "source": None,
            }
        ],
        "interfaces": [
            {"mac": MAC, "type": "network", "source": "default", "model": "virtio", "target": None}
        ],
        "graphics": {"type": "vnc", "host": "127.0.0.1", "port": None},
        "metadata": dict(SPEC.metadata),
    }


@pytest.mark.parametrize("text", NASTY)
def test_text_of_users_never_becomes_markup(text: str) -> None:
    metadata = {"id": "vm-001", "os": text, "labels": {text: text}}
    spec = replace(SPEC, title=text, description=text, metadata=metadata)
    plain = parse_xml(build_domain(replace(SPEC, description="d")))
    built = parse_xml(build_domain(spec))
    assert [e.tag for e in built.iter()] == [e.tag for e in plain.iter()]
    parsed = parse_domain(build_domain(spec))
    assert parsed["title"] == text
    assert parsed["description"] == text
    assert parsed["metadata"]["labels"] == {text: text}
    edited = parse_domain(edit_domain(build_domain(SPEC), {"title": text, "metadata": metadata}))
    assert edited["title"] == text
    assert edited["metadata"]["labels"] == {text: text}


@pytest.mark.parametrize("text", ["a\x00b", "bell\x07", "\ufffe", "\ud800"])
def test_text_that_xml_cannot_carry_is_refused(text: str) -> None:
    for spec in (replace(SPEC, title=text), replace(SPEC, metadata={"labels": {"k": text}})):
        with pytest.raises(Failure, match="cannot put"):
            build_domain(spec)


@pytest.mark.parametrize("xml", ["", "<domain", "not xml", "<a></b>"])
def test_what_is_no_xml_is_refused(xml: str) -> None:
    with pytest.raises(Failure):
        parse_domain(xml)


def test_entities_are_not_resolved() -> None:
    xml = (
        '<!DOCTYPE d [<!ENTITY e SYSTEM "file:///etc/hostname">]>'
        "<domain type='kvm'><name>n</name><title>&e;</title></domain>"
    )
    assert parse_domain(xml)["title"] in {None, ""}


# A domain that somebody else made, with what we never write.
FOREIGN = """<domain type='kvm' id='7' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>
  <name>old one</name><uuid>99999999-2222-4333-8444-555555555555</uuid>
  <metadata><app:os xmlns:app="http://example.org/app" name="x"/></metadata>
  <memory unit='GiB'>2</memory>
  <vcpu>4</vcpu>
  <vcpus><vcpu id='0' enabled='yes' hotpluggable='no'/><vcpu id='1' enabled='yes'
    hotpluggable='yes'/><vcpu id='2' enabled='no' hotpluggable='yes'/></vcpus>
  <os><type arch='x86_64' machine='pc-i440fx-7.2'>hvm</type>
    <loader readonly='yes' type='pflash'>/x.fd</loader></os>
  <cpu mode='host-model'><topology sockets='1' cores='4' threads='1'/></cpu>
  <devices>
    <disk type='file' device='cdrom'><source file='/iso/a.iso'/><target dev='hda'/></disk>
    <disk type='file' device='disk'><source file='/d/top.qcow2'/>
      <backingStore type='file'><source file='/d/base.qcow2'/><backingStore/></backingStore>
      <target dev='sda' bus='scsi'/></disk>
    <disk type='block' device='disk'><source dev='/dev/vg/lv'/><target dev='sdb'/></disk>
    <disk type='volume' device='disk'><source pool='p' volume='v'/><target dev='sdc'/></disk>
    <disk type='network' device='disk'><source protocol='rbd' name='r/i'/>
      <target dev='sdd'/></disk>
    <interface type='user'><mac address='52:54:00:aa:bb:cc'/></interface>
    <interface type='direct'><mac address='52:54:00:aa:bb:cd'/>
      <source dev='eth0' mode='bridge'/><target dev='macvtap0'/><model type='rtl8139'/></interface>
    <graphics type='spice' port='5901' listen='0.0.0.0'/>
  </devices>
  <qemu:commandline><qemu:arg value='-foo'/></qemu:commandline>
</domain>"""


def test_foreign_domain_is_read() -> None:
    parsed = parse_domain(FOREIGN)
    assert parsed["name"] == "old one"
    assert parsed["metadata"] is None
    assert (parsed["memory"], parsed["memory_max"]) == (2048, 2048)
    assert (parsed["vcpus"], parsed["vcpus_max"]) == (4, 4)
    assert parsed["firmware"] == "efi"
    assert [(disk["target"], disk["path"], disk["source"]) for disk in parsed["disks"]] == [
        ("sda", "/d/top.qcow2", None),
        ("sdb", "/dev/vg/lv", None),
        ("sdc", None, "p/v"),
        ("sdd", None, "rbd:r/i"),
    ]
    assert parsed["disks"][0]["backing"] == "/d/base.qcow2"
    assert [nic["source"] for nic in parsed["interfaces"]] == [None, "eth0"]
    assert parsed["graphics"] == {"type": "spice", "host": "0.0.0.0", "port": 5901}
    assert hotpluggable_vcpus(FOREIGN) == 1
    assert "/d/base.qcow2" in list_files(FOREIGN)


@pytest.mark.parametrize(
    ("inside", "expected"),
    [
        ("<disk><source file='/a'/></disk><disk type='block'><source dev='/dev/b'/></disk>", 2),
        ("<disk device='cdrom'><source file='/a' startupPolicy='optional'/></disk>", 0),
        ("<disk device='cdrom'><source file='/a' startupPolicy='mandatory'/></disk>", 1),
        ("<disk type='network'><source protocol='rbd' name='a/b'/></disk><disk/>", 0),
        ("<disk type='volume'><source pool='default' volume='a'/></disk>", 0),
        # A running copy is no part of the next start.
        ("<disk><source file='/a'/><mirror><source file='/b'/></mirror></disk>", 1),
    ],
)
def test_files_that_a_start_needs(inside: str, expected: int) -> None:
    boot = "<loader>/code.fd</loader><nvram>/vars.fd</nvram><kernel>/k</kernel><initrd>/i</initrd>"
    xml = f"<domain><os>{boot}</os><devices>{inside}</devices></domain>"
    needed = list_start_files(xml)
    # libvirt creates missing variables of the firmware.
    assert needed[expected:] == ["/code.fd", "/k", "/i"]


DEFAULT_NVRAM = "/var/lib/libvirt/qemu/nvram/vm-001_VARS.fd"


@pytest.mark.parametrize(
    ("nvram", "path"),
    [
        ("", None),
        ("<loader type='rom'/>", None),
        ("<loader type='pflash'/>", DEFAULT_NVRAM),
        ("<loader type='pflash'/><nvram template='/t.fd'/>", DEFAULT_NVRAM),
        ("<loader type='pflash'/><nvram template='/t.fd'>/v.fd</nvram>", "/v.fd"),
        ("<nvram type='file'>\n  <source file='/v.fd'/>\n</nvram>", "/v.fd"),
        ("<loader type='pflash'/><nvram type='network'><source name='a/1'/></nvram>", None),
    ],
)
def test_uefi_variables_are_files_too(nvram: str, path: str | None) -> None:
    xml = f"<domain><name>vm-001</name><os>{nvram}</os></domain>"
    assert nvram_path(xml) == path
    assert nvram_has_name(xml) is (path == DEFAULT_NVRAM)
    assert list_files(xml) == ([path] if path else [])


FIRMWARE = "<firmware><feature enabled='no' name='secure-boot'/></firmware>"
ROM = "<loader type='rom' format='raw'>/usr/share/ovmf/OVMF.amdsev.fd</loader>"
FLASH = "<loader readonly='yes' type='pflash'{}>/usr/share/OVMF/OVMF_CODE_4M.fd</loader>"


@pytest.mark.parametrize(
    ("system", "more", "loses", "mended"),
    [
        # As libvirt 9.0 shows what it was given, and 11.3 and 12.8 show the same definition.
        (f"<os firmware='efi'>{FIRMWARE}</os>", "", True, "<loader stateless='no'/>"),
        (
            f"<os firmware='efi'>{FIRMWARE}{FLASH.format('')}<nvram>/v.fd</nvram></os>",
            "",
            True,
            FLASH.format(" stateless='no'") + "<nvram>/v.fd</nvram>",
        ),
        (f"<os firmware='efi'>{FIRMWARE}{ROM}</os>", "", True, "<loader stateless='no'/>"),
        ("<os firmware='efi'><loader stateless='no'/></os>", "", False, None),
        # Somebody wants it so.
        ("<os firmware='efi'><loader stateless='yes'/></os>", "", False, None),
        (f"<os firmware='efi'>{ROM}</os>", "<launchSecurity type='sev'/>", False, None),
        # What is named is not chosen.
        (f"<os>{ROM}</os>", "", False, None),
        (f"<os>{FLASH.format('')}</os>", "", False, None),
        ("<os firmware='bios'/>", "", False, None),
        ("<os/>", "", False, None),
    ],
)
def test_firmware_without_variables_is_told_and_mended(
    system: str, more: str, loses: bool, mended: str | None
) -> None:
    xml = f"<domain><name>vm-001</name>{system}{more}</domain>"
    assert may_lose_variables(xml) is loses
    if mended:
        edited = edit_domain(xml, {"keeps_variables": True})
        assert normalize(edited) == normalize(
            f"<domain><name>vm-001</name><os firmware='efi'>{FIRMWARE}{mended}</os></domain>"
        )
        assert not may_lose_variables(edited)


@pytest.mark.parametrize(
    ("backend", "path", "listed"),
    [
        ("<backend type='emulator' version='2.0'/>", "/var/lib/libvirt/swtpm/UUID", []),
        (
            "<backend type='emulator'><source type='dir' path='/srv/tpm'/></backend>",
            "/srv/tpm",
            ["/srv/tpm"],
        ),
        ("<backend type='passthrough'><device path='/dev/tpm0'/></backend>", None, []),
    ],
)
def test_state_of_a_tpm_has_a_place(backend: str, path: str | None, listed: list[str]) -> None:
    tpm = f"<devices><tpm model='tpm-crb'>{backend}</tpm></devices>"
    xml = f"<domain><name>vm-001</name><uuid>UUID</uuid>{tpm}</domain>"
    assert tpm_path(xml) == path
    assert list_files(xml) == listed


PLAIN_DISK = {
    "target": "vda",
    "type": "file",
    "device": "disk",
    "format": None,
    "read_only": False,
    "shareable": False,
    "path": None,
    "source": None,
}
DISKS: list[tuple[str, dict[str, Any]]] = [
    ("<disk/>", {"target": None}),
    ("<disk type='file'><target dev='vda'/></disk>", {}),
    (
        "<disk type='file'><driver type='raw'/><source file='/a'/><target dev='vda'/></disk>",
        {"path": "/a", "format": "raw"},
    ),
    ("<disk><source file='a.raw'/><target dev='vda'/></disk>", {"source": "a.raw"}),
    (
        "<disk type='block' device='lun'><source dev='/dev/sdb'/><target dev='vda'/></disk>",
        {"type": "block", "device": "lun", "path": "/dev/sdb"},
    ),
    (
        "<disk type='volume'><source pool='p' volume='v' mode='host'/><target dev='vda'/></disk>",
        {"type": "volume", "source": "p/v", "pool": "p", "volume": "v"},
    ),
    # A name on the network is never a path of the host, whatever it looks like.
    (
        "<disk type='network'><source protocol='rbd' name='/etc/passwd'/>"
        "<target dev='vda'/></disk>",
        {"type": "network", "source": "rbd:/etc/passwd"},
    ),
    (
        "<disk type='network'><source protocol='nbd'><host name='h'/></source>"
        "<target dev='vda'/></disk>",
        {"type": "network", "source": "nbd"},
    ),
    (
        "<disk type='dir'><source dir='/srv'/><target dev='vda'/><readonly/></disk>",
        {"type": "dir", "source": "/srv", "read_only": True},
    ),
    (
        "<disk type='nvme'><source type='pci' namespace='1'><address domain='0x0000' bus='0x01'"
        " slot='0x00' function='0x0'/></source><target dev='vda'/></disk>",
        {"type": "nvme", "source": "0000:01:00.0/1"},
    ),
    (
        "<disk type='vhostuser'><source type='unix' path='/run/s'/><target dev='vda'/></disk>",
        {"type": "vhostuser", "source": "/run/s"},
    ),
    (
        "<disk type='vhostvdpa'><source dev='/dev/vhost-vdpa-0'/><target dev='vda'/></disk>",
        {"type": "vhostvdpa", "source": "/dev/vhost-vdpa-0"},
    ),
    (
        "<disk><source file='/a'><encryption format='luks'/></source><target dev='vda'/>"
        "<shareable/><transient/></disk>",
        {"path": "/a", "encrypted": True, "shareable": True, "transient": True},
    ),
    (
        "<disk><source file='/a'><slices><slice type='storage' offset='0' size='9'/></slices>"
        "</source><target dev='vda'/></disk>",
        {"path": "/a", "sliced": True},
    ),
    ("<disk type='new'><source/><target dev='vda'/></disk>", {"type": "new"}),
]


@pytest.mark.parametrize(("xml", "expected"), DISKS)
def test_disk_of_every_kind_is_read(xml: str, expected: dict[str, Any]) -> None:
    (disk,) = parse_domain(f"<domain><devices>{xml}</devices></domain>")["disks"]
    assert disk == {**PLAIN_DISK, **expected}


@pytest.mark.parametrize("device", ["cdrom", "floppy"])
def test_media_are_no_disks(device: str) -> None:
    xml = f"<disk device='{device}'><source file='/a'/><target dev='sda'/></disk>"
    assert parse_domain(f"<domain><devices>{xml}</devices></domain>")["disks"] == []


def test_edit_leaves_everything_else_as_it_was() -> None:
    edited = parse_xml(edit_domain(FOREIGN, {"title": "T", "memory": 1024}))
    assert edited.findtext("title") == "T"
    assert edited.find("currentMemory").attrib == {"unit": "MiB"}
    assert edited.findtext("memory") == "2"
    before, after = parse_xml(FOREIGN), edited
    for path in ("devices", "metadata", "os", "cpu", "uuid"):
        assert _flat(before.find(path)) == _flat(after.find(path))
    arguments = "{http://libvirt.org/schemas/domain/qemu/1.0}commandline"
    assert after.find(arguments) is not None


def test_edit_of_vcpus_drops_what_would_contradict_it() -> None:
    edited = parse_xml(edit_domain(FOREIGN, {"vcpus": 2, "vcpus_max": 6}))
    assert edited.find("vcpu").text == "6"
    assert edited.find("vcpu").get("current") == "2"
    assert edited.find("vcpus") is None
    assert edited.find("cpu/topology") is None


def test_edit_of_metadata_keeps_that_of_others() -> None:
    edited = edit_domain(FOREIGN, {"metadata": {"id": "vm-9"}})
    assert parse_xml(edited).find("metadata/{http://example.org/app}os") is not None
    again = parse_xml(edit_domain(edited, {"metadata": {"id": "vm-9", "labels": {"a": "b"}}}))
    assert len(again.find("metadata")) == 2


@pytest.mark.parametrize(
    "text", ["one\ntwo", "\ttab\n", " a ", "\n\nlate", "a\n\n\n", "<b>\n&amp;"]
)
def test_description_is_kept_to_the_last_character(text: str) -> None:
    built = build_domain(replace(SPEC, description=text))
    edited = edit_domain(FOREIGN, {"description": text})
    for xml in (built, edited, edit_domain(edited, {"memory": 64})):
        assert parse_domain(xml)["description"] == text


CARD = """<interface type='network'><mac address='52:54:00:aa:bb:cd'/>
  <source network='default' portgroup='blue'/><target dev='tap7'/><model type='ne2k_pci'/>
  <driver name='vhost' queues='4'/><boot order='2'/><mtu size='9000'/><link state='down'/>
  <filterref filter='clean-traffic'/><bandwidth><inbound average='1000'/></bandwidth>
  <alias name='ua-front'/></interface>"""
CARDS = {
    "<interface type='user'><mac address='52:54:00:00:00:01'/></interface>": ("user", None),
    "<interface type='direct'><source dev='eth0' mode='bridge'/></interface>": ("direct", "eth0"),
    "<interface type='ethernet'><target dev='tap7'/></interface>": ("ethernet", None),
    "<interface type='hostdev'><source><address type='pci' bus='0x3'/></source></interface>": (
        "hostdev", None,
    ),
    "<interface type='vdpa'><source dev='/dev/vhost-vdpa-0'/></interface>": (
        "vdpa", "/dev/vhost-vdpa-0",
    ),
    "<interface type='vhostuser'><source type='unix' path='/tmp/x.sock' mode='client'/>"
    "</interface>": ("vhostuser", "/tmp/x.sock"),
    "<interface type='internal'><source name='lan'/></interface>": ("internal", "lan"),
    "<interface type='mcast'><source address='230.0.0.1' port='5'/></interface>": ("mcast", None),
    "<interface type='null'/>": ("null", None),
}  # fmt: skip


@pytest.mark.parametrize("card", CARDS)
def test_card_of_any_type_is_read(card: str) -> None:
    (found,) = parse_domain(f"<domain><devices>{card}</devices></domain>")["interfaces"]
    assert (found["type"], found["source"]) == CARDS[card]
    assert "virtual_port" not in found


def test_virtual_port_is_read() -> None:
    port = "<interface type='bridge'><source bridge='ovs0'/><virtualport type='openvswitch'/>"
    (found,) = parse_domain(f"<domain><devices>{port}</interface></devices></domain>")["interfaces"]
    assert found["virtual_port"] == "openvswitch"


def test_card_that_moves_keeps_all_that_is_its_own() -> None:
    xml = f"<domain><devices>{CARD}</devices></domain>"
    moved = edit_domain(xml, {"interfaces": {"52:54:00:aa:bb:cd": {"source": "lab"}}})
    (before,), (after,) = (parse_xml(x).findall("devices/interface") for x in (xml, moved))
    assert after.find("source").attrib == {"network": "lab"}
    for nic in (before, after):
        nic.remove(nic.find("source"))
    assert _flat(before) == _flat(after)


def test_edit_of_an_interface_finds_it_by_mac_in_any_case() -> None:
    change = {"type": "bridge", "source": "br1", "model": "virtio"}
    edited = edit_domain(FOREIGN, {"interfaces": {"52:54:00:AA:BB:CD": change}})
    assert parse_domain(edited)["interfaces"][1]["source"] == "br1"
    assert parse_domain(edited)["interfaces"][0]["type"] == "user"
    nic = parse_xml(edit_interface(FOREIGN, "52:54:00:aa:bb:cd", change))
    assert nic.find("source").attrib == {"bridge": "br1"}
    with pytest.raises(Failure, match="cannot find interface"):
        edit_interface(FOREIGN, "52:54:00:00:00:00", change)


def test_added_devices_stand_beside_their_like() -> None:
    edited = parse_domain(
        edit_domain(
            build_domain(SPEC),
            {
                "add_disks": [Disk("vdb", "/pool/b.qcow2")],
                "add_interfaces": [Interface("52:00:00:00:00:02", "bridge", "br0")],
            },
        )
    )
    assert [disk["target"] for disk in edited["disks"]] == ["vda", "vdb"]
    assert [nic["source"] for nic in edited["interfaces"]] == ["default", "br0"]


def test_title_is_removed_by_an_empty_one() -> None:
    assert parse_domain(edit_domain(build_domain(SPEC), {"title": ""}))["title"] is None


def test_metadata_for_libvirt_has_no_namespace_on_its_root() -> None:
    root = parse_xml(build_metadata({"id": "vm-001", "labels": {"a": "b"}}))
    assert root.tag == "vm"
    assert root[0].tag == "{urn:virtplay:vm:1}label"


@pytest.mark.parametrize(
    ("config", "pending"),
    [
        ({}, {}),
        ({"memory": 1024}, {"memory": 1024}),
        ({"vcpus": 1, "vcpus_max": 8}, {"vcpus": 1, "vcpus_max": 8}),
        ({"name": "renamed"}, {}),
    ],
)
def test_pending_values(config: dict[str, Any], pending: dict[str, Any]) -> None:
    assert pending_values(RUNNING, {**RUNNING, **config}) == pending


@pytest.mark.parametrize(
    ("channel", "connected"),
    [
        ("", False),
        ("<target type='virtio' name='org.qemu.guest_agent.0'/>", False),
        ("<target name='org.qemu.guest_agent.0' state='disconnected'/>", False),
        ("<target name='org.qemu.guest_agent.0' state='connected'/>", True),
        ("<target name='com.redhat.spice.0' state='connected'/>", False),
    ],
)
def test_agent_is_there_when_the_guest_has_opened_its_channel(
    channel: str, connected: bool
) -> None:
    xml = f"<domain><devices><channel type='unix'>{channel}</channel></devices></domain>"
    assert agent_is_connected(xml) is connected


def _flat(element: Any) -> list[tuple[str, dict[str, str], str]]:
    return [(e.tag, dict(e.attrib), (e.text or "").strip()) for e in element.iter()]
