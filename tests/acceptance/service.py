"""Acceptance tests: runs `virtplay serve` as a process, and sends requests to its API."""

from __future__ import annotations

import functools
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar
from uuid import uuid4

import httpx

from tests.warm.environment import REAL

TOKEN = "acceptance-token-with-enough-letters"
INTERVAL = 5.0
TWO_INTERVALS = 2 * INTERVAL + 6
"""Seconds within which the list must show a change on a host: observations take time too."""
STOP_TIMEOUT = 15
"""Seconds within which a guest must react to the power button."""
MICRO: dict[str, Any] = {"template": "micro", "cpu": 1, "memory": 128, "disk": 1}
BLANK: dict[str, Any] = {**MICRO, "template": "blank"}
"""For tests in which the guest need not boot."""
PATIENCE = 5
UNFINISHED = ("queued", "running", "cancelling")

Json = dict[str, Any]
T = TypeVar("T")


class ServiceError(Exception):
    """The service did not start or stop; the message contains the reason."""


def wait_for(what: str, look: Callable[[], T | None], seconds: float, pause: float = 0.2) -> T:
    """Return the first true value that `look` returns; raise AssertionError if there is none.

    `seconds` is the time limit on an idle machine; the real limit is PATIENCE times as long.
    """
    deadline = time.monotonic() + seconds * PATIENCE
    while True:
        found = look()
        if found:
            return found
        assert time.monotonic() < deadline, f"{what} did not happen within {seconds * PATIENCE:g} s"
        time.sleep(pause)


class Service:
    """The process of the service, which can be started again on the same state."""

    def __init__(self, state: Path, inventory: str, port: int, settings: Mapping[str, str]) -> None:
        self.state = state
        self.port = port
        self.log = state.parent / "serve.log"
        self.environment = {
            **os.environ,
            "VIRTPLAY_STATE_DIR": str(state),
            "VIRTPLAY_INVENTORY": inventory,
            "VIRTPLAY_BOOTSTRAP_TOKEN": TOKEN,
            "VIRTPLAY_PORT": str(port),
            "VIRTPLAY_OBSERVE_INTERVAL": f"{INTERVAL:g}",
            # Most tests need no address, and the others wait for the interval.
            "VIRTPLAY_OBSERVE_ADDRESS_TIMEOUT": "0",
            **settings,
        }
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, seconds: float = 300) -> None:
        """Start the service and wait until it has observed its hosts."""
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                # The service ends with the tests, however they end. Its jobs are forks of its own
                # launcher; those of its first seconds are real programs, which a kill ends too.
                ["setpriv", "--pdeathsig", "TERM", REAL, "-m", "virtplay.cli", "serve"],
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                break
            try:
                answer = httpx.get(f"http://127.0.0.1:{self.port}/readyz", timeout=60)
                if answer.status_code == 200 and answer.json()["data"]["status"] == "ok":
                    return
            except httpx.HTTPError:
                pass
            time.sleep(0.1)
        words = self.log.read_text(errors="replace")[-3000:]
        raise ServiceError(f"cannot start the service: {words}")

    def runs(self) -> bool:
        """Return whether the process of the service is running."""
        return self._process is not None and self._process.poll() is None

    def kill(self) -> None:
        """Kill the service, as a crash does."""
        assert self._process
        self._process.kill()
        self._process.wait()

    def stop(self) -> int:
        """Stop the service by SIGTERM, as an operator does; return its exit status."""
        assert self._process
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(120)
            except subprocess.TimeoutExpired:
                self.kill()
                raise ServiceError("the service did not end within 120 s of SIGTERM") from None
        return self._process.returncode

    @property
    def pid(self) -> int:
        """The process id of the service itself."""
        assert self._process
        return self._process.pid

    def pids(self) -> list[int]:
        """Return the process ids of the service and its job processes."""
        state = str(self.state).encode()
        return [pid for pid, words in _command_lines() if state in words]


def _command_lines() -> Iterator[tuple[int, bytes]]:
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            yield int(entry.name), (entry / "cmdline").read_bytes()
        except OSError:
            continue


