"""Lab: definitions that Virtplay would never write, and libvirt accepts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.lab.plays import IMAGES

HEAD = "<memory unit='MiB'>32</memory><vcpu>1</vcpu>"
PC = "<type arch='x86_64' machine='pc'>hvm</type>"
HVM = "<type arch='x86_64' machine='q35'>hvm</type>"
NO_DISK = "it has no writable disk"


@dataclass(frozen=True)
class Odd:
    """A definition, and what Virtplay knows of it and can do with it."""

    name: str
    xml: str
    shown: Mapping[str, Any] = field(default_factory=dict)
    """Keys of the domain as the modules report it."""
    disk: Mapping[str, Any] = field(default_factory=dict)
    """Keys of the first entry of its disks."""
    refused: str = ""
    """Part of the reason why it cannot start; empty if it starts."""
    no_snapshot: str = NO_DISK
    """Part of the reason why it cannot have a snapshot; empty if it can."""
    stays_off: bool = False
    """Whether it is not started: what is odd about it is that it is listed and changed."""


def odd(
    name: str,
    devices: str = "",
    *,
    head: str = HEAD,
    os: str = HVM,
    more: str = "",
    namespace: str = "",
    after: str = "",
    **expected: Any,
) -> Odd:
    """Return an odd domain from parts of its XML."""
    xml = (
        f"<domain type='qemu'{namespace}><name>{name}</name>{head}<os>{os}</os>{more}"
        f"<devices>{devices}</devices>{after}</domain>"
    )
    return Odd(name, xml, **expected)


def disk(
    source: str,
    target: str = "vda",
    *,
    type: str = "file",
    format: str = "qcow2",
    bus: str = "virtio",
    device: str = "disk",
    more: str = "",
) -> str:
    """Return a disk; a source without markup is an image of the pool."""
    element = source if source.startswith("<") else f"<source file='{IMAGES}/{source}'/>"
    return (
        f"<disk type='{type}' device='{device}'><driver name='qemu' type='{format}'/>{element}"
        f"<target dev='{target}' bus='{bus}'/>{more}</disk>"
    )


def remote(attributes: str, target: str) -> str:
    """Return a disk that is not stored on the host."""
    host = "<host name='192.0.2.1' port='6789'/>"
    return disk(
        f"<source protocol={attributes}>{host}</source>", target, type="network", format="raw"
    )


def card(kind: str, rest: str = "") -> str:
    """Return an interface."""
    return f"<interface type='{kind}'>{rest}</interface>"


CDROM = "<disk type='file' device='cdrom'><target dev='sda' bus='sata'/><readonly/></disk>"
FLOPPY = "<disk type='file' device='floppy'><target dev='fda' bus='fdc'/></disk>"
MIB16 = {"capacity_bytes": 16 << 20, "size": 0.016}

IMAGE_COMMANDS = f"""
cd {IMAGES}
for name in ide ro transient base nf b1 b2 volume; do
    qemu-img create -q -f qcow2 odd-$name.qcow2 16M
