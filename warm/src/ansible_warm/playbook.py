"""Runs ansible-playbook through a server: what the client does besides the connection."""

from __future__ import annotations

import _signal  # type: ignore[import-not-found, unused-ignore]
import _socket
import os
import select
import sys

from ansible_warm.connection import TERMINAL, NoServer, Offer, Unavailable, connect, properties

TYPE_CHECKING = False
if TYPE_CHECKING:  # typing takes longer to import than the rest
    from types import FrameType
    from typing import NoReturn

PROGRAM = "ansible-playbook"
FORWARDED = tuple(
    getattr(_signal, name)
    for name in (
        *("SIGHUP", "SIGINT", "SIGQUIT", "SIGTERM", "SIGUSR1", "SIGUSR2"),
        *("SIGCONT", "SIGTSTP", "SIGWINCH"),
    )
)
FAILED = 250
"""Exit status when the server has died during the run, as of an unexpected error in Ansible."""
PLAIN = "import sys; sys.argv[0] = {!r}; from ansible.cli.playbook import main; sys.exit(main())"


def run(arguments: list[str]) -> NoReturn:
    """Run ansible-playbook through a server and end as it ends."""
    if os.environ.get("ANSIBLE_WARM") == "0":
        become_plain(arguments)
    descriptors = inherited()
    blocked = _signal.pthread_sigmask(_signal.SIG_BLOCK, ())
    try:
        if not {1, 2} <= set(descriptors):
            raise Unavailable("standard output or error is closed")
        request = {**properties(), "program": [*plain_program(), *arguments]}
        offer = Offer(_reach(), request, descriptors)
        # Signals from here on are the run's, once `follow` can forward them.
        _signal.pthread_sigmask(_signal.SIG_BLOCK, FORWARDED)
        offer.begin()
    except Unavailable as reason:
        _signal.pthread_sigmask(_signal.SIG_SETMASK, blocked)
        note_fallback(str(reason))
        become_plain(arguments)
    finish(follow(_socket.socket(fileno=offer.control), blocked))


def _reach() -> _socket.socket:
    """Return a connection to the server for this run; if none listens, start one for the next."""
    if path := os.environ.get("ANSIBLE_WARM_SOCKET"):
        return connect(path)
    from ansible_warm import own_servers

    path = own_servers.socket_path()
    try:
        return connect(path)
    except NoServer as error:
        own_servers.start(path)
        raise Unavailable(
            "no server had these settings; one is started for the next run"
        ) from error


def plain_program() -> list[str]:
    """Return the words that start the plain ansible-playbook of this Python."""
    program = os.path.join(os.path.dirname(sys.executable), PROGRAM)
    return [sys.executable, program]


def become_plain(arguments: list[str]) -> NoReturn:
    """Replace this process by the plain ansible-playbook."""
    _, program = plain_program()
    if os.path.exists(program):
        os.execv(program, [program, *arguments])
    # As in an installation with `pip install --user`, which has its programs elsewhere.
    words = [sys.executable, "-P", "-c", PLAIN.format(PROGRAM), *arguments]
    os.execv(sys.executable, words)


def note_fallback(reason: str) -> None:
    """Append the reason to the file that ANSIBLE_WARM_FALLBACKS names."""
    path = os.environ.get("ANSIBLE_WARM_FALLBACKS")
    if not path:
        return
    try:
        with open(path, "a") as file:
            file.write(reason + "\n")
    except OSError:
        pass  # the run matters more


def inherited() -> dict[int, int]:
    """Return the descriptors that a program would inherit, by their number, and its terminal."""
    found = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            if os.get_inheritable(int(name)):
                found[int(name)] = int(name)
        except OSError:
            pass  # that of the listing
    try:
        found[TERMINAL] = os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY)
    except OSError:
        pass  # no terminal controls this process
    return found


def follow(control: _socket.socket, blocked: set[int]) -> int:
    """Forward signals until the run ends; return its exit status, negative for a signal."""
    wakes, wake = os.pipe()
    os.set_blocking(wake, False)
    _signal.set_wakeup_fd(wake)
    for number in FORWARDED:
        if _signal.getsignal(number) != _signal.SIG_IGN:
            _signal.signal(number, _noted)
    _signal.pthread_sigmask(_signal.SIG_SETMASK, blocked)
    poll = select.poll()
    poll.register(wakes, select.POLLIN)
    poll.register(control, select.POLLIN)
    while True:
        ready = {descriptor for descriptor, _ in poll.poll()}
        if wakes in ready:
            for number in os.read(wakes, 64):
                _forward(control, number)
        if control.fileno() in ready:
            try:
                return int(control.recv(64) or FAILED)
            except OSError:
                return FAILED


def _noted(_number: int, _frame: FrameType | None) -> None:
    """Do nothing: the number is in the pipe."""


def _forward(control: _socket.socket, number: int) -> None:
    try:
        if number != _signal.SIGTSTP:
            control.send(b"%d" % number)
            return
        # The kernel stops no process whose group has no shell; the run goes on then as well.
        control.send(b"%d" % _signal.SIGSTOP)
        _signal.signal(number, _signal.SIG_DFL)
        os.kill(os.getpid(), number)
        _signal.signal(number, _noted)
        control.send(b"%d" % _signal.SIGCONT)
    except OSError:
        pass  # it has ended


def finish(code: int) -> NoReturn:
    """End with an exit status, or by the signal that a negative one names."""
    if code < 0:
        if -code != _signal.SIGKILL:
            _signal.signal(-code, _signal.SIG_DFL)
        _signal.pthread_sigmask(_signal.SIG_UNBLOCK, [-code])
        os.kill(os.getpid(), -code)
    os._exit(code if code >= 0 else 128 - code)
