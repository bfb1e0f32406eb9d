#!/bin/sh
# What: qemu-img convert -l SNAPSHOT, which exports the disk of an internal snapshot of a qcow2 image,
#       after the image was resized since the snapshot was taken.
# Versions: qemu-img 11.1.2 of Debian forky; 7.2.22 of Debian 12 did the same.
# One would guess: the export has the size that the disk had in the snapshot, as a restore has; the
#       size is written in the image, with the snapshot.
# What happens: the export has the size that the image has now. Of an image that was made smaller it
#       lacks the end of the snapshot's data, with return code 0 and without a message; of one that
#       grew it is too large. A restore of the same snapshot gives size and data back, so nothing was
#       lost in the image: only the export, which is the backup, is cut.
# Run: findings/qemu-img-convert-cuts-snapshot.sh      needs root, mmdebstrap, Debian's package index
set -eu
command -v mmdebstrap >/dev/null || { echo "cannot run: mmdebstrap is not installed" >&2; exit 2; }
place=$(mktemp -d)
trap 'rm -rf --one-file-system "$place"' EXIT
root=$place/root
mmdebstrap --quiet --variant=extract --aptopt='Acquire::Check-Valid-Until "false"' \
    --include=qemu-utils=1:11.1.2+ds-3,base-files,dash,sed forky "$root" \
    "$(apt-get indextargets --format '$(SITE)' 'Origin: Debian' 'Label: Debian' | head -n 1)"
cat >"$root/tmp/look.sh" <<'LOOK'
set -eu
cd /tmp
qemu-img --version | { read -r first; echo "$first"; }
size() { qemu-img info "$1" | sed -n 's/^virtual size: .*(\(.*\) bytes)$/\1/p'; }
whole() { qemu-io -r -c "read -P 0x2a 60M 1M" "$1" >/dev/null 2>&1 && echo whole || echo cut; }
qemu-img create -q -f qcow2 disk.qcow2 64M
qemu-io -c "write -P 0x2a 60M 1M" disk.qcow2 >/dev/null
qemu-img snapshot -c then disk.qcow2
qemu-img resize -q --shrink disk.qcow2 32M
qemu-img convert -l snapshot.name=then -O qcow2 disk.qcow2 smaller.qcow2
echo "exported from 32 MiB: rc $?, size $(size smaller.qcow2), data $(whole smaller.qcow2)"
qemu-img resize -q disk.qcow2 128M
qemu-img convert -l snapshot.name=then -O qcow2 disk.qcow2 larger.qcow2
echo "exported from 128 MiB: rc $?, size $(size larger.qcow2), data $(whole larger.qcow2)"
qemu-img snapshot -a then disk.qcow2
echo "restored: size $(size disk.qcow2), data $(whole disk.qcow2)"
LOOK
said=$(chroot "$root" sh /tmp/look.sh)
echo "$said"
[ "$(echo "$said" | sed 1d)" = "exported from 32 MiB: rc 0, size 33554432, data cut
exported from 128 MiB: rc 0, size 134217728, data whole
restored: size 67108864, data whole" ] || {
    echo "changed: expected exports of the image's present size, and a whole restore" >&2
    exit 1
}
