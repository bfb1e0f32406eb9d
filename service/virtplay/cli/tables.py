"""Command line: tables that fit the terminal; ids and names stay, other columns go first."""

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from virtplay.cli.faults import WrongValue
from virtplay.cli.screen import has_colours, is_terminal, plain
from virtplay.texts import did_you_mean

GAP = "  "
SHORT, SHORTEST = 20, 8
"""Cells to which text is cut before a column is left out, and afterwards."""
NARROW = 50
"""Cells below which an entry that does not fit takes two lines."""
STATUS_COLOURS = {
    "running": "32",
    "ready": "32",
    "succeeded": "32",
    "stopped": "2",
    "cancelled": "2",
    "unknown": "2",
    "paused": "33",
    "error": "31",
    "unreachable": "31",
    "failed": "31",
    "lost": "31",
}
"""Codes of the terminal for statuses; others are transitions, and yellow."""
BOLD, YELLOW = "1", "33"


@dataclass(frozen=True)
class Column:
    """One column of a table."""

    title: str
    value: Callable[[Any], object]
    """Entry → its text; None and empty are shown as "-"."""
    rank: int = 0
    """Columns of a higher rank are left out first on a narrow terminal; those of rank 0 never."""
    cut: bool = False
    """Whether its texts may be cut; ids never are."""
    extra: bool = False
    """Whether it is shown only when --columns names it."""

    @property
    def key(self) -> str:
        """Its name in --columns."""
        return self.title.lower().replace(" ", "-")


class Table:
    """The columns of a list."""

    def __init__(self, *columns: Column) -> None:
        self.columns = {column.key: column for column in columns}

    def choose(self, given: str | None) -> list[Column]:
        """Return the columns of --columns, or the usual ones; WrongValue for an unknown one."""
        if given is None:
            return [column for column in self.columns.values() if not column.extra]
        chosen = []
        for key in (word.strip().lower() for word in given.split(",")):
            if key not in self.columns:
                known = list(self.columns)
                raise WrongValue(
                    f"cannot use columns {given}: unknown column {key!r}"
                    f"{did_you_mean(key, known) or ';'} columns: {', '.join(known)}"
                )
            chosen.append(self.columns[key])
        return chosen

    def lines(self, entries: Sequence[Any], chosen: str | None = None) -> list[str]:
        """Return the lines of the table: on a terminal fitted to its width, elsewhere in full."""
        columns = self.choose(chosen)
        rows = [[_cell(column.value(entry)) for column in columns] for entry in entries]
        if not is_terminal():
            return draw(columns, rows, None, colours=False)
        return draw(columns, rows, shutil.get_terminal_size().columns, colours=has_colours())


def draw(
    columns: Sequence[Column], rows: Sequence[Sequence[str]], room: int | None, *, colours: bool
) -> list[str]:
    """Return a header and a line for each row, at most `room` cells wide if that is possible.

    On a narrow terminal each has a second line, so that ids and names are whole in the first.
    """
    stay = [number for number, column in enumerate(columns) if not column.rank]
    go = [number for number, column in enumerate(columns) if column.rank]
    if room is None or room >= NARROW or not (stay and go and _over(_widths(columns, rows), room)):
        return _draw_lines(columns, rows, room, colours=colours)
    first, second = (
        _draw_lines(
            [columns[number] for number in numbers],
            [[row[number] for number in numbers] for row in rows],
            width,
            colours=colours,
        )
        for numbers, width in ((stay, None), (go, room - len(GAP)))
    )
    return [line for one, two in zip(first, second, strict=True) for line in (one, GAP + two)]


def _draw_lines(
    columns: Sequence[Column], rows: Sequence[Sequence[str]], room: int | None, *, colours: bool
) -> list[str]:
    measure = _measure(rows)
    widths = _widths(columns, rows)
    if room is not None:
        widths = fit(columns, widths, room)
    titles = [column.title for column in columns]
    lines = []
    for row in (titles, *rows):
        parts = []
        for number, width in widths.items():
            cell = _cut(row[number], width, measure)
            style = BOLD if row is titles else _style(cell) if titles[number] == "STATUS" else ""
            shown = f"\x1b[{style}m{cell}\x1b[0m" if style and colours else cell
            parts.append(shown + " " * (width - measure(cell)))
        lines.append(GAP.join(parts).rstrip())
    return lines


def _widths(columns: Sequence[Column], rows: Sequence[Sequence[str]]) -> dict[int, int]:
    """Return the number of each column → the cells of its longest text."""
    measure = _measure(rows)
    return {
        number: max([len(column.title), *(measure(row[number]) for row in rows)])
        for number, column in enumerate(columns)
    }


def fit(columns: Sequence[Column], widths: Mapping[int, int], room: int) -> dict[int, int]:
    """Return the columns that stay, and their widths: texts are cut a little, then columns go.

    What does not fit then is cut more. Ids stay whole in any case.
    """
    kept = dict(widths)
    while _over(fitted := _shrink(columns, kept, room, SHORT), room):
        ranked = [n for n in kept if columns[n].rank]
        if not ranked:
            return _shrink(columns, kept, room, SHORTEST)
        del kept[max(ranked, key=lambda n: columns[n].rank)]
    return fitted


def _shrink(
    columns: Sequence[Column], widths: Mapping[int, int], room: int, floor: int
) -> dict[int, int]:
    shrunk = dict(widths)
    while _over(shrunk, room):
        wide = [
            n for n in shrunk if columns[n].cut and shrunk[n] > max(floor, len(columns[n].title))
        ]
        if not wide:
            break
        shrunk[max(wide, key=lambda n: shrunk[n])] -= 1
    return shrunk


def _over(widths: Mapping[int, int], room: int) -> bool:
    return sum(widths.values()) + len(GAP) * (len(widths) - 1) > room


def _cell(value: object) -> str:
    return "-" if value is None or value == "" else plain(value)


def _style(status: str) -> str:
    return "" if status == "-" else STATUS_COLOURS.get(status.partition(" ")[0], YELLOW)


def _cut(text: str, width: int, measure: Callable[[str], int]) -> str:
    if measure(text) <= width:
        return text
    kept = text
    while measure(kept) > width - 1:
        kept = kept[:-1]
    return f"{kept}…"


def _measure(rows: Sequence[Sequence[str]]) -> Callable[[str], int]:
    """Return a function for the width of text on the screen; only non-ASCII text needs rich."""
    if all(cell.isascii() for row in rows for cell in row):
        return len
    from rich.cells import cell_len  # noqa: PLC0415

    return cell_len
