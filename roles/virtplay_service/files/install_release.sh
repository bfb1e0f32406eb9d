#!/bin/sh
# Role virtplay_service: makes the virtual environment of an unpacked release.
# Usage: install_release.sh DIRECTORY PYTHON [PIP OPTION …]
set -eu
# The service's user has to read what root makes here.
umask 022
cd "$1"
python=$2
shift 2
"$python" -m venv --clear .venv
# The pins hold for the Python they were tried on; a newer one takes the newest of each.
if [ -f constraints.txt ] &&
    .venv/bin/python -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))'; then
    set -- -c constraints.txt "$@"
fi
# Editable, so that the service finds its playbooks beside itself.
.venv/bin/python -m pip install --quiet --disable-pip-version-check "$@" -e .
.venv/bin/python -m compileall -q service/virtplay
.venv/bin/virtplay version
touch .complete
