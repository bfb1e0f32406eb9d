"""Command line: prints the API's data as text, never as markup or escape sequences."""

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
"""Colours of statuses; others are transitions, and yellow."""

CUT_FIRST = (
    "NAME",
    "HOST",
    "OS",
    "SOURCE",
    "READY ON",
    "VIRT",
    "ORIGIN",
    "BY",
    "OBSERVED",
    "CREATED",
)
"""Columns that are cut first on a narrow terminal."""


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
    return sys.stdout.isatty() and not open_console().is_dumb_terminal


def is_dialogue() -> bool:
    """Whether a prompt can be answered: standard input and output are a terminal."""
    return sys.stdin.isatty() and sys.stdout.isatty()


def open_console() -> "Console":
    """Return a console on the current standard output."""
    from rich.console import Console  # noqa: PLC0415 - rich costs 0.1 s, and help needs none

    return Console(highlight=False, markup=False, emoji=False)


def print_json(data: Any) -> None:
    """Print the API's data as JSON, control characters as \\u escapes."""
    text = json.dumps(data, indent=2, ensure_ascii=False)
    typer.echo("".join(c if is_printable(c, also="\n") else json.dumps(c)[1:-1] for c in text))


def print_table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print a table: on a terminal cut to its width, with a coloured STATUS; elsewhere in full."""
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
                    style=STYLES.get(cell.partition(" ")[0], "yellow") if title == "STATUS" else "",
                    no_wrap=True,
                    overflow="ellipsis",
                )
                for title, cell in zip(header, row, strict=True)
            )
        )
    open_console().print(table)


def print_record(fields: Mapping[str, object]) -> None:
    """Print names and values, one per line; a list one item per line, None and empty not at all."""
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
    """Return a function for the width of text on the screen; only non-ASCII text needs rich."""
    if all(cell.isascii() for row in rows for cell in row):
        return len
    from rich.cells import cell_len  # noqa: PLC0415

    return cell_len
