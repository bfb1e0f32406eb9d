#!/bin/sh
# What: libvirt's QEMU driver: autostart once (virsh autostart --once, not in 9.0), which starts
#       a domain at the next boot of the host only; then the domain is renamed.
# Versions: libvirt 12.8.0-1 of Debian forky; 11.3 leaves the same link.
# One would guess: the mark goes along with the domain, as the plain autostart mark does, or the rename
#       is refused, as it is for a domain with other state in files.
# What happens: libvirt says of the renamed domain that the mark is there, until its daemon starts
#       again; then it is gone. It is a link that still has the old name, and is never removed:
#       undefine does not find it either. A domain that gets the old name later, a new one with a
#       UUID of its own, has the mark from the next start of the daemon on.
# Run: findings/libvirt-autostart-once-stays-with-name.sh    needs root, mmdebstrap, Debian's package index
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


def define(connection, name):
    return connection.defineXML(f"""
<domain type='qemu'><name>{name}</name><memory unit='MiB'>64</memory><vcpu>1</vcpu>
  <os><type arch='x86_64' machine='q35'>hvm</type></os></domain>""")


def act(step):
    """One life of the driver: what it says of its domains when it ends."""
    libvirt.virEventRegisterDefaultImpl()
    connection = libvirt.open("qemu:///embed?root=/tmp/libvirt")
    if step == "mark and rename":
        domain = define(connection, "web")
        domain.setAutostartOnce(1)
        domain.rename("old-web")
    if step == "define another":
        define(connection, "web")
    marks = {domain.name(): domain.autostartOnce() for domain in connection.listAllDomains()}
    connection.close()
    print(sorted(marks.items()))


if sys.argv[1:]:
    act(sys.argv[1])
    sys.exit()
seen = []
for step in ("mark and rename", "start the daemon", "define another", "start it again"):
    command = [sys.executable, __file__, step]
    seen.append(subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip())
    print(f"{step:17} {seen[-1]}")
expected = [
    [("old-web", 1)],
    [("old-web", 0)],
    [("old-web", 0), ("web", 0)],
    [("old-web", 0), ("web", 1)],
]
print("libvirt", libvirt.getVersion())
if seen != [str(each) for each in expected]:
    sys.exit("changed: expected the mark of old-web on the domain that gets its name")
PYTHON
unshare --mount --pid --uts --fork --kill-child sh -eu -c '
    hostname localhost
    mount -t proc proc "$1/proc"
    for name in sys dev; do mount --rbind "/$name" "$1/$name"; done
    chroot "$1" /usr/bin/python3 /tmp/look.py' sh "$root" 2>"$place/log" ||
    { cat "$place/log" >&2; exit 1; }