class Api:
    """A client of the API; its methods return `data`, or the error of a rejected request."""

    def __init__(self, port: int, token: str = TOKEN) -> None:
        self.http = httpx.Client(
            base_url=f"http://127.0.0.1:{port}/api/v1",
            headers={"Authorization": f"Bearer {token}"},
            timeout=120,
        )

    def ask(self, method: str, path: str, body: Any = None) -> httpx.Response:
        """Send a request and return its response."""
        return self.http.request(method, path, json=body)

    def get(self, path: str) -> Any:
        """Return the data of a GET request that must succeed."""
        answer = self.ask("GET", path)
        assert answer.status_code == 200, answer.text
        return answer.json()["data"]

    def send(self, method: str, path: str, body: Any = None) -> Json:
        """Return the data of a mutation that must be accepted."""
        answer = self.ask(method, path, body)
        assert answer.status_code == 202, answer.text
        data: Json = answer.json()["data"]
        assert answer.headers["Location"] == f"/api/v1/jobs/{data['jobId']}"
        return data

    def refused(self, status: int, code: str, method: str, path: str, body: Any = None) -> Json:
        """Return the error of a request that must be rejected with this status and code."""
        answer = self.ask(method, path, body)
        assert answer.status_code == status, answer.text
        error: Json = answer.json()["error"]
        assert error["code"] == code, error
        assert error["message"].startswith("cannot "), error
        return error

    def job(self, ref: str) -> Json:
        """Return a job."""
        job: Json = self.get(f"/jobs/{ref}")
        return job

    def log(self, ref: str) -> str:
        """Return a job's log."""
        answer = self.ask("GET", f"/jobs/{ref}/log")
        assert answer.status_code == 200
        return answer.text

    def ended(self, ref: str, seconds: float = 90) -> Json:
        """Wait until a job has ended with any status; its progress must never decrease."""
        seen = [0]

        def look() -> Json | None:
            job = self.job(ref)
            assert job["progress"] >= seen[-1], f"progress fell: {[*seen, job['progress']]}"
            seen.append(job["progress"])
            return None if job["status"] in UNFINISHED else job

        job = wait_for(f"the end of {ref}", look, seconds)
        assert (job["progress"] == 100) == (job["status"] == "succeeded"), job
        return {**job, "seen": sorted(set(seen))}

    def succeeded(self, ref: str, seconds: float = 90) -> Json:
        """Wait until a job has succeeded; fail with its log if it has not."""
        job = self.ended(ref, seconds)
        assert job["status"] == "succeeded", f"{job['error']}\n{self.log(ref)}"
        return job

    def failed(self, ref: str, code: str, seconds: float = 90) -> Json:
        """Wait until a job has failed with this error code."""
        job = self.ended(ref, seconds)
        assert job["status"] == "failed", job
        assert job["error"]["code"] == code, job["error"]
        return job

    def run(self, method: str, path: str, body: Any = None, seconds: float = 90) -> Json:
        """Send a mutation, wait until its job has succeeded, and return the job."""
        return self.succeeded(self.send(method, path, body)["jobId"], seconds)

    def create(self, seconds: float = 90, **fields: Any) -> Json:
        """Create a VM, by default of `micro`, wait for it, and return it."""
        return self.create_all(fields, seconds=seconds)[0]

    def create_all(self, *wanted: Json, seconds: float = 90) -> list[Json]:
        """Create several VMs at once, wait for them, and return them."""
        bodies = [{"name": f"test-{uuid4().hex[:8]}", **MICRO, **fields} for fields in wanted]
        made = [self.send("POST", "/vms", body) for body in bodies]
        for accepted in made:
            self.succeeded(accepted["jobId"], seconds)
        return [self.vm(accepted["id"]) for accepted in made]

    def vm(self, ref: str) -> Json:
        """Return a VM."""
        vm: Json = self.get(f"/vms/{ref}")
        return vm

    def vms(self) -> dict[str, Json]:
        """Return all VMs by id."""
        found: dict[str, Json] = {}
        page = 1
        while True:
            data = self.get(f"/vms?limit=100&page={page}")
            found |= {vm["id"]: vm for vm in data["vms"]}
            if page >= data["pagination"]["pages"]:
                return found
            page += 1

    def host(self, name: str) -> Json:
        """Return a host."""
        host: Json = self.get(f"/hosts/{name}")
        return host

    def all_ready(self, seconds: float = 60) -> None:
        """Wait until every host is ready."""

        def look() -> bool:
            return all(host["status"] == "ready" for host in self.get("/hosts")["hosts"])

        wait_for("every host ready", look, seconds)

    def shows(self, ref: str, seconds: float = TWO_INTERVALS, **fields: Any) -> Json:
        """Wait until the VM list shows these fields of a VM, and return the VM."""
        last: Json = {}

        def look() -> Json | None:
            vms = self.vms().values()
            last.update(next((vm for vm in vms if ref in (vm["id"], vm["domain"])), {}))
            return last if all(last.get(k) == v for k, v in fields.items()) else None

        try:
            return wait_for(f"{ref} with {fields}", look, seconds)
        except AssertionError as error:
            raise AssertionError(f"{error}; it is {last}") from None

    def gone(self, ref: str, seconds: float = TWO_INTERVALS) -> None:
        """Wait until the VM list no longer contains a VM."""

        def look() -> bool:
            return all(ref not in (vm["id"], vm["domain"]) for vm in self.vms().values())

        wait_for(f"the end of {ref} in the list", look, seconds)

    def remove(self, *refs: str) -> None:
        """Delete VMs in any state, after waiting for their jobs."""

        def idle(ref: str) -> bool:
            answer = self.ask("GET", f"/vms/{ref}/status")
            return answer.status_code == 404 or answer.json()["data"]["job"] is None

        jobs = []
        for ref in refs:
            wait_for(f"{ref} idle", functools.partial(idle, ref), 90)
            answer = self.ask("DELETE", f"/vms/{ref}?force=true")
            if answer.status_code != 404:
                assert answer.status_code == 202, answer.text
                jobs.append(answer.json()["data"]["jobId"])
        for job in jobs:
            self.succeeded(job)
