"""Measures what observing costs: the hosts, the controller, and a history of it all.

Forty VMs run on one host, paused so that only the observing costs. CPU seconds are those of whole
process trees, ended children included.
"""

import asyncio
import json
import os
import random
import resource
import secrets
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import yaml

from benchmarks.metrics import NOWHERE
from lab.lab import Host, Lab
from scripts.demo import start_service, stop_service, wait_ready

PORT = "3197"
EXPORTER_PORT = 9177
VMS = 40
ROUNDS = 12
QUICK = 2.0
"""Seconds between observations where their number counts; the default elsewhere."""
DEFAULT = 15.0
SIMULATED = 50
SCRAPES = 15
HISTORY_VMS = 1000
HISTORY_QUERIES = 200
DAY = 86_400
IMAGES = "/var/lib/libvirt/images"
TICKS = os.sysconf("SC_CLK_TCK")

# Copies of a domain, each with a disk of its own, started and paused at once.
COPIES = f"""
set -e
template=$(ls /var/lib/libvirt/templates/*.qcow2 | head -1)
for number in $(seq 1 "$1"); do
    name=bench-$number disk={IMAGES}/bench-$number.qcow2
    qemu-img create -q -f qcow2 -b "$template" -F qcow2 "$disk" 1G
    cat >/tmp/$name.xml <<XML
<domain type='qemu'>
  <name>$name</name>
  <memory unit='MiB'>64</memory>
  <vcpu>1</vcpu>
  <os><type arch='x86_64' machine='pc'>hvm</type></os>
  <devices>
    <disk type='file' device='disk'><driver name='qemu' type='qcow2'/>
      <source file='$disk'/><target dev='vda' bus='virtio'/></disk>
    <interface type='network'><source network='default'/><model type='virtio'/></interface>
    <memballoon model='virtio'><stats period='10'/></memballoon>
  </devices>
</domain>
XML
    virsh -q define /tmp/$name.xml
    virsh -q start --paused $name
done
"""


def bench_observation(idle_seconds: float, *, vms: int = VMS) -> Iterator[dict[str, Any]]:
    """The figures of hosts and controller, one after the other."""
    with Lab(hosts=2) as lab:
        one, two = lab.hosts
        one.run("sh", "-c", COPIES, "sh", str(vms), timeout=300)
        yield bench_host(lab, one, vms)
        yield bench_controller(lab, "2 hosts", lab.inventory, hosts=2)
        with tempfile.TemporaryDirectory(prefix="virtplay-bench-") as directory:
            many = simulate_hosts(lab, two, Path(directory))
            yield bench_controller(lab, f"{SIMULATED} simulated hosts", many, hosts=SIMULATED)
        yield bench_idle(lab, vms, idle_seconds)


def bench_host(lab: Lab, host: Host, vms: int) -> dict[str, Any]:
    """The host's CPU a round and a `virsh domstats`; a scrape and the exporter's, in one run."""
    domstats = []
    for _ in range(3):
        before = tree_seconds(host.init.pid) + children_seconds()
        for _ in range(4):
            host.run("virsh", "domstats")
        domstats.append((tree_seconds(host.init.pid) + children_seconds() - before) / 4)
    with serving(lab.inventory, QUICK) as client:
        before, first = tree_seconds(host.init.pid), rounds_of(client, host.name)
        wait_for_rounds(client, host.name, first + ROUNDS)
        spent = tree_seconds(host.init.pid) - before
        rounds = rounds_of(client, host.name) - first
    with serving(lab.inventory, DEFAULT) as client:
        scrapes = compare_scrapes(client, host)
    each = statistics.median(domstats)
    return {
        "bench": "observation of a host",
        "vms": vms,
        "host_cpu_s_a_round": round(spent / rounds, 3),
        "host_cpu_s_a_domstats": round(each, 3),
        "ratio": round(spent / rounds / each, 2),
        "rounds": rounds,
        **scrapes,
    }


def compare_scrapes(client: httpx.Client, host: Host) -> dict[str, Any]:
    """Seconds of a scrape of one host, and of prometheus-libvirt-exporter on it, in turns."""
    address = f"{host.address}:{EXPORTER_PORT}"
    start = (
        f"prometheus-libvirt-exporter --web.listen-address={address} </dev/null >/dev/null 2>&1 &"
        " echo $!"
    )
    pid = host.run("sh", "-c", start).stdout.strip()
    try:
        time.sleep(2)
        ours, theirs = [], []
        series = {}
        for _ in range(SCRAPES):
            began = time.monotonic()
            text = client.get(f"/metrics?host={host.name}").raise_for_status().text
            ours.append(time.monotonic() - began)
            began = time.monotonic()
            other = httpx.get(f"http://{address}/metrics", timeout=60).raise_for_status().text
            theirs.append(time.monotonic() - began)
            series = {"series": samples_in(text), "exporter_series": samples_in(other)}
    finally:
        host.run("kill", pid, check=False)
    return {
        "scrape_s": round(statistics.median(ours), 4),
        "exporter_s": round(statistics.median(theirs), 4),
        "scrape_ratio": round(
            statistics.median(a / b for a, b in zip(ours, theirs, strict=True)), 3
        ),
        **series,
    }


