"""The Grafana dashboards that are shipped: made by the code, of names that exist."""

from __future__ import annotations

import json
import re
import subprocess
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
ROOT = GRAFANA.parent
NAMES = ["fleet.json", "host.json", "vm.json"]
VALUES = {
    "$__rate_interval": "5m",
    "$__range": "1h",
    "$host": "kvm1",
    "$vm": "00001234-5000-0000-0000-000000000001",
}


@pytest.fixture(params=NAMES)
def shipped(request: pytest.FixtureRequest) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((DIRECTORY / request.param).read_text())
    return found


def with_values(expr: str) -> str:
    """A query with values in its variables' places."""
    for variable, value in VALUES.items():
        expr = expr.replace(variable, value)
    assert "$" not in expr, f"unknown variable in {expr}"
    return expr


def expressions(dashboard: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Every query of a dashboard with values in its variables' places, and its legend."""
    for panel in dashboard["panels"]:
        for target in panel["targets"]:
            yield with_values(target["expr"]), target.get("legendFormat", "")
    for marks in dashboard["annotations"]["list"]:
        yield with_values(marks["expr"]), marks["titleFormat"]


def test_files_are_what_the_code_makes() -> None:
    made = dict(dashboards())
    shown = {path.name: path.read_text() for path in DIRECTORY.iterdir()}
    assert sorted(made) == sorted(shown) == NAMES
    assert made == shown, "run make dashboards, and read what it changed"


def test_page_names_the_dashboard_with_the_address_of_the_service() -> None:
    named = re.search(
        r"In the dashboard \*(.+)\* the field \*(.+)\* at the\s+top has the address of the service",
        (ROOT / "docs/monitoring.md").read_text(),
    )
    assert named
    fields = [
        (made["title"], variable["label"])
        for name in NAMES
        for made in [json.loads((DIRECTORY / name).read_text())]
        for variable in made["templating"]["list"]
        if variable["type"] == "textbox"
    ]
    assert fields == [named.groups()]


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
    for marks in shipped["annotations"]["list"]:
        assert marks.pop("titleFormat"), "the one key that their types do not have"
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
        if variable["type"] == "textbox":
            continue
        if match := re.fullmatch(r"label_values\((.*), (\w+)\)", variable["query"]):
            assert match[2] in labels_of(with_values(match[1]), metrics)
        else:
            match = re.fullmatch(r"query_result\((.*)\)", variable["query"])
            assert match
            wanted = set(re.findall(r'(\w+)="\(\?<', variable["regex"]))
            assert wanted == {"text", "uuid"}
            assert wanted <= labels_of(with_values(match[1]), metrics)


HOSTILE = ['a "b", uuid="c"', 'text="x', ',text="x', 'a",text="b', '{text="x', 'a",uuid="b"} 1 2']
"""Names that contain what the picker's regular expression looks for."""


@pytest.mark.parametrize("name", ["web", "web on kvm2", "名前", *HOSTILE])
def test_a_vm_is_picked_by_name_and_host(name: str) -> None:
    """Two hosts may have a VM of one name."""
    shown = json.loads((DIRECTORY / "vm.json").read_text())
    [variable] = [one for one in shown["templating"]["list"] if one["name"] == "vm"]
    regex = variable["regex"].strip("/").replace("(?<", "(?P<")
    # As Grafana writes the answer of query_result: labels by name, nothing escaped.
    answer = f'{{text="{name} on kvm1",uuid="1-2-3"}} 1 1700000000000'
    found = re.search(regex, answer)
    assert found
    assert (found["text"], found["value"]) == (f"{name} on kvm1", "1-2-3")


def test_links_lead_to_dashboards_and_their_variables() -> None:
    made = {shown["uid"]: shown for shown in (json.loads(text) for _, text in dashboards())}
    written = "".join(text for _, text in dashboards())
    links = re.findall(r"/d/([\w-]+)\?([^\"]*)", written)
    assert {uid for uid, _ in links} == {"virtplay-host", "virtplay-vm"}
    for uid, query in links:
        variables = {variable["name"] for variable in made[uid]["templating"]["list"]}
        assert set(re.findall(r"var-(\w+)=", query)) <= variables


def test_tables_and_units_are_what_grafana_makes_of_them() -> None:
    """By Grafana's own code, which `scripts/setup dev` takes from npm."""
    code = ROOT / "tests/grafana"
    if not (code / "node_modules/.complete").exists():
        pytest.fail("the test needs Grafana's npm packages: run make setup-dev", pytrace=False)
    done = subprocess.run(
        ["node", code / "read.cjs", *(DIRECTORY / name for name in NAMES)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    read = json.loads(done.stdout)
    assert read["units"] == []
    # A row for each VM or host, and no column that nobody has named.
    assert read["tables"].keys() == {
        "Hosts",
        "VMs that need attention",
        "Snapshot schedules",
        "VMs",
    }
    for title, (columns, count) in read["tables"].items():
        assert count == 2, title
        assert all(re.fullmatch(r"(v?CPU|[A-Z]).*", column) for column in columns), title
        assert not any(column.startswith("Value") for column in columns), title
        # Links of rows have the fields by these names.
        wanted = {"Host"} if title == "Hosts" else {"VM", "Host", "UUID"}
        assert wanted <= set(columns), title


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
