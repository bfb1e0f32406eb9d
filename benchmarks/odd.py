"""Benchmarks: what odd domains, dead storage and a silent agent cost the observation of a host.

Two hosts have the same number of domains, a few of them running. On one all are plain. On the other
most have disks, cards and texts as other programs and people make them. Each host is observed in
turn with the other.
"""

import json
import statistics
import subprocess
import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from benchmarks.measuring import ROOT, Figure, cpu_seconds, play, wait_for
from benchmarks.observation import IMAGES, children_seconds
from lab.lab import Host, Lab

DOMAINS = 200
ODD = 150
RUNNING = 10
TURNS = 9
DEAD = "/srv/dead"
GUEST = "bench-guest"

PLAIN = "file='{images}/{name}.qcow2'"
DISKS = (
    "<disk type='volume'><driver name='qemu'/><source pool='default' volume='{name}.qcow2'/>",
    "<disk type='volume'><driver name='qemu'/><source pool='nowhere' volume='x'/>",
    "<disk type='network'><source protocol='rbd' name='a/b'><host name='192.0.2.1'/></source>",
    "<disk type='block'><driver name='qemu' type='raw'/><source dev='/dev/nothing'/>",
    "<disk type='nvme'><source type='pci' namespace='1'><address domain='0' bus='1' slot='0'"
    " function='0'/></source>",
    "<disk type='dir'><driver name='qemu' type='fat'/><source dir='/srv'/><readonly/>",
    "<disk type='file'><driver name='qemu' type='raw'/><source file='{images}/{name}.qcow2'/>",
    "<disk type='file'><source file='{images}/gone.qcow2'/><readonly/>",
    "<disk type='file' device='cdrom'><readonly/>",
    "<disk type='file'><driver name='qemu' type='qcow2'/><source file='{images}/{name}.qcow2'/>"
    "<transient/>",
)
"""Disks of odd domains, without their target and their end."""
CARDS = (
    "<interface type='user'/>",
    "<interface type='network'><source network='nowhere'/><model type='ne2k_pci'/></interface>",
    "<interface type='bridge'><source bridge='br-none'/><model type='virtio'/></interface>",
)

# Observes rounds times in a child of its own, as the module host_info does.
SCRIPT = """
import json, sys, time
from pathlib import Path
asked = json.load(sys.stdin)
sys.path[:0] = asked["paths"]
base = "ansible_collections.virtplay.libvirt.plugins.module_utils."
from importlib import import_module
Observation = import_module(base + "observe.observation").Observation
run_in_child = import_module(base + "host.child_process").run_in_child
took, known = [], []
for _round in range(asked["rounds"]):
    began = time.perf_counter()
    one = Observation("qemu:///system", 5, Path("/nowhere"))
    seen = run_in_child(one.run, 60, is_done=one.is_done, finish=one.finish)
    took.append(time.perf_counter() - began)
    sizes = (d for domain in seen["domains"] for d in domain["disks"] if "capacity_bytes" in d)
    known.append(len(list(sizes)))
json.dump({"took": took, "domains": len(seen["domains"]), "known": min(known)}, sys.stdout)
"""


def bench(*, quick: bool) -> Iterator[Figure]:
    """The figures of plain and odd domains, those with dead storage, and with a silent agent."""
    domains, odd, running, turns = (8, 6, 1, 2) if quick else (DOMAINS, ODD, RUNNING, TURNS)
    with Lab(hosts=2, prepare=False) as lab:
        plain, other = lab.hosts
        define(plain, domains, 0, running)
        define(other, domains, odd, running)
        spent: dict[str, list[float]] = {"plain": [], "odd": []}
        for _turn in range(turns):
            for name, host in (("plain", plain), ("odd", other)):
                before = cpu_seconds(host.init.pid) + children_seconds()
                assert observe(host, 3)["domains"] == domains
                after = cpu_seconds(host.init.pid) + children_seconds()
                spent[name].append((after - before) / 3)
        medians = {name: statistics.median(each) for name, each in spent.items()}
        yield {
            "bench": "observation of odd domains",
            "vms": domains,
            "odd_vms": odd,
            **{f"{name}_cpu_s": round(seconds, 4) for name, seconds in medians.items()},
            "ratio": round(medians["odd"] / medians["plain"], 3),
            "runs": 3 * turns,
        }
        healthy = observe(plain, turns)
        with dead_storage(plain):
            dead = observe(plain, turns)
        yield {
            "bench": "observation with dead storage",
            "vms": domains,
            "healthy_s": round(statistics.median(healthy["took"]), 4),
            "dead_s": round(statistics.median(dead["took"]), 4),
            "first_s": round(dead["took"][0], 4),
            "sizes_lost": healthy["known"] - dead["known"],
            "runs": turns,
        }
    with Lab(hosts=1) as lab:
        (host,) = lab.hosts
        guest(lab, host)
        healthy = observe(host, turns)
        silence_agent(host)
        silent = observe(host, turns)
        yield {
            "bench": "observation with a silent agent",
            "vms": 1,
            "healthy_s": round(statistics.median(healthy["took"]), 4),
            "silent_s": round(statistics.median(silent["took"]), 4),
            "first_s": round(silent["took"][0], 4),
            "runs": turns,
        }


