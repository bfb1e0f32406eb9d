# Copyright: Virtplay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Converts domain XML to and from plain data; pure, no libvirt and no I/O.

Users' texts become element text and attribute values through lxml, never through string building,
so that no title or label can become markup.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ..failure import Failure
from ..host.connection import etree
from ..host.firmware import Uefi
from .arguments import WAITING

NAMESPACE = "urn:virtplay:vm:1"
VM_TAG = f"{{{NAMESPACE}}}vm"
LABEL_TAG = f"{{{NAMESPACE}}}label"
AGENT_CHANNEL = "org.qemu.guest_agent.0"
# PCIe slots for devices attached to a running domain; q35 itself has no spare ones.
PCIE_ROOT_PORTS = 14
_NVRAM_DIRECTORY = "/var/lib/libvirt/qemu/nvram"
_TPM_DIRECTORY = "/var/lib/libvirt/swtpm"
_TPM_SOURCE = "devices/tpm/backend[@type='emulator']/source"

_KIB_IN = {
    "b": 1 / 1024,
    "bytes": 1 / 1024,
    "KB": 1000 / 1024,
    "k": 1,
    "KiB": 1,
    "MB": 1000 * 1000 / 1024,
    "M": 1024,
    "MiB": 1024,
    "GB": 1000**3 / 1024,
    "G": 1024**2,
    "GiB": 1024**2,
    "TB": 1000**4 / 1024,
    "T": 1024**3,
    "TiB": 1024**3,
}


@dataclass(frozen=True)
class Disk:
    """A disk to define: the path of its image on the host and its name in the guest."""

    target: str
    path: str
    format: str = "qcow2"
    bus: str = "virtio"
    device: str = "disk"


@dataclass(frozen=True)
class Interface:
    """A network interface to define; source is a libvirt network or a host bridge."""

    mac: str
    type: str = "network"
    source: str = "default"
    model: str = "virtio"


@dataclass(frozen=True)
class DomainSpec:
    """Everything that build_domain requires; memory in MiB."""

    uuid: str
    name: str
    vcpus: int
    vcpus_max: int
    memory: int
    memory_max: int
    virt_type: str = "kvm"
    firmware: str = "bios"
    # For firmware efi: which one; None leaves the choice to libvirt.
    uefi: Uefi | None = None
    title: str | None = None
    description: str | None = None
    disks: tuple[Disk, ...] = ()
    interfaces: tuple[Interface, ...] = ()
    metadata: Mapping[str, Any] = field(default_factory=dict)


# --- from XML ---------------------------------------------------------------------------------


def parse_xml(xml: str) -> Any:
    """Parse a document into an lxml element, with entities and network access disabled."""
    parser = etree.XMLParser(resolve_entities=False, no_network=True, remove_blank_text=True)
    try:
        return etree.fromstring(xml.encode(), parser)
    except (etree.XMLSyntaxError, UnicodeEncodeError) as error:
        raise Failure(f"cannot read the domain XML: {error}", "VALIDATION_ERROR") from error


def parse_domain(xml: str) -> dict[str, Any]:
    """Return the modules' `domain` value as far as the domain's XML defines it.

    memory and memory_max are MiB. Keys that only a host knows (state, flags, started_at, sizes and
    allocation of disks) are missing.
    """
    root = parse_xml(xml)
    memory_max = _kib(root.find("memory")) // 1024
    current = root.find("currentMemory")
    vcpu = root.find("vcpu")
    vcpus_max = int((vcpu.text or "1").strip()) if vcpu is not None else 1
    kind = root.find("os/type")
    return {
        "uuid": root.findtext("uuid"),
        "name": root.findtext("name"),
        "title": root.findtext("title"),
        "description": root.findtext("description"),
        "vcpus": int(vcpu.get("current", vcpus_max)) if vcpu is not None else 1,
        "vcpus_max": vcpus_max,
        "memory": _kib(current) // 1024 if current is not None else memory_max,
        "memory_max": memory_max,
        "firmware": _firmware(root),
        "virt_type": root.get("type"),
        "machine": kind.get("machine") if kind is not None else None,
        "disks": [_parse_disk(disk) for disk in _data_disks(root)],
        "interfaces": [_parse_interface(nic) for nic in root.iterfind("devices/interface")],
        "graphics": _parse_graphics(root.find("devices/graphics")),
        "metadata": _parse_metadata(root.find(f"metadata/{VM_TAG}")),
    }


