"""Benchmarks: what they share: a service to measure, timed work, plays by hand, CPU, memory."""

import os
import secrets
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

import httpx
import psutil

from scripts.demo import start_service, stop_service, wait_ready

ROOT = Path(__file__).parents[1]
PORT = "3197"
ORIGIN = f"http://127.0.0.1:{PORT}"
NOWHERE = "hypervisors: {hosts: {nowhere: {ansible_host: 127.0.0.1, ansible_port: 1}}}\n"
"""An inventory must have a host; this one cannot be reached."""
NEVER = {"VIRTPLAY_OBSERVE_INTERVAL": "86400", "VIRTPLAY_OBSERVE_ADDRESS_TIMEOUT": "0"}
"""Settings with which hosts are observed once."""

START_SECONDS = 600.0
"""How long the first observation of all hosts may take."""

WAIT_SECONDS = 300.0
POLL_SECONDS = 0.1

T = TypeVar("T")
Figure = dict[str, Any]
"""One line of output: `bench` names the benchmark, the keys end in their units."""


@dataclass(frozen=True)
class Service:
    """A running service with a state directory of its own, and a client with an admin token."""

    pid: int
    state: Path
    http: httpx.Client
    token: str

    def get(self, path: str) -> Any:
        """The data of a GET below /api/v1."""
        return self.http.get(f"/api/v1{path}").raise_for_status().json()["data"]

    def run(self, method: str, path: str, body: Any = None) -> str:
        """Send a change and wait until its job has succeeded; returns the id of VM or snapshot."""
        response = self.http.request(method, f"/api/v1{path}", json=body).raise_for_status()
        accepted = response.json()["data"]
        while (job := self.get(f"/jobs/{accepted['jobId']}?wait=30"))["status"] != "succeeded":
            if job["status"] not in ("queued", "running"):
                raise RuntimeError(f"{path}: job {job['id']} {job['status']}: {job['error']}")
        return str(accepted["id"])


@contextmanager
def serving(
    inventory: Path | str,
    settings: dict[str, str] | None = None,
    program: Sequence[str] = ("-m", "virtplay.cli", "serve"),
    prepare: Callable[[Path], None] | None = None,
) -> Iterator[Service]:
    """Start the service on an inventory (a file, or its text) and end it with the block.

    `prepare` fills the state directory before the start. The block begins when every host was
    observed.
    """
    token = secrets.token_urlsafe(32)
    with tempfile.TemporaryDirectory(prefix="virtplay-bench-") as directory:
        state = Path(directory)
        if isinstance(inventory, str):
            (state / "hosts.yml").write_text(inventory)
            inventory = state / "hosts.yml"
        if prepare is not None:
            prepare(state)
        process = start_service(
            inventory, state, token, PORT, settings=settings or {}, program=program
        )
        try:
            wait_ready(process, PORT, START_SECONDS)
            headers = {"Authorization": f"Bearer {token}"}
            with httpx.Client(base_url=ORIGIN, headers=headers, timeout=60) as client:
                yield Service(process.pid, state, client, token)
        finally:
            stop_service(process)


def wait_for(what: str, look: Callable[[], T | None]) -> T:
    """Return the first true value that `look` returns; RuntimeError after WAIT_SECONDS."""
    deadline = time.monotonic() + WAIT_SECONDS
    while not (found := look()):
        if time.monotonic() > deadline:
            raise RuntimeError(f"no {what} after {WAIT_SECONDS:.0f} s")
        time.sleep(POLL_SECONDS)
    return found


def wait_for_launcher(service: Service) -> None:
    """Wait until jobs are forks."""
    wait_for("launcher", lambda: list(service.state.glob("launcher/*/socket")))


def timed(work: Callable[[], Any]) -> float:
    """How long something takes, in seconds."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def medians(**seconds: Sequence[float]) -> Figure:
    """The median of each, under the same name with `_s`."""
    return {f"{name}_s": round(statistics.median(each), 4) for name, each in seconds.items()}


def p99(values: Sequence[float]) -> float:
    """The value that 99 of 100 do not exceed."""
    return sorted(values)[len(values) * 99 // 100]


def run(
    *command: str,
    environment: Mapping[str, str] = MappingProxyType({}),
    directory: Path | None = None,
) -> str:
    """Run a command of this machine, and return what it prints; RuntimeError if it fails."""
    done = subprocess.run(
        command,
        cwd=directory,
        env={**os.environ, **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"{shlex.join(command)}: {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


def play(playbook: Path | str, *arguments: str) -> str:
    """Run a playbook (the name of one of ours, or a file) by hand and return its output."""
    path = f"playbooks/{playbook}.yml" if isinstance(playbook, str) else str(playbook)
    return run(
        str(Path(sys.executable).with_name("ansible-playbook")),
        path,
        *arguments,
        environment={"ANSIBLE_NOCOLOR": "1", "ANSIBLE_DISPLAY_SKIPPED_HOSTS": "0"},
        directory=ROOT,
    )


def cpu_seconds(root: int) -> float:
    """CPU seconds of a process and all its descendants, those that have ended included."""
    process = psutil.Process(root)
    spent = 0.0
    for each in [process, *process.children(recursive=True)]:
        with suppress(psutil.NoSuchProcess):
            times = each.cpu_times()
            spent += times.user + times.system + times.children_user + times.children_system
    return spent


def memory(root: int) -> dict[str, float]:
    """MiB of a service and all its descendants, by what they are: service, jobs, observer.

    It is the proportional set size: pages that processes share count once. A process belongs to
    the observer if its command, or that of an ancestor or descendant, names the directory of
    observations, as the launcher is that has forked it; every other descendant belongs to the jobs.
    """
    service = psutil.Process(root)
    found = {"service": _pss(root), "jobs": 0.0, "observer": 0.0}
    for child in service.children():
        for process in [child, *child.children(recursive=True)]:
            with suppress(psutil.NoSuchProcess, OSError):
                found["observer" if _observes(process, root) else "jobs"] += _pss(process.pid)
    return found


def _observes(process: psutil.Process, root: int) -> bool:
    above = [each for each in process.parents() if each.pid != root and root in _pids_above(each)]
    kin = [process, *above, *process.children(recursive=True)]
    return any("/observation" in argument for each in kin for argument in each.cmdline())


def _pids_above(process: psutil.Process) -> set[int]:
    return {each.pid for each in process.parents()}


def _pss(pid: int) -> float:
    """The proportional set size of a process, in MiB."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("Pss:"))
