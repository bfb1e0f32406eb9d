"""Benchmarks: what observing costs the hosts, the controller, and whoever scrapes.

Forty VMs run on one host, paused so that only the observing costs. CPU seconds are those of whole
process trees, ended children included.
"""

import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import yaml

from benchmarks.measuring import Figure, Service, cpu_seconds, medians, serving, timed
from lab.lab import Host, Lab

EXPORTER_PORT = 9177
VMS = 40
ROUNDS = 12
OFTEN = {"VIRTPLAY_OBSERVE_INTERVAL": "2"}
"""Settings where the number of rounds counts."""
USUAL = {"VIRTPLAY_OBSERVE_INTERVAL": "15"}
SIMULATED = 50
SCRAPES = 15
IDLE_SECONDS = 310.0
"""More than the five minutes after which the staying play is renewed."""
IMAGES = "/var/lib/libvirt/images"

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


def bench(*, quick: bool) -> Iterator[Figure]:
    """The figures of hosts and controller, one after the other."""
    vms, rounds, simulated, idle = (
        (2, 2, 4, 5.0) if quick else (VMS, ROUNDS, SIMULATED, IDLE_SECONDS)
    )
    with Lab(hosts=2) as lab, tempfile.TemporaryDirectory(prefix="virtplay-bench-") as directory:
        one, two = lab.hosts
        one.run("sh", "-c", COPIES, "sh", str(vms), timeout=300)
        yield observe_host(lab, one, vms, rounds)
        with serving(lab.inventory, USUAL) as service:
            yield scrape_host(service, one, vms)
        yield observe_all(lab.inventory, one.name, 2)
        many = simulate_hosts(lab, two, simulated, Path(directory))
        yield observe_all(many, "simulated-00", simulated)
        yield stay_idle(lab, vms, idle)


def observe_host(lab: Lab, host: Host, vms: int, rounds: int) -> Figure:
    """The host's CPU for an observation, and for a `virsh domstats`."""
    domstats = []
    for _ in range(3):
        before = cpu_seconds(host.init.pid) + children_seconds()
        for _ in range(4):
            host.run("virsh", "domstats")
        domstats.append((cpu_seconds(host.init.pid) + children_seconds() - before) / 4)
    with serving(lab.inventory, OFTEN) as service:
        spent, seen = spent_in_rounds(service, host.name, host.init.pid, rounds)
    return {
        "bench": "observation of a host",
        "vms": vms,
        "observation_cpu_s": round(spent / seen, 3),
        "domstats_cpu_s": round(statistics.median(domstats), 3),
        "runs": seen,
    }


def scrape_host(service: Service, host: Host, vms: int) -> Figure:
    """Seconds of a scrape of one host, and of prometheus-libvirt-exporter on it, in turns."""
    address = f"{host.address}:{EXPORTER_PORT}"
    start = (
        f"prometheus-libvirt-exporter --web.listen-address={address} </dev/null >/dev/null 2>&1 &"
        " echo $!"
    )
    pid = host.run("sh", "-c", start).stdout.strip()
    try:
        time.sleep(2)
        ours, theirs = f"/metrics?host={host.name}", f"http://{address}/metrics"
        scrapes, exporter = [], []
        for _ in range(SCRAPES):
            scrapes.append(timed(lambda: service.http.get(ours).raise_for_status()))
            exporter.append(timed(lambda: httpx.get(theirs, timeout=60).raise_for_status()))
    finally:
        host.run("kill", pid, check=False)
    return {
        "bench": "scrape of a host",
        "vms": vms,
        **medians(scrape=scrapes, exporter=exporter),
        "runs": SCRAPES,
    }


def observe_all(inventory: Path, host: str, hosts: int) -> Figure:
    """The CPU of the service and all it runs for a round of all hosts, the play already running."""
    with serving(inventory, USUAL) as service:
        wait_for_rounds(service, host, rounds_of(service, host) + 1)
        spent, seen = spent_in_rounds(service, host, service.pid, 4)
    return {
        "bench": f"observation of {hosts} hosts by the controller",
        "round_cpu_s": round(spent / seen, 3),
        "runs": seen,
    }


def stay_idle(lab: Lab, vms: int, seconds: float) -> Figure:
    """The share of one core that everything the service runs takes when nobody asks it anything."""
    with serving(lab.inventory, USUAL) as service:
        name = lab.hosts[0].name
        wait_for_rounds(service, name, rounds_of(service, name) + 1)
        before, began = cpu_seconds(service.pid), time.monotonic()
        time.sleep(seconds)
        spent, took = cpu_seconds(service.pid) - before, time.monotonic() - began
    return {
        "bench": "idle",
        "hosts": 2,
        "vms": vms,
        "seconds": round(took),
        "share_of_a_core": round(spent / took, 4),
    }


def simulate_hosts(lab: Lab, host: Host, count: int, directory: Path) -> Path:
    """An inventory in which one host of the lab has many names."""
    inventory = yaml.safe_load(lab.inventory.read_text())
    group = inventory["hypervisors"]
    own = group["hosts"][host.name] or {}
    group["hosts"] = {
        f"simulated-{number:02}": {"ansible_host": host.address, **own} for number in range(count)
    }
    path = directory / "many.yml"
    path.write_text(yaml.safe_dump(inventory))
    return path


def rounds_of(service: Service, host: str) -> int:
    """How often the service has observed a host."""
    text = service.http.get(f"/metrics?host={host}").raise_for_status().text
    name = f'virtplay_observations_total{{host="{host}"}} '
    lines = (line for line in text.splitlines() if line.startswith(name))
    return int(float(next(lines).removeprefix(name)))


def wait_for_rounds(service: Service, host: str, rounds: int) -> None:
    """Wait until a host was observed so often."""
    deadline = time.monotonic() + 300
    while rounds_of(service, host) < rounds:
        if time.monotonic() > deadline:
            raise RuntimeError(f"host {host} was not observed {rounds} times within 300 s")
        time.sleep(0.2)


def spent_in_rounds(service: Service, host: str, root: int, rounds: int) -> tuple[float, int]:
    """CPU seconds of a process tree during at least so many rounds, and their number."""
    before, first = cpu_seconds(root), rounds_of(service, host)
    wait_for_rounds(service, host, first + rounds)
    return cpu_seconds(root) - before, rounds_of(service, host) - first


def children_seconds() -> float:
    """CPU seconds of this process's children that have ended."""
    times = psutil.Process().cpu_times()
    return float(times.children_user + times.children_system)