def samples_in(text: str) -> int:
    """How many series of libvirt or ours a text has."""
    return sum(line.startswith(("libvirt_", "virtplay_")) for line in text.splitlines())


def bench_controller(lab: Lab, what: str, inventory: Path, *, hosts: int) -> dict[str, Any]:
    """The CPU of the service and all it runs, a round of all hosts, the play already running."""
    del lab
    with serving(inventory, DEFAULT) as client:
        name = client.get("/api/v1/hosts").json()["data"]["hosts"][0]["name"]
        wait_for_rounds(client, name, rounds_of(client, name) + 1)
        before, first = tree_seconds(service_pid(client)), rounds_of(client, name)
        wait_for_rounds(client, name, first + 4)
        spent = tree_seconds(service_pid(client)) - before
        rounds = rounds_of(client, name) - first
    return {
        "bench": "observation by the controller",
        "of": what,
        "cpu_s_a_round": round(spent / rounds, 3),
        "cpu_s_a_host_and_round": round(spent / rounds / hosts, 4),
        "rounds": rounds,
    }


def bench_idle(lab: Lab, vms: int, seconds: float) -> dict[str, Any]:
    """The share of one core that everything the service runs takes when nobody asks for anything.

    Over more than five minutes, the renewal of the staying play is in it.
    """
    with serving(lab.inventory, DEFAULT) as client:
        name = lab.hosts[0].name
        wait_for_rounds(client, name, rounds_of(client, name) + 1)
        before, began = tree_seconds(service_pid(client)), time.monotonic()
        time.sleep(seconds)
        spent = tree_seconds(service_pid(client)) - before
        took = time.monotonic() - began
    return {
        "bench": "idle",
        "hosts": 2,
        "vms": vms,
        "seconds": round(took),
        "share_of_a_core": round(spent / took, 4),
    }


def simulate_hosts(lab: Lab, host: Host, directory: Path) -> Path:
    """An inventory in which one host of the lab has many names."""
    told = yaml.safe_load(lab.inventory.read_text())
    group = told["hypervisors"]
    own = group["hosts"][host.name] or {}
    group["hosts"] = {
        f"simulated-{number:02}": {"ansible_host": host.address, **own}
        for number in range(SIMULATED)
    }
    path = directory / "many.yml"
    path.write_text(yaml.safe_dump(told))
    return path


class serving:  # noqa: N801 - a context manager
    """The service on an inventory; a client that may do all."""

    def __init__(self, inventory: Path, interval: float) -> None:
        self._inventory = inventory
        self._interval = interval

    def __enter__(self) -> httpx.Client:
        """Start it and wait until it is ready."""
        self._state = tempfile.TemporaryDirectory(prefix="virtplay-bench-")
        token = secrets.token_urlsafe(32)
        os.environ["VIRTPLAY_OBSERVE_INTERVAL"] = str(self._interval)
        self._service = start_service(self._inventory, Path(self._state.name), token, PORT)
        os.environ.pop("VIRTPLAY_OBSERVE_INTERVAL")
        wait_ready(self._service, PORT)
        return httpx.Client(
            base_url=f"http://127.0.0.1:{PORT}",
            headers={"Authorization": f"Bearer {token}", "X-Service": str(self._service.pid)},
            timeout=60,
        )

    def __exit__(self, *_: object) -> None:
        """End it."""
        stop_service(self._service)
        self._state.cleanup()


def service_pid(client: httpx.Client) -> int:
    """The process of the service that a client speaks to."""
    return int(client.headers["X-Service"])


def rounds_of(client: httpx.Client, host: str) -> int:
    """How often the service has observed a host."""
    text = client.get(f"/metrics?host={host}").raise_for_status().text
    name = f'virtplay_observations_total{{host="{host}"}} '
    return next(int(float(line.removeprefix(name))) for line in text.splitlines()
                if line.startswith(name))  # fmt: skip


def wait_for_rounds(client: httpx.Client, host: str, rounds: int) -> None:
    """Wait until a host was observed so often."""
    deadline = time.monotonic() + 300
    while rounds_of(client, host) < rounds:
        if time.monotonic() > deadline:
            raise RuntimeError(f"host {host} was not observed {rounds} times within 300 s")
        time.sleep(0.2)