done
for name in odd shared slice; do truncate -s 16M odd-$name.raw; done
qemu-img create -q -f vmdk odd.vmdk 16M
qemu-img create -q -f qcow2 -b odd-base.qcow2 -F qcow2 odd-top.qcow2
truncate -s 8M odd.luks
virsh -q pool-refresh default
"""

ODD = (
    odd("bare", shown={"disks": [], "interfaces": [], "graphics": None}, stays_off=True),
    odd("no-memballoon", "<memballoon model='none'/>", stays_off=True),
    odd(
        "odd-memory",
        head="<memory unit='KB'>40001</memory><currentMemory unit='b'>33554432</currentMemory>"
        "<vcpu>1</vcpu>",
        shown={"memory": 32, "memory_max": 38}, stays_off=True),
    odd(
        "memory-slots",
        "<memory model='dimm'><target><size unit='MiB'>32</size><node>0</node></target></memory>",
        head="<maxMemory slots='4' unit='MiB'>256</maxMemory><memory unit='MiB'>64</memory>"
        "<vcpu>1</vcpu><cpu><numa><cell id='0' cpus='0' memory='32' unit='MiB'/></numa></cpu>",
        more="<features><acpi/></features>",
        shown={"memory": 64},
    ),
    odd(
        "cpu-holes",
        head="<memory unit='MiB'>32</memory><vcpu cpuset='0' current='2'>4</vcpu><vcpus>"
        "<vcpu id='0' enabled='yes' hotpluggable='no'/>"
        "<vcpu id='1' enabled='no' hotpluggable='yes'/>"
        "<vcpu id='2' enabled='yes' hotpluggable='yes'/>"
        "<vcpu id='3' enabled='no' hotpluggable='yes'/></vcpus>",
        shown={"vcpus": 2, "vcpus_max": 4},
        stays_off=True,
    ),
    odd("i686", os=PC.replace("x86_64", "i686"), stays_off=True),
    odd("spaces and; $(id) &apos;quotes&apos;"),
    odd("-dash", stays_off=True),
    odd("ünï-ж-日本", stays_off=True),
    odd("x" * 200),
    odd(
        "foreign-metadata",
        more="<metadata><o:libosinfo xmlns:o='http://libosinfo.org/xmlns/libvirt/domain/1.0'>"
        "<o:os id='http://debian.org/debian/12'/></o:libosinfo></metadata>"
        "<title>  A &lt;b&gt; title </title><description>one\n\ttwo &amp; three</description>",
        shown={"metadata": None, "title": "  A <b> title ", "description": "one\n\ttwo & three"},
        stays_off=True,
    ),
    odd(
        "our-metadata-broken",
        more="<metadata><v:vm xmlns:v='urn:virtplay:vm:1' generation='twelve' id=''>"
        "<v:label/><v:label name='a'/><v:other/></v:vm></metadata>",
        shown={"generation": 0}, stays_off=True),
    odd("empty-drives", CDROM + FLOPPY, shown={"disks": []}, stays_off=True),
    odd(
        "missing-image",
        disk("nowhere.qcow2"),
        disk={"path": f"{IMAGES}/nowhere.qcow2", "format": "qcow2"},
        refused="No such file or directory",
        no_snapshot="disk vda",
    ),
    odd("ide", disk("odd-ide.qcow2", "hda", bus="ide"), os=PC,
        disk={"target": "hda", **MIB16}, no_snapshot=""),
    odd("raw", disk("odd-odd.raw", format="raw"),
        disk={"format": "raw", **MIB16}, no_snapshot="disk vda is raw"),
    odd("vmdk", disk("odd.vmdk", format="vmdk"),
        disk={"format": "vmdk"}, no_snapshot="disk vda is vmdk", stays_off=True),
    odd("shareable", disk("odd-shared.raw", format="raw", more="<shareable/>"),
        disk={"shareable": True, **MIB16}, no_snapshot="disk vda"),
    odd("read-only", disk("odd-ro.qcow2", more="<readonly/>"),
        disk={"read_only": True, **MIB16}, stays_off=True),
    odd("transient-disk", disk("odd-transient.qcow2", more="<transient/>"),
        disk={"transient": True}, no_snapshot="disk vda is transient"),
    odd(
        "slice",
        disk(
            f"<source file='{IMAGES}/odd-slice.raw'><slices>"
            "<slice type='storage' offset='65536' size='1048576'/></slices></source>",
            format="raw",
        ),
        no_snapshot="disk vda is raw", stays_off=True),
    odd("backing-chain", disk("odd-top.qcow2"), disk=MIB16, no_snapshot=""),
    odd(
        "volume",
        disk("<source pool='default' volume='odd-volume.qcow2'/>", type="volume"),
        disk={"type": "volume", "path": f"{IMAGES}/odd-volume.qcow2", **MIB16},
        no_snapshot="",
    ),
    odd(
        "volume-nowhere",
        disk("<source pool='no-such-pool' volume='x'/>", type="volume"),
        disk={"type": "volume", "path": None, "source": "no-such-pool/x"},
        refused="no storage pool with matching name 'no-such-pool'",
        no_snapshot="disk vda",
    ),
    odd(
        "directory",
        "<disk type='dir' device='disk'><driver name='qemu' type='fat'/><source dir='/etc/skel'/>"
        "<target dev='vdb' bus='virtio'/><readonly/></disk>",
        disk={"type": "dir", "path": None},
    ),
    odd(
        "remote",
        remote("'rbd' name='etc/passwd'", "vda")
        + remote("'https' name='a.iso'", "vdb")
        + remote("'iscsi' name='iqn.2013-07.com.example:iscsi/1'", "vdc"),
        disk={"type": "network", "path": None},
        refused="to state running",
        no_snapshot="disk vda",
    ),
    odd(
        "nvme",
        "<disk type='nvme' device='disk'><driver name='qemu' type='raw'/>"
        "<source type='pci' managed='yes' namespace='1'>"
        "<address domain='0' bus='1' slot='0' function='0'/></source>"
        "<target dev='vda' bus='virtio'/></disk>",
        disk={"type": "nvme", "path": None},
        refused="to state running",
        no_snapshot="disk vda",
    ),
    odd(
        "vhost-user",
        "<disk type='vhostuser' device='disk'><driver name='qemu' type='raw'/>"
        "<source type='unix' path='/run/none.sock'/><target dev='vda' bus='virtio'/></disk>",
        more="<memoryBacking><source type='memfd'/><access mode='shared'/></memoryBacking>",
        disk={"type": "vhostuser", "path": None},
        refused="to state running",
        no_snapshot="disk vda",
    ),
    odd(
        "luks",
        disk(
            f"<source file='{IMAGES}/odd.luks'><encryption format='luks'><secret type='passphrase'"
            " uuid='6c19a1f5-7d56-4d45-8c8d-0f0c7c3f31a0'/></encryption></source>",
            format="raw",
        ),
        disk={"encrypted": True},
        refused="no secret with matching uuid",
        no_snapshot="disk vda",
    ),
    odd("drive-first", CDROM + disk("odd-nf.qcow2", "sdb", bus="sata"),
        disk={"target": "sdb"}, no_snapshot=""),
    odd(
        "cards",
        card("user")
        + card("network", "<source network='none' portgroup='x'/><link state='down'/>")
        + card("bridge", "<source bridge='none'/><virtualport type='openvswitch'/>")
        + card("direct", "<source dev='eth0' mode='bridge'/>")
        + card("ethernet", "<target dev='odd0' managed='no'/>")
        + card("mcast", "<source address='230.0.0.1' port='5558'/>")
        + card("client", "<source address='192.0.2.1' port='5558'/>")
        + card("vhostuser", "<source type='unix' path='/run/none' mode='server'/>"
                            "<model type='virtio'/>")
        + card("hostdev", "<source><address type='pci' domain='0' bus='1' slot='0' function='0'/>"
                          "</source>"),
        # libvirt 11 defines a vhost-user card only with shared memory.
        more="<memoryBacking><source type='memfd'/><access mode='shared'/></memoryBacking>",
        refused="to state running",
    ),
    odd(
        "host-devices",
        "<hostdev mode='subsystem' type='usb'><source><vendor id='0x1234'/><product id='0xbeef'/>"
        "</source></hostdev>",
        refused="to state running",
    ),
    odd(
        "share",
        "<filesystem type='mount'><source dir='/etc/skel'/><target dir='s'/></filesystem>",
    ),
    odd(
        "direct-kernel",
        os=f"{HVM}<kernel>/boot/none</kernel><cmdline>x &amp; y</cmdline>",
        refused="/boot/none",
    ),
    odd(
        "own-arguments",
        namespace=" xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'",
        after="<qemu:commandline><qemu:env name='A' value='b'/></qemu:commandline>",
    ),
    odd(
        "life-cycle",
        more="<on_reboot>destroy</on_reboot><on_crash>preserve</on_crash>",
        stays_off=True,
    ),
    odd("vnc-socket", "<graphics type='vnc'><listen type='socket'/></graphics>"),
    odd(
        "serial-ports",
        f"<serial type='file'><source path='{IMAGES}/odd-serial.log'/></serial>"
        "<console type='pty'><target type='virtio'/></console><parallel type='null'/>",
    ),
    odd(
        "gadgets",
        "<watchdog model='i6300esb' action='pause'/><panic model='hyperv'/>"
        "<iommu model='intel'/><sound model='ich9'/>",
    ),
)  # fmt: skip
