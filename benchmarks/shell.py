"""Benchmarks: what people do from a shell, by the command line beside kcli on the same libvirt.

Both run on this machine, as an administrator of several hosts runs them, and reach the host by SSH:
kcli by itself, the command line by way of the service. They take turns; the first turn warms up.
"""

import json
import os
import re
import secrets
import shlex
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import yaml

from benchmarks.measuring import (
    ORIGIN,
    Figure,
    Service,
    medians,
    run,
    serving,
    timed,
    wait_for,
    wait_for_launcher,
)
from lab.lab import Host, Lab

KCLI = "kcli==99.0.202610251748"
PYTHON = "/usr/bin/python3"
"""The interpreter that has libvirt's bindings, which kcli requires."""
OPTIONS = (
    *("-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null"),
    *("-o", "ConnectTimeout=1"),
)
WAYS = ("virtplay", "kcli")
RUNS = 5
SIZES = "--template micro --cpu 1 --memory 256M --disk 1G"
KCLI_CREATE = (
    "kcli create vm -i {image} -P memory=256 -P numcpus=1 -P disks=[1] -P nets=[default] {new}"
)


@dataclass(frozen=True)
class Task:
    """One thing to do, as the commands of each way, and those that undo it, which do not count."""

    name: str
    ours: list[str]
    kcli: list[str]
    undo: list[str] = field(default_factory=list)
    undo_kcli: list[str] = field(default_factory=list)


TASKS = (
    Task(
        "create a VM and start it",
        [f"virtplay vm create {{new}} --start {SIZES}"],
        [KCLI_CREATE],
        ["virtplay vm delete {new} --force --yes"],
        ["kcli delete vm --yes {new}"],
    ),
    Task(
        "create a VM, start it, and know its address",
        [f"virtplay vm create {{new}} --start --wait {SIZES}"],
        [KCLI_CREATE, "address {new}"],
        ["virtplay vm delete {new} --force --yes"],
        ["kcli delete vm --yes {new}"],
    ),
    Task("list all VMs", ["virtplay vm list"], ["kcli list vm"]),
    Task("show a VM", ["virtplay vm show {vm}"], ["kcli info vm {vm}"]),
    Task(
        "stop a VM by force",
        ["virtplay vm stop {vm} --force"],
        ["kcli stop vm {vm}"],
        ["virtplay vm start {vm}"],
        ["kcli start vm {vm}"],
    ),
    Task(
        "start a VM",
        ["virtplay vm start {stopped}"],
        ["kcli start vm {stopped}"],
        ["virtplay vm stop {stopped} --force"],
        ["kcli stop vm {stopped}"],
    ),
    Task(
        "give a stopped VM more memory",
        ["virtplay vm update {stopped} --memory 512M"],
        ["kcli update vm -P memory=512 {stopped}"],
        ["virtplay vm update {stopped} --memory 256M"],
        ["kcli update vm -P memory=256 {stopped}"],
    ),
    Task(
        "give a running VM less memory, which kcli does at its next boot",
        ["virtplay vm update {vm} --memory 192M"],
        ["kcli update vm -P memory=192 {vm}"],
        ["virtplay vm update {vm} --memory 256M"],
        ["kcli update vm -P memory=256 {vm}"],
    ),
    Task(
        "take a snapshot of a stopped VM, and restore it",
        ["virtplay snapshot create {stopped} s1", "virtplay snapshot restore {stopped} s1"],
        ["kcli create vm-snapshot -n {stopped} s1", "kcli revert vm-snapshot -n {stopped} s1"],
        ["virtplay snapshot delete {stopped} s1 --yes"],
        ["kcli delete vm-snapshot -n {stopped} s1"],
    ),
    Task(
        "create five declared VMs",
        ["virtplay playbook vms -i {inventory} -i {declared}"],
        ["kcli create plan -f {plan} five"],
        ["virtplay playbook vms -i {inventory} -i {absent}"],
        ["kcli delete plan --yes five"],
    ),
)
"""`{vm}` runs and `{stopped}` does not; each way has its own. `{new}` is a name not yet used."""


