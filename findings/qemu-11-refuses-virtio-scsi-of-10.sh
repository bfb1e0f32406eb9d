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
# Run: findings/qemu-11-refuses-virtio-scsi-of-10.sh   needs root, mmdebstrap, Debian's package index
set -eu
command -v mmdebstrap >/dev/null || { echo "cannot run: mmdebstrap is not installed" >&2; exit 2; }
place=$(mktemp -d)
trap 'rm -rf --one-file-system "$place"' EXIT
index=$(apt-get indextargets --format '$(SITE)' 'Origin: Debian' 'Label: Debian' | head -n 1)
for each in trixie=1:10.0.13+ds-0+deb13u1 forky=1:11.1.2+ds-3; do
    mmdebstrap --quiet --variant=extract --aptopt='Acquire::Check-Valid-Until "false"' \
        --include="qemu-system-x86=${each#*=},qemu-utils=${each#*=},base-files" \
        "${each%%=*}" "$place/${each%%=*}" "$index"
done
chroot "$place/trixie" qemu-img create -q -f qcow2 /disk.qcow2 64M

# monitor RELEASE COMMAND …: an idle guest without an operating system; what its monitor says
monitor() {
    release=$1
    shift
    printf '%s\n' "$@" 'info status' quit | chroot "$place/$release" qemu-system-x86_64 \
        -machine pc-q35-10.0 -accel tcg -m 64 -nodefaults -display none \
        -drive if=none,id=disk,file=/disk.qcow2,format=qcow2 \
        -device virtio-scsi-pci -device scsi-hd,drive=disk -monitor stdio 2>&1 |
        tr -d '\r' | sed 's/.*\x1b\[K//' | grep -aoE 'VQ 0 vring.*max [0-9]+|VM status: .*' || true
}

said="saved by 10.0: $(monitor trixie 'savevm a')
loaded by 10.0: $(monitor trixie 'loadvm a')"
cp "$place/trixie/disk.qcow2" "$place/forky/"
said="$said
loaded by 11.1: $(monitor forky 'loadvm a')"
echo "$said"
[ "$said" = "saved by 10.0: VM status: running
loaded by 10.0: VM status: running
loaded by 11.1: VQ 0 vring.num 1024 exceeds allocated max 256
VM status: paused (restore-vm)" ] || {
    echo "this has changed" >&2
    exit 1
}
