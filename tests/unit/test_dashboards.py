"""The Grafana dashboards that are shipped: made by the code, of names that exist."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import Dashboard

from scripts.dashboards import DIRECTORY, dashboards
from tests.unit.published import labels_of, published
from tests.unit.test_prometheus_files import promtool

GRAFANA = DIRECTORY.parent
NAMES = ["fleet.json", "host.json", "vm.json"]
VALUES = {
    "$__rate_interval": "5m",
    "$__range": "1h",
    "$host": "kvm1",
    "$domain": "vm-001",
}
UNITS = {"none", "percentunit", "bytes", "Bps", "s", "pps", "iops", "ops", "opm", "reqps"}
"""Of Grafana's units, those in use here; one that it does not know is shown as text."""


@pytest.fixture(params=NAMES)
def shipped(request: pytest.FixtureRequest) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((DIRECTORY / request.param).read_text())
    return found


def expressions(dashboard: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Every query of a dashboard with values in its variables' places, and its legend."""
    for panel in dashboard["panels"]:
        for target in panel["targets"]:
            expr = target["expr"]
            for variable, value in VALUES.items():
                expr = expr.replace(variable, value)
            assert "$" not in expr, f"unknown variable in {expr}"
            yield expr, target.get("legendFormat", "")


def test_files_are_what_the_code_makes() -> None:
    made = dict(dashboards())
    shown = {path.name: path.read_text() for path in DIRECTORY.iterdir()}
    assert sorted(made) == sorted(shown) == NAMES
    assert made == shown, "run make dashboards, and read what it changed"


def test_dashboard_loads_anywhere(shipped: dict[str, Any]) -> None:
    assert shipped["uid"].startswith("virtplay-")
    assert shipped["schemaVersion"] >= 41
    assert "id" not in shipped, "an id belongs to one Grafana"
    first = shipped["templating"]["list"][0]
    assert (first["type"], first["name"], first["query"]) == (
        "datasource",
        "datasource",
        "prometheus",
    )
    places: set[tuple[int, int]] = set()
    assert len({panel["title"] for panel in shipped["panels"]}) == len(shipped["panels"])
    for panel in shipped["panels"]:
        for asking in (panel, *panel["targets"]):
            assert asking["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
        refs = [target["refId"] for target in panel["targets"]]
        assert len(set(refs)) == len(refs)
        assert panel["fieldConfig"]["defaults"].get("unit", "none") in UNITS
        spot = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(spot["x"], spot["x"] + spot["w"])
            for y in range(spot["y"], spot["y"] + spot["h"])
        }
        assert not cells & places, f"{panel['title']} lies on another panel"
        assert all(x < 24 for x, _ in cells)
        places |= cells


def test_dashboard_has_the_shape_that_grafana_reads(shipped: dict[str, Any]) -> None:
    """Grafana is no package of Debian: what its own types read back must be all there is."""
    read = Dashboard.from_json(json.loads(json.dumps(shipped)))
    assert json.loads(JSONEncoder(sort_keys=True).encode(read)) == shipped


def test_lines_are_named_and_gaps_are_gaps(shipped: dict[str, Any]) -> None:
    for panel in shipped["panels"]:
        if panel["type"] == "timeseries":
            assert all(target["legendFormat"] for target in panel["targets"]), panel["title"]
            assert panel["fieldConfig"]["defaults"]["custom"]["spanNulls"] is False


def test_thresholds_begin_anywhere_and_rise(shipped: dict[str, Any]) -> None:
    for panel in shipped["panels"]:
        steps = panel["fieldConfig"]["defaults"].get("thresholds", {}).get("steps", [])
        values = [step["value"] for step in steps]
        assert values[:1] in ([], [None])
        assert values[1:] == sorted(values[1:])


def test_queries_ask_for_what_there_is(shipped: dict[str, Any]) -> None:
    metrics = published()
    for expr, legend in expressions(shipped):
        labels = labels_of(expr, metrics)
        assert set(re.findall(r"{{(\w+)}}", legend)) <= labels, f"{legend} of {expr}"


def test_variables_ask_for_what_there_is(shipped: dict[str, Any]) -> None:
    metrics = published()
    for variable in shipped["templating"]["list"][1:]:
        match = re.fullmatch(r"label_values\((.*), (\w+)\)", variable["query"])
        assert match
        assert match[2] in labels_of(match[1].replace("$host", "kvm1"), metrics)


def test_links_lead_to_dashboards_and_their_variables() -> None:
    made = {shown["uid"]: shown for shown in (json.loads(text) for _, text in dashboards())}
    links = re.findall(r"/d/([\w-]+)\?([^\"]*)", "".join(text for _, text in dashboards()))
    assert {uid for uid, _ in links} == {"virtplay-host", "virtplay-vm"}
    for uid, query in links:
        variables = {variable["name"] for variable in made[uid]["templating"]["list"]}
        assert set(re.findall(r"var-(\w+)=", query)) <= variables


@pytest.mark.needs("promtool")
def test_queries_are_promql(tmp_path: Path) -> None:
    asked = [
        {"record": f"query_{number}", "expr": expr}
        for number, expr in enumerate(
            expr
            for name in NAMES
            for expr, _ in expressions(json.loads((DIRECTORY / name).read_text()))
        )
    ]
    assert len(asked) > 60
    rules = tmp_path / "queries.yml"
    rules.write_text(yaml.safe_dump({"groups": [{"name": "queries", "rules": asked}]}))
    assert f"{len(asked)} rules found" in promtool("check", "rules", rules)


def test_provisioning_reads_these_dashboards_from_this_source() -> None:
    provider = yaml.safe_load((GRAFANA / "provisioning/dashboards/virtplay.yml").read_text())
    source = yaml.safe_load((GRAFANA / "provisioning/datasources/virtplay.yml").read_text())
    path = provider["providers"][0]["options"]["path"]
    assert path in (GRAFANA.parent / "docs/monitoring.md").read_text()
    [ours] = source["datasources"]
    assert (ours["type"], ours["isDefault"]) == ("prometheus", False)
    assert ours["name"] != "Prometheus", "that may be the name of somebody's own"
