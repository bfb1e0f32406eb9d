#!/bin/bash
# Lab: the first process of one lab host. Runs inside the host's own mount, UTS, IPC, network and
# process namespaces, gives the host its own files, and starts virtlogd, libvirtd and sshd.
#
# Usage: host-init.sh OWN NAME UUID ADDRESS/PREFIX libvirt|no-libvirt PROJECT
# OWN is the host's directory: files that the host writes to /etc, /var and /root are stored there
# only. PROJECT is the directory of the project, at the same path as on this machine. A line on
# standard input reports that eth0 exists; the line "ready" on standard output reports that sshd and
# libvirtd respond. All other output goes to standard error.
set -euo pipefail
own=$1 name=$2 uuid=$3 address=$4 libvirt=$5 project=$6

hostname "$name"
# A /sys with the host's own network devices and without cgroups. The old one is unmounted, not
# covered: libvirt 9.0 assumes that the cgroups listed in /proc/mounts are usable.
umount --lazy --recursive /sys
mount -t sysfs sysfs /sys

# A /dev without kvm: if /dev/kvm exists but cannot run guests, libvirt 9.0 probes it at each start.
mkdir -p "$own/dev"
mount -t tmpfs -o mode=755 tmpfs "$own/dev"
cp -a /dev/{null,zero,full,random,urandom,tty} "$own/dev/"
mkdir -p "$own"/dev/{net,pts,shm}
mknod -m 666 "$own/dev/net/tun" c 10 200
mount -t devpts -o newinstance,ptmxmode=0666,mode=620,gid=5 devpts "$own/dev/pts"
mount -t tmpfs -o mode=1777 tmpfs "$own/dev/shm"
ln -s pts/ptmx "$own/dev/ptmx"
ln -s /proc/self/fd "$own/dev/fd"
for stream in stdin:0 stdout:1 stderr:2; do
  ln -s "/proc/self/fd/${stream#*:}" "$own/dev/${stream%:*}"
done

# /etc is a copy without this machine's own SSH keys, domains, networks and pools.
mkdir -p "$own/etc"
cp -a /etc/. "$own/etc/"
rm -rf "$own"/etc/ssh/{ssh_host_*,sshd_config.d} "$own"/etc/libvirt/{qemu,storage,secrets} \
  "$own/etc/virtplay"
mkdir -p "$own"/etc/libvirt/{qemu/networks/autostart,storage/autostart}
cp "$own"/keys/* "$own/etc/ssh/"
rm -f "$own"/etc/{hostname,hosts,machine-id}
echo "$name" > "$own/etc/hostname"
printf '127.0.0.1 localhost\n%s %s\n' "${address%/*}" "$name" > "$own/etc/hosts"
echo "${uuid//-/}" > "$own/etc/machine-id"
echo "host_uuid = \"$uuid\"" >> "$own/etc/libvirt/libvirtd.conf"
[ "$libvirt" = no-libvirt ] ||
  printf 'namespaces = []\nsecurity_driver = "none"\n' >> "$own/etc/libvirt/qemu.conf"
cat > "$own/etc/ssh/sshd_config" <<END
HostKey /etc/ssh/host_key
AuthorizedKeysFile /etc/ssh/authorized_keys
PermitRootLogin prohibit-password
PasswordAuthentication no
UsePAM no
UseDNS no
PidFile /run/sshd.pid
MaxSessions 200
MaxStartups 200
Subsystem sftp internal-sftp
END

# /var is new; only the package database and virtplay's download cache are this machine's.
mkdir -p "$own"/var/{cache/virtplay,cache/apt/archives/partial,backups,spool} \
  "$own"/var/lib/{apt,dpkg,misc,virtplay,libvirt/{boot,dnsmasq,images,qemu,sanlock}} \
  "$own"/var/log/{apt,libvirt/qemu}
mkdir -p -m 1777 "$own/var/tmp"
ln -s /run "$own/var/run"
ln -s /run/lock "$own/var/lock"
chmod 711 "$own"/var/lib/libvirt/{images,boot}
for shared in lib/dpkg lib/apt cache/virtplay; do
  [ -d "/var/$shared" ] || continue
  mount --bind "/var/$shared" "$own/var/$shared"
done
for shared in lib/dpkg lib/apt; do mount -o remount,bind,ro "$own/var/$shared"; done
mkdir -p -m 700 "$own/root"

# The host's own /etc, /root and /var hide this machine's, but the project stays, read-only.
case $project in
  /etc/* | /root/* | /var/*)
    mkdir -p "$own$project"
    mount --bind "$project" "$own$project"
    mount -o remount,bind,ro "$own$project"
    ;;
esac

# The host shares this machine's programs, but cannot change them.
mount --bind /usr /usr
mount -o remount,bind,ro /usr

mount -t tmpfs -o mode=755 tmpfs /run
mkdir -p /run/sshd /run/lock
cd /
mount --rbind "$own/dev" /dev
mount --rbind "$own/etc" /etc
if [[ "$own" == /var/* ]]; then mount --rbind "$own/root" /root; mount --rbind "$own/var" /var
else mount --rbind "$own/var" /var; mount --rbind "$own/root" /root; fi

ip link set lo up
read -r _                               # the supervisor has created eth0
ip address add "$address" dev eth0
ip link set eth0 up

if [ "$libvirt" = libvirt ]; then
  virtlogd -d
  libvirtd -d
fi
/usr/sbin/sshd
# It goes into the background before it listens, and writes this file afterwards.
until [ -s /run/sshd.pid ]; do sleep 0.01; done
echo ready
exec < /dev/null > /dev/null
while :; do sleep 86400 || true; done   # bash reaps orphaned processes of this host
