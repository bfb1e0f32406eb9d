"""Benchmarks: one power action on many VMs of several hosts, as many at once as is quickest.

The VMs are QEMUs without a disk, whose BIOS finds nothing to boot: pausing and resuming one costs
the same as for any other. All ways pause the VMs and then resume them, and take turns.
"""

import json
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.measuring import ROOT, Figure, Service, medians, serving, timed, wait_for_launcher
from lab.lab import Host, Lab

HOSTS = 4
VMS = 100
RUNS = 5
AT_ONCE = {"playbook": (2, 4, 8), "virsh": (4, 8, 16, 32)}
"""The numbers of processes of which the best is measured."""
DOMAIN = """<domain type='qemu'><name>{name}</name><memory unit='MiB'>8</memory><vcpu>1</vcpu>
<os><type arch='x86_64' machine='pc'>hvm</type></os><devices>
<controller type='usb' model='none'/><memballoon model='none'/></devices></domain>"""
DEFINE = """for name in {names}; do
printf '%s' {xml} | sed "s/NAME/$name/" > /run/burst.xml
virsh -q define /run/burst.xml && virsh -q start "$name"
done"""
UNFINISHED = ("queued", "running")
ACTIONS = ("pause", "resume")

Names = dict[str, list[str]]
"""Host → its VMs, by libvirt's names."""


def bench(*, quick: bool) -> Iterator[Figure]:
    """A burst of power actions by the API, by playbooks and by virsh."""
    vms, turns = (8, 1) if quick else (VMS, RUNS)
    numbers = {way: each[:1] if quick else each for way, each in AT_ONCE.items()}
    with Lab(hosts=HOSTS) as lab:
        names = start_domains(lab.hosts, vms // HOSTS)
        with serving(lab.inventory) as service:
            wait_for_launcher(service)
            yield measure(lab, service, names, turns, numbers)


def start_domains(hosts: Sequence[Host], each: int) -> Names:
    """Start so many VMs on each host."""
    names = {host.name: [f"burst-{host.name}-{number}" for number in range(each)] for host in hosts}
    for host in hosts:
        script = DEFINE.format(
            names=" ".join(names[host.name]), xml=shlex.quote(DOMAIN.format(name="NAME"))
        )
        host.ssh(script, timeout=600)
    return names


def measure(
    lab: Lab, service: Service, names: Names, turns: int, numbers: Mapping[str, Sequence[int]]
) -> Figure:
    """The medians of each way, with the best number of processes of those that need one."""
    ids = find(service, names)
    commands = {"playbook": playbooks, "virsh": virsh}
    best = {}
    for way, command in commands.items():
        # The number that suits a fifth of the VMs on each host suits all.
        some = {host: each[: max(1, len(each) // 5)] for host, each in names.items()}
        seconds = {}
        for number in numbers[way]:
            both = [partial(xargs, command(lab, some, action), number) for action in ACTIONS]
            seconds[number] = sum(timed(act) for act in both)
        best[way] = min(seconds, key=seconds.__getitem__)
    ways: dict[str, Callable[[str], Any]] = {
        "together": lambda action: together(service, ids, action),
        "one_by_one": lambda action: one_by_one(service, ids, action),
        "playbook": lambda action: xargs(playbooks(lab, names, action), best["playbook"]),
        "virsh": lambda action: xargs(virsh(lab, names, action), best["virsh"]),
    }
    measured: dict[str, list[float]] = {way: [] for way in ways}
    for turn in range(turns):
        # The service accepts what suits the states that it has observed: here, after the others.
        await_running(service, ids)
        for way, act in ways.items():
            # Two hundred plays by hand take minutes: more than all else together.
            for action in ACTIONS if way != "playbook" or turn == 0 else ():
                measured[way].append(timed(partial(act, action)))
    return {
        "bench": "burst",
        "vms": len(ids),
        "hosts": len(names),
        **medians(**measured),
        **{f"{way}_at_once": number for way, number in best.items()},
        "runs": 2 * turns,
        "playbook_runs": len(ACTIONS),
    }


def find(service: Service, names: Names) -> list[str]:
    """The ids of the VMs, once the service has observed all of them."""
    wanted = {name for each in names.values() for name in each}
    while True:
        found = {vm["name"]: vm["id"] for vm in list_vms(service)}
        if wanted <= found.keys():
            return [found[name] for name in sorted(wanted)]
        time.sleep(0.2)


def list_vms(service: Service) -> list[dict[str, Any]]:
    """All VMs of the service, up to 100."""
    return list(service.get("/vms?limit=100")["vms"])


def await_running(service: Service, ids: Sequence[str]) -> None:
    """Wait until the service has observed that all VMs run."""
    while {vm["status"] for vm in list_vms(service) if vm["id"] in ids} != {"running"}:
        time.sleep(0.1)


def together(service: Service, ids: Sequence[str], action: str) -> None:
    """Act on all VMs by one request, and wait for all jobs."""
    body = {"action": action, "vms": list(ids)}
    accepted = service.http.post("/api/v1/vms/actions", json=body).raise_for_status()
    await_jobs(service, [job["jobId"] for job in accepted.json()["data"]["jobs"]])


def one_by_one(service: Service, ids: Sequence[str], action: str) -> None:
    """Act on all VMs by a request for each, eight at a time, and wait for all jobs."""

    def post(vm: str) -> str:
        accepted = service.http.post(f"/api/v1/vms/{vm}/{action}").raise_for_status()
        return str(accepted.json()["data"]["jobId"])

    with ThreadPoolExecutor(8) as pool:
        await_jobs(service, list(pool.map(post, ids)))


def await_jobs(service: Service, jobs: Sequence[str]) -> None:
    """Wait until all jobs, the newest ones of the service, have succeeded."""
    # A page of a hundred jobs would cost the service more than what it is measured at.
    while any(service.get(f"/jobs?limit=1&status={status}")["jobs"] for status in UNFINISHED):
        time.sleep(0.05)
    shown = {job["id"]: job for job in service.get("/jobs?limit=100")["jobs"]}
    if failed := [shown[job] for job in jobs if shown[job]["status"] != "succeeded"]:
        raise RuntimeError(f"{len(failed)} jobs failed: {failed[0]['error']}")


def playbooks(lab: Lab, names: Names, action: str) -> list[list[str]]:
    """The command of a play by hand for each VM."""
    program = str(Path(sys.executable).with_name("ansible-playbook"))
    return [
        [program, f"playbooks/vm_{action}.yml", "-i", str(lab.inventory), "--limit", host,
         "-e", json.dumps({"libvirt_domain_name": name})]
        for host, each in names.items()
        for name in each
    ]  # fmt: skip


def virsh(lab: Lab, names: Names, action: str) -> list[list[str]]:
    """The command of virsh over SSH for each VM, over connections that stay open as Ansible's."""
    verb = {"pause": "suspend"}.get(action, action)
    control = ["-o", "ControlMaster=auto", "-o", "ControlPersist=300s"]
    control += ["-o", f"ControlPath={lab.directory}/burst-%r@%h:%p"]
    return [
        [str(lab.ssh_program), *control, host, f"virsh -q {verb} {name}"]
        for host, each in names.items()
        for name in each
    ]


def xargs(commands: Sequence[Sequence[str]], at_once: int) -> None:
    """Run commands by xargs, so many at once."""
    subprocess.run(
        ["xargs", "-0", "-n", "1", "-P", str(at_once), "sh", "-c"],
        input="\0".join(shlex.join(command) for command in commands),
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        text=True,
        check=True,
    )
