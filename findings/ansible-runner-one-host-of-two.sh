#!/bin/sh
# What: ansible-runner, given an inventory as the text "web1,web2,", the form in which ansible-playbook
#       takes a list of hosts by -i: by run(), by run() inside a list, and by get_inventory().
# Versions: ansible-runner 2.4.3 with ansible-core 2.19.14; 2.21.5 did the same.
# One would guess: two hosts in all three, as `ansible-playbook -i web1,web2,` has.
# What happens: run() saves the text as an inventory file, in which it is one host that is called
#       "web1,web2,"; no warning. With a local connection the play runs once and succeeds, under that
#       name. The same text inside a list, and for get_inventory(), is two hosts: what a program
#       shows before a run is not what the run does.
# Run: findings/ansible-runner-one-host-of-two.sh    needs python3 with venv and a package index for pip
set -eu
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/pip" install -q --disable-pip-version-check \
    ansible-core==2.19.14 ansible-runner==2.4.3 2>"$place/log" || { cat "$place/log" >&2; exit 1; }
cat >"$place/look.py" <<'END_PYTHON'
import pathlib
import subprocess
import sys
from importlib.metadata import version

import ansible_runner

HOSTS = "web1,web2,"
place = pathlib.Path(sys.argv[1])
playbook = place / "playbook.yml"
playbook.write_text("""
- hosts: all
  connection: local
  gather_facts: false
  tasks:
    - ansible.builtin.debug:
        msg: here
""")


def run(name, inventory):
    """The return code of a run, and the hosts on which it succeeded."""
    private = place / name
    private.mkdir()
    done = ansible_runner.run(
        private_data_dir=str(private), playbook=str(playbook), inventory=inventory, quiet=True
    )
    return done.rc, sorted(done.stats["ok"])


listed, _ = ansible_runner.get_inventory("list", [HOSTS], response_format="json", quiet=True)
shown = subprocess.run(
    ["ansible-playbook", "-i", HOSTS, "--list-hosts", str(playbook)],
    check=True,
    capture_output=True,
    text=True,
)
seen = {
    "ansible-playbook -i": sorted(set(shown.stdout.split()) & {"web1", "web2", HOSTS}),
    "get_inventory()": sorted(listed["ungrouped"]["hosts"]),
    "run() of a list": run("list", [HOSTS]),
    "run() of the text": run("text", HOSTS),
}
print(f"ansible-runner {version('ansible-runner')}, ansible-core {version('ansible-core')}")
for what, hosts in seen.items():
    print(f"{what:20} {hosts}")
two = ["web1", "web2"]
if list(seen.values()) != [two, two, (0, two), (0, [HOSTS])]:
    sys.exit("changed: expected one host from the text, and two in the other ways")
END_PYTHON
HOME="$place" ANSIBLE_NOCOLOR=1 PATH="$place/venv/bin:$PATH" \
    "$place/venv/bin/python" "$place/look.py" "$place"
