"""Benchmarks: how soon the service answers after kill -9, and what a thousand jobs leave in it.

The hypervisors are the fake ones of the API tests, so that only the service and Ansible count.
"""

import json
import signal
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Self

import httpx
import psutil

from benchmarks.measuring import NEVER, ORIGIN, PORT, ROOT, Figure, cpu_seconds, medians
from scripts.demo import start_service, stop_service, wait_ready
from tests.api.fake_hosts import FakeHost
from tests.warm.hosts import warm_python

KILLS = 100
KILLS_PER_ROUND = 10
COLD_PER_ROUND = 2
JOBS = 1000
VMS = 4
SETTLED = 100
"""Jobs after which the service has loaded what it needs."""
POLL_SECONDS = 0.02
WAIT_SECONDS = 300
PROJECT = ROOT / "tests/api/project"
COLD = Path("/usr/bin/python3")
TOKEN = "t" * 40
BODY = {"name": "bench", "template": "micro", "cpu": 1, "memory": 256, "disk": 1, "autoStart": True}
ACTIONS = ("pause", "resume")


Start = tuple[float, float]
"""Seconds until the service answers, and the seconds of CPU that it and its children took."""


class Site:
    """The service on two fake hypervisors with running VMs, to be started and ended at will."""

    def __init__(self, folder: Path, python: Path) -> None:
        (folder / "hosts").mkdir()
        self.hosts = [FakeHost(name, folder / "hosts") for name in ("kvm1", "kvm2")]
        self._folder = folder
        self.state = folder / "state"
        self._settings = {
            "VIRTPLAY_PROJECT_DIR": str(PROJECT),
            "VIRTPLAY_LOG_LEVEL": "ERROR",
            **NEVER,
        }
        entries = {
            host.name: {
                "ansible_connection": "local",
                "ansible_python_interpreter": str(python),
                "fake_hypervisor": str(host.path),
            }
            for host in self.hosts
        }
        inventory = {"hypervisors": {"hosts": entries}}
        (folder / "hosts.yml").write_text(json.dumps(inventory))
        headers = {"Authorization": f"Bearer {TOKEN}"}
        self.http = httpx.Client(base_url=f"{ORIGIN}/api/v1", headers=headers, timeout=60)
        self.process = self._start()
        wait_ready(self.process, PORT)
        made = [self.post("/vms", BODY) for _ in range(VMS)]
        self.vms = [vm["id"] for vm in made]
        self.finish([vm["jobId"] for vm in made])

    def _start(self) -> subprocess.Popen[bytes]:
        inventory = self._folder / "hosts.yml"
        return start_service(inventory, self.state, TOKEN, PORT, settings=self._settings)

    def start(self) -> tuple[float, float]:
        """Start the service; return after how many seconds, and seconds of CPU, it has answered."""
        began = time.perf_counter()
        self.process = self._start()
        wait_for(self._answers)
        return time.perf_counter() - began, cpu_seconds(self.process.pid)

    def _answers(self) -> bool:
        if self.process.poll() is not None:
            raise RuntimeError(f"the service ended with status {self.process.returncode}")
        with suppress(httpx.TransportError):
            return self.http.get(f"{ORIGIN}/healthz").status_code == 200
        return False

    def kill(self) -> None:
        """End the service with SIGKILL."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def post(self, path: str, body: Any = None) -> Any:
        """The data of an accepted POST."""
        return self.http.post(path, json=body).raise_for_status().json()["data"]

    def act(self, action: str) -> list[str]:
        """Request an action of every VM; return the ids of the jobs."""
        return [self.post(f"/vms/{vm}/{action}")["jobId"] for vm in self.vms]

    def finish(self, jobs: Sequence[str]) -> None:
        """Wait until these jobs have succeeded."""

        def ended(job: str) -> bool:
            shown = self.http.get(f"/jobs/{job}").raise_for_status().json()["data"]
            if shown["status"] not in ("queued", "running", "succeeded"):
                raise RuntimeError(f"job {job} {shown['status']}: {shown['error']}")
            return bool(shown["status"] == "succeeded")

        for job in jobs:
            wait_for(partial(ended, job))

    def count(self, status: str) -> int:
        """The number of jobs with that status."""
        answer = self.http.get("/jobs", params={"status": status}).raise_for_status()
        return int(answer.json()["data"]["pagination"]["total"])


def wait_for(test: Callable[[], bool]) -> None:
    """Wait until `test` returns True."""
    deadline = time.monotonic() + WAIT_SECONDS
    while not test():
        if time.monotonic() > deadline:
            raise RuntimeError("the service does not respond")
        time.sleep(POLL_SECONDS)


@contextmanager
def site(python: Path = COLD) -> Iterator[Site]:
    """A site that is ended with the block; `python` runs the modules."""
    with tempfile.TemporaryDirectory(prefix="virtplay-bench-") as folder:
        made = Site(Path(folder), python)
        with closing(made.http):
            try:
                yield made
            finally:
                stop_service(made.process)


def bench(*, quick: bool) -> Iterator[Figure]:
    """The starts after crashes."""
    yield starts(*measure_starts(2 if quick else KILLS))


def bench_jobs(*, quick: bool) -> Iterator[Figure]:
    """Memory and descriptors after many jobs."""
    yield growth(*((12, 4) if quick else (JOBS, SETTLED)))


def measure_starts(kills: int) -> tuple[list[Start], list[Start]]:
    """The starts after kill -9 with a running job for each VM, and cold ones."""
    killed: list[Start] = []
    cold: list[Start] = []
    with site() as one:
        turn = 0
        while len(killed) < kills:
            action = ACTIONS[turn % 2]
            gates = [host.hold(action) for host in one.hosts]
            jobs = one.act(action)
            for kill in range(min(KILLS_PER_ROUND, kills - len(killed))):
                wait_for(lambda: one.count("running") == VMS)
                # While their processes start, and while modules act.
                time.sleep(2 * kill / KILLS_PER_ROUND)
                one.kill()
                killed.append(one.start())
            for gate in gates:
                gate.unlink()
            one.finish(jobs)
            for _ in range(COLD_PER_ROUND):
                wait_ready(one.process, PORT)
                stop_service(one.process)
                cold.append(one.start())
            wait_ready(one.process, PORT)
            turn += 1
    return killed, cold


def starts(killed: Sequence[Start], cold: Sequence[Start]) -> Figure:
    """The figure of starts after kill -9 beside cold ones."""
    (killed_s, killed_cpu), (cold_s, cold_cpu) = zip(*killed, strict=True), zip(*cold, strict=True)
    usual, usual_cpu = statistics.median(cold_s), statistics.median(cold_cpu)
    return {
        "bench": "start after kill -9",
        "kills": len(killed),
        **medians(killed=killed_s, cold=cold_s, killed_cpu=killed_cpu, cold_cpu=cold_cpu),
        "longest_killed_s": round(max(killed_s), 3),
        "longest_cold_s": round(max(cold_s), 3),
        "longest_of_cold": round(max(killed_s) / usual, 2),
        "most_cpu_of_cold": round(max(killed_cpu) / usual_cpu, 2),
        "above_1_5": sum(seconds > 1.5 * usual for seconds in killed_s),
    }


@dataclass(frozen=True)
class Left:
    """What jobs have left in the service and in the two processes of its launcher."""

    service_mb: float
    launcher_mb: float
    fds: int
    launcher_fds: int
    threads: int

    @classmethod
    def of(cls, service: psutil.Process) -> Self:
        """What is there now."""
        launcher = launcher_of(service)
        return cls(
            service_mb=round(service.memory_info().rss / 2**20, 1),
            launcher_mb=round(sum(each.memory_info().rss for each in launcher) / 2**20, 1),
            fds=service.num_fds(),
            launcher_fds=sum(each.num_fds() for each in launcher),
            threads=service.num_threads(),
        )


def launcher_of(service: psutil.Process) -> list[psutil.Process]:
    """The manager of a service's launcher, and the server that forks."""
    for child in service.children():
        if any(word.endswith("/manager.py") for word in child.cmdline()):
            return [child, *child.children()]
    raise RuntimeError("the service has no launcher")


