#!/bin/sh
# What: signal.signal() for a signal that an event loop handles already, with asyncio and with uvloop.
# Versions: uvloop 0.23.0 and the asyncio of Python 3.11.
# One would guess: the handler that is set last takes the place of the other, as a second
#       signal.signal() or a second loop.add_signal_handler() does.
# What happens: both are called for every signal, on both loops, although signal.getsignal() names
#       the new one only: the loop hears of signals through signal.set_wakeup_fd(), which stays. And
#       a signal that came before is handled by the loop's handler afterwards: code that replaces a
#       server's handler, and then looks whether that has seen a signal, misses it.
# Run: findings/loop-signal-handler-outlives-signal-signal.sh    needs python3 with venv and a package index for pip
set -eu
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/pip" install -q --disable-pip-version-check uvloop==0.23.0
cat >"$place/look.py" <<'END'
import asyncio
import os
import signal
import sys

import uvloop


async def look():
    called = []
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGUSR1, lambda: called.append("loop's"))
    os.kill(os.getpid(), signal.SIGUSR1)
    signal.signal(signal.SIGUSR1, lambda *_: called.append("new"))
    at_once = list(called)
    await asyncio.sleep(0.2)
    first = list(called)
    called.clear()
    os.kill(os.getpid(), signal.SIGUSR1)
    await asyncio.sleep(0.2)
    return at_once, first, sorted(called)


for name, run in (("asyncio", asyncio.run), ("uvloop", uvloop.run)):
    at_once, first, second = run(look())
    print(f"{name}: sent before the new handler was set, called by then: {at_once}, later: {first}")
    print(f"{name}: sent after it was set, called: {second}")
    if (at_once, first, second) != ([], ["loop's"], ["loop's", "new"]):
        sys.exit("this has changed")
END
"$place/venv/bin/python" "$place/look.py"
