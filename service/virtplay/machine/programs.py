"""Machine: runs programs that must not outlive this process."""

import signal
import subprocess
from collections.abc import Callable, Sequence
from typing import Any

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""The signals that end this process."""
Program = subprocess.Popen[bytes]


def run(command: Sequence[str], end: Callable[[Program], None] | None, **options: Any) -> int:
    """Run a program and return its exit status; if this process must end, wait for the program.

    `end` ends the program then; without it, the program runs to its own end. `options` are those
    of Popen.
    """
    held: list[int] = []
    before = {each: signal.signal(each, lambda number, _: held.append(number)) for each in ENDING}
    program = None
    try:
        # A signal during Popen would lose the program that it has started.
        try:
            # In a session of its own, so that Ctrl-C reaches only this process.
            program = subprocess.Popen(command, start_new_session=True, **options)
        finally:
            for each, handler in before.items():
                signal.signal(each, handler)
            for number in held:
                signal.raise_signal(number)
        return program.wait()
    except BaseException:
        # A second signal, such as that of a shell whose terminal is closed, must not leave it.
        for each in ENDING:
            signal.signal(each, signal.SIG_IGN)
        if program is not None:
            if end is not None:
                end(program)
            program.wait()
        raise