def define(host: Host, domains: int, odd: int, running: int) -> None:
    """Define the domains of a host, the odd ones last, and start the first ones, paused."""
    commands = [f"pool-create-as default dir --target {IMAGES}"]
    for number in range(domains):
        name = f"bench-{number}"
        path = f"/srv/{name}.xml"
        host.run("qemu-img", "create", "-q", "-f", "qcow2", f"{IMAGES}/{name}.qcow2", "1G")
        host.run("tee", path, stdin=definition(name, number - (domains - odd)))
        commands.append(f"define {path}")
        if number < running:
            commands.append(f"start --paused {name}")
    host.run("virsh", "-q", stdin="\n".join(commands) + "\n", timeout=300)


def definition(name: str, odd: int) -> str:
    """The XML of a domain: a plain one if `odd` is negative."""
    start = "<disk type='file'><driver name='qemu' type='qcow2'/><source " + PLAIN + "/>"
    card, text = CARDS[0], ""
    if odd >= 0:
        start, card = DISKS[odd % len(DISKS)], CARDS[odd % len(CARDS)]
        text = "<title>An odd one</title><description>line one\nline two</description>"
    disk = start.format(name=name, images=IMAGES)
    bus = "sata" if odd % 2 == 0 or "cdrom" in disk else "virtio"
    return f"""<domain type='qemu'><name>{name}</name>{text}<memory unit='MiB'>64</memory>
      <vcpu>1</vcpu><os><type arch='x86_64' machine='q35'>hvm</type></os><devices>{disk}
      <target dev='{bus[0]}da' bus='{bus}'/></disk>{card}<console type='pty'/></devices></domain>"""


def guest(lab: Lab, host: Host) -> None:
    """Create a VM on a host and wait until its agent responds."""
    values = {"name": GUEST, "template": "micro", "vcpus": 1, "memory": 128, "disk": 1}
    variables = {f"libvirt_domain_{key}": value for key, value in values.items()}
    variables["libvirt_domain_state"] = "running"
    play("vm_create", "-i", str(lab.inventory), "-e", json.dumps(variables))
    wait_for("response of the agent", lambda: ask_agent(host, "guest-ping").returncode == 0)


def silence_agent(host: Host) -> None:
    """Halt the agent of the VM, for good."""
    script = "(sleep 1; killall -STOP qemu-ga) >/dev/null 2>&1 &"
    ask_agent(host, "guest-exec", path="/bin/sh", arg=["-c", script])
    wait_for("silence of the agent", lambda: ask_agent(host, "guest-ping").returncode != 0)


def ask_agent(host: Host, command: str, **arguments: Any) -> subprocess.CompletedProcess[str]:
    """Send a command to the agent of the VM."""
    text = json.dumps({"execute": command, "arguments": arguments})
    return host.run("virsh", "qemu-agent-command", "--timeout", "2", GUEST, text, check=False)


def observe(host: Host, rounds: int) -> Figure:
    """Observe a host so often: `took` in seconds, the number of domains, and of known sizes."""
    paths = [str(ROOT / "collections"), sysconfig.get_path("purelib")]
    asked = json.dumps({"paths": paths, "rounds": rounds})
    done = host.run("python3", "-c", SCRIPT, stdin=asked, timeout=300)
    return dict(json.loads(done.stdout))


@contextmanager
def dead_storage(host: Host) -> Iterator[None]:
    """Give a host one more pool and one more stopped domain, on storage that does not respond."""
    host.run("mkdir", "-p", DEAD)
    host.run("virsh", "-q", "pool-create-as", "dead", "dir", "--target", DEAD)
    xml = definition("bench-dead", -1).replace(IMAGES, DEAD)
    host.run("virsh", "-q", "define", "/dev/stdin", stdin=xml)
    command = host.command("python3", str(ROOT / "tests/lab/dead_storage.py"), DEAD)
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as server:
        assert server.stdin is not None
        assert server.stdout is not None
        assert server.stdout.readline()
        try:
            yield
        finally:
            server.stdin.close()


if __name__ == "__main__":
    for figure in bench(quick=False):
        print(json.dumps(figure), flush=True)
