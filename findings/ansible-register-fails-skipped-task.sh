#!/bin/sh
# What: ansible-core: `register` with several names and expressions (new in 2.21), on tasks that are
#       skipped: by `when: false`, and by a loop over an empty list.
# Versions: ansible-core 2.21.5 on Python 3.14.8 of Debian forky.
# One would guess: a skipped task stays skipped, whatever it registers, and its names are undefined or
#       as before. If the expression did fail the task, ignore_errors would make the play go on.
# What happens: the expression is evaluated for the skipped task as well, does not find its key, and
#       the task is failed; its result says both skipped and failed. failed_when: false does not
#       help. For the empty loop ignore_errors does not help either: the play ends there.
# Run: findings/ansible-register-fails-skipped-task.sh       needs root, mmdebstrap, pip, their indexes
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
cat >"$root/root/playbook.yml" <<'PLAYBOOK'
- hosts: localhost
  gather_facts: false
  vars:
    ansible_python_interpreter: "{{ ansible_playbook_python }}"
  tasks:
    - block:
        - name: Not today
          ansible.builtin.command: uname
          when: false
          failed_when: false
          register:
            kernel: _task.result.stdout
      rescue:
        - ansible.builtin.debug:
            msg: >-
              seen when skipped={{ ansible_failed_result.skipped }}
              failed={{ ansible_failed_result.failed }}
    - name: Go on by ignore_errors
      ansible.builtin.command: uname
      when: false
      ignore_errors: true
      register:
        kernel: _task.result.stdout
    - ansible.builtin.debug:
        msg: seen task after when
    - name: For each of none
      ansible.builtin.command: "echo {{ item }}"
      loop: []
      ignore_errors: true
      register:
        number: _task.loop_result.results | length
    - ansible.builtin.debug:
        msg: seen task after loop
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
said=$(grep -Eo 'seen [a-zA-Z =]+|(skipped|failed|rescued|ignored)=[0-9]+|^rc .*' "$place/shown")
echo "$said"
[ "$said" = "seen when skipped=True failed=True
seen task after when
failed=1
skipped=0
rescued=1
ignored=1
rc 2" ] || {
    echo "changed: expected two skipped tasks that fail, and an empty loop that ends the play" >&2
    exit 1
}
