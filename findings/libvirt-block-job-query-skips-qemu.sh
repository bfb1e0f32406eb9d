#!/bin/sh
# What: libvirt's QEMU driver: the query of a block job (virDomainGetBlockJobInfo) as a sign that a
#       domain's QEMU responds.
# Versions: libvirt 9.0.0-4+deb12u2 with QEMU 7.2 of Debian 12.
# One would guess: the progress of a job is known to QEMU alone, so the query reaches QEMU, and waits
#       if QEMU is frozen, as the query of a disk's size does (virDomainGetBlockInfo).
# What happens: without a job that libvirt itself has noted it answers "no job" at once, without
#       QEMU. A program that takes the answer for a sign of life goes on to change a frozen guest.
# Run: findings/libvirt-block-job-query-skips-qemu.sh    needs root, Debian 12 and its package index
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
import os
import signal
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
with open("/tmp/libvirt/run/qemu/guest.pid") as file:
    qemu = int(file.read())


def answers(query):
    """Whether a query returns within two seconds."""
    thread = threading.Thread(target=query, daemon=True)
    thread.start()
    thread.join(2)
    return not thread.is_alive()


os.kill(qemu, signal.SIGSTOP)
job = answers(lambda: domain.blockJobInfo("vda"))
size = answers(lambda: domain.blockInfo("vda"))
os.kill(qemu, signal.SIGCONT)
domain.destroy()
connection.close()
print(f"libvirt {libvirt.getVersion()}, QEMU frozen: the query of a block job is answered: {job}")
print(f"the query of a disk's size is answered: {size}")
if not job or size:
    sys.exit("changed: expected an answer without QEMU to the first query only")
END
unshare --mount --pid --fork --kill-child sh -eu -c '
    mount -t proc proc "$1/proc"
    for name in sys dev; do mount --rbind "/$name" "$1/$name"; done
    chroot "$1" /usr/bin/python3 /tmp/look.py' sh "$root" 2>"$place/log" ||
    { cat "$place/log" >&2; exit 1; }
