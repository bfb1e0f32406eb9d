"""Build panels of the Grafana dashboards: figures, graphs and tables of Prometheus queries."""

from dataclasses import dataclass

from grafana_foundation_sdk.builders import (
    common,
    dashboard,
    prometheus,
    stat,
    statetimeline,
    table,
    timeseries,
)
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
    title: str, key: str, columns: dict[str, tuple[str, str]], shown: dict[str, tuple[str, str]]
) -> table.Panel:
    """Return a table that joins several queries on the label `key`, one column per query.

    `columns` maps a column to its query and unit, `shown` a label to its title and link.
    """
    made = table.Panel().title(title).datasource(SOURCE).filterable(True)
    for number, (expr, _) in enumerate(columns.values()):
        ref = chr(ord("A") + number)
        made.with_target(query(Line(expr), ref, now=True).format(PromQueryFormat.TABLE))
    names = {f"Value #{chr(ord('A') + n)}": name for n, name in enumerate(columns)}
    last = f"Value #{chr(ord('A') + len(columns))}"
    made.with_transformation(models.DataTransformerConfig(id_val="merge", options={}))
    made.with_transformation(
        models.DataTransformerConfig(
            id_val="organize",
            options={
                "excludeByName": {"Time": True, "uuid": True, last: True},
                "indexByName": {name: number for number, name in enumerate((*shown, *names))},
                "renameByName": {
                    **names,
                    **{label: called for label, (called, _) in shown.items()},
                },
            },
        )
    )
    for name, (_, unit) in columns.items():
        made.override_by_name(name, [models.DynamicConfigValue(id_val="unit", value=unit)])
    title_of_key, url = shown[key]
    links = [{"title": "Open ${__value.text}", "url": url}]
    return made.override_by_name(
        title_of_key, [models.DynamicConfigValue(id_val="links", value=links)]
    )
