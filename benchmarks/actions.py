"""Benchmarks: actions by the API beside the same playbook by hand, and virsh over SSH.

Each way takes its turn, so that all meet the same load of the machine; the first turn warms up.
"""

import json
import time
from collections.abc import Iterator

from benchmarks.measuring import Figure, Service, medians, play, serving, timed
from lab.lab import Host, Lab

RUNS = 5
MICRO = {"template": "micro", "cpu": 1, "memory": 128, "disk": 1}


def bench(*, quick: bool) -> Iterator[Figure]:
    """Creation, pause and snapshot on one host."""
    with Lab(hosts=1) as lab, serving(lab.inventory) as service:
        turns = range(2 if quick else RUNS + 1)
        for work in create, pause, snapshot:
            yield work(service, lab, lab.hosts[0], turns)


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


def pause(service: Service, lab: Lab, host: Host, turns: range) -> Figure:
    """A running VM is paused."""
    vm = service.run("POST", "/vms", {"name": "bench pause", "autoStart": True, **MICRO})
    api, playbook, virsh = [], [], []
    for _ in turns:
        api.append(timed(lambda: service.run("POST", f"/vms/{vm}/pause")))
        host.ssh(f"virsh resume {vm}")
        playbook.append(by_hand(lab, host, "vm_pause", libvirt_domain_name=vm))
        host.ssh(f"virsh resume {vm}")
        virsh.append(timed(lambda: host.ssh(f"virsh suspend {vm}")))
        while service.get(f"/vms/{vm}")["status"] != "paused":
            time.sleep(0.1)
        service.run("POST", f"/vms/{vm}/resume")
    service.run("DELETE", f"/vms/{vm}?force=true")
    return figure("vm_pause", api=api, playbook=playbook, virsh=virsh)


def snapshot(service: Service, lab: Lab, host: Host, turns: range) -> Figure:
    """A snapshot of a running VM, with its memory."""
    vm = service.run("POST", "/vms", {"name": "bench snapshot", "autoStart": True, **MICRO})
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