class Shell:
    """Runs the commands of both ways, in a home directory of their own."""

    def __init__(self, lab: Lab, place: Path, token: str) -> None:
        self.key = place / ".ssh/id_ed25519"
        for folder in (self.key.parent, place / ".kcli", place / "bin"):
            folder.mkdir()
        run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(self.key))
        config = lab.inventory.with_name("ssh_config")
        for name in ("ssh", "scp"):
            # The lab's configuration alone knows its host's keys.
            program = place / "bin" / name
            program.write_text(f'#!/bin/sh\nexec /usr/bin/{name} -F {config} "$@"\n')
            program.chmod(0o755)
        address = yaml.safe_load(lab.inventory.read_text())["hypervisors"]["hosts"]
        client = {
            "host": address[lab.hosts[0].name]["ansible_host"],
            "user": "root",
            "protocol": "ssh",
            "pool": "default",
            "type": "kvm",
        }
        clients = {"default": {"client": "lab"}, "lab": client}
        (place / ".kcli/config.yml").write_text(yaml.safe_dump(clients))
        run(PYTHON, "-m", "venv", "--system-site-packages", str(place / "kcli"))
        run(str(place / "kcli/bin/pip"), "install", "-q", KCLI)
        self._programs = {
            "kcli": str(place / "kcli/bin/kcli"),
            "virtplay": str(Path(sys.executable).with_name("virtplay")),
        }
        self._environment = {
            # The process that has loaded Ansible ends soon after the benchmark.
            "ANSIBLE_WARM_IDLE": "60",
            "HOME": str(place),
            "PATH": f"{place / 'bin'}:{os.environ['PATH']}",
            "VIRTPLAY_URL": ORIGIN,
            "VIRTPLAY_TOKEN": token,
        }

    def __call__(self, command: str, words: dict[str, str]) -> str:
        """Run a command of a task, and return what it prints; RuntimeError if it fails."""
        program, *arguments = shlex.split(command.format(**words))
        if program == "address":
            return self._address(*arguments)
        return run(self._programs[program], *arguments, environment=self._environment)

    def _address(self, vm: str) -> str:
        """Ask kcli for the address of a VM until it knows one, as its users do."""
        return wait_for("address", lambda: self(f"kcli info vm -f ip -v {vm}", {}).strip())


def counted(commands: Sequence[str]) -> str:
    """Return how many commands these are, in words."""
    return f"{len(commands)} command{'s' * (len(commands) > 1)}"


def bench(*, quick: bool) -> Iterator[Figure]:
    """Each task both ways, and from nothing to a prompt beside the guest's own boot."""
    turns = 2 if quick else RUNS + 1
    with (
        Lab(hosts=1) as lab,
        serving(lab.inventory) as service,
        tempfile.TemporaryDirectory(prefix="virtplay-shell-") as place,
    ):
        host = lab.hosts[0]
        shell = Shell(lab, Path(place), service.token)
        wait_for_launcher(service)
        image = host.run("sh", "-c", "basename /var/lib/libvirt/templates/micro-*.qcow2")
        words = {"inventory": str(lab.inventory), "image": image.stdout.strip()}
        words |= declare(Path(place), host, words["image"])
        ways = {way: {**words, "vm": f"{way}-on", "stopped": f"{way}-off"} for way in WAYS}
        for name in ("off", "on"):
            start = " --start --wait" * (name == "on")
            shell(f"virtplay vm create virtplay-{name} {SIZES}{start}", {})
            shell(KCLI_CREATE, {**words, "new": f"kcli-{name}"})
        shell("kcli stop vm kcli-off", {})
        shell("address kcli-on", {})  # a guest that still boots takes a core from the first task
        for task in TASKS:
            yield beside(shell, task, ways, turns)
        yield read(shell, service, turns)
        yield prompt(shell, host, turns)


def declare(place: Path, host: Host, image: str) -> dict[str, str]:
    """Write five VMs as each way declares them; returns the files by their word in commands."""
    vms = [{"name": f"declared-{number}"} for number in range(5)]
    sizes = {"template": "micro", "vcpus": 1, "memory": 256, "disk": 1, "state": "stopped"}
    files = {"declared": sizes, "absent": {"state": "absent"}}
    for name, defaults in files.items():
        variables = {"libvirt_domain_vms_defaults": defaults, "libvirt_domain_vms": vms}
        inventory = {"hypervisors": {"hosts": {host.name: variables}}}
        (place / f"{name}.yml").write_text(yaml.safe_dump(inventory))
    profile = {"image": image, "memory": 256, "numcpus": 1, "disks": [1], "nets": ["default"]}
    plan = {f"kcli-{vm['name']}": {**profile, "start": False} for vm in vms}
    (place / "plan.yml").write_text(yaml.safe_dump(plan))
    return {name: str(place / f"{name}.yml") for name in (*files, "plan")}


