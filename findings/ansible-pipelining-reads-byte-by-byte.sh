#!/bin/sh
# What: how Python on a host reads what Ansible sends for a task, with and without pipelining.
# Version: ansible-core 2.19.14; Python 3.11.
# One would guess: pipelining is the quick way: no file is copied to the host, and its Python reads
#       the module from the standard input in a few pieces.
# What happens: Python leaves its standard input unbuffered while it reads its own program there, so
#       that the program may read what follows, and asks the kernel for each byte. ping is 177 kB as
#       it is sent, so its Python makes as many system calls before it begins, in some 30 ms of CPU
#       for each task, and a larger module takes longer. Without pipelining there
#       are a few hundred calls, as Python reads a file in pieces. `python3 -c 'import sys;
#       exec(sys.stdin.buffer.read())'` reads all of its standard input at once.
# Run: findings/ansible-pipelining-reads-byte-by-byte.sh    needs Linux, python3 with venv and a
#       package index for pip
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install -q --disable-pip-version-check ansible-core==2.19.14

# A command that a module runs prints what the kernel has counted of the module's process.
for pipelining in 0 1; do
    ANSIBLE_PIPELINING=$pipelining \
        HOME="$folder" venv/bin/ansible -i host, -c local host -m ansible.builtin.shell \
        -a 'cat /proc/$PPID/io' -e ansible_python_interpreter="$folder/venv/bin/python" \
        >"answer$pipelining"
done

# The same program from a pipe: as Python reads it, and read at once.
ANSIBLE_KEEP_REMOTE_FILES=1 ANSIBLE_PIPELINING=0 ANSIBLE_REMOTE_TMP="$folder/sent" \
    HOME="$folder" venv/bin/ansible -i host, -c local host -m ansible.builtin.ping \
    -e ansible_python_interpreter="$folder/venv/bin/python" >/dev/null
module=$(echo "$folder"/sent/*/AnsiballZ_ping.py)
venv/bin/python - "$module" <<'PYTHON'
import json
import re
import resource
import subprocess
import sys

calls = {}
for pipelining in "01":
    text = open(f"answer{pipelining}").read()
    calls[pipelining] = int(re.search(r"syscr: (\d+)", text)[1])
print(f"read calls of a module: {calls['0']} from a file, {calls['1']} with pipelining")
sent = open(sys.argv[1], "rb").read()
assert calls["0"] < 5_000, "a file is read byte by byte"
assert calls["1"] > 100_000, "the standard input is read in pieces"


def seconds(*program):
    def spent():
        usage = resource.getrusage(resource.RUSAGE_CHILDREN)
        return usage.ru_utime + usage.ru_stime

    found = []
    for _ in range(9):
        before = spent()
        done = subprocess.run([sys.executable, *program], input=sent, capture_output=True, check=True)
        assert b'"ping": "pong"' in done.stdout
        found.append(spent() - before)
    return sorted(found)[4]


plain, at_once = seconds(), seconds("-c", "import sys; exec(sys.stdin.buffer.read())")
print(f"CPU of ping ({len(sent)} bytes): {plain:.3f} s as a program, {at_once:.3f} s read at once")
assert at_once < plain, "reading all at once is not quicker"
print("as described")
PYTHON
