#!/bin/sh
# Tests: makes the archive from which a machine without the internet installs packages; its apt then
# knows no other. A hook of mmdebstrap, run outside the machine's root.
#
# Usage: machine-archive.sh ROOT PACKAGE …
set -eu
root=$1
shift
mkdir -p "$root/srv/archive/partial"
APT_CONFIG=$MMDEBSTRAP_APT_CONFIG apt-get -qq --yes --download-only --no-install-recommends \
  -o Dir::Cache::archives="$root/srv/archive" install "$@" >&2
cd "$root/srv/archive"
rm -rf partial lock
for package in *.deb; do
  dpkg-deb --field "$package"
  echo "Filename: ./$package"
  echo "Size: $(stat --format %s "$package")"
  echo "SHA256: $(sha256sum "$package" | cut -d ' ' -f 1)"
  echo
done > Packages
rm -rf "$root/etc/apt/sources.list.d"
echo 'deb [trusted=yes] file:/srv/archive ./' > "$root/etc/apt/sources.list"
