#!/bin/sh
# Role virtplay_service: create the virtual environment of an unpacked release.
# Usage: install_release.sh DIRECTORY PYTHON [PIP OPTION …]
set -eu
# The service's user must be able to read the files that root creates.
umask 022
cd "$1"
python=$2
shift 2
"$python" -m venv --clear .venv
[ ! -f constraints.txt ] || set -- -c constraints.txt "$@"
# Editable, so that the service finds the playbooks of the release.
.venv/bin/python -m pip install --quiet --disable-pip-version-check "$@" -e .
.venv/bin/python -m compileall -q service/virtplay warm/src/ansible_warm
.venv/bin/virtplay version
touch .complete
