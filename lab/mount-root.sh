#!/bin/sh
# Lab: mounts a copy of a release's file system at OWN/root, whose changes are stored in OWN only.
# Runs inside a mount namespace of its own.
#
# Usage: mount-root.sh ROOT OWN CACHE PROJECT
# ROOT is the file system, CACHE becomes its /var/cache/virtplay, and PROJECT is there read-only, at
# the same path as on this machine.
set -eu
root=$1 own=$2 cache=$3 project=$4

mkdir -p "$own/root" "$own/changes" "$own/work"
# Where changes cannot be kept beside it (a directory that is itself an overlay), all is copied.
mount -t overlay -o "lowerdir=$root,upperdir=$own/changes,workdir=$own/work" overlay "$own/root" ||
  { cp -a "$root/." "$own/root/" && mount --bind "$own/root" "$own/root"; }
mkdir -p "$own/root/var/cache/virtplay" "$own/root$project"
mount --bind "$cache" "$own/root/var/cache/virtplay"
mount --bind "$project" "$own/root$project"
mount -o remount,bind,ro "$own/root$project"
