"""The commands of docs/monitoring.md, on a machine that has a Prometheus and a Grafana already."""

from __future__ import annotations

import asyncio
import hashlib
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from virtplay.store.database import close_database, open_database

from tests.unit.pages import marked_blocks
from tests.unit.test_prometheus_files import promtool

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs/monitoring.md"
RUN = marked_blocks(PAGE, "run")
ADD = marked_blocks(PAGE, "add")
THEIRS = {
    "etc/prometheus/prometheus.yml": """\
global: {scrape_interval: 30s}
rule_files: [rules/*.yml]
scrape_configs:
  - job_name: node
    static_configs:
      - targets: [localhost:9100]
""",
    "etc/prometheus/rules/alerts.yml": "groups: []\n",
    "etc/prometheus/token": "another-token\n",
    "etc/grafana/provisioning/datasources/prometheus.yml": """\
apiVersion: 1
datasources:
  - {name: Prometheus, type: prometheus, url: http://localhost:9090, isDefault: true}
""",
    "etc/grafana/provisioning/dashboards/prometheus.yml": "apiVersion: 1\nproviders: []\n",
    "var/lib/grafana/dashboards/fleet.json": "{}\n",
}
"""What a machine may have, under names that might be ours."""


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    """A directory that stands for the root of a machine with a configuration of its own."""
    for name, text in THEIRS.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    asyncio.run(_start_service(tmp_path / "state"))
    return tmp_path


async def _start_service(state: Path) -> None:
    """Leave what a service leaves that has been started: a database."""
    await open_database(f"sqlite://{state}/virtplay.sqlite3")
    await close_database()


def shell(machine: Path, name: str, *options: str) -> subprocess.CompletedProcess[str]:
    """Run a block of the page, below `machine` in place of / and as whoever runs the tests."""
    commands = re.sub(r"(?<![\w.])/(etc|var)/", rf"{machine}/\1/", RUN[name])
    commands = re.sub(r"\bsudo (systemctl .*)?", "", commands)
    commands = commands.replace("-o root -g prometheus ", "")
    commands = commands.replace(".venv/bin", str(Path(sys.executable).parent))
    return subprocess.run(
        ["bash", *options, "-c", commands],
        cwd=ROOT,
        env={"PATH": "/usr/bin:/bin", "VIRTPLAY_STATE_DIR": str(machine / "state")},
        capture_output=True,
        text=True,
        check=False,
    )


def run(machine: Path, *names: str) -> None:
    """Run blocks of the page; all their commands succeed."""
    for name in names:
        done = shell(machine, name, "-euo", "pipefail")
        assert done.returncode == 0, done.stdout + done.stderr


def sums(machine: Path) -> dict[str, str]:
    return {name: hashlib.sha256((machine / name).read_bytes()).hexdigest() for name in THEIRS}


@pytest.mark.needs("promtool")
def test_who_has_both_keeps_all_of_it(machine: Path) -> None:
    before = sums(machine)
    run(machine, "token", "own-prometheus", "own-grafana")
    assert sums(machine) == before
    token = machine / "etc/prometheus/virtplay/token"
    assert token.stat().st_mode & 0o777 == 0o640
    assert len(token.read_text().strip()) > 30
    # No token lies in the checkout, and no data source is added to theirs.
    assert not (ROOT / "prometheus/token").exists()
    sources = machine / "etc/grafana/provisioning/datasources"
    assert [path.name for path in sources.iterdir()] == ["prometheus.yml"]
    version = re.search(r"version (\d+)\.(\d+)", promtool("--version"))
    assert version
    theirs = machine / "etc/prometheus/prometheus.yml"
    for since, added in ADD.items():
        if tuple(map(int, version.groups())) >= tuple(map(int, since.split("."))):
            merged = yaml.safe_load(THEIRS["etc/prometheus/prometheus.yml"])
            for key, entries in yaml.safe_load(added).items():
                merged[key] = merged.get(key, []) + entries
            theirs.write_text(yaml.safe_dump(merged))
            assert "3 rule files found" in promtool("check", "config", theirs)


def test_second_run_keeps_the_token(machine: Path) -> None:
    run(machine, "token")
    token = machine / "etc/prometheus/virtplay/token"
    before = token.read_text()
    again = shell(machine, "token")  # as it runs at a prompt, whose shell goes on after errors
    assert again.returncode != 0
    assert "cannot create token prometheus: the name is in use" in again.stderr
    assert token.read_text() == before


def test_what_is_added_is_there() -> None:
    newer, older = (yaml.safe_load(ADD[since]) for since in ("2.43", "2.42"))
    assert newer["rule_files"] == older["rule_files"] == ["virtplay/rules/*.yml"]
    assert newer["scrape_config_files"] == ["virtplay/scrape.yml"]
    whole = yaml.safe_load((ROOT / "prometheus/prometheus.yml").read_text())
    assert older["scrape_configs"] == whole["scrape_configs"]


@pytest.mark.needs("promtool")
def test_who_has_none_loses_nothing_either(machine: Path) -> None:
    before = sums(machine)
    run(machine, "token", "fresh-prometheus", "fresh-grafana")
    after = sums(machine)
    changed = "etc/prometheus/prometheus.yml"
    assert {name for name in THEIRS if after[name] != before[name]} == {changed}
    assert (machine / f"{changed}.~1~").read_text() == THEIRS[changed]
    assert (machine / changed).read_text() == (ROOT / "prometheus/prometheus.yml").read_text()
    sources = machine / "etc/grafana/provisioning/datasources"
    named = [
        source
        for path in sources.iterdir()
        for source in yaml.safe_load(path.read_text())["datasources"]
    ]
    assert len({source["name"] for source in named}) == 2
    assert [source["name"] for source in named if source["isDefault"]] == ["Prometheus"]


def test_every_command_of_the_page_is_run() -> None:
    assert set(RUN) == {
        "token", "fresh-prometheus", "own-prometheus", "fresh-grafana", "own-grafana",
    }  # fmt: skip
    assert PAGE.read_text().count("```sh") == len(RUN)
