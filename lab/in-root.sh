#!/bin/sh
# Lab: runs a command in a copy of a release's file system that has this machine's network.
# Runs inside mount and process namespaces of its own.
#
# Usage: in-root.sh ROOT OWN CACHE PROJECT COMMAND …   the first four as mount-root.sh has them
set -eu
own=$2
"$(dirname "$0")/mount-root.sh" "$1" "$2" "$3" "$4"
shift 4
mount -t proc proc "$own/root/proc"
mount --rbind /dev "$own/root/dev"
cp /etc/resolv.conf /etc/hosts "$own/root/etc/"
exec chroot "$own/root" "$@"