def pending_values(live: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of config that apply at the next boot: they differ from those of live.

    Both are what parse_domain returns.
    """
    return {key: config[key] for key in WAITING if config[key] != live[key]}


def agent_is_connected(live_xml: str) -> bool:
    """Whether the guest agent has opened its channel, so that it may respond."""
    path = f"devices/channel/target[@name='{AGENT_CHANNEL}']"
    return any(target.get("state") == "connected" for target in parse_xml(live_xml).iterfind(path))


def hotpluggable_vcpus(xml: str) -> int:
    """Return how many enabled virtual CPUs of a live definition can be unplugged."""
    return sum(
        vcpu.get("enabled") == "yes" and vcpu.get("hotpluggable") == "yes"
        for vcpu in parse_xml(xml).iterfind("vcpus/vcpu")
    )


def has_numa_cells(xml: str) -> bool:
    """Whether a definition divides its memory into NUMA cells."""
    return parse_xml(xml).find("cpu/numa/cell") is not None


def list_files(xml: str) -> list[str]:
    """Return the paths of all disks, media, backing files and running copies in a definition.

    Also that of its UEFI variables, and the state of its TPM if it has a place of its own.
    """
    root = parse_xml(xml)
    sources = [
        *root.iterfind("devices/disk//source"),
        *root.iterfind("devices/disk//backingStore/*"),
    ]
    paths = [source.get("file") or source.get("dev") for source in sources]
    paths += [nvram_path(xml), _attribute(root.find(_TPM_SOURCE), "path")]
    return list(dict.fromkeys(path for path in paths if path))


def list_macs(xml: str) -> list[str]:
    """Return the MAC addresses of the cards in a definition, in lower case."""
    macs = (mac.get("address") for mac in parse_xml(xml).iterfind("devices/interface/mac"))
    return [mac.lower() for mac in macs if mac]


def nvram_path(xml: str) -> str | None:
    """Return the path of the file with the UEFI variables of a definition; None without one.

    A definition that names none gets that of libvirt at its start.
    """
    root = parse_xml(xml)
    nvram = root.find("os/nvram")
    if nvram is not None and nvram.get("type", "file") != "file":
        return None
    given = _attribute(root.find("os/nvram/source"), "file") or root.findtext("os/nvram") or ""
    if given.strip() or _firmware(root) != "efi":
        return given.strip() or None
    return default_nvram_path(str(root.findtext("name")))


def default_nvram_path(name: str) -> str:
    """Return where libvirt stores the UEFI variables of a domain, if nothing else is asked for."""
    return f"{_NVRAM_DIRECTORY}/{name}_VARS.fd"


def nvram_has_name(xml: str) -> bool:
    """Whether the file with the UEFI variables of a definition is named by its domain.

    With another name of the domain, the file would be that of the next one with the old name.
    """
    name = str(parse_xml(xml).findtext("name"))
    return os.path.basename(nvram_path(xml) or "").startswith(f"{name}_VARS")


def tpm_path(xml: str) -> str | None:
    """Return the path of the state of a definition's emulated TPM; None without one."""
    root = parse_xml(xml)
    if root.find("devices/tpm/backend[@type='emulator']") is None:
        return None
    given = _attribute(root.find(_TPM_SOURCE), "path")
    return given or f"{_TPM_DIRECTORY}/{root.findtext('uuid')}"


def may_lose_variables(xml: str) -> bool:
    """Whether a definition leaves it to libvirt to choose a UEFI firmware that stores variables.

    libvirt 9.0 chooses at each start; from 10 on it chooses when it reads the definition, which
    then shows that choice but need not be stored with it.
    """
    root = parse_xml(xml)
    system, loader = root.find("os"), root.find("os/loader")
    if system is None or system.get("firmware") != "efi" or root.find("launchSecurity") is not None:
        return False
    return loader is None or loader.get("stateless") is None


def list_start_files(xml: str) -> list[str]:
    """Return the paths of the files without which a domain with this definition cannot start."""
    root = parse_xml(xml)
    # An absent medium with a startupPolicy may be left out at a start.
    sources = root.iterfind("devices/disk/source")
    paths = [
        source.get("file") or source.get("dev")
        for source in sources
        if source.get("startupPolicy", "mandatory") == "mandatory"
    ]
    boot = (root.findtext(f"os/{name}") for name in ("loader", "kernel", "initrd"))
    return list(dict.fromkeys(p for p in (*paths, *boot) if p and p.startswith("/")))


def parse_media(xml: str) -> list[dict[str, Any]]:
    """Return the entries of all disks of a definition, CD-ROMs and floppies included."""
    return [_parse_disk(disk) for disk in parse_xml(xml).iterfind("devices/disk")]


def normalize(xml: str) -> str:
    """Return a document with uniform indentation, for reading and for diffs."""
    return render_xml(parse_xml(xml))


def _data_disks(root: Any) -> list[Any]:
    disks = root.iterfind("devices/disk")
    return [disk for disk in disks if disk.get("device", "disk") in {"disk", "lun"}]


def _parse_disk(disk: Any) -> dict[str, Any]:
    """Return an entry of `disks`, without sizes.

    path is absolute, and None for everything that is no file or block device of the host; of a
    volume, which names its pool and volume, only the host knows it (storage.resolve_volumes).
    source is a text to show instead.
    """
    kind = disk.get("type", "file")
    source = disk.find("source")
    path, text = _place_of(kind, source) if source is not None else (None, None)
    parsed: dict[str, Any] = {
        "target": _attribute(disk.find("target"), "dev"),
        "type": kind,
        "device": disk.get("device", "disk"),
        "format": _attribute(disk.find("driver"), "type"),
        "read_only": disk.find("readonly") is not None,
        "shareable": disk.find("shareable") is not None,
        "path": path,
        "source": text,
    }
    if disk.find("transient") is not None:
        parsed["transient"] = True
    if disk.find("encryption") is not None or disk.find("source/encryption") is not None:
        parsed["encrypted"] = True
    if disk.find("source/slices") is not None:
        parsed["sliced"] = True
    if kind == "volume" and source is not None:
        parsed.update(pool=source.get("pool"), volume=source.get("volume"))
    backing = disk.find("backingStore/source")
    if backing is not None:
        parsed["backing"] = backing.get("file") or backing.get("dev") or backing.get("name")
    return parsed


def _place_of(kind: str, source: Any) -> tuple[str | None, str | None]:
    """Return the path of a disk's source on the host, and a text for a source without one."""
    given = dict(source.attrib)
    if kind in {"file", "block"}:
        path = given.get("file") or given.get("dev")
        # QEMU would take a relative path from its own directory.
        return (path, None) if path and path.startswith("/") else (None, path)
    if kind == "volume":
        return None, f"{given.get('pool')}/{given.get('volume')}"
    if kind == "network":
        return None, ":".join(filter(None, (given.get("protocol"), given.get("name"))))
    if kind == "nvme":
        address = source.find("address")
        parts = dict(address.attrib) if address is not None else {}
        number = [parts.get(key, "?").removeprefix("0x") for key in ("domain", "bus", "slot")]
        function = parts.get("function", "?").removeprefix("0x")
        return None, f"{':'.join(number)}.{function}/{given.get('namespace')}"
    found = (given.get(key) for key in ("dir", "path", "dev", "name"))
    return None, next((value for value in found if value), None)


def _parse_interface(nic: Any) -> dict[str, Any]:
    source = nic.find("source")
    attributes = dict(source.attrib) if source is not None else {}
    found = (attributes.get(key) for key in ("network", "bridge", "dev", "path", "name"))
    parsed = {
        "mac": _attribute(nic.find("mac"), "address"),
        "type": nic.get("type"),
        "source": next((value for value in found if value), None),
        "model": _attribute(nic.find("model"), "type"),
        "target": _attribute(nic.find("target"), "dev"),
    }
    port = nic.find("virtualport")
    if port is not None:
        parsed["virtual_port"] = port.get("type") or "of its network"
    return parsed


def _parse_graphics(graphics: Any | None) -> dict[str, Any] | None:
    if graphics is None:
        return None
    host = graphics.get("listen") or _attribute(graphics.find("listen"), "address")
    port = int(graphics.get("port") or -1)
    # libvirt writes -1 for a port that it chooses when the domain starts.
    return {"type": graphics.get("type"), "host": host, "port": port if port > 0 else None}


def _parse_metadata(vm: Any | None) -> dict[str, Any] | None:
    if vm is None:
        return None
    generation = vm.get("generation")
    return {
        "id": vm.get("id"),
        "job": vm.get("job"),
        "generation": int(generation) if generation and generation.isdigit() else None,
        "template": vm.get("template"),
        "os": vm.get("os"),
        "labels": {
            label.get("name"): label.get("value", "")
            for label in vm.iterfind(LABEL_TAG)
            if label.get("name")
        },
    }


def _firmware(root: Any) -> str:
    if root.find("os") is not None and root.find("os").get("firmware"):
        return str(root.find("os").get("firmware"))
    loader = root.find("os/loader")
    return "efi" if loader is not None and loader.get("type") == "pflash" else "bios"


def _kib(element: Any | None) -> int:
    if element is None or not element.text:
        return 0
    return int(int(element.text.strip()) * _KIB_IN.get(element.get("unit", "KiB"), 1))


def _attribute(element: Any | None, name: str) -> str | None:
    return element.get(name) if element is not None else None


# --- to XML -----------------------------------------------------------------------------------


def build_domain(spec: DomainSpec) -> str:
    """Return the XML of a new domain; raises Failure for text that XML cannot hold."""
    root = etree.Element("domain", type=spec.virt_type)
    _add(root, "name", spec.name)
    _add(root, "uuid", spec.uuid)
    if spec.title:
        _add(root, "title", spec.title)
    if spec.description:
        _add(root, "description", spec.description)
    if spec.metadata:
        _add(root, "metadata").append(_vm_element(spec.metadata))
    _add(root, "memory", spec.memory_max, unit="MiB")
    _add(root, "currentMemory", spec.memory, unit="MiB")
    _add(root, "vcpu", spec.vcpus_max, placement="static", current=spec.vcpus)
    _add_machine(root, spec)
    _add_cpu(root, spec)
    _add_clock(root)
    _add(root, "on_poweroff", "destroy")
    _add(root, "on_reboot", "restart")
    # A guest whose kernel panicked stops: it neither stays "running" nor reboots for ever. The
    # panic device below reports it.
    _add(root, "on_crash", "destroy")
    devices = _add(root, "devices")
    for number, disk in enumerate(spec.disks):
        devices.append(_disk_element(disk, boot_order=1 if number == 0 else None))
    _add(devices, "controller", type="pci", model="pcie-root")
    for _port in range(PCIE_ROOT_PORTS):
        _add(devices, "controller", type="pci", model="pcie-root-port")
    _add(devices, "controller", type="usb", model="none")
    if any(disk.bus == "scsi" for disk in spec.disks):
        _add(devices, "controller", type="scsi", model="virtio-scsi")
    for nic in spec.interfaces:
        devices.append(_interface_element(nic))
    _add_fixed_devices(devices)
    return render_xml(root)


def build_disk(disk: Disk) -> str:
    """Return the XML of one disk, to attach to an existing domain."""
    return render_xml(_disk_element(disk, boot_order=None))


def build_interface(nic: Interface) -> str:
    """Return the XML of one interface, to attach to an existing domain."""
    return render_xml(_interface_element(nic))


def build_metadata(metadata: Mapping[str, Any]) -> str:
    """Return our <vm> metadata element, without the prefix, which libvirt takes separately."""
    vm = _vm_element(metadata)
    # virDomainSetMetadata adds the namespace to the outermost element and rejects an element that
    # has one; the labels inside keep theirs.
    bare = etree.Element("vm", dict(vm.attrib))
    bare.extend(list(vm))
    return str(etree.tostring(bare, encoding="unicode"))


def _add_machine(root: Any, spec: DomainSpec) -> None:
    system = _add(root, "os")
    _add(system, "type", "hvm", arch="x86_64", machine="q35")
    if spec.firmware == "efi" and spec.uefi is not None:
        _add(system, "loader", spec.uefi.code, readonly="yes", type="pflash", format="raw")
        template = {"template": spec.uefi.variables, "templateFormat": "qcow2", "format": "qcow2"}
        _add(system, "nvram", **template)
    elif spec.firmware == "efi":
        system.set("firmware", "efi")
        # Without these libvirt may choose a firmware that boots only signed images.
        choice = _add(system, "firmware")
        _add(choice, "feature", enabled="no", name="secure-boot")
        _add(choice, "feature", enabled="no", name="enrolled-keys")
        # And without this one that stores nothing: that for AMD SEV is forky's first choice.
        _add(system, "loader", stateless="no")
    features = _add(root, "features")
    _add(features, "acpi")
    _add(features, "apic")


def _add_cpu(root: Any, spec: DomainSpec) -> None:
    if spec.virt_type == "kvm":
        _add(root, "cpu", mode="host-passthrough", check="none", migratable="on")
        return
    # Emulation: QEMU's default CPU lacks what current distributions require (x86-64-v2); its
    # "max" has features that slow emulation down and differ between QEMU versions.
    cpu = _add(root, "cpu", mode="custom", match="exact", check="none")
    _add(cpu, "model", "Nehalem", fallback="forbid")


def _add_clock(root: Any) -> None:
    clock = _add(root, "clock", offset="utc")
    _add(clock, "timer", name="rtc", tickpolicy="catchup")
    _add(clock, "timer", name="pit", tickpolicy="delay")
    _add(clock, "timer", name="hpet", present="no")


def _add_fixed_devices(devices: Any) -> None:
    serial = _add(devices, "serial", type="pty")
    _add(serial, "target", port=0)
    console = _add(devices, "console", type="pty")
    _add(console, "target", type="serial", port=0)
    channel = _add(devices, "channel", type="unix")
    _add(channel, "target", type="virtio", name=AGENT_CHANNEL)
    _add(devices, "input", type="tablet", bus="virtio")
    graphics = _add(devices, "graphics", type="vnc", port=-1, autoport="yes", listen="127.0.0.1")
    _add(graphics, "listen", type="address", address="127.0.0.1")
    _add(_add(devices, "video"), "model", type="vga")
    balloon = _add(devices, "memballoon", model="virtio")
    _add(balloon, "stats", period=5)
    rng = _add(devices, "rng", model="virtio")
    _add(rng, "backend", "/dev/urandom", model="random")
    _add(devices, "panic", model="isa")


def _disk_element(disk: Disk, boot_order: int | None) -> Any:
    element = etree.Element("disk", type="file", device=disk.device)
    driver = _add(element, "driver", name="qemu", type=disk.format)
    if disk.device == "disk":
        driver.set("discard", "unmap")
    _add(element, "source", file=disk.path)
    _add(element, "target", dev=disk.target, bus=disk.bus)
    if disk.device == "cdrom":
        _add(element, "readonly")
    if boot_order is not None:
        _add(element, "boot", order=boot_order)
    return element


def _interface_element(nic: Interface) -> Any:
    element = etree.Element("interface", type=nic.type)
    _add(element, "mac", address=nic.mac)
    _add(element, "source", **{nic.type: nic.source})
    _add(element, "model", type=nic.model)
    return element


def _vm_element(metadata: Mapping[str, Any]) -> Any:
    vm = etree.Element(VM_TAG, nsmap={"virtplay": NAMESPACE})
    for key in ("id", "job", "generation", "template", "os"):
        if metadata.get(key) is not None:
            _set(vm, key, metadata[key])
    for name, value in sorted((metadata.get("labels") or {}).items()):
        label = etree.SubElement(vm, LABEL_TAG)
        _set(label, "name", name)
        _set(label, "value", value)
    return vm


def _add(parent: Any, tag: str, text: object = None, **attributes: object) -> Any:
    element = etree.SubElement(parent, tag)
    if text is not None:
        _set_text(element, text)
    for name, value in attributes.items():
        _set(element, name, value)
    return element


def _set(element: Any, name: str, value: object) -> None:
    try:
        element.set(name, str(value))
    except ValueError as error:
        raise Failure(
            f"cannot put {name} into XML: it contains control characters", "VALIDATION_ERROR"
        ) from error


def _set_text(element: Any, value: object) -> None:
    try:
        element.text = str(value)
    except ValueError as error:
        raise Failure(
            f"cannot put {element.tag} into XML: it contains control characters", "VALIDATION_ERROR"
        ) from error


def render_xml(root: Any) -> str:
    """Return an element as text with uniform indentation."""
    root = copy.deepcopy(root)
    etree.indent(root, space="  ")
    return str(etree.tostring(root, encoding="unicode")) + "\n"


# --- from XML to XML --------------------------------------------------------------------------


def edit_domain(xml: str, changes: Mapping[str, Any]) -> str:
    """Return a definition with changes applied and everything else unchanged.

    Keys: name, title, description, vcpus, vcpus_max, memory, memory_max (MiB), metadata (whole),
    keeps_variables (True: UEFI firmware that stores its variables), interfaces (mac → mapping of
    type, source, model and new mac), add_disks (Disk), add_interfaces (Interface).
    """
    root = parse_xml(xml)
    if "name" in changes:
        _set_text(root.find("name"), changes["name"])
    for key in ("title", "description"):
        if key in changes:
            _edit_text(root, key, changes[key])
    if "metadata" in changes:
        _edit_metadata(root, changes["metadata"])
    if changes.get("keeps_variables"):
        _edit_loader(root)
    _edit_memory(root, changes.get("memory"), changes.get("memory_max"))
    _edit_vcpus(root, changes.get("vcpus"), changes.get("vcpus_max"))
    for mac, wanted in (changes.get("interfaces") or {}).items():
        _edit_interface(_find_interface(root, mac), wanted)
    _append(root, changes.get("add_disks") or (), "disk", lambda disk: _disk_element(disk, None))
    _append(root, changes.get("add_interfaces") or (), "interface", _interface_element)
    return render_xml(root)


def edit_interface(xml: str, mac: str, wanted: Mapping[str, Any]) -> str:
    """Return the XML of one interface of a definition with changes applied, for a live update."""
    nic = _find_interface(parse_xml(xml), mac)
    _edit_interface(nic, wanted)
    return render_xml(nic)


def _edit_text(root: Any, tag: str, text: str | None) -> None:
    element = root.find(tag)
    if not text:
        if element is not None:
            root.remove(element)
        return
    if element is None:
        element = etree.Element(tag)
        # libvirt reads the children of <domain> in any order, and writes these after <uuid>.
        root.insert(1 + max(_index(root, "name"), _index(root, "uuid")), element)
    _set_text(element, text)


def _edit_metadata(root: Any, metadata: Mapping[str, Any]) -> None:
    holder = root.find("metadata")
    if holder is None:
        holder = etree.Element("metadata")
        root.insert(1 + max(_index(root, "uuid"), _index(root, "name")), holder)
    old = holder.find(VM_TAG)
    new = _vm_element(metadata)
    if old is None:
        holder.append(new)
    else:
        holder.replace(old, new)


def _edit_loader(root: Any) -> None:
    system, loader = root.find("os"), root.find("os/loader")
    if loader is None:
        loader = _add(system, "loader")
    if loader.get("type") == "rom":
        # What libvirt has chosen; it chooses another one.
        loader.attrib.clear()
        loader.text = None
    loader.set("stateless", "no")


def _edit_memory(root: Any, memory: int | None, memory_max: int | None) -> None:
    for tag, value in (("memory", memory_max), ("currentMemory", memory)):
        if value is None:
            continue
        element = root.find(tag)
        if element is None:
            element = etree.Element(tag)
            root.insert(1 + _index(root, "memory"), element)
        element.set("unit", "MiB")
        element.text = str(value)


def _edit_vcpus(root: Any, vcpus: int | None, vcpus_max: int | None) -> None:
    if vcpus is None and vcpus_max is None:
        return
    element = root.find("vcpu")
    if element is None:
        element = _add(root, "vcpu", 1)
    limit = vcpus_max if vcpus_max is not None else int(element.text)
    count = vcpus if vcpus is not None else int(element.get("current", element.text))
    element.text = str(limit)
    element.set("current", str(count))
    # The list of single CPUs would contradict the new count; libvirt writes a new list.
    single = root.find("vcpus")
    if single is not None:
        root.remove(single)
    topology = root.find("cpu/topology")
    if topology is not None and _threads(topology) != limit:
        topology.getparent().remove(topology)


def _threads(topology: Any) -> int:
    total = 1
    for key in ("sockets", "dies", "clusters", "cores", "threads"):
        total *= int(topology.get(key, 1))
    return total


def _find_interface(root: Any, mac: str) -> Any:
    for nic in root.iterfind("devices/interface"):
        if (_attribute(nic.find("mac"), "address") or "").lower() == mac.lower():
            return nic
    raise Failure(f"cannot find interface {mac} in the domain", "VALIDATION_ERROR")


def _edit_interface(nic: Any, wanted: Mapping[str, Any]) -> None:
    kind = wanted.get("type") or nic.get("type")
    if wanted.get("source"):
        nic.set("type", kind)
        source = nic.find("source")
        if source is None:
            source = _add(nic, "source")
        # portid and bridge in a live <source> belong to the old network.
        source.attrib.clear()
        source.set(kind, wanted["source"])
    for key, tag, attribute in (("model", "model", "type"), ("mac", "mac", "address")):
        if wanted.get(key):
            element = nic.find(tag)
            if element is None:
                element = _add(nic, tag)
            element.set(attribute, wanted[key])


def _append(root: Any, items: Iterable[Any], tag: str, build: Any) -> None:
    devices = root.find("devices")
    for item in items:
        siblings = devices.findall(tag)
        position = devices.index(siblings[-1]) + 1 if siblings else len(devices)
        devices.insert(position, build(item))


def _index(root: Any, tag: str) -> int:
    element = root.find(tag)
    return root.index(element) if element is not None else -1
