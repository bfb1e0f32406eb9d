"""Build panels of the Grafana dashboards: figures, graphs and tables of Prometheus queries."""

from dataclasses import dataclass
from typing import Any

from grafana_foundation_sdk.builders import (
    common,
    dashboard,
    prometheus,
    stat,
    statetimeline,
    table,
    timeseries,
)
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.models import common as kinds
from grafana_foundation_sdk.models import dashboard as models
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

SOURCE = models.DataSourceRef(type_val="prometheus", uid="${datasource}")
"""The Prometheus data source selected at the top of the dashboard."""
WIDTH = 24
"""Number of grid columns of a dashboard."""

Steps = tuple[tuple[float | None, str], ...]
Panel = stat.Panel | table.Panel | timeseries.Panel | statetimeline.Panel


@dataclass(frozen=True)
class Line:
    """One query of a panel, and the legend of its series."""

    expr: str
    legend: str = ""


@dataclass(frozen=True)
class Place:
    """Position and size of a panel, in grid units."""

    x: int
    y: int
    w: int
    h: int


class Marks(models.AnnotationQuery, Builder[models.AnnotationQuery]):
    """An annotation of a Prometheus query with a title, which the model does not have."""

    def __init__(self, title: str, **values: Any) -> None:
        super().__init__(**values)
        self.title = title

    def to_json(self) -> dict[str, object]:
        """Return it as Grafana reads it."""
        return {**super().to_json(), "titleFormat": self.title}

    def build(self) -> models.AnnotationQuery:
        """Return it: a dashboard takes builders."""
        return self


def at(panel: Panel, place: Place) -> Panel:
    """Return the panel, positioned at the place."""
    return panel.grid_pos(models.GridPos(h=place.h, w=place.w, x=place.x, y=place.y))


def grid(made: dashboard.Dashboard, top_row: int, *panels: timeseries.Panel) -> None:
    """Add panels below a row, three per row."""
    width, height = 8, 8
    for number, panel in enumerate(panels):
        row, column = divmod(number, WIDTH // width)
        made.with_panel(at(panel, Place(column * width, top_row + row * height, width, height)))


def thresholds(steps: Steps) -> dashboard.ThresholdsConfig:
    """Return thresholds from (lower bound, colour); the first bound is None."""
    return (
        dashboard.ThresholdsConfig()
        .mode(models.ThresholdsMode.ABSOLUTE)
        .steps([models.Threshold(value=value, color=colour) for value, colour in steps])
    )


def query(line: Line, ref: str, *, now: bool = False) -> prometheus.Dataquery:
    """Return one query over the time range, or with `now` at its end only."""
    made = prometheus.Dataquery().expr(line.expr).ref_id(ref).datasource(SOURCE)
    if line.legend:
        made.legend_format(line.legend)
    return made.instant() if now else made.range()


def figure(
    title: str,
    expr: str,
    *,
    unit: str = "none",
    steps: Steps = ((None, "text"),),
    decimals: int | None = None,
    names: dict[str, str] | None = None,
    legend: str = "",
    text: str = "",
) -> stat.Panel:
    """Return a panel with the current value; with `legend`, the labels replace the value."""
    made = (
        stat.Panel()
        .title(title)
        .description(text)
        .datasource(SOURCE)
        .unit(unit)
        .thresholds(thresholds(steps))
        .color_mode(kinds.BigValueColorMode.VALUE)
        .graph_mode(kinds.BigValueGraphMode.NONE)
        .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
        .with_target(query(Line(expr, legend), "A", now=True))
    )
    if decimals is not None:
        made.decimals(decimals)
    if legend:
        made.text_mode(kinds.BigValueTextMode.NAME)
    if names:
        results = {value: models.ValueMappingResult(text=name) for value, name in names.items()}
        made.mappings([models.ValueMap(options=results)])
    return made


def graph(
    title: str,
    *lines: Line,
    unit: str = "none",
    steps: Steps = (),
    ceiling: float | None = None,
    stacked: bool = False,
    text: str = "",
) -> timeseries.Panel:
    """Return a graph of lines over time, in which gaps are not connected."""
    made = (
        timeseries.Panel()
        .title(title)
        .description(text)
        .datasource(SOURCE)
        .unit(unit)
        .min(0)
        .fill_opacity(30 if stacked else 10)
        .show_points(kinds.VisibilityMode.NEVER)
        .span_nulls(False)
        .legend(
            common.VizLegendOptions()
            .display_mode(kinds.LegendDisplayMode.LIST)
            .placement(kinds.LegendPlacement.BOTTOM)
            .show_legend(True)
        )
        .tooltip(
            common.VizTooltipOptions()
            .mode(kinds.TooltipDisplayMode.MULTI)
            .sort(kinds.SortOrder.DESCENDING)
        )
    )
    if steps:
        made.thresholds(thresholds(steps)).thresholds_style(
            common.GraphThresholdsStyleConfig().mode(kinds.GraphThresholdsStyleMode.DASHED)
        )
    if ceiling is not None:
        made.max(ceiling)
    if stacked:
        made.stacking(common.StackingConfig().mode(kinds.StackingMode.NORMAL).group("A"))
    for number, line in enumerate(lines):
        made.with_target(query(line, chr(ord("A") + number)))
    return made


def rows(
    title: str,
    columns: dict[str, tuple[str, str]],
    shown: dict[str, tuple[str, str]],
    *,
    labels: str = "",
    names: dict[str, dict[str, models.ValueMappingResult]] | None = None,
    text: str = "",
) -> table.Panel:
    """Return a table that joins several queries on their labels, one column per query.

    `columns` maps a column to its query and unit, `shown` a label to its title and link. `labels`
    is a query of which only the labels are shown. `names` maps a column to texts for its values.
    """
    made = table.Panel().title(title).description(text).datasource(SOURCE).filterable(True)
    for number, expr in enumerate([*(expr for expr, _ in columns.values()), labels]):
        ref = chr(ord("A") + number)
        if not expr:
            break
        made.with_target(query(Line(expr), ref, now=True).format(PromQueryFormat.TABLE))
    values = {f"Value #{chr(ord('A') + n)}": name for n, name in enumerate(columns)}
    # The UUID, which links need, comes last.
    order = sorted((*shown, *values), key=lambda name: name == "uuid")
    last = f"Value #{chr(ord('A') + len(columns))}"
    made.with_transformation(models.DataTransformerConfig(id_val="merge", options={}))
    made.with_transformation(
        models.DataTransformerConfig(
            id_val="organize",
            options={
                # A single query has a plain Value.
                "excludeByName": {"Time": True, "Value": True, last: True},
                "indexByName": {name: number for number, name in enumerate(order)},
                "renameByName": {
                    **values,
                    **{label: called for label, (called, _) in shown.items()},
                },
            },
        )
    )
    for name, (_, unit) in columns.items():
        options = [models.DynamicConfigValue(id_val="unit", value=unit)]
        if texts := (names or {}).get(name):
            mapping = models.ValueMap(options=texts)
            options += [
                models.DynamicConfigValue(id_val="mappings", value=[mapping]),
                models.DynamicConfigValue("custom.cellOptions", {"type": "color-text"}),
            ]
        made.override_by_name(name, options)
    for called, url in shown.values():
        if url:
            links = [{"title": "Open ${__value.text}", "url": url}]
            made.override_by_name(called, [models.DynamicConfigValue("links", links)])
    return made
