"""Measures the API against the bare playbook on one lab host, side by side: `make bench`.

Prints one JSON object a line and keeps them in build/bench.json. Seconds are medians of pairs
that ran one after the other; this machine may be noisy, so compare the ratios.
"""

import argparse
import json
import os
import secrets
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx

from benchmarks.console import bench_pump, bench_refresh
from benchmarks.fleet import bench_fleet
from benchmarks.metrics import bench_scrape
from benchmarks.observation import bench_history, bench_observation
from lab.lab import Host, Lab
from scripts.demo import start_service, stop_service, wait_ready

OUTPUT = Path("build/bench.json")
PORT = "3199"
CONSOLE_MEBIBYTES = 1024
IDLE_SECONDS = 310
"""More than the five minutes after which the staying play is begun anew."""
MICRO = {"template": "micro", "cpu": 1, "memory": 128, "disk": 1}


class Client:
    """The API as the benchmark uses it."""

    def __init__(self, token: str) -> None:
        self._http = httpx.Client(
            base_url=f"http://127.0.0.1:{PORT}/api/v1",
            headers={"Authorization": f"Bearer {token}"},
            timeout=30,
        )

    def run(self, method: str, path: str, body: Any = None) -> str:
        """Send a mutation and wait until its job has succeeded; the VM's id."""
        answer = self._http.request(method, path, json=body).raise_for_status().json()["data"]
        while True:
            job = self._http.get(f"/jobs/{answer['jobId']}").raise_for_status().json()["data"]
            if job["status"] == "succeeded":
                return str(answer["id"])
            if job["status"] not in ("queued", "running"):
                raise RuntimeError(f"{path}: job {job['id']} {job['status']}: {job['error']}")
            time.sleep(0.02)

    def get(self, path: str) -> Any:
        """The data of a GET."""
        return self._http.get(path).raise_for_status().json()["data"]

    def wait_for(self, vm: str, status: str) -> None:
        """Wait until the VM list shows what was done behind its back."""
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            answer = self._http.get(f"/vms/{vm}").raise_for_status()
            if answer.json()["data"]["status"] == status:
                return
            time.sleep(0.1)
        raise RuntimeError(f"VM {vm} was not seen {status} within 60 s")


