"""Runs one playbook in the process of a job: the only importer of ansible_runner.

`python -m virtplay.jobs.play DIRECTORY SERVICE` runs the specification in the directory and appends
the events to its spool file. SERVICE is the process id of the service, with which it ends. The
spool is a file and not a pipe, so that a service that reads slowly cannot slow the play down.
"""

import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from virtplay.actions import mark_unsafe
from virtplay.jobs.processes import become_subreaper, end_descendants
from virtplay.jobs.progress import EVENT_KEYS
from virtplay.jobs.specification import EVENTS, SPECIFICATION, Specification

TEXT_LIMIT = 200_000


def main(arguments: Sequence[str]) -> None:
    """Run the specification in the directory that the first argument names."""
    directory, service = Path(arguments[0]), int(arguments[1])
    become_subreaper()
    # The kernel signals only deaths from now on; the service may have died since it started this.
    if os.getppid() != service:
        return
    specification = Specification(**json.loads((directory / SPECIFICATION).read_text()))
    (directory / "private").mkdir(mode=0o700)
    try:
        _run(specification, directory)
    finally:
        shutil.rmtree(directory / "private", ignore_errors=True)


def _run(specification: Specification, directory: Path) -> None:
    import ansible_runner  # noqa: PLC0415 - the service must not pay for this import

    spool = os.open(directory / EVENTS, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    ended = False

    def write(event: Mapping[str, Any]) -> None:
        os.write(spool, json.dumps({**event, "at": time.time()}).encode() + b"\n")

    def take(event: dict[str, Any]) -> bool:
        write(trim(event))
        return False

    def stop(_number: int, _frame: FrameType | None) -> None:
        nonlocal ended
        ended = True
        end_descendants()

    # Finds ansible-playbook beside this interpreter, even when the virtual environment is not
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
            forks=specification.forks,
            extravars=mark_unsafe(specification.variables),
            cmdline="--check --diff" if specification.check else None,
            envvars={
                "ANSIBLE_CONFIG": str(Path(specification.project_dir) / "ansible.cfg"),
                "ANSIBLE_NOCOLOR": "1",
                "ANSIBLE_FORCE_COLOR": "0",
            },
            settings={"pexpect_timeout": 1, "job_timeout": specification.time_limit},
            event_handler=take,
            # Without one ansible-runner replaces the signal handlers:
            # https://github.com/ansible/ansible-runner/issues/1075
            cancel_callback=lambda: ended,
            quiet=True,
            suppress_output_file=True,
        )
    except Exception:
        if not ended:
            raise
        # ansible-runner failed because `stop` ended and reaped its processes.
        end_descendants()
        write({"event": "exit", "rc": 1, "status": "ended"})
        return
    if ended or result.status == "timeout":
        end_descendants()
    write({"event": "exit", "rc": result.rc, "status": "ended" if ended else result.status})
    os.close(spool)


def trim(event: Mapping[str, Any]) -> dict[str, Any]:
    """Return the part of a runner event that the service uses."""
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
        kept["res"] = {key: data["res"][key] for key in EVENT_KEYS if key in data["res"]}
    return {key: _storable(value) for key, value in kept.items()}


def _storable(value: Any) -> Any:
    """Replace NUL and lone surrogates, which databases refuse, in a value."""
    if isinstance(value, str):
        return value.replace("\x00", "\ufffd").encode(errors="replace").decode()
    if isinstance(value, Mapping):
        return {_storable(key): _storable(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_storable(item) for item in value]
    return value


if __name__ == "__main__":
    main(sys.argv[1:])
