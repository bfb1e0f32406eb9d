"""Benchmarks: draws how figures grow, one SVG file each, for docs/performance.md.

A figure of results.json that has `growth` is drawn: {"x": what grows, "unit": of the values,
"series": {name: [[x, value], …]}}. Both axes are logarithmic. The same figures make the same bytes.
"""

import math
from collections.abc import Iterable, Mapping
from html import escape
from pathlib import Path

from benchmarks.measuring import ROOT, Figure

PLOTS = ROOT / "docs/performance"
WIDTH, HEIGHT = 640, 400
LEFT, RIGHT, TOP, BOTTOM = 76, 604, 78, 346
"""The edges of the plotting area."""
COLUMNS = 3
"""Entries of the legend in one row."""
DASHES = ("none", "7 4", "2 3", "9 3 2 3", "4 2", "12 4")
"""Series differ without colours too."""
STYLE = """
  svg { background: #fff; font: 13px system-ui, sans-serif; }
  text { fill: #1f2328; } .grid { stroke: #d8dee4; } .axis { stroke: #59636e; }
  .s0 { --c: #0969da; } .s1 { --c: #bc4c00; } .s2 { --c: #1a7f37; }
  .s3 { --c: #8250df; } .s4 { --c: #bf3989; } .s5 { --c: #57606a; }
  path { fill: none; stroke: var(--c); stroke-width: 2; } circle { fill: var(--c); }
  @media (prefers-color-scheme: dark) {
    svg { background: #0d1117; }
    text { fill: #e6edf3; } .grid { stroke: #30363d; } .axis { stroke: #9198a1; }
    .s0 { --c: #58a6ff; } .s1 { --c: #f0883e; } .s2 { --c: #3fb950; }
    .s3 { --c: #bc8cff; } .s4 { --c: #f778ba; } .s5 { --c: #9198a1; }
  }
"""


def file_of(bench: str) -> str:
    """The name of the file with the plot of a benchmark."""
    return "".join(letter if letter.isalnum() else "_" for letter in bench) + ".svg"


def title_of(figure: Figure) -> str:
    """What a plot shows, in one line."""
    growth = figure["growth"]
    return f"{figure['bench']}: {growth['unit']} by number of {growth['x']}"


def plots(figures: Mapping[str, Figure]) -> dict[str, str]:
    """File name → SVG, for each figure that has growth."""
    grown = (figure for figure in figures.values() if "growth" in figure)
    return {file_of(figure["bench"]): draw(figure) for figure in grown}


def write_plots(figures: Mapping[str, Figure], directory: Path = PLOTS) -> None:
    """Write the plots; remove those of figures that are no more."""
    directory.mkdir(exist_ok=True)
    drawn = plots(figures)
    for path in directory.glob("*.svg"):
        if path.name not in drawn:
            path.unlink()
    for name, text in drawn.items():
        (directory / name).write_text(text)


def draw(figure: Figure) -> str:
    """One plot as SVG. Raise ValueError for a value that no logarithmic axis has."""
    growth = figure["growth"]
    series: dict[str, list[tuple[float, float]]] = growth["series"]
    points = [point for each in series.values() for point in each]
    if not points or min(map(min, points)) <= 0:
        raise ValueError(f"cannot plot {figure['bench']}: logarithmic axes need values above 0")
    across = _Axis((x for x, _ in points), LEFT, RIGHT)
    up = _Axis((y for _, y in points), BOTTOM, TOP)
    parts = [
        f'<text x="{LEFT}" y="24" font-weight="600">{escape(title_of(figure))}</text>',
        *(
            f'<line class="grid" x1="{across.at(x)}" x2="{across.at(x)}" y1="{TOP}" y2="{BOTTOM}"/>'
            f'<text x="{across.at(x)}" y="{BOTTOM + 20}" text-anchor="middle">{_number(x)}</text>'
            for x in across.decades
        ),
        *(
            f'<line class="grid" x1="{LEFT}" x2="{RIGHT}" y1="{up.at(y)}" y2="{up.at(y)}"/>'
            f'<text x="{LEFT - 8}" y="{up.at(y) + 4}" text-anchor="end">{_number(y)}</text>'
            for y in up.decades
        ),
        f'<path class="axis" style="stroke-width: 1" d="M{LEFT} {TOP}V{BOTTOM}H{RIGHT}"/>',
        f'<text x="{(LEFT + RIGHT) // 2}" y="{HEIGHT - 12}" text-anchor="middle">'
        f"number of {escape(growth['x'])}</text>",
        f'<text transform="translate(18 {(TOP + BOTTOM) // 2}) rotate(-90)" text-anchor="middle">'
        f"{escape(growth['unit'])}</text>",
    ]
    for number, (name, each) in enumerate(series.items()):
        parts += _series(number, name, [(across.at(x), up.at(y)) for x, y in each], each[-1][1])
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img">\n'
        f"<title>{escape(title_of(figure))}</title>\n<style>{STYLE}</style>\n"
        + "\n".join(parts)
        + "\n</svg>\n"
    )


def _series(number: int, name: str, places: list[tuple[float, float]], last: float) -> list[str]:
    """One series: its line, its points, its last value and its entry in the legend."""
    row, column = divmod(number, COLUMNS)
    x, y = LEFT + column * (RIGHT - LEFT) // COLUMNS, 46 + 18 * row
    dash = f'stroke-dasharray="{DASHES[number % len(DASHES)]}"'
    line = "L".join(f"{across} {up}" for across, up in places)
    end, top = places[-1]
    return [
        f'<g class="s{number % len(DASHES)}">',
        f'<path d="M{line}" {dash}/>',
        *(f'<circle cx="{across}" cy="{up}" r="3.5"/>' for across, up in places),
        f'<text x="{end - 6}" y="{top - 8}" text-anchor="end">{_number(last)}</text>',
        f'<path d="M{x} {y - 4}h26" {dash}/><text x="{x + 32}" y="{y}">{escape(name)}</text>',
        "</g>",
    ]


class _Axis:
    """A logarithmic axis over whole decades, from pixel `start` to pixel `end`."""

    def __init__(self, values: Iterable[float], start: int, end: int) -> None:
        powers = [math.log10(value) for value in values]
        self._low = math.floor(min(powers))
        self._high = max(math.ceil(max(powers)), self._low + 1)
        self._start, self._end = start, end

    @property
    def decades(self) -> list[float]:
        """The powers of ten on the axis."""
        return [10.0**power for power in range(self._low, self._high + 1)]

    def at(self, value: float) -> float:
        """The pixel of a value."""
        part = (math.log10(value) - self._low) / (self._high - self._low)
        return round(self._start + part * (self._end - self._start), 1)


def _number(value: float) -> str:
    """A number as people write it: three digits, thousands apart, no exponent."""
    digits = max(0, 2 - math.floor(math.log10(value)))
    text = f"{float(f'{value:.3g}'):,.{digits}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text
