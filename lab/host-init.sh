#!/bin/bash
# Lab: the first process of one lab host. Runs inside the host's own mount, UTS, IPC, network and
# process namespaces, gives the host its own files, and starts virtlogd, libvirtd and sshd.
#
# Usage: host-init.sh OWN NAME UUID ADDRESS/PREFIX libvirt|no-libvirt PROJECT [ROOT CACHE]
# OWN is the host's directory: files that the host writes to /etc, /var and /root are stored there
# only. PROJECT is the directory of the project, at the same path as on this machine. ROOT is the
# file system of a Debian release, of which the host sees a copy instead of this machine's, and
# CACHE its /var/cache/virtplay. A line on standard input reports that eth0 exists; the line "ready"
# on standard output reports that sshd and libvirtd respond. All other output goes to standard error.
set -euo pipefail
own=$1 name=$2 uuid=$3 address=$4 libvirt=$5 project=$6 root=${7:-} cache=${8:-}

# What the host will see at /etc, /dev and so on is prepared below $at.
hostname "$name"
if [ -n "$root" ]; then
  at=$own/root
  "$project/lab/mount-root.sh" "$root" "$own" "$cache" "$project"
  mount -t proc proc "$at/proc"
  mount -t sysfs sysfs "$at/sys"
  mount --bind /tmp "$at/tmp"
else
  at=$own
  # A /sys with the host's own network devices and without cgroups. The old one is unmounted, not
  # covered: libvirt 9.0 assumes that the cgroups listed in /proc/mounts are usable.
  umount --lazy --recursive /sys
  mount -t sysfs sysfs /sys
fi

# A /dev without kvm: if /dev/kvm exists but cannot run guests, libvirt 9.0 probes it at each start.
mkdir -p "$at/dev"
mount -t tmpfs -o mode=755 tmpfs "$at/dev"
cp -a /dev/{null,zero,full,random,urandom,tty} "$at/dev/"
mkdir -p "$at"/dev/{net,pts,shm}
mknod -m 666 "$at/dev/net/tun" c 10 200
mount -t devpts -o newinstance,ptmxmode=0666,mode=620,gid=5 devpts "$at/dev/pts"
mount -t tmpfs -o mode=1777 tmpfs "$at/dev/shm"
ln -s pts/ptmx "$at/dev/ptmx"
ln -s /proc/self/fd "$at/dev/fd"
for stream in stdin:0 stdout:1 stderr:2; do
  ln -s "/proc/self/fd/${stream#*:}" "$at/dev/${stream%:*}"
done

# This machine's /etc is copied, without its own SSH keys, domains, networks and pools.
if [ -z "$root" ]; then
  mkdir -p "$at/etc"
  cp -a /etc/. "$at/etc/"
fi
rm -rf "$at"/etc/ssh/{ssh_host_*,sshd_config.d} "$at"/etc/libvirt/{qemu,storage,secrets} \
  "$at/etc/virtplay"
mkdir -p "$at"/etc/libvirt/{qemu/networks/autostart,storage/autostart}
cp "$own"/keys/* "$at/etc/ssh/"
rm -f "$at"/etc/{hostname,hosts,machine-id}
echo "$name" > "$at/etc/hostname"
printf '127.0.0.1 localhost\n%s %s\n' "${address%/*}" "$name" > "$at/etc/hosts"
echo "${uuid//-/}" > "$at/etc/machine-id"
echo "host_uuid = \"$uuid\"" >> "$at/etc/libvirt/libvirtd.conf"
[ "$libvirt" = no-libvirt ] ||
  printf 'namespaces = []\nsecurity_driver = "none"\n' >> "$at/etc/libvirt/qemu.conf"
cat > "$at/etc/ssh/sshd_config" <<END
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

if [ -n "$root" ]; then
  mount -t tmpfs -o mode=755 tmpfs "$at/run"
  mkdir -p "$at"/run/{sshd,lock}
  cd "$at"
  pivot_root . mnt
  umount --lazy /mnt
else
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
  # Unmounted as well: libvirt does not start if /proc/mounts lists huge pages that are covered,
  # and systemd mounts them below /dev.
  ! mountpoint --quiet /dev || umount --lazy --recursive /dev
  mount --rbind "$own/dev" /dev
  mount --rbind "$own/etc" /etc
  if [[ "$own" == /var/* ]]; then mount --rbind "$own/root" /root; mount --rbind "$own/var" /var
  else mount --rbind "$own/var" /var; mount --rbind "$own/root" /root; fi
fi

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
