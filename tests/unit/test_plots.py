"""Unit tests: the plots of docs/performance.md."""

import json
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest

from benchmarks import tables
from benchmarks.plots import PLOTS, draw, plots, write_plots
from benchmarks.tables import images, results, write_fresh

SVG = "{http://www.w3.org/2000/svg}"
FIGURE: dict[str, Any] = {
    "bench": "lists & more",
    "growth": {
        "x": "VMs",
        "unit": "ms",
        "series": {
            "search p50": [[100, 2.5], [1000, 10], [10_000, 100]],
            "first page": [[100, 1], [10_000, 1]],
        },
    },
}


def test_committed_plots_are_what_the_figures_make() -> None:
    drawn = {path.name: path.read_text() for path in PLOTS.glob("*.svg")}
    assert drawn == plots(results())


def test_points_lie_where_logarithmic_axes_have_them() -> None:
    root = ET.fromstring(draw(FIGURE))
    first, second = root.findall(f"{SVG}g")
    points = [(float(c.get("cx", 0)), float(c.get("cy", 0))) for c in first.iter(f"{SVG}circle")]
    (x1, y1), (x2, y2), (x3, y3) = points
    assert x2 - x1 == pytest.approx(x3 - x2, abs=0.2)
    assert y2 - y3 == pytest.approx((y1 - y2) / (1 - 0.39794), rel=0.01)
    assert [len(group.findall(f"{SVG}circle")) for group in (first, second)] == [3, 2]


def test_axes_have_titles_with_units_and_every_series_a_name() -> None:
    texts = [text.text for text in ET.fromstring(draw(FIGURE)).iter(f"{SVG}text")]
    assert {"number of VMs", "ms", "search p50", "first page"} <= set(texts)
    assert {"100", "1,000", "10,000"} <= set(texts)
    assert "lists & more: ms by number of VMs" in texts


def test_a_plot_is_legible_on_light_and_dark_pages() -> None:
    style = draw(FIGURE).split("<style>")[1].split("</style>")[0]
    light, dark = style.split("@media (prefers-color-scheme: dark)")
    for rule in (r"svg {[^}]*background: (#\w+)", r"text { fill: (#\w+)"):
        one, other = re.search(rule, light), re.search(rule, dark)
        assert one
        assert other
        assert one[1] != other[1]


@pytest.mark.parametrize("points", [[], [[100, 0]], [[0, 5]]])
def test_what_no_logarithmic_axis_has_is_refused(points: list[list[float]]) -> None:
    growth = {**FIGURE["growth"], "series": {"none": points}}
    with pytest.raises(ValueError, match="cannot plot lists & more"):
        draw({**FIGURE, "growth": growth})


def test_plots_of_figures_that_are_no_more_are_removed(tmp_path: Path) -> None:
    write_plots({"a": FIGURE, "b": {"bench": "b", "seconds_s": 1}}, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["lists___more.svg"]
    write_plots({}, tmp_path)
    assert not list(tmp_path.iterdir())


def test_the_page_shows_each_plot() -> None:
    assert images({"a": FIGURE}) == [
        "![lists & more: ms by number of VMs](performance/lists___more.svg)"
    ]


def test_the_figures_of_one_run_are_a_file_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tables, "FRESH", tmp_path / "build" / "bench.json")
    write_fresh([{"bench": "a", "a_s": 1}, {"bench": "b", "b_s": 2}])
    assert json.loads(tables.FRESH.read_text())["b"] == {"bench": "b", "b_s": 2}
