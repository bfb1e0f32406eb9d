#!/bin/sh
# What: asyncio.subprocess.Process.wait() after kill(), for a program whose output is a pipe and
#       whose own child still runs, on asyncio's event loop and on uvloop's.
# Versions: CPython 3.11.7 (3.11.2, 3.12.1 and 3.13.0 do the same), uvloop 0.23.0.
# One would guess: wait() returns once the process has ended, and a program behaves the same on both
#       loops, since uvloop is a drop-in replacement.
# What happens: on asyncio's loop the exit status is there at once (returncode is -9), and wait() does
#       not return before the grandchild has closed the pipe: whoever is first in wait() waits for
#       it, whoever calls wait() after the status was noticed gets it at once, so a test of this
#       passes or hangs by chance. On uvloop's loop wait() returns at once.
#       https://github.com/python/cpython/issues/119710
# Run: findings/asyncio-wait-outlasts-the-process.sh    needs python3 (3.11 to 3.13.0) with venv and a package index
set -eu
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
cd "$place"
python3 -m venv venv
venv/bin/pip install -q --disable-pip-version-check uvloop==0.23.0 2>pip.log
cat >wait.py <<'END'
import asyncio
import os
import signal
import sys

import uvloop


async def main():
    process = await asyncio.create_subprocess_exec(
        "sh", "-c", "sleep 60 & echo $!; wait", stdout=asyncio.subprocess.PIPE
    )
    grandchild = int(await process.stdout.readline())
    process.kill()
    waiting = asyncio.create_task(process.wait())
    while process.returncode is None:
        await asyncio.sleep(0.01)
    await asyncio.wait([waiting], timeout=2)
    print(f"returncode {process.returncode}, wait() has returned: {waiting.done()}", flush=True)
    os.kill(grandchild, signal.SIGKILL)
    print("after the end of the grandchild wait() returns", await waiting)


(uvloop if sys.argv[1] == "uvloop" else asyncio).run(main())
END
for loop in asyncio uvloop; do
    echo "$loop:"
    venv/bin/python wait.py "$loop"
done | tee seen
cat >expected <<'END'
asyncio:
returncode -9, wait() has returned: False
after the end of the grandchild wait() returns -9
uvloop:
returncode -9, wait() has returned: True
after the end of the grandchild wait() returns -9
END
cmp -s seen expected || { echo "this has changed"; exit 1; }
