#!/bin/sh
# What: ansible-core run twice in one process, as a program does that wants to pay for its start
#       once: PlaybookCLI([...]).run() for one playbook, then for another, or a fork after the first.
# Versions: ansible-core 2.19.14, Python 3.11.
# One would guess: the command line decides everything about a run; or, if some state of the first
#       run stayed, that it stayed as a whole.
# What happens: the second run is half of each. With --check, modules get check mode and change
#       nothing, but the variable ansible_check_mode is still false, so every `when: not
#       ansible_check_mode` goes the wrong way; ansible_limit and ansible_run_tags are the first run's
#       too. ansible.utils.vars.load_options_vars keeps its first result on the function, and nothing
#       resets it. (The parsed command line and the vault context have to be reset by the caller too,
#       but those fail loudly: a second vault context is a RuntimeError.)
# Run: findings/ansible-second-run-keeps-options.sh    needs python3 with venv and a package index for pip
set -eu
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/pip" install -q --disable-pip-version-check ansible-core==2.19.14
cat >"$place/playbook.yml" <<'END'
- hosts: localhost
  connection: local
  gather_facts: false
  vars:
    ansible_python_interpreter: "{{ ansible_playbook_python }}"
  tasks:
    - name: Touch a file
      ansible.builtin.file:
        path: "{{ file }}"
        state: touch
        mode: "0600"
      tags: [one]
    - name: Show what the run knows of its options
      ansible.builtin.debug:
        msg: "RUN check={{ ansible_check_mode }} tags={{ ansible_run_tags | join(',') }}"
      tags: [one]
END
cat >"$place/twice.py" <<'END'
import contextlib
import io
import pathlib
import re
import sys

from ansible.cli.playbook import PlaybookCLI
from ansible.parsing.vault import VaultSecretsContext
from ansible.release import __version__
from ansible.utils.context_objects import GlobalCLIArgs

place = pathlib.Path(sys.argv[1])


def run(name, *options):
    """What a run shows of its options, and whether it changed something."""
    GlobalCLIArgs._Singleton__instance = None
    VaultSecretsContext._current = None
    file = place / name
    shown = io.StringIO()
    line = ["ansible-playbook", "-i", "localhost,", "-e", f"file={file}", *options]
    with contextlib.redirect_stdout(shown):
        code = PlaybookCLI([*line, str(place / "playbook.yml")]).run()
    assert code == 0, shown.getvalue()
    return re.search(r"RUN (check=\w+ tags=\w+)", shown.getvalue())[1], file.exists()


first, touched_first = run("first")
second, touched_second = run("second", "--check", "--tags", "one")
print(f"ansible-core {__version__}")
print(f"first run:                      {first}; the file was touched: {touched_first}")
print(f"second, --check --tags one:     {second}; the file was touched: {touched_second}")
expected = ("check=False tags=all", True), ("check=False tags=all", False)
if ((first, touched_first), (second, touched_second)) != expected:
    sys.exit("changed: expected the second run in check mode, and variables that deny it")
END
HOME="$place" ANSIBLE_NOCOLOR=1 "$place/venv/bin/python" "$place/twice.py" "$place"
