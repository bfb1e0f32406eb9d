#!/bin/bash
# Tests: the first process of a machine with systemd. Runs inside the machine's own mount, UTS, IPC,
# network, process and control group namespaces, and becomes systemd.
#
# Usage: machine-init.sh ROOT NAME [ADDRESS/PREFIX]
# ROOT is the machine's own file system. With an address, one line on standard input says that eth0
# is there; without, the machine shares the network of whoever started it.
set -euo pipefail
root=$1 name=$2 address=${3:-}

hostname "$name"
mount --make-rprivate /
mount --bind "$root" "$root"
mount -t proc proc "$root/proc"
# It may set nothing of the kernel but its own network, and each of its boots has a name.
mount --bind "$root/proc/sys" "$root/proc/sys"
mount -o remount,bind,ro "$root/proc/sys"
[ -z "$address" ] || mount --bind /proc/sys/net "$root/proc/sys/net"
mount -t sysfs -o ro sysfs "$root/sys"
mount -t tmpfs -o mode=755 tmpfs "$root/dev"
cp -a /dev/{null,zero,full,random,urandom,tty} "$root/dev/"
mkdir "$root"/dev/{net,pts,shm}
mknod -m 666 "$root/dev/net/tun" c 10 200
mount -t devpts -o newinstance,ptmxmode=0666,mode=620,gid=5 devpts "$root/dev/pts"
mount -t tmpfs -o mode=1777 tmpfs "$root/dev/shm"
ln -s pts/ptmx "$root/dev/ptmx"
ln -s /proc/self/fd "$root/dev/fd"
for stream in stdin:0 stdout:1 stderr:2; do
  ln -s "/proc/self/fd/${stream#*:}" "$root/dev/${stream%:*}"
done
mount -t tmpfs -o mode=755 tmpfs "$root/run"
cat /proc/sys/kernel/random/uuid > "$root/run/boot_id"
mount --bind "$root/run/boot_id" "$root/proc/sys/kernel/random/boot_id"
mount -t tmpfs -o mode=1777 tmpfs "$root/tmp"
# The part of the control groups in which the machine was started is the whole of them for it.
mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup"

if [ -n "$address" ]; then
  ip link set lo up
  read -r _                             # whoever started the machine has moved eth0 in
  ip link add eth1 type veth peer name cable  # a second NIC, which goes nowhere
  ip address add "$address" dev eth0
  ip link set eth0 up
fi
cd "$root"
pivot_root . mnt
umount --lazy /mnt
# It may not load modules of the kernel either, which is not its own; else systemd tries, and fails.
exec env -i container=virtplay PATH=/usr/sbin:/usr/bin:/sbin:/bin \
  setpriv --bounding-set -sys_module --inh-caps -sys_module \
  /lib/systemd/systemd --system --log-target=journal --show-status=0 < /dev/null
