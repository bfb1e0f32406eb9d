"""Command line: the progress bar of one job, drawn with rich."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.cells import cell_len
from rich.console import Console, RenderableType
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TaskID
from rich.table import Column
from rich.text import Text

Move = Callable[[str, int, str, float | None], None]
"""Takes the job's action, percent, the step, and the remaining seconds if known."""

WIDE, NARROW = 100, 70
"""Widths of a terminal from which the bar is long, and below which there is none."""
MOST_OF_NAME = 32
BESIDE = len("  100%  0:00")
"""Cells beside name, bar and step, with the gaps; an eta may cut the step."""


class _Field(ProgressColumn):
    """One of the task's fields as text: never markup, cut to the width of the terminal."""

    def __init__(self, name: str, style: str = "", column: Column | None = None) -> None:
        super().__init__(column or Column(no_wrap=True))
        self._name = name
        self._style = style

    def render(self, task: Task) -> Text:
        """Return the field's text."""
        return Text(str(task.fields[self._name]), self._style, no_wrap=True, overflow="ellipsis")


class _Bar(BarColumn):
    """The bar, unless the step needs its room."""

    def __init__(self, terminal: int) -> None:
        super().__init__(bar_width=20 if terminal >= WIDE else 10)
        self._terminal = terminal

    def __call__(self, task: Task) -> RenderableType:
        """Return the bar, or nothing."""
        name = min(MOST_OF_NAME, cell_len(task.fields["what"]))
        used = name + cell_len(task.fields["step"]) + BESIDE + (self.bar_width or 0)
        fits = self._terminal >= max(NARROW, used)
        return super().__call__(task) if fits else ""


class _Percent(ProgressColumn):
    """The progress in percent."""

    def render(self, task: Task) -> Text:
        """Return the percent, such as " 42%"."""
        return Text(f"{task.completed:3.0f}%", "bold")


class _Times(ProgressColumn):
    """The elapsed time and the estimated remaining time; both run on between two responses."""

    def render(self, task: Task) -> Text:
        """Return the times, such as "0:12 eta 0:05"."""
        now = time.monotonic()
        text = Text(clock(now - task.fields["begun"]), "cyan", no_wrap=True)
        eta = task.fields["eta"]
        if eta is not None:
            left = eta - (now - task.fields["moved"])
            if left >= 1:  # an estimate that has run out would say 0:00 for as long as it was wrong
                text.append(f" eta {clock(left)}", "dim")
        return text


@contextmanager
def open_bar(console: Console, begun: float) -> Iterator[Move]:
    """Draw a bar on the terminal's last line until it is closed; `begun`: monotonic time."""
    progress = Progress(
        _Field("what", "bold", Column(no_wrap=True, max_width=MOST_OF_NAME)),
        _Bar(console.width),
        _Percent(Column(no_wrap=True)),
        _Field("step", column=Column(no_wrap=True, ratio=1)),
        _Times(Column(no_wrap=True, justify="right")),
        console=console,
        transient=True,
        expand=True,
    )
    task: TaskID | None = None

    def move(what: str, percent: int, step: str, eta: float | None) -> None:
        nonlocal task
        if task is None:
            task = progress.add_task(
                "", total=100, what="", step="", eta=None, begun=begun, moved=0
            )
        progress.update(
            task, completed=percent, what=what, step=step, eta=eta, moved=time.monotonic()
        )

    with progress:
        yield move


def clock(seconds: float) -> str:
    """Format seconds as m:ss or h:mm:ss."""
    minutes, rest = divmod(int(max(0.0, seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
