#!/bin/sh
# What: how often ansible-playbook compiles a template: Jinja writes a Python program for it, which
#       Python compiles.
# Version: ansible-core 2.19.14 and Jinja2 3.1.6; Python 3.11.
# One would guess: once for a task, or once for each text in a process, as Jinja's own loader caches
#       what it has compiled.
# What happens: nothing is kept. A loop compiles the templates of its task again for each item, and
#       a variable that refers to others compiles those texts again wherever it is used. Ten times
#       the items are ten times the compilations, all of the same texts.
# Run: findings/ansible-compiles-a-template-for-each-item.sh      needs python3 with venv and a
#       package index for pip
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install -q --disable-pip-version-check ansible-core==2.19.14 jinja2==3.1.6

# Each process counts the programs that Jinja gives to Python's compiler, and their texts.
mkdir hook
cat >hook/sitecustomize.py <<'PYTHON'
import os
import sys


def note(event, arguments):
    if event == "compile" and arguments[1] == "<template>":
        with open(os.environ["NOTES"], "a") as notes:
            notes.write(f"{hash(arguments[0])}\n")


sys.addaudithook(note)
PYTHON
for items in 10 100; do
    cat >play.yml <<YAML
- hosts: localhost
  connection: local
  gather_facts: false
  vars: {first: "{{ second }}", second: "{{ third }}", third: text}
  tasks:
    - debug: {msg: "{{ first }} {{ item }}"}
      loop: "{{ range($items) | list }}"
YAML
    : >notes.$items
    PYTHONPATH="$folder/hook" NOTES="$folder/notes.$items" HOME="$folder" PYTHONHASHSEED=0 \
        ANSIBLE_LOCALHOST_WARNING=0 venv/bin/ansible-playbook -i localhost, play.yml >out
done
venv/bin/python - <<'PYTHON'
from pathlib import Path

counts = {}
for items in (10, 100):
    notes = Path(f"notes.{items}").read_text().splitlines()
    counts[items] = len(notes), len(set(notes))
    print(f"{items} items: {len(notes)} compilations of {len(set(notes))} texts")
more = (counts[100][0] - counts[10][0]) / 90
print(f"for each further item: {more:g} compilations")
assert counts[10][1] == counts[100][1], "the number of texts depends on the items"
assert more >= 3, "a template is no longer compiled for each item"
print("as described")
PYTHON
