#!/bin/sh
# What: libvirt's virDomainSetMetadata for an element that has a namespace of its own, other than the
#       uri that is given in the call (virsh metadata DOMAIN --uri … --set '<x xmlns="…"/>').
# Versions: libvirt 12.8.0-1 of Debian forky; 11.3 did the same.
# One would guess: the uri decides, as it is what one reads and removes by: libvirt puts the element
#       into that namespace, or refuses it.
# What happens: the call succeeds and the element keeps its own namespace. To read by the uri fails,
#       to remove by it succeeds and removes nothing, and each further call adds one more element. To
#       read by the element's namespace gives the first that was ever set, not the last, and when the
#       definition is put back as it is, libvirt drops all but that first one.
# Run: findings/libvirt-metadata-piles-up.sh                 needs root, mmdebstrap, Debian's package index
set -eu
command -v mmdebstrap >/dev/null || { echo "cannot run: mmdebstrap is not installed" >&2; exit 2; }
place=$(mktemp -d)
trap 'rm -rf --one-file-system "$place"' EXIT
root=$place/root
mmdebstrap --quiet --variant=extract --aptopt='Acquire::Check-Valid-Until "false"' \
    --include=libvirt-daemon=12.8.0-1,libvirt-daemon-driver-qemu=12.8.0-1,python3-libvirt,base-files \
    --include=qemu-system-x86=1:11.1.2+ds-3,qemu-utils=1:11.1.2+ds-3 forky "$root" \
    "$(apt-get indextargets --format '$(SITE)' 'Origin: Debian' 'Label: Debian' | head -n 1)"
mkdir -p "$root/proc" "$root/dev" "$root/sys" "$root/tmp/libvirt/etc"
for name in root libvirt-qemu; do
    echo "$name:x:0:0::/:/bin/sh" >>"$root/etc/passwd"
    echo "$name:x:0:" >>"$root/etc/group"
done
cat >"$root/tmp/libvirt/etc/qemu.conf" <<'CONF'
stdio_handler = "file"
security_driver = "none"
user = "root"
group = "root"
cgroup_controllers = []
namespaces = []
CONF
cat >"$root/tmp/look.py" <<'PYTHON'
import sys
from xml.etree import ElementTree

import libvirt

KIND, CONFIG = libvirt.VIR_DOMAIN_METADATA_ELEMENT, libvirt.VIR_DOMAIN_AFFECT_CONFIG
URI, OWN = "http://example.org/uri", "http://example.org/own"
libvirt.virEventRegisterDefaultImpl()
libvirt.registerErrorHandler(lambda context, error: None, None)
connection = libvirt.open("qemu:///embed?root=/tmp/libvirt")
domain = connection.defineXML("""
<domain type='qemu'><name>guest</name><memory unit='MiB'>64</memory><vcpu>1</vcpu>
  <os><type arch='x86_64' machine='q35'>hvm</type></os></domain>""")


def written(value, namespace):
    domain.setMetadata(KIND, f"<n xmlns='{namespace}'>{value}</n>", "n", URI, CONFIG)
    return values()


def values():
    """The texts of all elements under <metadata>."""
    metadata = ElementTree.fromstring(domain.XMLDesc()).find("metadata")
    return [] if metadata is None else [element.text for element in metadata]


def read(uri):
    try:
        return ElementTree.fromstring(domain.metadata(KIND, uri, CONFIG)).text
    except libvirt.libvirtError as error:
        if error.get_error_code() != libvirt.VIR_ERR_NO_DOMAIN_METADATA:
            raise
        return None


same = [written("one", URI), written("two", URI), read(URI)]
domain.setMetadata(KIND, None, None, URI, CONFIG)
other = [written("one", OWN), written("two", OWN), written("three", OWN), read(URI), read(OWN)]
domain.setMetadata(KIND, None, None, URI, CONFIG)
removed = values()
connection.defineXML(domain.XMLDesc())
defined = values()
connection.close()
print(f"libvirt {libvirt.getVersion()}: in the namespace of the uri, twice; read: {same}")
print(f"in a namespace of its own, three times; read by the uri, and by its own: {other}")
print(f"after it was removed by the uri: {removed}, and after the definition was put back: {defined}")
expected = [["one"], ["one", "two"], ["one", "two", "three"], None, "one"]
if same != [["one"], ["two"], "two"] or (other, removed, defined) != (expected, expected[2], ["one"]):
    sys.exit("changed: expected elements that pile up, and only the first after a definition")
PYTHON
unshare --mount --pid --uts --fork --kill-child sh -eu -c '
    hostname localhost
    mount -t proc proc "$1/proc"
    for name in sys dev; do mount --rbind "/$name" "$1/$name"; done
    chroot "$1" /usr/bin/python3 /tmp/look.py' sh "$root" 2>"$place/log" ||
    { cat "$place/log" >&2; exit 1; }
