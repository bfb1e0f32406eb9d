#!/bin/sh
# What: libvirt's QEMU driver: undefine with the flag NVRAM (virsh undefine --nvram) of a domain
#       that was defined from the XML of another one, with a name, a UUID and a disk of its own.
# Versions: libvirt 9.0.0-4+deb12u2 with QEMU 7.2 of Debian 12.
# One would guess: each UEFI domain has a file of variables of its own, named after it; and libvirt
#       removes no file that a running domain has open.
# What happens: the XML of the original names its file, although nobody has set the path, and the
#       copy keeps it under its own name. To undefine the copy removes the variables of the
#       original under its running QEMU, without an error or a warning.
# Run: findings/libvirt-undefine-takes-nvram-of-original.sh   needs root, Debian 12, its packages
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
import sys
import threading
from xml.etree import ElementTree

import libvirt


def serve_events():
    while True:
        libvirt.virEventRunDefaultImpl()


libvirt.virEventRegisterDefaultImpl()
threading.Thread(target=serve_events, daemon=True).start()
connection = libvirt.open("qemu:///embed?root=/tmp/libvirt")
for name in ("code", "vars"):
    with open(f"/tmp/{name}.fd", "wb") as firmware:
        firmware.truncate(1 << 20)
original = connection.defineXML("""
<domain type='qemu'><name>original</name><memory unit='MiB'>64</memory><vcpu>1</vcpu>
  <os><type arch='x86_64' machine='q35'>hvm</type>
    <loader readonly='yes' type='pflash'>/tmp/code.fd</loader>
    <nvram template='/tmp/vars.fd'/></os><features><acpi/></features>
</domain>""")


def variables(xml):
    return ElementTree.fromstring(xml).findtext("os/nvram")


def copy(xml):
    root = ElementTree.fromstring(xml)
    root.remove(root.find("uuid"))
    root.find("name").text = "copy"
    return connection.defineXML(ElementTree.tostring(root, encoding="unicode"))


original.createWithFlags(libvirt.VIR_DOMAIN_START_PAUSED)
path = variables(original.XMLDesc())
before = os.path.exists(path)
copied = copy(original.XMLDesc())
named = variables(copied.XMLDesc())
copied.undefineFlags(libvirt.VIR_DOMAIN_UNDEFINE_NVRAM)
outcome = [named == path, before, os.path.exists(path), original.isActive()]
original.destroy()
connection.close()
print(f"libvirt {libvirt.getVersion()}: the original runs with {path}")
print(f"[copy names it, it was there, it is there now, original runs]: {outcome}")
if outcome != [True, True, False, 1]:
    sys.exit("changed: expected that the file of the running original is gone")
END
unshare --mount --pid --fork --kill-child sh -eu -c '
    mount -t proc proc "$1/proc"
    for name in sys dev; do mount --rbind "/$name" "$1/$name"; done
    chroot "$1" /usr/bin/python3 /tmp/look.py' sh "$root" 2>"$place/log" ||
    { cat "$place/log" >&2; exit 1; }