def growth(jobs: int, settled: int) -> Figure:
    """Memory and descriptors of service and launcher after 10, 100 and all of `jobs` jobs."""
    marks = sorted({10**power for power in range(1, len(str(jobs)))} | {settled, jobs})
    with warm_python(PROJECT / "library") as python, site(python) as one:
        wait_for(lambda: any(one.state.glob("launcher/*/socket")))
        process = psutil.Process(one.process.pid)
        seen: dict[int, Left] = {}
        done = 0
        while done < jobs:
            one.finish(one.act(ACTIONS[done // VMS % 2]))
            done += VMS
            if any(done - VMS < mark <= done for mark in marks):
                seen[done] = Left.of(process)
                print(json.dumps({"jobs": done, **asdict(seen[done])}), flush=True)
    first, last = seen[next(count for count in seen if count >= settled)], seen[max(seen)]
    return {
        "bench": "jobs in a row",
        "jobs": max(seen),
        **{f"{name}_settled": value for name, value in asdict(first).items()},
        **asdict(last),
        "growth": {
            "x": "jobs",
            "unit": "MiB",
            "series": {
                "service": [[count, left.service_mb] for count, left in seen.items()],
                "launcher": [[count, left.launcher_mb] for count, left in seen.items()],
            },
        },
    }
