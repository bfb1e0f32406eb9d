#!/bin/sh
# What: libvirt's QEMU driver: the CPU time in the statistics of a domain that is off.
# Versions: libvirt 9.0.0-4+deb12u2 of Debian 12; 11.3 did the same, 12.8 leaves the value out.
# One would guess: cpu.time is missing or 0 for a domain that has no QEMU, least of all for one that
#       was never started; virDomainGetInfo does return 0.
# What happens: virConnectGetAllDomainStats returns the CPU time of the process that runs the driver
#       (libvirtd), the same for every domain that is off, and it grows while libvirtd works.
# Run: findings/libvirt-stopped-domain-has-cpu-time.sh    needs root, Debian 12 and its package index
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
import resource
import sys
import threading

import libvirt


def serve_events():
    while True:
        libvirt.virEventRunDefaultImpl()


libvirt.virEventRegisterDefaultImpl()
threading.Thread(target=serve_events, daemon=True).start()
connection = libvirt.open("qemu:///embed?root=/tmp/libvirt")
domains = [
    connection.defineXML(f"""
<domain type='qemu'><name>{name}</name><memory unit='MiB'>64</memory><vcpu>1</vcpu>
  <os><type arch='x86_64' machine='q35'>hvm</type></os></domain>""")
    for name in ("never-started-1", "never-started-2")
]


def cpu_times():
    """The seconds of CPU time that each domain is said to have used."""
    return [record["cpu.time"] / 1e9 for _, record in connection.domainListGetStats(domains)]


def own_time():
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


first = cpu_times()
until = own_time() + 1
while own_time() < until:
    pass
second = cpu_times()
own = own_time()
info = [domain.info()[4] for domain in domains]
connection.close()
print(f"libvirt {libvirt.getVersion()}: cpu.time of two domains that never ran: {first}")
print(f"after the driver's process has computed for a second: {second}; its own CPU time: {own:.2f}")
print(f"the same by virDomainGetInfo: {info}")
if info != [0, 0] or min(second) - max(first) < 0.9 or abs(second[0] - own) > 0.1:
    sys.exit("changed: expected the CPU time of the driver's process")
END
unshare --mount --pid --fork --kill-child sh -eu -c '
    mount -t proc proc "$1/proc"
    for name in sys dev; do mount --rbind "/$name" "$1/$name"; done
    chroot "$1" /usr/bin/python3 /tmp/look.py' sh "$root" 2>"$place/log" ||
    { cat "$place/log" >&2; exit 1; }
