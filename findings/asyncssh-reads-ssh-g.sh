#!/bin/sh
# What: asyncssh reads OpenSSH client configuration; `ssh -G HOST` prints the resolved configuration
#       of a host in that format. Used together, OpenSSH's own output is refused.
# Versions: asyncssh 2.24.1; OpenSSH 9.2p1 (Debian 12), with an empty configuration.
# One would guess: the output of `ssh -G`, saved to a file, works as asyncssh's `config`, so that
#       a program can let OpenSSH resolve Host, Match, Include and tokens.
# What happens: with no user configuration at all, three kinds of lines that mean "the default" fail:
#       `connecttimeout none` is not an integer, `rekeylimit 0 0` is "negative or zero", and each
#       default `identityfile` that does not exist is a FileNotFoundError (ssh skips such files).
#       The errors come one at a time: a caller who removes one line meets the next.
# Run: findings/asyncssh-reads-ssh-g.sh    needs python3 with venv, ssh, and a package index for pip
set -eu
command -v ssh >/dev/null || { echo "cannot run: ssh is not installed" >&2; exit 2; }
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/pip" install -q --disable-pip-version-check asyncssh==2.24.1
mkdir "$place/home"
HOME="$place/home" ssh -G -F /dev/null web1.example.org >"$place/resolved"
HOME="$place/home" "$place/venv/bin/python" - "$place" <<'END'
import pathlib
import sys

import asyncssh

place = pathlib.Path(sys.argv[1])


def read(text):
    """What asyncssh makes of a configuration: the error's type and text, or nothing."""
    file = place / "config"
    file.write_text(text)
    try:
        asyncssh.SSHClientConnectionOptions(host="web1.example.org", config=[str(file)])
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return ""


lines = (place / "resolved").read_text().splitlines()
refused = {line: said for line in lines if (said := read(f"Host *\n{line}\n"))}
print(f"asyncssh {asyncssh.__version__} and {len(lines)} lines of ssh -G, of an empty configuration")
print("the whole output:", read("\n".join(lines)) or "accepted")
for line, said in refused.items():
    print(f"  {line:40} {said.replace(str(place), '...')}")
kinds = {line.split()[0] for line in refused}
expected = {"connecttimeout", "identityfile", "rekeylimit"}
if kinds != expected or not read("\n".join(lines)):
    sys.exit(f"changed: refused are now {sorted(kinds)}, expected {sorted(expected)}")
END
