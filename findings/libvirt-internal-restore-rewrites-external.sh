#!/bin/sh
# What: libvirt's QEMU driver: an internal snapshot and, after it, an external one of the same domain;
#       first a restore to the internal one, then to the external one.
# Versions: libvirt 12.8.0-1 with QEMU 11.1.2 of Debian forky, which restores external snapshots too.
# One would guess: the second restore gives the disk as it was when the external snapshot was taken; or
#       libvirt refuses one of the four steps, as the kinds do not go together.
# What happens: all succeed. The state that an external snapshot stands for is the file below its
#       overlay, and a restore to an internal snapshot rewrites that very file. The restore to the
#       external snapshot then gives the older contents; what it stood for is lost, without a word.
# Run: findings/libvirt-internal-restore-rewrites-external.sh needs root, mmdebstrap, Debian's package index
set -eu
command -v mmdebstrap >/dev/null || { echo "cannot run: mmdebstrap is not installed" >&2; exit 2; }
place=$(mktemp -d)
trap 'rm -rf --one-file-system "$place"' EXIT
root=$place/root
mmdebstrap --quiet --variant=extract --aptopt='Acquire::Check-Valid-Until "false"' \
    --include=libvirt-daemon=12.8.0-1,libvirt-daemon-driver-qemu=12.8.0-1,python3-libvirt,base-files \
    --include=qemu-system-x86=1:11.1.2+ds-3,qemu-utils=1:11.1.2+ds-3 forky "$root" \
    "$(apt-get indextargets --format '$(SITE)' 'Origin: Debian' 'Label: Debian' | head -n 1)"
mkdir -p "$root/proc" "$root/dev" "$root/sys" "$root/tmp/libvirt/etc"
for name in root libvirt-qemu; do
    echo "$name:x:0:0::/:/bin/sh" >>"$root/etc/passwd"
    echo "$name:x:0:" >>"$root/etc/group"
done
cat >"$root/tmp/libvirt/etc/qemu.conf" <<'CONF'
stdio_handler = "file"
security_driver = "none"
user = "root"
group = "root"
cgroup_controllers = []
namespaces = []
CONF
cat >"$root/tmp/look.py" <<'PYTHON'
import subprocess
import sys
from xml.etree import ElementTree

import libvirt

libvirt.virEventRegisterDefaultImpl()
connection = libvirt.open("qemu:///embed?root=/tmp/libvirt")
DISK = "/tmp/disk.qcow2"
subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", DISK, "64M"], check=True)
domain = connection.defineXML(f"""
<domain type='qemu'><name>guest</name><memory unit='MiB'>64</memory><vcpu>1</vcpu>
  <os><type arch='x86_64' machine='q35'>hvm</type></os>
  <devices><disk type='file' device='disk'><driver name='qemu' type='qcow2'/>
    <source file='{DISK}'/><target dev='vda' bus='virtio'/></disk></devices>
</domain>""")


def run(command):
    """Run a command of qemu-io on the disk that the domain has now; whether it succeeded."""
    file = ElementTree.fromstring(domain.XMLDesc()).find("devices/disk/source").get("file")
    return subprocess.run(["qemu-io", "-c", command, file], capture_output=True).returncode == 0


def holds(byte):
    return run(f"read -P {byte} 0 64k")


def take(name, flags):
    xml = f"<domainsnapshot><name>{name}</name></domainsnapshot>"
    return domain.snapshotCreateXML(xml, flags)


run("write -P 0x11 0 64k")
inner = take("internal", 0)
run("write -P 0x22 0 64k")
outer = take("external", libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_DISK_ONLY)
before = holds(0x22)
domain.revertToSnapshot(inner)
between = holds(0x11)
domain.revertToSnapshot(outer)
after = [holds(0x22), holds(0x11)]
current = domain.snapshotCurrent().getName()
connection.close()
print(f"libvirt {libvirt.getVersion()}: the disk when the external snapshot is taken is right: {before}")
print(f"the disk after the restore to the internal one is right: {between}")
print(f"restored to {current!r}; [the disk is that of then, it is the older one]: {after}")
if (before, between, current, after) != (True, True, "external", [False, True]):
    sys.exit("changed: expected the older contents after the restore to the external snapshot")
PYTHON
unshare --mount --pid --uts --fork --kill-child sh -eu -c '
    hostname localhost
    mount -t proc proc "$1/proc"
    for name in sys dev; do mount --rbind "/$name" "$1/$name"; done
    chroot "$1" /usr/bin/python3 /tmp/look.py' sh "$root" 2>"$place/log" ||
    { cat "$place/log" >&2; exit 1; }
