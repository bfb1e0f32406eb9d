"""Benchmarks: actions by the API beside the same playbook by hand, and virsh over SSH.

Each way takes its turn, so that all meet the same load of the machine; the first turn warms up.
"""

import json
import queue
import resource
import statistics
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from benchmarks.measuring import (
    Figure,
    Service,
    cpu_seconds,
    medians,
    play,
    serving,
    timed,
    wait_for_launcher,
)
from lab.lab import Host, Lab

RUNS = 5
MICRO = {"template": "micro", "cpu": 1, "memory": 128, "disk": 1}


def bench(*, quick: bool) -> Iterator[Figure]:
    """Creation, pause and snapshot on one host."""
    with Lab(hosts=1) as lab, serving(lab.inventory) as service:
        turns = range(2 if quick else RUNS + 1)
        wait_for_launcher(service)
        yield create(service, lab, lab.hosts[0], turns)
        yield from power(service, lab, lab.hosts[0], turns)
        yield snapshot(service, lab, lab.hosts[0], turns)


def by_hand(lab: Lab, host: Host, playbook: str, **variables: object) -> float:
    """Seconds of a playbook on one host."""
    words = ["-i", str(lab.inventory), "--limit", host.name, "-e", json.dumps(variables)]
    return timed(lambda: play(playbook, *words))


def figure(action: str, **seconds: list[float]) -> Figure:
    """The medians of all turns but the first."""
    warm = {name: each[1:] for name, each in seconds.items()}
    return {"bench": action, **medians(**warm), "runs": len(warm["api"])}


def create(service: Service, lab: Lab, host: Host, turns: range) -> Figure:
    """A running VM from a template."""
    api, playbook = [], []
    for number in turns:
        began = time.perf_counter()
        vm = service.run("POST", "/vms", {"name": f"bench {number}", "autoStart": True, **MICRO})
        api.append(time.perf_counter() - began)
        service.run("DELETE", f"/vms/{vm}?force=true")
        name = f"bench-{number}"
        playbook.append(
            by_hand(
                lab, host, "vm_create", libvirt_domain_name=name, libvirt_domain_template="micro",
                libvirt_domain_vcpus=MICRO["cpu"], libvirt_domain_memory=MICRO["memory"],
                libvirt_domain_disk=MICRO["disk"], libvirt_domain_state="running",
            )
        )  # fmt: skip
        by_hand(lab, host, "vm_delete", libvirt_domain_name=name, libvirt_domain_force=True)
    return figure("vm_create", api=api, playbook=playbook)


def started(service: Service, name: str) -> str:
    """A running VM; returns its name, which is that of its domain too."""
    vm = service.run("POST", "/vms", {"name": name, "autoStart": True, **MICRO})
    return str(service.get(f"/vms/{vm}")["domain"])


def power(service: Service, lab: Lab, host: Host, turns: range) -> Iterator[Figure]:
    """Pause, resume and start: until the job has ended, until the VM is paused, and their CPU."""
    vm = started(service, "bench-power")
    vm = service.get(f"/vms/{vm}")["domain"]
    seconds: dict[str, dict[str, list[float]]] = {
        action: {"api": [], "playbook": []} for action in ("pause", "resume", "start")
    }
    paused: dict[str, list[float]] = {"api": [], "virsh": []}
    cpu: dict[str, list[float]] = {"api": [], "playbook": []}
    libvirt: list[float] = []
    """What a start costs on the host itself, which both ways wait for."""

    def by_api(action: str) -> None:
        before = cpu_seconds(service.pid)
        seconds[action]["api"].append(timed(lambda: service.run("POST", f"/vms/{vm}/{action}")))
        cpu["api"].append(cpu_seconds(service.pid) - before)

    def by_playbook(action: str) -> None:
        before = own_cpu_seconds()
        seconds[action]["playbook"].append(
            by_hand(lab, host, f"vm_{action}", libvirt_domain_name=vm)
        )
        cpu["playbook"].append(own_cpu_seconds() - before)

    for _ in turns:
        with lifecycle_event(host, vm) as happened:
            began = time.perf_counter()
            by_api("pause")
            paused["api"].append(happened() - began)
        by_api("resume")
        with lifecycle_event(host, vm) as happened:
            began = time.perf_counter()
            host.ssh(f"virsh suspend {vm}")
            paused["virsh"].append(happened() - began)
        host.ssh(f"virsh resume {vm}")
        by_playbook("pause")
        by_playbook("resume")
        host.ssh(f"virsh destroy {vm}")
        by_playbook("start")
        host.ssh(f"virsh destroy {vm}")
        libvirt.append(timed(lambda: host.run("virsh", "start", vm)))
        host.ssh(f"virsh destroy {vm}")
        # The service must know that the VM is stopped before it accepts a start.
        while service.get(f"/vms/{vm}")["status"] != "stopped":
            time.sleep(0.1)
        by_api("start")
    service.run("DELETE", f"/vms/{vm}?force=true")
    seconds["start"]["libvirt"] = libvirt
    for action, ways in seconds.items():
        yield figure(f"vm_{action}", **ways)
    yield {"bench": "pause_latency", **medians(**{n: s[1:] for n, s in paused.items()})}
    yield {
        "bench": "controller_cpu",
        **{f"{way}_cpu_s": round(statistics.median(each[3:]), 4) for way, each in cpu.items()},
        "runs": len(cpu["api"]) - 3,
    }


@contextmanager
def lifecycle_event(host: Host, vm: str) -> Iterator[Callable[[], float]]:
    """Watch a domain; yields a function that returns when (perf_counter) its next event came."""
    words = ["virsh", "event", "--domain", vm, "--event", "lifecycle", "--timeout", "60"]
    watching = subprocess.Popen(
        host.command("stdbuf", "-oL", *words), stdout=subprocess.PIPE, text=True
    )
    moments: queue.Queue[float] = queue.Queue()

    def read() -> None:
        assert watching.stdout is not None
        watching.stdout.readline()
        moments.put(time.perf_counter())

    reader = threading.Thread(target=read)
    reader.start()
    # It says nothing when it has registered; the daemon has it after this.
    host.run("virsh", "domstate", vm)
    time.sleep(0.3)
    try:
        yield lambda: moments.get(timeout=60)
    finally:
        watching.wait()  # it ends with the event
        reader.join()


def own_cpu_seconds() -> float:
    """CPU seconds of this process's children that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def snapshot(service: Service, lab: Lab, host: Host, turns: range) -> Figure:
    """A snapshot of a running VM, with its memory."""
    vm = started(service, "bench-snapshot")
    vm = service.get(f"/vms/{vm}")["domain"]
    api, playbook, virsh = [], [], []
    for number in turns:
        began = time.perf_counter()
        made = service.run("POST", f"/vms/{vm}/snapshots", {"name": "bench"})
        api.append(time.perf_counter() - began)
        service.run("DELETE", f"/vms/{vm}/snapshots/{made}")
        named = {"libvirt_snapshot_domain": vm, "libvirt_snapshot_name": f"bench-{number}"}
        playbook.append(by_hand(lab, host, "snapshot_create", **named))
        by_hand(lab, host, "snapshot_delete", **named)
        virsh.append(timed(lambda: host.ssh(f"virsh snapshot-create-as {vm} by-virsh")))
        host.ssh(f"virsh snapshot-delete {vm} by-virsh")
    service.run("DELETE", f"/vms/{vm}?force=true")
    return figure("snapshot_create", api=api, playbook=playbook, virsh=virsh)
