#!/bin/sh
# What: the start of a program written with Typer that has one option, of type int.
# Versions: Typer 0.28.0 and 0.29.2, with pydantic 2.14.4; Python 3.11.
# One would guess: it takes as long with the one as with the other.
# What happens: with 0.29.2 the program loads pydantic, and takes at least half as long again; with
#       0.28.0 it does not load it.
# Run: findings/typer-loads-pydantic-for-an-option.sh    needs python3 with venv and a package index
#       for pip
set -eu
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
cd "$place"
cat >program.py <<'PROGRAM'
import sys
import typer

def main(count: int = 1) -> None:
    print("pydantic" in sys.modules)

typer.run(main)
PROGRAM
cat >time.py <<'PROGRAM'
import subprocess, sys, time

def once(python: str) -> float:
    began = time.perf_counter()
    subprocess.run([python, "program.py", "--count", "2"], stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - began

seconds = {python: min(once(python) for _ in range(15)) for python in sys.argv[1:]}
old, new = seconds.values()
print(f"ratio of the fastest of 15 starts each: {new / old:.1f}")
sys.exit(new / old < 1.5)
PROGRAM
for version in 0.28.0 0.29.2; do
    python3 -m venv "v$version"
    "v$version/bin/pip" install -q --disable-pip-version-check "typer==$version" pydantic==2.14.4
    printf '%s: pydantic is loaded by a command with an int option: ' "$version"
    "v$version/bin/python" program.py --count 2 | tee "loaded$version"
done
grep -qx False loaded0.28.0 && grep -qx True loaded0.29.2 || {
    echo "changed: what the versions load" >&2
    exit 1
}
python3 time.py v0.28.0/bin/python v0.29.2/bin/python || {
    echo "changed: it costs little now" >&2
    exit 1
}
echo "as described"
