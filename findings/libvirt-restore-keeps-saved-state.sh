#!/bin/sh
# What: libvirt's QEMU driver: what becomes of a domain's saved state (managed save) when the domain
#       is restored to an older internal snapshot.
# Versions: libvirt 9.0.0-4+deb12u2 with QEMU 7.2 of Debian 12; 11.3 and 12.8 did the same.
# One would guess: the saved state is newer memory, which does not fit the restored disk, so that the
#       restore refuses or discards it; for a snapshot without memory libvirt does refuse, and
#       strongly recommends "removal of existing managed saved state … to avoid corruption".
# What happens: a restore to a snapshot with memory succeeds, without a word, and keeps the saved
#       state. The next start after a power-off goes on in that newer memory, on the older disk.
# Run: findings/libvirt-restore-keeps-saved-state.sh    needs root, Debian 12 and its package index
set -eu
place=$(mktemp -d)
trap 'rm -rf --one-file-system "$place"' EXIT
root=$place/root
mkdir -p "$root/proc" "$root/dev" "$root/sys" "$root/tmp/libvirt/etc" "$place/debs"
: >"$place/status"
apt-get -s -o Dir::State::status="$place/status" --no-install-recommends install \
    libvirt-daemon=9.0.0-4+deb12u2 libvirt-daemon-driver-qemu=9.0.0-4+deb12u2 python3-libvirt qemu-system-x86 qemu-utils |
    sed -n 's/^Inst \([^ ]*\) (\([^ ]*\) .*/\1=\2/p' >"$place/packages"
(cd "$place/debs" && xargs apt-get -qq download <"$place/packages" 2>"$place/log")
for package in "$place/debs"/*.deb; do dpkg -x "$package" "$root"; done
for name in root libvirt-qemu; do
    echo "$name:x:0:0::/:/bin/sh" >>"$root/etc/passwd"
    echo "$name:x:0:" >>"$root/etc/group"
done
cat >"$root/tmp/libvirt/etc/qemu.conf" <<'END'
stdio_handler = "file"
security_driver = "none"
user = "root"
group = "root"
cgroup_controllers = []
namespaces = []
END
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
domain.create()
snapshot = domain.snapshotCreateXML("<domainsnapshot><name>older</name></domainsnapshot>")
domain.managedSave()
domain.revertToSnapshot(snapshot)
kept = bool(domain.hasManagedSaveImage())
domain.destroy()
domain.create()
state, reason = domain.state()
domain.destroy()
connection.close()
resumed = (state, reason) == (libvirt.VIR_DOMAIN_RUNNING, libvirt.VIR_DOMAIN_RUNNING_RESTORED)
print(f"libvirt {libvirt.getVersion()}: saved state after the restore: {kept}")
print(f"the next start goes on in the saved memory: {resumed}")
if not (kept and resumed):
    sys.exit("changed: expected a saved state that survives the restore and is resumed")
END
unshare --mount --pid --fork --kill-child sh -eu -c '
    mount -t proc proc "$1/proc"
    for name in sys dev; do mount --rbind "/$name" "$1/$name"; done
    chroot "$1" /usr/bin/python3 /tmp/look.py' sh "$root" 2>"$place/log" ||
    { cat "$place/log" >&2; exit 1; }