def beside(shell: Shell, task: Task, ways: dict[str, dict[str, str]], turns: int) -> Figure:
    """The median seconds of a task each way; what undoes it does not count."""
    seconds: dict[str, list[float]] = {way: [] for way in WAYS}
    commands = {"virtplay": (task.ours, task.undo), "kcli": (task.kcli, task.undo_kcli)}
    for turn in range(turns):
        for way, (work, undo) in commands.items():
            words = {**ways[way], "new": f"{way}-new-{turn}"}
            seconds[way].append(timed(lambda: [shell(each, words) for each in work]))  # noqa: B023
            for each in undo:
                shell(each, words)
    return {
        "bench": f"shell: {task.name}",
        **medians(**{way: each[1:] for way, each in seconds.items()}),
        "runs": turns - 1,
    }


def read(shell: Shell, service: Service, turns: int) -> Figure:
    """A list by the command line, beside curl, which prints the answer as it comes."""
    header = f"Authorization: Bearer {service.token}"
    ways: dict[str, Callable[[], str]] = {
        "virtplay": lambda: shell("virtplay vm list", {}),
        "curl": lambda: run("curl", "-sfH", header, f"{ORIGIN}/api/v1/vms"),
    }
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(4 * turns):
        for way, work in ways.items():
            seconds[way].append(timed(work))
    return {
        "bench": "shell: read",
        **medians(**{way: each[1:] for way, each in seconds.items()}),
        "runs": 4 * turns - 1,
    }


def prompt(shell: Shell, host: Host, turns: int) -> Figure:
    """From no VM to a prompt by SSH, beside what its guest takes to boot until it serves SSH.

    The guest boots anew: with a MAC address that no lease has, for which dnsmasq first pings an
    address for three seconds; and again, with the lease that it has then.
    """
    seconds: dict[str, list[float]] = {"virtplay": [], "boot": [], "boot_again": []}
    create = f"virtplay vm create {{new}} --start --wait --ssh-key {shell.key}.pub {SIZES}"
    log_in = f"virtplay vm ssh {{new}} --identity {shell.key} -- true"
    for turn in range(turns):
        words = {"new": f"prompt-{turn}"}
        began = time.perf_counter()
        shell(create, words)
        shell(log_in, words)
        seconds["virtplay"].append(time.perf_counter() - began)
        vm = json.loads(shell("virtplay vm show {new} --json", words))
        # At random: a number beside the old one may be that of another VM.
        old, new = vm["network"]["mac"], f"52:54:00:{secrets.token_bytes(3).hex(':')}"
        host.run("virsh", "destroy", vm["domain"])
        xml = host.run("virsh", "dumpxml", "--inactive", vm["domain"]).stdout.replace(old, new)
        host.run("virsh", "define", "/dev/stdin", stdin=xml)
        for which in ("boot", "boot_again"):
            seconds[which].append(timed(partial(boot, host, shell.key, vm["domain"], new)))
            host.run("virsh", "destroy", vm["domain"])
        shell("virtplay vm delete {new} --force --yes", words)
    return {
        "bench": "shell: prompt",
        **medians(**{way: each[1:] for way, each in seconds.items()}),
        "runs": turns - 1,
    }


def boot(host: Host, key: Path, domain: str, mac: str) -> None:
    """Start a domain, and return when its guest serves SSH."""
    host.run("virsh", "start", domain)
    leases = ("virsh", "net-dhcp-leases", "default", "--mac", mac)
    lease = wait_for(
        f"lease of {domain}", lambda: re.search(r"([0-9.]+)/[0-9]+", host.run(*leases).stdout)
    )
    ssh = ("ssh", *OPTIONS, "-i", str(key), f"root@{lease[1]}", "true")
    wait_for(f"SSH server of {domain}", lambda: host.run(*ssh, check=False).returncode == 0)
