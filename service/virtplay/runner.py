"""Runs one playbook in a process of its own: the only importer of ansible_runner.

The parent (the service) writes a specification into the job's directory, starts
`python -m virtplay.runner DIRECTORY`, and reads the events that appear in DIRECTORY/events.jsonl.
A file, not a pipe: a service that dies or reads slowly can neither kill nor slow the play.
"""

import asyncio
import contextlib
import ctypes
import json
import os
import shutil
import signal
import sys
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from virtplay.actions import mark_unsafe

SPECIFICATION = "specification.json"
EVENTS = "events.jsonl"
POLL_SECONDS = 0.1
TERM_SECONDS = 2.0
PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
TEXT_LIMIT = 200_000
MARK = "VIRTPLAY_RUN"
"""Environment variable of a job process and all below it: its directory."""
KEPT_RESULT = (
    "changed",
    "msg",
    "code",
    "domain",
    "changes",
    "applies_at",
    "image",
    "host_info",
    "module_stderr",
)


@dataclass(frozen=True)
class Specification:
    """One run of one playbook."""

    project_dir: str
    playbook: str
    inventory: list[str]
    variables: dict[str, Any]
    """Plain values; every text among them is marked unsafe before Ansible sees it."""
    limit: str | None = None
    check: bool = False
    time_limit: int = 3600
    """Seconds."""


class Run:
    """A job process seen from the service."""

    def __init__(self, process: asyncio.subprocess.Process, directory: Path) -> None:
        self._process = process
        self._directory = directory
        self._read = 0

    @property
    def pid(self) -> int:
        """The job process's id."""
        return self._process.pid

    async def batches(self) -> AsyncIterator[list[dict[str, Any]]]:
        """The events of the play in order, as they come; the last is {"event": "exit", rc, status}.

        The `exit` event is missing when the process was killed.
        """
        while True:
            ended = self._process.returncode is not None
            if events := await asyncio.to_thread(self._read_events):
                yield events
            if ended:
                return
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._process.wait(), POLL_SECONDS)

    def _read_events(self) -> list[dict[str, Any]]:
        try:
            with (self._directory / EVENTS).open("rb") as spool:
                spool.seek(self._read)
                block = spool.read()
        except FileNotFoundError:
            return []
        whole = block.rfind(b"\n") + 1
        self._read += whole
        return [json.loads(line) for line in block[:whole].splitlines()]

    async def end(self) -> None:
        """End the play with all its descendants, and wait until they are gone."""
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.terminate()
        await self._process.wait()
        if self._process.returncode:
            await asyncio.to_thread(end_strays, self._directory)


async def start(specification: Specification, directory: Path) -> Run:
    """Start a job process in `directory` (made 0700, what an earlier run left in it is removed)."""
    await asyncio.to_thread(_prepare, specification, directory)
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "virtplay.runner",
        str(directory),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=None,
        start_new_session=True,
        env={**os.environ, MARK: str(directory)},
    )
    return Run(process, directory)


async def clear(directory: Path) -> None:
    """Remove a job's directory with the secrets in it."""
    await asyncio.to_thread(shutil.rmtree, directory, ignore_errors=True)


def end_strays(directory: Path) -> None:
    """End what a killed job process has left: all below it has `directory` in its environment."""
    mark = f"{MARK}={directory}".encode()
    while strays := [pid for pid in _processes() if mark in _environment(pid)]:
        for pid in strays:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.05)


def _processes() -> list[int]:
    return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]


def _environment(pid: int) -> list[bytes]:
    """A process's environment; empty for a zombie, somebody else's, and an ssh connection."""
    with contextlib.suppress(OSError):
        if not _is_ssh_master(pid):
            return Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    return []


def _prepare(specification: Specification, directory: Path) -> None:
    if (directory / SPECIFICATION).exists():
        end_strays(directory)
    shutil.rmtree(directory / "private", ignore_errors=True)
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    (directory / EVENTS).unlink(missing_ok=True)
    path = directory / SPECIFICATION
    path.touch(mode=0o600)
    path.write_text(json.dumps(asdict(specification)))


# From here on: inside the job process.


