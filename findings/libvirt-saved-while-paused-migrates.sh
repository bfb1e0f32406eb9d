#!/bin/sh
# What: libvirt's QEMU driver: the state of a domain that was saved (managed save) while it was
#       paused, after its next start.
# Versions: libvirt 9.0.0-4+deb12u2 with QEMU 7.2 of Debian 12.
# One would guess: paused, for the reason that a user paused it (or that it was restored); a start
#       that succeeds leaves a guest that runs.
# What happens: the start succeeds, the domain stays paused, and the reason is "migration", as of a
#       domain that is leaving its host, although no migration was ever begun. A program that
#       leaves migrating domains alone never touches it again.
# Run: findings/libvirt-saved-while-paused-migrates.sh    needs root, Debian 12 and its package index
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
domain.suspend()
before = domain.state()
domain.managedSave()
domain.create()
state, reason = domain.state()
job = domain.jobStats().get("type")
domain.destroy()
connection.close()
print(f"libvirt {libvirt.getVersion()}: state and reason before the save {before}")
print(f"after the start {[state, reason]}, type of its job {job}")
paused = libvirt.VIR_DOMAIN_PAUSED
if [state, reason] != [paused, libvirt.VIR_DOMAIN_PAUSED_MIGRATION] or job:
    sys.exit("changed: expected a domain without a job that is paused for a migration")
END
unshare --mount --pid --fork --kill-child sh -eu -c '
    mount -t proc proc "$1/proc"
    for name in sys dev; do mount --rbind "/$name" "$1/$name"; done
    chroot "$1" /usr/bin/python3 /tmp/look.py' sh "$root" 2>"$place/log" ||
    { cat "$place/log" >&2; exit 1; }
