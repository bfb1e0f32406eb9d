"""Command line: shows a list again and again, for --watch."""

import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from datetime import datetime
from typing import NoReturn

from virtplay.cli.faults import CannotReach, Refused, is_away
from virtplay.cli.screen import is_terminal, plain, print_notes, unwound_by_signals

OTHER_SCREEN, USUAL_SCREEN = "\x1b[?1049h\x1b[?25l", "\x1b[?25h\x1b[?1049l"
"""The terminal's screen without history, as editors use it, without a cursor; and back."""
HOME, TO_LINE_END, TO_SCREEN_END = "\x1b[H", "\x1b[K", "\x1b[J"

Lines = Callable[[], tuple[list[str], Sequence[str]]]
"""Requests the list, and returns the lines of its table and the notes beside it."""


class _Suspended(BaseException):
    """Ctrl-Z was pressed."""


def watch_lines(lines: Lines, interval: float) -> None:
    """Show the list every `interval` seconds until Ctrl-C.

    A terminal shows it in one place; elsewhere it is printed whenever it has changed. A service
    that does not respond is asked again.
    """
    drawn = is_terminal()
    before: object = None
    first = True
    with suppress(KeyboardInterrupt), _other_screen() if drawn else nullcontext():
        while True:
            try:
                if drawn:
                    signal.signal(signal.SIGTSTP, _raise_suspended)
                while True:
                    rows, notes = _request(lines, patient=not first)
                    first = False
                    if drawn:
                        _draw([*rows, *(plain(note) for note in notes)], interval)
                    elif (rows, notes) != before:
                        print("\n".join([*rows, ""]), flush=True)
                        print_notes(notes)
                        before = (rows, notes)
                    time.sleep(interval)
            except _Suspended:
                _suspend()


def _request(lines: Lines, *, patient: bool) -> tuple[list[str], Sequence[str]]:
    """Return the list; if `patient`, what a service or database that is away has said instead."""
    try:
        return lines()
    except (CannotReach, Refused) as error:
        if not patient or not is_away(error):
            raise
        return [], [error.message]


@contextmanager
def _other_screen() -> Iterator[None]:
    """Use the other screen in the block, whatever ends it, and restore the handler of Ctrl-Z."""
    with unwound_by_signals():
        before = signal.getsignal(signal.SIGTSTP)
        try:
            print(OTHER_SCREEN, end="")
            yield
        finally:
            signal.signal(signal.SIGTSTP, before)
            print(USUAL_SCREEN, end="", flush=True)


def _raise_suspended(_number: int, _frame: object) -> NoReturn:
    # Once: another Ctrl-Z until the loop goes on would be raised where nothing catches it.
    signal.signal(signal.SIGTSTP, signal.SIG_IGN)
    raise _Suspended


def _suspend() -> None:
    """Leave the terminal to the shell until the job is continued."""
    print(USUAL_SCREEN, end="", flush=True)
    signal.signal(signal.SIGTSTP, signal.SIG_DFL)
    os.kill(os.getpid(), signal.SIGTSTP)
    print(OTHER_SCREEN, end="")


def _draw(lines: Sequence[str], interval: float) -> None:
    height = shutil.get_terminal_size().lines
    title = f"every {interval:g} s, now {datetime.now().astimezone():%H:%M:%S}; Ctrl-C ends"
    shown = [title, "", *lines]
    if len(shown) > height:
        shown = [*shown[: height - 1], f"… {len(shown) - height + 1} more"]
    sys.stdout.write(HOME + f"{TO_LINE_END}\n".join(shown) + TO_LINE_END + TO_SCREEN_END)
    sys.stdout.flush()
