#!/bin/sh
# What: a playbook of ansible-core that uses one filter of a collection, whose other filters are in
#       files of their own, named like the filter, as the documentation wants it.
# Versions: ansible-core 2.19.14, Python 3.11.
# One would guess: ansible-core finds acme.text.shout in plugins/filter/shout.py and imports that
#       file only, as it does for modules, actions and callbacks.
# What happens: it imports every file in plugins/filter first. The import time of all filters of a
#       collection is part of each run that uses one of them, and a filter whose library is not
#       installed causes a warning in every such run, though nobody uses it. (The warning also has a
#       stray quotation mark.) So a filter should import what is costly or optional when it is called.
# Run: findings/ansible-filter-loads-its-neighbours.sh  needs python3 with venv and a package index for pip
set -eu
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/pip" install -q --disable-pip-version-check ansible-core==2.19.14
filters=$place/collections/ansible_collections/acme/text/plugins/filter
mkdir -p "$filters"
cat >"$filters/shout.py" <<'END'
class FilterModule:
    def filters(self):
        return {"shout": str.upper}
END
cat >"$filters/unused.py" <<'END'
import os

with open(os.environ["MARKER"], "a") as marker:
    marker.write("imported")


class FilterModule:
    def filters(self):
        return {"unused": str.lower}
END
cat >"$filters/optional.py" <<'END'
import a_library_that_is_not_installed


class FilterModule:
    def filters(self):
        return {"optional": a_library_that_is_not_installed.text}
END
cat >"$place/playbook.yml" <<'END'
- hosts: localhost
  gather_facts: false
  tasks:
    - name: Use one filter
      ansible.builtin.debug:
        msg: "{{ 'text' | acme.text.shout }}"
END
export HOME="$place" MARKER="$place/marker" ANSIBLE_NOCOLOR=1
export ANSIBLE_COLLECTIONS_PATH="$place/collections"
shown=$("$place/venv/bin/ansible-playbook" -i localhost, -c local "$place/playbook.yml" 2>&1)
"$place/venv/bin/ansible-playbook" --version | head -n 1
echo "result:      $(echo "$shown" | grep -o '"msg": ".*"')"
echo "unused.py:   $(cat "$place/marker" 2>/dev/null || echo 'not imported')"
echo "optional.py: $(echo "$shown" | grep -o 'Skipping filter plugins.*' || echo 'not imported')"
echo "$shown" | grep -q '"msg": "TEXT"'
[ "$(cat "$place/marker" 2>/dev/null)" = imported ] &&
    echo "$shown" | grep -q "Skipping filter plugins in acme.text.optional" || {
    echo "changed: expected that every file in plugins/filter is imported" >&2
    exit 1
}
