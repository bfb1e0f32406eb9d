#!/bin/sh
# What: libvirtd: a serial console (virDomainOpenConsole) that a second client takes over with
#       VIR_DOMAIN_CONSOLE_FORCE, as virsh console --force does.
# Versions: libvirt 12.8.0-1 with QEMU 11.1.2 of Debian forky; 9.0 and 11.3 did the same.
# One would guess: "forcibly" disconnecting the first client ends its stream with an error or its
#       end, so that it can say so and exit; it does in a trial on an idle guest.
# What happens: while output for the first client is on its way, as with a guest that writes and a
#       client that is a moment late, libvirtd closes the stream and sends nothing. The first client
#       waits for ever, connected and silent.
# Run: findings/libvirt-console-taken-in-silence.sh     needs root, mmdebstrap, Debian's package index
set -eu
command -v mmdebstrap >/dev/null || { echo "cannot run: mmdebstrap is not installed" >&2; exit 2; }
place=$(mktemp -d)
trap 'rm -rf --one-file-system "$place"' EXIT
root=$place/root
mmdebstrap --quiet --variant=extract --aptopt='Acquire::Check-Valid-Until "false"' \
    --include=libvirt-daemon=12.8.0-1,libvirt-daemon-driver-qemu=12.8.0-1,python3-libvirt,base-files \
    --include=qemu-system-x86=1:11.1.2+ds-3,qemu-utils=1:11.1.2+ds-3 forky "$root" \
    "$(apt-get indextargets --format '$(SITE)' 'Origin: Debian' 'Label: Debian' | head -n 1)"
mkdir -p "$root/proc" "$root/dev" "$root/sys" "$root/run" "$root/etc/libvirt"
for name in root libvirt-qemu; do
    echo "$name:x:0:0::/:/bin/sh" >>"$root/etc/passwd"
    echo "$name:x:0:" >>"$root/etc/group"
done
cat >"$root/etc/libvirt/qemu.conf" <<'CONF'
stdio_handler = "file"
security_driver = "none"
user = "root"
group = "root"
cgroup_controllers = []
namespaces = []
CONF
rmdir "$root/var/run"
ln -s ../run "$root/var/run"
echo 'auth_unix_rw = "none"' >"$root/etc/libvirt/libvirtd.conf"
cat >"$root/tmp/client.py" <<'PYTHON'
"""A client of the console: prints "open", and how its stream ends."""
import os
import sys

import libvirt

libvirt.registerErrorHandler(lambda *_: None, None)
libvirt.virEventRegisterDefaultImpl()
connection = libvirt.open("qemu:///system")
stream = connection.newStream(libvirt.VIR_STREAM_NONBLOCK)


def on_event(_stream, events, _opaque):
    try:
        if events & libvirt.VIR_STREAM_EVENT_READABLE and stream.recv(65536) not in (b"", -2):
            return
    except libvirt.libvirtError:
        pass
    print("end", flush=True)
    os._exit(0)


everything = (
    libvirt.VIR_STREAM_EVENT_READABLE | libvirt.VIR_STREAM_EVENT_ERROR | libvirt.VIR_STREAM_EVENT_HANGUP
)
domain = connection.lookupByName("guest")
domain.openConsole(None, stream, libvirt.VIR_DOMAIN_CONSOLE_FORCE)
stream.eventAddCallback(everything, on_event, None)
print("open", flush=True)
while True:
    libvirt.virEventRunDefaultImpl()
PYTHON
cat >"$root/tmp/look.py" <<'PYTHON'
import os
import select
import signal
import subprocess
import sys
import time

import libvirt

WAIT = 15
libvirt.registerErrorHandler(lambda *_: None, None)
daemon = subprocess.Popen(["/usr/sbin/libvirtd"], stderr=subprocess.DEVNULL)
while True:
    try:
        connection = libvirt.open("qemu:///system")
        break
    except libvirt.libvirtError:
        if daemon.poll() is not None:
            sys.exit("libvirtd has ended")
        time.sleep(0.2)
# A boot sector that writes "A" to the serial port for ever.
with open("/tmp/disk.raw", "wb") as disk:
    disk.write(bytes.fromhex("baf803b041eeebfd").ljust(510, b"\0") + b"\x55\xaa")
    disk.truncate(1 << 20)
domain = connection.createXML("""
<domain type='qemu'><name>guest</name><memory unit='MiB'>64</memory><vcpu>1</vcpu>
  <os><type arch='x86_64' machine='q35'>hvm</type></os>
  <devices><disk type='file' device='disk'><driver name='qemu' type='raw'/>
    <source file='/tmp/disk.raw'/><target dev='vda' bus='virtio'/></disk>
    <serial type='pty'/><console type='pty'/></devices>
</domain>""")


def client():
    started = subprocess.Popen(
        [sys.executable, "/tmp/client.py"], stdout=subprocess.PIPE, bufsize=0
    )
    assert started.stdout.readline() == b"open\n"
    return started


def take_over(*, busy):
    """Whether the first client of two learns within WAIT seconds that the other took over."""
    first = client()
    if busy:
        time.sleep(2)  # its guest writes
        os.kill(first.pid, signal.SIGSTOP)
        time.sleep(2)  # what is sent to it is not read any more
    else:
        domain.suspend()
        time.sleep(2)  # it has read everything
    second = client()
    os.kill(first.pid, signal.SIGCONT)
    told = bool(select.select([first.stdout], [], [], WAIT)[0])
    for each in (first, second):
        each.kill()
        each.wait()
    if not busy:
        domain.resume()
    return told


told = {"quiet": take_over(busy=False), "busy": take_over(busy=True)}
print(f"libvirt {connection.getLibVersion()}: the first client learns of the takeover: {told}")
domain.destroy()
connection.close()
daemon.terminate()
daemon.wait()
if told != {"quiet": True, "busy": False}:
    sys.exit("changed: expected that only a client without output on its way is told")
PYTHON
unshare --mount --pid --uts --fork --kill-child sh -eu -c '
    hostname localhost
    mount -t proc proc "$1/proc"
    for name in sys dev; do mount --rbind "/$name" "$1/$name"; done
    chroot "$1" /usr/bin/python3 /tmp/look.py' sh "$root" 2>"$place/log" ||
    { cat "$place/log" >&2; exit 1; }
