"""The client: passes a run of ansible-playbook to a server, or runs the plain ansible-playbook.

`python -I -S client.py ARGUMENT …` starts quickest. Its environment variables:

- ANSIBLE_WARM=0: run the plain ansible-playbook.
- ANSIBLE_WARM_SOCKET: the server's socket; default: the user's server for these settings, which is
  started for the next run if there is none.
- ANSIBLE_WARM_IDLE: seconds after which a server that this run starts ends, if it has no run.
- ANSIBLE_WARM_FALLBACKS: a file to which a line is appended for each run that was passed to the
  plain ansible-playbook, with the reason.
"""
# Python compiles this file in each start, so that everything else is in modules.

from __future__ import annotations

import os
import sys

if not __package__:  # started as a program
    sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from ansible_warm.connection import DETACH, Offer, Unavailable, connect, properties

TYPE_CHECKING = False
if TYPE_CHECKING:  # typing takes longer to import than the rest
    import socket

__all__ = ["Unavailable", "begin_call", "main"]


def main() -> None:
    """Run ansible-playbook with this program's arguments; end with its exit status or signal."""
    from ansible_warm.playbook import run

    run(sys.argv[1:])


def begin_call(
    path: str,
    module: str,
    arguments: list[str],
    program: list[str],
    environment: dict[str, str],
    lifetime: int,
) -> tuple[int, int, socket.socket]:
    """Make the server at `path` call `main(arguments)` of a module that it has imported.

    The fork shows `program` as its command line. Its standard input is the descriptor `lifetime`,
    its output goes nowhere, its errors where those of this process go. It outlives the server and
    this process: the module has to see to its end.

    Return its process id, a pidfd, and a socket that reports its exit status in one message,
    negative for a signal, or ends without one when the server has died. Raise Unavailable.
    """
    import contextlib
    import socket

    request = {
        **properties(),
        "environment": environment,
        "call": module,
        "arguments": arguments,
        "program": program,
    }
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    try:
        offer = Offer(connect(path), request, {0: lifetime, 1: null, 2: 2})
        offer.begin()
    finally:
        os.close(null)
    control = socket.socket(fileno=offer.control)
    with contextlib.suppress(OSError):  # it has ended
        control.send(DETACH)
    return offer.pid, offer.pidfd, control


if __name__ == "__main__":
    main()
