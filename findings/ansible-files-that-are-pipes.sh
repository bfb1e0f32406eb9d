#!/usr/bin/env bash
# What: ansible-core, given its files by the shell's process substitution, as people do whose
#       variables or hosts come from a program and should not touch a disk.
# Versions: ansible-core 2.19.14, Python 3.11 (-e @ is the same with 2.16.14 and 2.18.12).
# One would guess: a file is a file: each option that takes one reads it from a pipe, or none does.
# What happens: each is another case. Playbook and --vault-password-file may be pipes. An inventory may
#       be one if it is YAML; as INI it is empty, so that the play runs on no host, with exit status 0
#       and no word about the file (the only warning is that the list of hosts is empty): a plugin
#       that is tried before the one for INI has read the pipe.
#       -e @<(…) and -e @/dev/stdin fail with "Could not find or access '/proc/N/fd/pipe:[M]'": only
#       for them the path is resolved before it is opened, and what /dev/fd/63 points to cannot be
#       opened by that name. A named pipe, whose path resolves to itself, works there.
# Run: findings/ansible-files-that-are-pipes.sh    needs python3 with venv and a package index for pip
set -eu
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
cd "$place"
python3 -m venv venv
venv/bin/pip install -q --disable-pip-version-check ansible-core==2.19.14 2>pip.log
cat >playbook.yml <<'END'
- hosts: all
  connection: local
  gather_facts: false
  tasks:
    - name: Show the variable
      ansible.builtin.debug:
        msg: "SEEN {{ word }}"
END
export ANSIBLE_HOME="$place/home"

# run WHAT ARGUMENT …: run the program, and print whether the play saw the variable.
run() {
    what=$1
    shift
    status=0
    said=$(venv/bin/ansible-playbook "$@" 2>&1) || status=$?
    case $said in
        *"SEEN hello"*) echo "$what: works" ;;
        *"Could not find or access '/proc/"*"/fd/pipe:"*) echo "$what: cannot find or access a pipe" ;;
        *"no hosts matched"*) echo "$what: no hosts, exit status $status" ;;
        *) echo "$what: $said" ;;
    esac
}
printf 'secret' >password
venv/bin/ansible-vault encrypt_string --vault-password-file password hello --name word >vault.yml
mkfifo fifo
{
    run "playbook" -i one, -e word=hello <(cat playbook.yml)
    run "inventory, YAML" -i <(echo 'all: {hosts: {one: }}') -e word=hello playbook.yml
    run "inventory, INI" -i <(echo one) -e word=hello playbook.yml
    run "vault password" -i one, -e @vault.yml --vault-password-file <(cat password) playbook.yml
    echo 'word: hello' >fifo &
    run "variables, named pipe" -i one, -e @fifo playbook.yml
    run "variables, substitution" -i one, -e @<(echo 'word: hello') playbook.yml
    echo 'word: hello' | run "variables, standard input" -i one, -e @/dev/stdin playbook.yml
} | tee seen
cat >expected <<'END'
playbook: works
inventory, YAML: works
inventory, INI: no hosts, exit status 0
vault password: works
variables, named pipe: works
variables, substitution: cannot find or access a pipe
variables, standard input: cannot find or access a pipe
END
cmp -s seen expected || { echo "this has changed"; exit 1; }
