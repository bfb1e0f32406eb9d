#!/bin/sh
# What: the Python files that ansible-core sends with a module, and what a host does with them at
#       the second task.
# Version: ansible-core 2.19.14; Python 3.11.
# One would guess: as with everything else in Python, the first run leaves compiled files, and the
#       second one is quicker.
# What happens: the files come as a zip of sources, which is deleted at the end of the task, and
#       Python's import from a zip writes no compiled files. So each task compiles all of them again,
#       and each of them twice: since Python 3.10, zipimport compiles a file to learn its path, and
#       then to run it (https://github.com/python/cpython/issues/141276, where the sign is a doubled
#       SyntaxWarning). For ping, which returns one word, 56 files are compiled 116 times, in half of
#       the CPU time that the task takes on its host.
# Run: findings/ansible-compiles-its-own-files-for-every-task.sh    needs python3 with venv and a
#       package index for pip
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install -q --disable-pip-version-check ansible-core==2.19.14

# Ansible leaves what it sends to the host, which is this machine.
ANSIBLE_KEEP_REMOTE_FILES=1 ANSIBLE_PIPELINING=0 ANSIBLE_REMOTE_TMP="$folder/sent" \
    HOME="$folder" venv/bin/ansible -i host, -c local host -m ansible.builtin.ping \
    -e ansible_python_interpreter="$folder/venv/bin/python" >/dev/null
module=$(echo "$folder"/sent/*/AnsiballZ_ping.py)

cat >watch.py <<'PYTHON'
"""Runs a module; prints how often files of its zip are compiled, how many, and in what % of CPU."""

import runpy
import sys
import time
import zipimport

files, spent = [], 0.0
original = zipimport._compile_source


def compile_source(path, source):
    global spent
    began = time.process_time()
    try:
        return original(path, source)
    finally:
        spent += time.process_time() - began
        files.append(path)


zipimport._compile_source = compile_source
try:
    runpy.run_path(sys.argv.pop(), run_name="__main__")
except SystemExit:
    pass
print(len(files), len(set(files)), round(100 * spent / time.process_time()), file=sys.stderr)
PYTHON

for run in 1 2 3; do
    venv/bin/python watch.py "$module" 2>>counts >answer
    grep -q '"ping": "pong"' answer
done
cat counts
venv/bin/python - <<'PYTHON'
runs = [tuple(map(int, line.split())) for line in open("counts")]
times, files = {(times, files) for times, files, _share in runs}.pop()
shares = sorted(share for _times, _files, share in runs)
print(f"each of {len(runs)} runs compiles {files} files {times} times, in {shares} % of its CPU time")
assert len({run[:2] for run in runs}) == 1, "the number of compiled files differs between runs"
assert files > 40 and times >= 2 * files, "files are compiled once, or few of them are"
assert shares[1] >= 25, "compiling takes a small part"
print("as described")
PYTHON
