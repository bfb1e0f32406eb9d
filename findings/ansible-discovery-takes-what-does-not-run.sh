#!/bin/sh
# What: Ansible's discovery of a Python on a host, where a newer python3.N stands before the
#       distribution's in PATH and cannot run: the shim of a version manager whose version is not
#       active, as pyenv leaves it in ~/.pyenv/shims.
# Versions: ansible-core 2.19.14.
# One would guess: discovery takes an interpreter that runs, or goes on to the next candidate; its
#       list has seven more.
# What happens: candidates are only looked up by name, from python3.13 down, and the first name is
#       taken, though /usr/bin/python3 is there and runs. The task's error speaks of a module that
#       printed no JSON, where no module has run.
# Run: findings/ansible-discovery-takes-what-does-not-run.sh    needs python3 with venv, a package
#       index for pip, and /usr/bin/python3
set -eu
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
cd "$place" # no ansible.cfg of ours
python3 -m venv "$place/venv"
"$place/venv/bin/pip" install -q --disable-pip-version-check ansible-core==2.19.14
mkdir "$place/shims"
printf '#!/bin/sh\necho "python3.13: command not found, though it exists in these versions: 3.13.1" >&2\nexit 127\n' >"$place/shims/python3.13"
chmod 755 "$place/shims/python3.13"
printf 'here ansible_connection=local\n' >"$place/hosts"

# Prints the outcome of one task, with a PATH of its own.
ping() {
    # shellcheck disable=SC2086 # options
    env -u ANSIBLE_CONFIG HOME="$place" ANSIBLE_HOME="$place/.ansible" ANSIBLE_NOCOLOR=1 \
        PATH="$1:/usr/bin:/bin" "$place/venv/bin/ansible" -i "$place/hosts" here -m ping $2 2>&1 || true
}
echo "== without the shim"
ping "$place" "" | tee "$place/plain"
echo "== with it"
ping "$place/shims" "" | tee "$place/shim"
echo "== with it, and the interpreter named"
ping "$place/shims" "-e ansible_python_interpreter=/usr/bin/python3" | tee "$place/named"
grep -q '"ping": "pong"' "$place/plain" && grep -q '"ping": "pong"' "$place/named" || {
    echo "changed: the plain task fails" >&2
    exit 1
}
if grep -q '"ping": "pong"' "$place/shim"; then
    echo "changed: discovery now passes over what does not run" >&2
    exit 1
fi
if grep -q 'No start of json char found' "$place/shim"; then
    echo "as described: the task fails, with the message of a module"
else
    echo "changed: the message is another one" >&2
    exit 1
fi
