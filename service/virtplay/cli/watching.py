"""Command line: shows a list again and again, for --watch."""

import shutil
import sys
import time
from collections.abc import Callable, Sequence
from datetime import datetime

from virtplay.cli.faults import CannotReach, Refused
from virtplay.cli.screen import is_terminal, plain, print_notes
from virtplay.errors import DatabaseNotAvailable

OTHER_SCREEN, USUAL_SCREEN = "\x1b[?1049h\x1b[?25l", "\x1b[?25h\x1b[?1049l"
"""The terminal's screen without history, as editors use it, without a cursor; and back."""
HOME, TO_LINE_END, TO_SCREEN_END = "\x1b[H", "\x1b[K", "\x1b[J"

Lines = Callable[[], tuple[list[str], Sequence[str]]]
"""Requests the list, and returns the lines of its table and the notes beside it."""


def watch_lines(lines: Lines, interval: float) -> None:
    """Show the list every `interval` seconds until Ctrl-C.

    A terminal shows it in one place; elsewhere it is printed whenever it has changed. A service
    that does not respond is asked again.
    """
    drawn = is_terminal()
    if drawn:
        print(OTHER_SCREEN, end="")
    try:
        before: object = None
        first = True
        while True:
            try:
                rows, notes = lines()
            except (CannotReach, Refused) as error:
                away = isinstance(error, CannotReach) or error.refusal == DatabaseNotAvailable.code
                if first or not away:
                    raise
                rows, notes = [], [error.message]
            first = False
            if drawn:
                _draw([*rows, *(plain(note) for note in notes)], interval)
            elif (rows, notes) != before:
                print("\n".join([*rows, ""]), flush=True)
                print_notes(notes)
                before = (rows, notes)
            time.sleep(interval)
    except KeyboardInterrupt:
        return
    finally:
        if drawn:
            print(USUAL_SCREEN, end="", flush=True)


def _draw(lines: Sequence[str], interval: float) -> None:
    height = shutil.get_terminal_size().lines
    title = f"every {interval:g} s, now {datetime.now().astimezone():%H:%M:%S}; Ctrl-C ends"
    shown = [title, "", *lines]
    if len(shown) > height:
        shown = [*shown[: height - 1], f"… {len(shown) - height + 1} more"]
    sys.stdout.write(HOME + f"{TO_LINE_END}\n".join(shown) + TO_LINE_END + TO_SCREEN_END)
    sys.stdout.flush()
