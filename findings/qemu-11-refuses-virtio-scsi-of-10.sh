#!/bin/sh
# What: QEMU 11.1: loadvm (virsh snapshot-revert, restore) of a guest with virtio-scsi-pci that QEMU
#       10.0 saved, with a machine type that both have, here pc-q35-10.0.
# Versions: QEMU 10.0.13 of Debian 13, 11.1.2 of Debian forky. State of QEMU 7.2 (Debian 12) loads.
# One would guess: a versioned machine type loads what an older QEMU saved with it; that is what they
#       are for, and Debian 13 is upgraded to its successor.
# What happens: "VQ 0 vring.num 1024 exceeds allocated max 256", "Failed to load element of type
#       virtio for virtio": 10.0 writes 1024 for the queues that no driver has set up, whatever
#       their size is, and 11.1 is the first to check. The guest has been ended by then: all memory
#       of snapshots and of saved guests is lost by the upgrade. The disks of the snapshot are kept.
# Run: findings/qemu-11-refuses-virtio-scsi-of-10.sh   needs root, mmdebstrap, Debian's archive
set -eu
place=$(mktemp -d)
trap 'rm -rf --one-file-system "$place"' EXIT
for release in trixie forky; do
    mmdebstrap --quiet --variant=apt --include=qemu-system-x86,qemu-utils --aptopt='Acquire::Check-Valid-Until "false"' \
        "$release" "$place/$release" 2>"$place/log" || { cat "$place/log"; exit 1; }
done
chroot "$place/trixie" qemu-img create -q -f qcow2 /disk.qcow2 64M

# monitor RELEASE: an idle guest without an operating system, its monitor on standard input
monitor() {
    timeout 120 chroot "$place/$1" qemu-system-x86_64 -machine pc-q35-10.0 -accel tcg -m 64 -nodefaults -display none \
        -drive if=none,id=disk,file=/disk.qcow2,format=qcow2 -device virtio-scsi-pci -device scsi-hd,drive=disk \
        -monitor stdio 2>&1 | tr -d '\r' | sed 's/.*\x1b\[K//' | grep -aE 'vring|[Ee]rror|VM status' || true
}
(sleep 3; echo "savevm a"; sleep 1; echo "info status"; echo quit) | monitor trixie
for release in trixie forky; do
    echo "== loadvm with QEMU of $release"
    [ "$release" = trixie ] || cp "$place/trixie/disk.qcow2" "$place/$release/"
    (sleep 1; echo "loadvm a"; sleep 1; echo "info status"; echo quit) | monitor "$release"
done
