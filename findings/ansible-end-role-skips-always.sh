#!/bin/sh
# What: ansible-core: `meta: end_role` (new in 2.18) inside a block that has an always section.
# Versions: ansible-core 2.21.5 on Python 3.14.8 of Debian forky; 2.19.14 did the same.
# One would guess: `always` runs in every case, as after a failure: the role ends, and its cleanup is
#       done on the way, as by `return` inside try and finally.
# What happens: no always section of the role runs any more, neither that of the inner block nor that
#       of the outer one: a lock that the block has taken, or a service that it has stopped, stays so.
#       The handlers that the block has notified do run. The play succeeds and nothing is shown.
# Run: findings/ansible-end-role-skips-always.sh             needs root, mmdebstrap, pip, their indexes
set -eu
command -v mmdebstrap >/dev/null || { echo "cannot run: mmdebstrap is not installed" >&2; exit 2; }
place=$(mktemp -d)
trap 'rm -rf --one-file-system "$place"' EXIT
root=$place/root
mmdebstrap --quiet --variant=extract --aptopt='Acquire::Check-Valid-Until "false"' \
    --include=python3.14=3.14.8-1,python3,base-files,coreutils,dash,libc-bin forky "$root" \
    "$(apt-get indextargets --format '$(SITE)' 'Origin: Debian' 'Label: Debian' | head -n 1)"
python3 -m pip install -q --disable-pip-version-check --target "$root/opt/site" --python-version 3.14 \
    --only-binary=:all: --ignore-requires-python ansible-core==2.21.5 2>"$place/log" ||
    { cat "$place/log" >&2; exit 1; }
mkdir -p "$root/proc" "$root/dev" "$root/sys" "$root/root"
echo "root:x:0:0::/root:/bin/sh" >"$root/etc/passwd"
mkdir -p "$root/root/roles/worker/tasks" "$root/root/roles/worker/handlers"
cat >"$root/root/roles/worker/tasks/main.yml" <<'TASKS'
- block:
    - name: Take a lock
      ansible.builtin.command: touch /root/lock
      notify: Tell
    - block:
        - name: Nothing to do
          ansible.builtin.meta: end_role
      always:
        - name: Inner cleanup
          ansible.builtin.debug:
            msg: seen inner cleanup
  always:
    - name: Release the lock
      ansible.builtin.command: rm /root/lock
TASKS
cat >"$root/root/roles/worker/handlers/main.yml" <<'TASKS'
- name: Tell
  ansible.builtin.debug:
    msg: seen handler
TASKS
cat >"$root/root/playbook.yml" <<'PLAYBOOK'
- hosts: localhost
  gather_facts: false
  vars:
    ansible_python_interpreter: "{{ ansible_playbook_python }}"
  tasks:
    - ansible.builtin.include_role:
        name: worker
    - ansible.builtin.debug:
        msg: seen task after the role
PLAYBOOK
unshare --mount --pid --fork --kill-child sh -eu -c '
    mount -t proc proc "$1/proc"
    for name in sys dev; do mount --rbind "/$name" "$1/$name"; done
    chroot "$1" /usr/bin/env -i HOME=/root LC_ALL=C.UTF-8 PATH=/usr/bin PYTHONPATH=/opt/site \
        ANSIBLE_NOCOLOR=1 ANSIBLE_LOCALHOST_WARNING=0 sh -c "
            python3 -c \"import ansible.release as r; print(\\\"ansible-core\\\", r.__version__)\"
            python3 -m ansible playbook -i localhost, -c local /root/playbook.yml; echo \"rc \$?\""
    ' sh "$root" >"$place/shown" 2>"$place/log" || { cat "$place/log" "$place/shown" >&2; exit 1; }
head -n 1 "$place/shown"
lock=released
[ ! -e "$root/root/lock" ] || lock=kept
said="$(grep -Eo 'seen [a-z ]+|^rc .*' "$place/shown"), lock $lock"
echo "$said"
[ "$said" = "seen task after the role
seen handler
rc 0, lock kept" ] || {
    echo "changed: expected that no always section runs after end_role" >&2
    exit 1
}