def children_seconds() -> float:
    """CPU seconds of this process's children that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def tree_seconds(root: int) -> float:
    """CPU seconds of a process and all its descendants, those that have ended too."""
    parents: dict[int, int] = {}
    ticks: dict[int, int] = {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        parents[int(entry.name)] = int(fields[1])
        ticks[int(entry.name)] = sum(map(int, fields[11:15]))
    family = {root}
    while more := {pid for pid, parent in parents.items() if parent in family} - family:
        family |= more
    return sum(ticks.get(pid, 0) for pid in family) / TICKS


def bench_history(vms: int = HISTORY_VMS) -> dict[str, Any]:
    """History of 24 h at 1m from the API, over samples of 30 days."""
    token = secrets.token_urlsafe(32)
    with tempfile.TemporaryDirectory(prefix="virtplay-bench-") as state:
        inventory = Path(state) / "hosts.yml"
        inventory.write_text(NOWHERE)
        os.environ["VIRTPLAY_OBSERVE_INTERVAL"] = str(DAY)
        began = time.monotonic()
        subprocess.run(
            [sys.executable, "-m", "benchmarks_observation", state, str(vms)], check=True
        )
        filled = time.monotonic() - began
        service = start_service(inventory, Path(state), token, PORT)
        try:
            wait_ready(service, PORT)
            took, points = asyncio.run(_ask_for_history(token, vms))
        finally:
            stop_service(service)
            os.environ.pop("VIRTPLAY_OBSERVE_INTERVAL")
        size = (Path(state) / "virtplay.sqlite3").stat().st_size
    took.sort()
    return {
        "bench": "history of 24 h at 1m",
        "vms": vms,
        "database_mb": round(size / 1e6),
        "fill_s": round(filled),
        "points": points,
        "median_ms": round(statistics.median(took) * 1000, 1),
        "p99_ms": round(took[len(took) * 99 // 100] * 1000, 1),
        "queries": len(took),
    }


async def _ask_for_history(token: str, vms: int) -> tuple[list[float], int]:
    """Seconds of each query, one after the other, of VMs in no order; points of the last."""
    draw = random.Random(1)  # noqa: S311 - no secret
    took = []
    points = 0
    headers = {"Authorization": f"Bearer {token}"}
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{PORT}", headers=headers) as client:
        for _ in range(HISTORY_QUERIES):
            # A little less than the raw samples' retention, so that they are what is read.
            since = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() - DAY + 120))
            path = f"/api/v1/vms/vm-{draw.randrange(1, vms + 1):03d}/metrics"
            began = time.monotonic()
            answer = await client.get(path, params={"from": since, "history": "all"}, timeout=60)
            took.append(time.monotonic() - began)
            points = len(answer.raise_for_status().json()["data"]["cpu"]["history"])
    return took, points


async def fill(state: Path, vms: int) -> None:
    """Make a database with VMs and 30 days of samples as the observations would have left them."""
    from virtplay.states import VmStatus  # noqa: PLC0415
    from virtplay.store.database import close_database, open_database, transaction  # noqa: PLC0415
    from virtplay.store.vms import create_vm  # noqa: PLC0415

    file = state / "virtplay.sqlite3"
    await open_database(f"sqlite://{file}")
    async with transaction():
        for number in range(1, vms + 1):
            _ = await create_vm(
                uuid=uuid.uuid4(), name=f"bench {number}", status=VmStatus.RUNNING, cpu=2,
                memory=2048, disk=20, provisioned=True,
            )  # fmt: skip
    await close_database()
    now = int(time.time())
    with sqlite3.connect(file) as database:
        database.execute("PRAGMA synchronous = OFF")
        for table, step, days in (
            ("sample_raw", 15, 1),
            ("sample_5m", 300, 30),
            ("sample_1h", 3600, 30),
        ):
            end = now - now % step
            database.execute(
                "WITH RECURSIVE moment(at) AS (SELECT ? UNION ALL SELECT at + ? FROM moment"  # noqa: S608
                " WHERE at + ? <= ?)"
                f" INSERT INTO {table} SELECT vm.id, at, abs(random()) % 10000,"
                " 200000 + abs(random()) % 1800000, 2097152, 2300 + abs(random()) % 100,"
                " abs(random()) % 1000000, abs(random()) % 1000000, abs(random()) % 200000,"
                " abs(random()) % 200000 FROM vm CROSS JOIN moment ORDER BY vm.id, at",
                (end - days * DAY, step, step, end),
            )
        for step in (300, 3600):
            database.execute(
                "INSERT INTO sample_rollup (step, until) VALUES (?, ?)", (step, now - now % step)
            )
    database.close()


def main() -> None:
    """Fill a database (for bench_history), or print the figures of these benchmarks alone."""
    if len(sys.argv) > 2:
        asyncio.run(fill(Path(sys.argv[1]), int(sys.argv[2])))
        return
    print(json.dumps(bench_history()), flush=True)
    for figure in bench_observation(float(sys.argv[1]) if len(sys.argv) > 1 else 310):
        print(json.dumps(figure), flush=True)


if __name__ == "__main__":
    main()
