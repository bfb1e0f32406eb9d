"""Command line: puts what the API said on the screen, as text and never as markup or escapes."""

import json
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import typer

from virtplay.texts import is_printable

if TYPE_CHECKING:
    from rich.console import Console

COLOUR = re.compile(r"\x1b\[[0-9;]*m")
STYLES = {
    "running": "green",
    "ready": "green",
    "succeeded": "green",
    "stopped": "dim",
    "cancelled": "dim",
    "unknown": "dim",
    "paused": "yellow",
    "error": "red",
    "unreachable": "red",
    "failed": "red",
    "lost": "red",
}
"""Colours of statuses; one that is not listed is on its way somewhere, and yellow."""

CUT_FIRST = ("NAME", "HOST", "OS", "SOURCE", "READY ON", "BY", "SEEN", "CREATED")
"""Columns that give way first where the terminal is narrow."""


def plain(value: object) -> str:
    """One line of text without control characters: they are shown as \\x1b and the like."""
    return _escape_odd(str(value), keep="")


def plain_lines(text: str) -> str:
    """Text of many lines without colours and control characters, line ends kept."""
    return _escape_odd(COLOUR.sub("", text).replace("\r\n", "\n"), keep="\n\t")


def _escape_odd(text: str, keep: str) -> str:
    return "".join(c if is_printable(c, also=keep) else ascii(c)[1:-1] for c in text)


def is_terminal() -> bool:
    """Whether a person looks at standard output, on a terminal that can draw."""
    return sys.stdout.isatty() and not open_console().is_dumb_terminal


def is_dialogue() -> bool:
    """Whether somebody can answer: both input and output are a terminal."""
    return sys.stdin.isatty() and sys.stdout.isatty()


def open_console() -> "Console":
    """A console on standard output, as it is now."""
    from rich.console import Console  # noqa: PLC0415 - rich costs 0.1 s, and help needs none

    return Console(highlight=False, markup=False, emoji=False)


def print_json(data: Any) -> None:
    """The API's data as JSON; what acts on terminals becomes \\u escapes."""
    text = json.dumps(data, indent=2, ensure_ascii=False)
    typer.echo("".join(c if is_printable(c, also="\n") else json.dumps(c)[1:-1] for c in text))


def print_table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """A table: on a terminal cut to its width, elsewhere in full; a column STATUS is coloured."""
    cells = [[plain("-" if cell is None else cell) for cell in row] for row in rows]
    if not is_terminal():
        _print_aligned([list(header), *cells])
        return
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in header:
        table.add_column(Text(title), no_wrap=title not in CUT_FIRST)
    for row in cells:
        table.add_row(
            *(
                Text(
                    cell,
                    style=STYLES.get(cell, "yellow") if title == "STATUS" else "",
                    no_wrap=True,
                    overflow="ellipsis",
                )
                for title, cell in zip(header, row, strict=True)
            )
        )
    open_console().print(table)


def print_record(fields: Mapping[str, object]) -> None:
    """Names and values, one a line; a list takes a line each, what is None or empty none."""
    width = max(len(name) for name in fields) + 2
    for name, value in fields.items():
        lines = value if isinstance(value, list) else [value]
        for number, line in enumerate(entry for entry in lines if entry not in (None, "")):
            title = f"{name}:" if number == 0 else ""
            typer.echo(f"{title:{width}}{plain(line)}")


def _print_aligned(rows: Sequence[Sequence[str]]) -> None:
    measure = _cell_width(rows)
    widths = [max(measure(row[n]) for row in rows) for n in range(len(rows[0]))]
    for row in rows:
        padded = (c + " " * (width - measure(c)) for c, width in zip(row, widths, strict=True))
        typer.echo("  ".join(padded).rstrip())


def _cell_width(rows: Sequence[Sequence[str]]) -> Callable[[str], int]:
    """How wide a text is on the screen; rich knows Chinese and emoji, and is asked only then."""
    if all(cell.isascii() for row in rows for cell in row):
        return len
    from rich.cells import cell_len  # noqa: PLC0415

    return cell_len
