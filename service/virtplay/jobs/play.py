"""Runs one playbook in the process of a job: the only importer of ansible_runner.

`python -m virtplay.jobs.play DIRECTORY SERVICE` runs the specification in the directory and appends
the events to its spool file. SERVICE is the process id of the service, with which it ends. As a
fork of the launcher it has no SERVICE: its standard input ends with the service. The
spool is a file and not a pipe, so that a service that reads slowly cannot slow the play down.
"""

import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

from ansible_warm.server import loaded

from virtplay.actions import mark_unsafe
from virtplay.jobs.ansible_settings import job_settings
from virtplay.jobs.processes import (
    become_subreaper,
    end_descendants,
    follow_parent,
    signal_end_of_input,
)
from virtplay.jobs.progress import EVENT_KEYS
from virtplay.jobs.specification import EVENTS, SPECIFICATION, Specification
from virtplay.texts import storable

TEXT_LIMIT = 200_000


def main(arguments: Sequence[str]) -> None:
    """Run the specification in the directory that the first argument names."""
    directory, *service = arguments
    become_subreaper()
    if service and not follow_parent(int(service[0])):
        return
    run(Path(directory), watch=not service)


def run(directory: Path, *, watch: bool) -> None:
    """Run the specification in a directory; if `watch`, end at the end of standard input."""
    specification = Specification(**json.loads((directory / SPECIFICATION).read_text()))
    (directory / "private").mkdir(mode=0o700)
    try:
        _run(specification, directory, watch=watch)
    finally:
        shutil.rmtree(directory / "private", ignore_errors=True)


def _run(specification: Specification, directory: Path, *, watch: bool) -> None:
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

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    if watch:
        signal_end_of_input()
    # Finds ansible-playbook beside this interpreter, even when the virtual environment is not
    # activated.
    programs = str(Path(sys.executable).parent)
    os.environ["PATH"] = f"{programs}:{os.environ.get('PATH', os.defpath)}"
    fallbacks = fork_ansible()
    try:
        result = ansible_runner.run(
            private_data_dir=str(directory / "private"),
            project_dir=specification.project_dir,
            playbook=specification.playbook,
            inventory=specification.inventory,
            limit=specification.limit,
            forks=specification.forks,
            tags=specification.tags,
            skip_tags=specification.skip_tags,
            extravars=mark_unsafe(specification.variables),
            cmdline="--check --diff" if specification.check else None,
            envvars=job_settings(Path(specification.project_dir)),
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
    write(
        {
            "event": "exit",
            "rc": result.rc,
            "status": "ended" if ended else result.status,
            "fallbacks": fallbacks,
        }
    )
    os.close(spool)


def fork_ansible() -> list[str]:
    """Make ansible-runner run ansible-playbook in a fork of this process, if that has loaded it.

    Return a list that gets the reason of each run that has to start ansible-playbook instead.
    """
    import pexpect  # noqa: PLC0415 - the service must not pay for this import

    ansible = loaded()
    reasons: list[str] = []

    class Spawn(pexpect.spawn):  # type: ignore[misc]
        def __init__(
            self, command: str, words: list[str], *, cwd: str, env: dict[str, str], **options: Any
        ) -> None:
            become = None
            if ansible is not None:
                if reason := ansible.refuses(env, cwd):
                    reasons.append(reason)
                else:
                    program = str(Path(sys.executable).with_name(command))
                    become = partial(ansible.become, [program, *words], env)
            super().__init__(command, words, cwd=cwd, env=env, preexec_fn=become, **options)
            # pexpect would sleep for a tenth of a second after the end of the program.
            self.delayafterclose = self.ptyproc.delayafterclose = 0

    pexpect.spawn = Spawn
    return reasons


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
    return {key: storable(value) for key, value in kept.items()}


if __name__ == "__main__":
    main(sys.argv[1:])
