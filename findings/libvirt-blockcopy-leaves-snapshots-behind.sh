#!/bin/sh
# What: libvirt's QEMU driver: a running domain's disk is moved to another file (virDomainBlockCopy
#       with a pivot, virsh blockcopy --pivot), while the domain has an internal snapshot.
# Versions: libvirt 12.8.0-1 with QEMU 11.1.2 of Debian forky.
# One would guess: the copy is refused, or the snapshot goes along, or it is dropped; as libvirt refuses
#       to delete a snapshot that is not in the domain's present image, it refuses to restore one.
# What happens: the copy holds no snapshot, libvirt still lists it, and the restore puts the domain back
#       on the file that it was moved away from: the running definition and the stored one name the
#       old path. If somebody has removed the old file, as one does after a move, the restore fails,
#       and the guest that ran is off.
# Run: findings/libvirt-blockcopy-leaves-snapshots-behind.sh needs root, mmdebstrap, Debian's package index
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
import os
import subprocess
import sys
import threading
import time
from xml.etree import ElementTree

import libvirt


def serve_events():
    while True:
        libvirt.virEventRunDefaultImpl()


libvirt.virEventRegisterDefaultImpl()
threading.Thread(target=serve_events, daemon=True).start()
connection = libvirt.open("qemu:///embed?root=/tmp/libvirt")
OLD, NEW = "/tmp/old.qcow2", "/tmp/new.qcow2"
subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", OLD, "64M"], check=True)
domain = connection.defineXML(f"""
<domain type='qemu'><name>guest</name><memory unit='MiB'>64</memory><vcpu>1</vcpu>
  <os><type arch='x86_64' machine='q35'>hvm</type></os>
  <devices><disk type='file' device='disk'><driver name='qemu' type='qcow2'/>
    <source file='{OLD}'/><target dev='vda' bus='virtio'/></disk></devices>
</domain>""")


def places():
    """The file of the disk, in the running definition and in the stored one."""
    return [
        ElementTree.fromstring(domain.XMLDesc(flags)).find("devices/disk/source").get("file")
        for flags in (0, libvirt.VIR_DOMAIN_XML_INACTIVE)
    ]


def move():
    target = f"<disk type='file'><source file='{NEW}'/><driver type='qcow2'/></disk>"
    domain.blockCopy("vda", target, flags=libvirt.VIR_DOMAIN_BLOCK_COPY_TRANSIENT_JOB)
    while True:
        try:
            domain.blockJobAbort("vda", libvirt.VIR_DOMAIN_BLOCK_JOB_ABORT_PIVOT)
        except libvirt.libvirtError as error:
            if error.get_error_code() != libvirt.VIR_ERR_BLOCK_COPY_ACTIVE:
                raise
            time.sleep(0.1)
        else:
            return


domain.create()
snapshot = domain.snapshotCreateXML("<domainsnapshot><name>before</name></domainsnapshot>")
move()
moved = places()
domain.revertToSnapshot(snapshot)
restored = places()
os.unlink(NEW)
move()
os.unlink(OLD)
ran = bool(domain.isActive())
try:
    domain.revertToSnapshot(snapshot)
    said = "succeeded"
except libvirt.libvirtError as error:
    said = error.get_error_message()
runs = bool(domain.isActive())
if runs:
    domain.destroy()
connection.close()
print(f"libvirt {libvirt.getVersion()}: after the move: {moved}, after the restore: {restored}")
print(f"the old file is gone; the guest runs before the restore: {ran}, after: {runs}; it {said}")
if (moved, restored, ran, runs) != ([NEW, NEW], [OLD, OLD], True, False):
    sys.exit("changed: expected the old file after the restore, and a guest that is off without it")
PYTHON
unshare --mount --pid --uts --fork --kill-child sh -eu -c '
    hostname localhost
    mount -t proc proc "$1/proc"
    for name in sys dev; do mount --rbind "/$name" "$1/$name"; done
    chroot "$1" /usr/bin/python3 /tmp/look.py' sh "$root" 2>"$place/log" ||
    { cat "$place/log" >&2; exit 1; }
