"""Command line: prints the API's data as text, never as markup or escape sequences."""

import json
import os
import re
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import typer

from virtplay.texts import is_printable

if TYPE_CHECKING:
    from rich.console import Console

COLOUR = re.compile(r"\x1b\[[0-9;]*m")


def plain(value: object) -> str:
    """Return one line of text in which control characters are escapes such as \\x1b."""
    return _escape_odd(str(value), keep="")


def plain_lines(text: str) -> str:
    """Return lines of text without colours and control characters."""
    return _escape_odd(COLOUR.sub("", text).replace("\r\n", "\n"), keep="\n\t")


def _escape_odd(text: str, keep: str) -> str:
    return "".join(c if is_printable(c, also=keep) else ascii(c)[1:-1] for c in text)


def split_lines(text: str) -> list[str]:
    """Return the lines of a text for print_record, with tabs as spaces."""
    return text.expandtabs().split("\n")


def is_terminal() -> bool:
    """Whether standard output is a terminal that can draw a bar."""
    return sys.stdout.isatty() and os.environ.get("TERM", "dumb") not in ("dumb", "unknown")


def has_colours() -> bool:
    """Whether the terminal of standard output shows colours; NO_COLOR forbids them."""
    return is_terminal() and not os.environ.get("NO_COLOR")


def is_dialogue() -> bool:
    """Whether a prompt can be answered: standard input and output are a terminal."""
    return sys.stdin.isatty() and sys.stdout.isatty()


@contextmanager
def unwound_by_signals() -> Iterator[None]:
    """Let SIGTERM and SIGHUP end the block as an exception does, so that it can clean up.

    One that is ignored, as by nohup, stays so.
    """
    before = {
        number: signal.signal(number, _leave)
        for number in (signal.SIGTERM, signal.SIGHUP)
        if signal.getsignal(number) != signal.SIG_IGN
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _leave(number: int, _frame: object) -> None:
    sys.exit(128 + number)


def open_console() -> "Console":
    """Return a console on the current standard output."""
    from rich.console import Console  # noqa: PLC0415 - rich costs 0.1 s, and help needs none

    return Console(highlight=False, markup=False, emoji=False)


def print_json(data: Any) -> None:
    """Print the API's data as JSON, control characters as \\u escapes."""
    text = json.dumps(data, indent=2, ensure_ascii=False)
    typer.echo("".join(c if is_printable(c, also="\n") else json.dumps(c)[1:-1] for c in text))


def print_notes(notes: Sequence[str]) -> None:
    """Print lines on standard error, beside the output."""
    for note in notes:
        print(plain(note), file=sys.stderr)


def print_record(fields: Mapping[str, object]) -> None:
    """Print names and values, one per line, and a list one item per line.

    None is "-", as in tables: not known, or none. A line that says something only in some records
    is empty in the others, and is left out.
    """
    width = max(len(name) for name in fields) + 2
    for name, value in fields.items():
        lines = value if isinstance(value, list) else ["-" if value is None else value]
        for number, line in enumerate(entry for entry in lines if entry != ""):
            title = f"{name}:" if number == 0 else ""
            typer.echo(f"{title:{width}}{plain(line)}")
