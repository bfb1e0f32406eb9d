#!/bin/sh
# What: libvirt's QEMU driver: internal snapshots whose names are small numbers ("1", "2"), as of one
#       who counts them; libvirt accepts the names.
# Versions: libvirt 12.8.0-1 with QEMU 11.1.2 of Debian forky; 11.3 with QEMU 10.0 did the same.
# One would guess: libvirt knows its snapshots by name, and so a restore to "2" gives the disk as it was
#       when "2" was taken, or fails.
# What happens: QEMU also gives each snapshot in an image a number of its own, and compares the name
#       with these numbers first. The restore to "2" succeeds, and gives the disk of the second
#       snapshot; libvirt marks "2" as the current one. A deletion compares the names only, so a
#       backup tool that restores and then deletes "2" loses the right one.
# Run: findings/libvirt-snapshot-named-by-number.sh      needs root, mmdebstrap, Debian's package index
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

import libvirt

DISK = "/tmp/disk.qcow2"
libvirt.virEventRegisterDefaultImpl()
connection = libvirt.open("qemu:///embed?root=/tmp/libvirt")
subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", DISK, "64M"], check=True)
domain = connection.defineXML(f"""
<domain type='qemu'><name>guest</name><memory unit='MiB'>64</memory><vcpu>1</vcpu>
  <os><type arch='x86_64' machine='q35'>hvm</type></os>
  <devices><disk type='file' device='disk'><driver name='qemu' type='qcow2'/>
    <source file='{DISK}'/><target dev='vda' bus='virtio'/></disk></devices>
</domain>""")


def holds(byte):
    """Whether the beginning of the disk holds that byte."""
    command = ["qemu-io", "-f", "qcow2", "-c", f"read -P {byte} 0 64k", DISK]
    return subprocess.run(command, capture_output=True).returncode == 0


def take(name, byte):
    subprocess.run(["qemu-io", "-c", f"write -P {byte} 0 64k", DISK], check=True, capture_output=True)
    domain.snapshotCreateXML(f"<domainsnapshot><name>{name}</name></domainsnapshot>")


take("2", 0x2A)
take("other", 0x77)
domain.revertToSnapshot(domain.snapshotLookupByName("2"))
found = [holds(0x2A), holds(0x77)]
current = domain.snapshotCurrent().getName()
domain.snapshotLookupByName("2").delete()
left = [snapshot.getName() for snapshot in domain.listAllSnapshots()]
connection.close()
print(f"libvirt {libvirt.getVersion()}: restored to {current!r}")
print(f"[the disk is that of '2', the disk is that of 'other']: {found}")
print(f"left after the deletion of '2': {left}")
if (found, current, left) != ([False, True], "2", ["other"]):
    sys.exit("changed: expected the disk of the second snapshot, and '2' deleted")
PYTHON
unshare --mount --pid --uts --fork --kill-child sh -eu -c '
    hostname localhost
    mount -t proc proc "$1/proc"
    for name in sys dev; do mount --rbind "/$name" "$1/$name"; done
    chroot "$1" /usr/bin/python3 /tmp/look.py' sh "$root" 2>"$place/log" ||
    { cat "$place/log" >&2; exit 1; }