def _become_subreaper() -> None:
    """Get every orphaned descendant as a child, and a SIGTERM when the service dies."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) or libc.prctl(
        PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0
    ):
        raise OSError(ctypes.get_errno(), "cannot become a subreaper")


def _children() -> dict[int, list[int]]:
    tree: dict[int, list[int]] = {}
    for pid in _processes():
        with contextlib.suppress(OSError):
            parent = int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1])
            tree.setdefault(parent, []).append(pid)
    return tree


def _is_ssh_master(pid: int) -> bool:
    """Whether it is a ControlPersist connection, which other jobs may be using."""
    with contextlib.suppress(OSError):
        return b"[mux]" in Path(f"/proc/{pid}/cmdline").read_bytes()
    return False


def _descendants() -> list[int]:
    tree = _children()
    found: list[int] = []
    waiting = list(tree.get(os.getpid(), []))
    while waiting:
        pid = waiting.pop()
        if not _is_ssh_master(pid):
            found.append(pid)
            waiting += tree.get(pid, [])
    return found


def end_descendants() -> None:
    """End all processes below this one: SIGTERM, then SIGKILL to what remains."""
    deadline = time.monotonic() + TERM_SECONDS
    number = signal.SIGTERM
    while pids := _descendants():
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        time.sleep(0.05)
        if time.monotonic() > deadline:
            number = signal.SIGKILL


def _trim(event: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a runner event that the service uses."""
    data = event.get("event_data") or {}
    kept: dict[str, Any] = {
        "event": event.get("event", ""),
        "text": (event.get("stdout") or "")[:TEXT_LIMIT],
        "task": data.get("task") or data.get("name") or "",
        "host": data.get("host") or "",
    }
    if data.get("ignore_errors"):
        kept["ignore_errors"] = True
    if isinstance(data.get("res"), dict):
        kept["res"] = {key: data["res"][key] for key in KEPT_RESULT if key in data["res"]}
    return {key: _storable(value) for key, value in kept.items()}


def _storable(value: Any) -> Any:
    """The same value without NUL and lone surrogates, which no database takes."""
    if isinstance(value, str):
        return value.replace("\x00", "\ufffd").encode(errors="replace").decode()
    if isinstance(value, Mapping):
        return {_storable(key): _storable(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_storable(item) for item in value]
    return value


def _run(specification: Specification, directory: Path) -> None:
    import ansible_runner  # noqa: PLC0415 - the service must not pay for this import

    spool = os.open(directory / EVENTS, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    ended = False

    def write(event: Mapping[str, Any]) -> None:
        os.write(spool, json.dumps(event).encode() + b"\n")

    def take(event: dict[str, Any]) -> bool:
        write(_trim(event))
        return False

    def stop(_number: int, _frame: FrameType | None) -> None:
        nonlocal ended
        ended = True
        end_descendants()

    # ansible-playbook is found beside this interpreter, also where the virtual environment is not
    # activated.
    programs = str(Path(sys.executable).parent)
    os.environ["PATH"] = f"{programs}:{os.environ.get('PATH', os.defpath)}"
    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    try:
        result = ansible_runner.run(
            private_data_dir=str(directory / "private"),
            project_dir=specification.project_dir,
            playbook=specification.playbook,
            inventory=specification.inventory,
            limit=specification.limit,
            extravars=mark_unsafe(specification.variables),
            cmdline="--check --diff" if specification.check else None,
            envvars={
                "ANSIBLE_CONFIG": str(Path(specification.project_dir) / "ansible.cfg"),
                "ANSIBLE_NOCOLOR": "1",
                "ANSIBLE_FORCE_COLOR": "0",
            },
            settings={"pexpect_timeout": 1, "job_timeout": specification.time_limit},
            event_handler=take,
            # Without it the runner takes the signal handlers away.
            cancel_callback=lambda: ended,
            quiet=True,
            suppress_output_file=True,
        )
    except Exception:
        if not ended:
            raise
        # The runner stumbled over the processes that `stop` ended and reaped under it.
        end_descendants()
        write({"event": "exit", "rc": 1, "status": "ended"})
        return
    if ended or result.status == "timeout":
        end_descendants()
    write({"event": "exit", "rc": result.rc, "status": "ended" if ended else result.status})
    os.close(spool)


def main(arguments: Sequence[str]) -> None:
    """Run the specification in the directory that the one argument names."""
    directory = Path(arguments[0])
    parent = os.getppid()
    _become_subreaper()
    if os.getppid() != parent:
        return
    specification = Specification(**json.loads((directory / SPECIFICATION).read_text()))
    (directory / "private").mkdir(mode=0o700)
    try:
        _run(specification, directory)
    finally:
        shutil.rmtree(directory / "private", ignore_errors=True)


if __name__ == "__main__":
    main(sys.argv[1:])
