#!/bin/sh
# What: libvirt's QEMU driver: an internal snapshot whose name has a blank ("before upgrade"), which
#       libvirt's documentation of names allows, on a stopped and on a running domain.
# Versions: libvirt 12.8.0-1 with QEMU 11.1.2 of Debian forky; 11.3 with QEMU 10.0 did the same, 9.0
#       with QEMU 7.2 takes the name everywhere.
# One would guess: a name that libvirt accepts can be used again: whoever creates a snapshot deletes
#       it by that name.
# What happens: of a stopped domain the snapshot is created (qemu-img does it). While the domain runs,
#       it can't be deleted, and none of such a name can be created: libvirt puts the name into the
#       ID of a QEMU job, and QEMU takes no blanks there.
# Run: findings/libvirt-snapshot-name-with-blank.sh    needs root, mmdebstrap, Debian's package index
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
cat >"$root/tmp/look.py" <<'END'
import subprocess
import sys
import threading

import libvirt


def serve_events():
    while True:
        libvirt.virEventRunDefaultImpl()


libvirt.virEventRegisterDefaultImpl()
threading.Thread(target=serve_events, daemon=True).start()
connection = libvirt.open("qemu:///embed?root=/tmp/libvirt")
subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", "/tmp/disk.qcow2", "64M"], check=True)
domain = connection.defineXML("""
<domain type='qemu'><name>guest</name><memory unit='MiB'>64</memory><vcpu>1</vcpu>
  <os><type arch='x86_64' machine='q35'>hvm</type></os>
  <devices><disk type='file' device='disk'><driver name='qemu' type='qcow2'/>
    <source file='/tmp/disk.qcow2'/><target dev='vda' bus='virtio'/></disk></devices>
</domain>""")
NAME = "before upgrade"


def attempt(action):
    """The error of an action, or None."""
    try:
        action()
    except libvirt.libvirtError as error:
        return str(error)
    return None


def create():
    domain.snapshotCreateXML(f"<domainsnapshot><name>{NAME}</name></domainsnapshot>")


def delete():
    domain.snapshotLookupByName(NAME).delete()


while_stopped = [attempt(create), attempt(delete), attempt(create)]
domain.create()
deleted = attempt(delete)
domain.destroy()
while_stopped.append(attempt(delete))
domain.create()
created = attempt(create)
domain.destroy()
connection.close()
print(f"libvirt {libvirt.getVersion()}: errors while the domain is stopped: {while_stopped}")
print(f"deletion while it runs: {deleted}")
print(f"creation while it runs: {created}")
refused = ["Invalid job ID" in (error or "") for error in (deleted, created)]
if (while_stopped, refused) != ([None] * 4, [True, True]):
    sys.exit("changed: expected the name to be refused while the domain runs, and only then")
END
unshare --mount --pid --uts --fork --kill-child sh -eu -c '
    hostname localhost
    mount -t proc proc "$1/proc"
    for name in sys dev; do mount --rbind "/$name" "$1/$name"; done
    chroot "$1" /usr/bin/python3 /tmp/look.py' sh "$root" 2>"$place/log" ||
    { cat "$place/log" >&2; exit 1; }
