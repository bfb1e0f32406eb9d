"""Acceptance tests: runs a Prometheus server with the project's configuration and rules."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
from prometheus_client.parser import text_string_to_metric_families

from tests.acceptance.service import Service, wait_for

REPOSITORY = Path(__file__).parents[2]
SCRAPE_SECONDS = 1
REFUSED = re.compile(
    r"prometheus_target_scrapes_(sample_(duplicate_timestamp|out_of_order|out_of_bounds)"
    r"|exceeded_sample_limit)_total"
)
"""What a Prometheus counts of samples that it did not take, under the same names in 2 and 3."""
Series = dict[str, str]


class Prometheus:
    """A client of the query API of a running Prometheus server."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._http = httpx.Client(base_url=f"{url}/api/v1", timeout=120)

    def _ask(self, path: str, **values: Any) -> Any:
        answer = self._http.get(path, params=values).json()
        assert answer["status"] == "success", answer
        return answer["data"]

    def query(self, expr: str, at: float | None = None) -> list[tuple[Series, float]]:
        """Return the labels and values of an expression now, or at a Unix time."""
        moment = {} if at is None else {"time": at}
        found = self._ask("/query", query=expr, **moment)["result"]
        return [(entry["metric"], float(entry["value"][1])) for entry in found]

    def value(self, expr: str, at: float | None = None) -> float:
        """Return the value of an expression, which must have exactly one series."""
        found = self.query(expr, at)
        assert len(found) == 1, f"{expr} returns {found}"
        return found[0][1]

    def has(self, expr: str) -> bool:
        """Return whether an expression has any series."""
        return bool(self.query(expr))

    def targets(self) -> list[dict[str, Any]]:
        """Return the active targets."""
        found: list[dict[str, Any]] = self._ask("/targets", state="active")["activeTargets"]
        return found

    def refused(self) -> dict[str, float]:
        """Return how many samples the server did not take, by its own counters."""
        text = httpx.get(f"{self.url}/metrics", timeout=60).text
        return {
            sample.name: sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if REFUSED.fullmatch(sample.name)
        }

    def rules(self) -> list[dict[str, Any]]:
        """Return all rules, with their health."""
        return [rule for group in self._ask("/rules")["groups"] for rule in group["rules"]]


def make_token(service: Service, name: str) -> str:
    """Create a viewer's token with the command line and return it."""
    return subprocess.run(
        [Path(sys.executable).with_name("virtplay"), "token", "create", name, "--role", "viewer"],
        env={**os.environ, "VIRTPLAY_STATE_DIR": str(service.state)},
        check=True,
        capture_output=True,
        text=True,
    ).stdout.split()[-1]


@contextlib.contextmanager
def run_prometheus(
    directory: Path, shipped: str, service: Service, program: Sequence[str] = ("prometheus",)
) -> Iterator[Prometheus]:
    """Run a Prometheus, the installed one by default, with one of our configurations, faster."""
    text = (REPOSITORY / "prometheus" / shipped).read_text()
    for ours, here in (
        ("localhost:3000", f"127.0.0.1:{service.port}"),
        ("interval: 15s", f"interval: {SCRAPE_SECONDS}s"),
        ("interval: 1m", "interval: 5s"),
    ):
        text = text.replace(ours, here)
    directory.mkdir()
    (directory / "prometheus.yml").write_text(text)
    (directory / "virtplay").mkdir()
    (directory / "virtplay/rules").symlink_to(REPOSITORY / "prometheus/rules")
    token = make_token(service, f"prometheus-{secrets.token_hex(4)}")
    (directory / "virtplay/token").write_text(token)
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as free:
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    log = directory / "log"
    with log.open("wb") as said:
        process = subprocess.Popen(
            ["setpriv", "--pdeathsig", "TERM", *program,
             f"--config.file={directory}/prometheus.yml", f"--storage.tsdb.path={directory}/data",
             f"--web.listen-address={url.removeprefix('http://')}", "--log.level=warn"],
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=said,
            start_new_session=True,
        )  # fmt: skip

    def ready() -> bool:
        assert process.poll() is None, log.read_text()[-3000:]
        try:
            return httpx.get(f"{url}/-/ready", timeout=60).status_code == 200
        except httpx.HTTPError:
            return False

    try:
        wait_for("Prometheus", ready, 20)
        yield Prometheus(url)
    finally:
        process.terminate()
        process.wait(120)
