#!/bin/sh
# What: how often ansible-playbook loads its test plugins (`is defined`, `is failed`, …).
# Version: ansible-core 2.19.14 and Jinja2 3.1.6; Python 3.11.
# One would guess: once for a run, when the first test is met; later tasks find it loaded.
# What happens: a task's condition is evaluated in the process of the task, which is forked from one
#       that has met no test so far. So each task with a test reads and runs all files of tests
#       again, one by one: core, files, mathstuff and uri for the name `failed` alone. A condition
#       without a test loads none. Where the main process meets one first, as in the condition of a
#       `meta` task, all later tasks find them loaded.
# Run: findings/ansible-loads-all-tests-for-each-task.sh      needs python3 with venv and a package
#       index for pip
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install -q --disable-pip-version-check ansible-core==2.19.14 jinja2==3.1.6

# Each process notes the files of tests that it runs.
mkdir hook
cat >hook/sitecustomize.py <<'PYTHON'
import os
import sys


def note(event, arguments):
    if event == "exec":
        name = arguments[0].co_filename if arguments[0].co_name == "<module>" else ""
        if "/ansible/plugins/test/" in name and "__init__" not in name:
            with open(os.environ["NOTES"], "a") as notes:
                notes.write(f"{os.getpid()} {os.path.basename(name)}\n")


sys.addaudithook(note)
PYTHON
for kind in test plain meta; do
    {
        echo "- hosts: localhost"
        echo "  connection: local"
        echo "  gather_facts: false"
        echo "  vars: {answer: {failed: false}}"
        echo "  tasks:"
        [ $kind != meta ] || printf '    - meta: end_host\n      when: answer is failed\n'
        condition="answer is failed"
        [ $kind != plain ] || condition="answer.failed"
        for number in 1 2 3 4 5; do
            printf '    - debug: {msg: "%s"}\n      when: %s\n' $number "$condition"
        done
    } >$kind.yml
    : >notes.$kind
    PYTHONPATH="$folder/hook" NOTES="$folder/notes.$kind" HOME="$folder" \
        ANSIBLE_LOCALHOST_WARNING=0 venv/bin/ansible-playbook -i localhost, $kind.yml >out.$kind
done
venv/bin/python - <<'PYTHON'
from pathlib import Path

loads = {}
for kind in ("plain", "test", "meta"):
    notes = [line.split() for line in Path(f"notes.{kind}").read_text().splitlines()]
    processes = {pid for pid, _ in notes}
    loads[kind] = len(processes)
    files = sorted({name for _, name in notes})
    print(f"{kind}: {len(processes)} processes have loaded tests, {len(notes)} files: {files}")
assert loads["plain"] == 0, "a condition without a test loads tests"
assert loads["test"] == 5, "not each task loads the tests anew"
assert loads["meta"] == 1, "a task loads them although the main process has"
print("as described")
PYTHON
