"""Distributions: one service for a host of Debian 12 and one of the release."""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from lab import Lab
from lab.releases import Recipe, use_root
from tests.acceptance.prometheus import run_prometheus
from tests.acceptance.service import STOP_TIMEOUT, Api, Service, wait_for
from tests.distributions.report import Row
from tests.unit.test_prometheus_files import DIRECTORY, RULE_FILES, RULE_TESTS

ALWAYS = {"libvirt_domain_info", "libvirt_domain_info_maximum_memory_bytes"}
WORKING = {
    "libvirt_domain_info_cpu_time_seconds_total",
    "libvirt_domain_vcpu_time_seconds_total",
    "libvirt_domain_block_stats_write_bytes_total",
}
STEPS = (("running", None), ("paused", "pause"), ("stopped", "stop"))


def test_service_with_hosts_of_two_releases(
    mixed: Lab, release: str, row: Row, version: Callable[[str, str], None], tmp_path: Path
) -> None:
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as free:
        port = free.getsockname()[1]
    settings = {"VIRTPLAY_STOP_TIMEOUT": str(STOP_TIMEOUT), "VIRTPLAY_OBSERVE_TIMEOUT": "12"}
    service = Service(tmp_path / "state", str(mixed.inventory), port, settings)
    service.start()
    api = Api(port)
    vms: dict[str, str] = {}
    try:
        with row("service with this host and one of Debian 12: create, start, pause, stop, delete"):
            two = [host.name for host in mixed.hosts[:2]]
            made = api.create_all(*({"host": name, "autoStart": True} for name in two))
            vms = {vm["host"]: vm["domain"] for vm in made}
            assert vms.keys() == set(two)
            for status, action in STEPS:
                for vm in vms.values():
                    if action:
                        body = {"force": True} if action == "stop" else None
                        api.run("POST", f"/vms/{vm}/{action}", body)
                    api.shows(vm, status=status)
                with row(f"figures of a {status} VM, in `/metrics` and JSON: those of Debian 12"):
                    compare(api, vms, ALWAYS if status == "stopped" else ALWAYS | WORKING)
                if status == "running":
                    with row("Prometheus and promtool of the release, on this service"):
                        metrics = api.http.get(str(api.http.base_url.join("/metrics"))).text
                        number = see_prometheus(release, service, tmp_path, metrics)
                        version("Prometheus", number)
            api.remove(*vms.values())
    finally:
        api.remove(*vms.values())
        service.stop()
    assert service.pids() == []


def see_prometheus(release: str, service: Service, directory: Path, metrics: str) -> str:
    """Let the release's Prometheus scrape the service, and promtool check all; the version."""
    with use_root(Recipe(release, ("prometheus",))) as root:
        promtool = elsewhere(root.path, "promtool")
        with run_prometheus(
            directory / "prometheus", "prometheus.yml", service, elsewhere(root.path, "prometheus")
        ) as prometheus:
            wait_for("both VMs", lambda: len(prometheus.query("libvirt_domain_info")) == 2, 30)
            (target,) = prometheus.targets()
            assert (target["health"], target["lastError"]) == ("up", "")
            evaluated = "virtplay:vm_cpu:ratio"
            wait_for("the rules", lambda: len(prometheus.query(evaluated)) == 2, 60)
            wait_for("each rule", lambda: {r["health"] for r in prometheus.rules()} == {"ok"}, 60)
            refused = prometheus.refused()
            assert len(refused) >= 3
            assert not any(refused.values()), refused
        run_promtool(promtool, "check", "config", str(directory / "prometheus/prometheus.yml"))
        if release != "bookworm":  # before 2.43, no other file is included
            config = directory / "prometheus/including.yml"
            config.write_text("scrape_config_files: [virtplay/scrape.yml]\n")
            shutil.copy(DIRECTORY / "scrape.yml", config.with_name("virtplay"))
            run_promtool(promtool, "check", "config", str(config))
        run_promtool(promtool, "check", "rules", "--lint-fatal", *map(str, RULE_FILES))
        run_promtool(promtool, "test", "rules", *map(str, RULE_TESTS))
        run_promtool(promtool, "check", "metrics", stdin=metrics)
        return run_promtool(promtool, "--version").split()[2]


def run_promtool(promtool: list[str], *arguments: str, stdin: str = "") -> str:
    """Run promtool, which must succeed; return its output."""
    done = subprocess.run(
        [*promtool, *arguments], input=stdin, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def elsewhere(root: Path, program: str) -> list[str]:
    """A program of another file system with the libraries from there, as words of a command."""
    libraries = f"{root}/lib/x86_64-linux-gnu:{root}/usr/lib/x86_64-linux-gnu"
    loader = f"{root}/lib64/ld-linux-x86-64.so.2"
    return [loader, "--library-path", libraries, f"{root}/usr/bin/{program}"]


def compare(api: Api, vms: dict[str, str], least: set[str]) -> None:
    """Wait until both VMs have the same figures, and at least these series."""
    seen: list[set[tuple[str, ...]]] = []

    def equal() -> bool:
        seen[:] = [figures(api, host, vm) for host, vm in vms.items()]
        return seen[0] == seen[1] and {name for name, *_ in seen[0]} >= least

    try:
        wait_for("the same figures", equal, 30)
    except AssertionError as error:
        raise AssertionError(f"{error}: {sorted(seen[0] ^ seen[1])}, {sorted(seen[0])}") from None


def figures(api: Api, host: str, vm: str) -> set[tuple[str, ...]]:
    """The series of a VM (name, then its labels) and the keys of its JSON metrics."""
    text = api.http.get(str(api.http.base_url.join("/metrics")), params={"host": host}).text
    found = {
        (sample.name, *sorted(sample.labels))
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.labels.get("domain") == vm
    }
    return found | {("json", key) for key in keys(api.get(f"/vms/{vm}/metrics"))}


def keys(value: Any, prefix: str = "") -> set[str]:
    """The paths of everything that is not null."""
    if isinstance(value, dict):
        return {path for key, item in value.items() for path in keys(item, f"{prefix}.{key}")}
    if isinstance(value, list):
        return {path for item in value for path in keys(item, f"{prefix}[]")}
    return set() if value is None else {prefix}