def main() -> int:
    """Run every benchmark and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5, help="pairs of each benchmark (default 5)")
    given = parser.parse_args()
    token = secrets.token_urlsafe(32)
    figures = []
    with tempfile.TemporaryDirectory(prefix="virtplay-bench-") as state, Lab(hosts=1) as lab:
        service = start_service(lab.inventory, Path(state), token, PORT)
        try:
            wait_ready(service, PORT)
            figures += measure(Client(token), lab, given.runs, Path(state))
        finally:
            stop_service(service)
    figures.append(shown(bench_fleet()))
    # Without the lab, which would take its share of the processors.
    figures.append(shown(bench_scrape()))
    figures.append(shown(bench_history()))
    figures += map(shown, bench_observation(IDLE_SECONDS))
    OUTPUT.parent.mkdir(exist_ok=True)
    OUTPUT.write_text("".join(json.dumps(figure) + "\n" for figure in figures))
    return 0


def measure(client: Client, lab: Lab, runs: int, state: Path) -> list[dict[str, Any]]:
    """The figures of all benchmarks."""
    host = lab.hosts[0]
    return [
        shown(bench_create(client, lab, host, runs)),
        shown(bench_power(client, lab, host, runs)),
        shown(bench_snapshot(client, lab, host, runs)),
        *map(shown, bench_consoles(client, host, state)),
    ]


def shown(figure: dict[str, Any]) -> dict[str, Any]:
    """Print a figure as its line, as soon as there is one."""
    print(json.dumps(figure), flush=True)
    return figure


def bench_create(client: Client, lab: Lab, host: Host, runs: int) -> dict[str, Any]:
    """A running VM from a template: 202 to succeeded, and the same playbook by hand."""
    api, cli = [], []
    for number in range(-1, runs):  # the first pair warms up
        started = time.monotonic()
        vm = client.run("POST", "/vms", {"name": f"bench {number}", "autoStart": True, **MICRO})
        api.append(time.monotonic() - started)
        client.run("DELETE", f"/vms/{vm}?force=true")
        name = f"bench-{number + 1}"
        cli.append(
            timed(
                lambda name=name: play(  # type: ignore[misc]
                    lab,
                    host,
                    "vm_create",
                    {
                        "libvirt_domain_name": name,
                        "libvirt_domain_template": "micro",
                        "libvirt_domain_vcpus": MICRO["cpu"],
                        "libvirt_domain_memory": MICRO["memory"],
                        "libvirt_domain_disk": MICRO["disk"],
                        "libvirt_domain_state": "running",
                    },
                )
            )
        )
        play(lab, host, "vm_delete", {"libvirt_domain_name": name, "libvirt_domain_force": True})
    return paired("vm_create", api[1:], cli[1:])


def bench_power(client: Client, lab: Lab, host: Host, runs: int) -> dict[str, Any]:
    """Pause: by the API, by the bare playbook, and by virsh over SSH."""
    vm = client.run("POST", "/vms", {"name": "bench power", "autoStart": True, **MICRO})
    api, cli, virsh = [], [], []
    for _ in range(-1, runs):
        api.append(timed(lambda: client.run("POST", f"/vms/{vm}/pause")))
        host.ssh(f"virsh resume {vm}")
        cli.append(timed(lambda: play(lab, host, "vm_pause", {"libvirt_domain_name": vm})))
        host.ssh(f"virsh resume {vm}")
        virsh.append(timed(lambda: host.ssh(f"virsh suspend {vm}")))
        client.wait_for(vm, "paused")
        client.run("POST", f"/vms/{vm}/resume")
    client.run("DELETE", f"/vms/{vm}?force=true")
    figure = paired("vm_pause", api[1:], cli[1:])
    figure["virsh_s"] = round(statistics.median(virsh[1:]), 3)
    return figure


def bench_snapshot(client: Client, lab: Lab, host: Host, runs: int) -> dict[str, Any]:
    """A snapshot of a running guest with its memory: API, bare playbook, and virsh over SSH."""
    vm = client.run("POST", "/vms", {"name": "bench snapshot", "autoStart": True, **MICRO})
    api, cli, virsh = [], [], []
    for number in range(-1, runs):
        made: list[str] = []
        api.append(
            timed(
                lambda made=made: made.append(  # type: ignore[misc]
                    client.run("POST", f"/vms/{vm}/snapshots", {"name": "bench"})
                )
            )
        )
        client.run("DELETE", f"/vms/{vm}/snapshots/{made[0]}")
        named = {
            "libvirt_snapshot_domain": vm,
            "libvirt_snapshot_name": f"bench-{number + 1}",
            "libvirt_snapshot_title": "bench",
        }
        cli.append(timed(lambda named=named: play(lab, host, "snapshot_create", named)))  # type: ignore[misc]
        play(lab, host, "snapshot_delete", named)
        virsh.append(timed(lambda: host.ssh(f"virsh snapshot-create-as {vm} by-virsh")))
        host.ssh(f"virsh snapshot-delete {vm} by-virsh")
    client.run("DELETE", f"/vms/{vm}?force=true")
    figure = paired("snapshot_create", api[1:], cli[1:])
    figure["virsh_s"] = round(statistics.median(virsh[1:]), 3)
    return figure


def bench_consoles(client: Client, host: Host, state: Path) -> list[dict[str, Any]]:
    """A screen's refreshes, and 1 GiB each way through the websocket."""
    vm = client.run("POST", "/vms", {"name": "bench console", "autoStart": True, **MICRO})
    origin = f"http://127.0.0.1:{PORT}"
    opened = client.get(f"/vms/{vm}/console")
    figures = [
        bench_refresh(opened, origin, host),
        bench_pump(opened["url"], origin, host, state, CONSOLE_MEBIBYTES),
    ]
    client.run("DELETE", f"/vms/{vm}?force=true")
    return figures


def timed(work: Callable[[], Any]) -> float:
    """How long something takes, in seconds."""
    started = time.monotonic()
    work()
    return time.monotonic() - started


def play(lab: Lab, host: Host, playbook: str, variables: dict[str, Any]) -> None:
    """Run a playbook by hand on one host."""
    program = Path(sys.executable).with_name("ansible-playbook")
    subprocess.run(
        [
            str(program),
            f"playbooks/{playbook}.yml",
            "-i",
            str(lab.inventory),
            "--limit",
            host.name,
            "-e",
            json.dumps(variables),
        ],
        check=True,
        stdout=subprocess.DEVNULL,
        env=os.environ,
    )


def paired(name: str, api: list[float], cli: list[float]) -> dict[str, Any]:
    """One line: medians, and the median of the ratios pair by pair."""
    ratios = [a / b for a, b in zip(api, cli, strict=True)]
    return {
        "bench": name,
        "api_s": round(statistics.median(api), 3),
        "cli_s": round(statistics.median(cli), 3),
        "ratio": round(statistics.median(ratios), 3),
        "runs": len(api),
    }


if __name__ == "__main__":
    sys.exit(main())
