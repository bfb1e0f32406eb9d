"""Distributions: runs playbooks on hosts, and says what they changed and returned."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.lab.plays import REPOSITORY, unsafe


@dataclass
class Run:
    """A run of a playbook that succeeded: the number of changes, and the last task's result."""

    changed: int
    result: dict[str, Any]
    warnings: list[str]

    @property
    def domain(self) -> dict[str, Any]:
        """The domain that the last task returned."""
        domain: dict[str, Any] = self.result["domain"]
        return domain


def play(inventory: Path, host: str, action: str, *options: str, **values: Any) -> Run:
    """Run a playbook on one host with these variables; AssertionError if it fails."""
    done = run(inventory, host, action, *options, **values)
    assert done.returncode == 0, (done.stdout + done.stderr)[-6000:]
    said, _ = json.JSONDecoder().raw_decode(done.stdout)  # a summary may follow
    # The last one of a creation ends its role, and has no result.
    last = [{}, *(task["hosts"].get(host) for task in said["plays"][-1]["tasks"])]
    result = [each for each in last if each is not None][-1]
    # A deprecation is what the next Ansible or Python will refuse.
    warned = [line for line in done.stderr.splitlines() if "WARNING" in line or "DEPREC" in line]
    return Run(said["stats"][host]["changed"], result, warned)


def refusal(inventory: Path, host: str, action: str, *options: str, **values: Any) -> str:
    """Run a playbook that must fail; the message of its last task."""
    done = run(inventory, host, action, *options, **values)
    assert done.returncode == 2, (done.stdout + done.stderr)[-6000:]
    task = json.loads(done.stdout)["plays"][-1]["tasks"][-1]
    return str(task["hosts"][host]["msg"])


def run(
    inventory: Path, host: str, action: str, *options: str, **values: Any
) -> subprocess.CompletedProcess[str]:
    """Run a playbook on one host, with the JSON callback, and return its output."""
    return subprocess.run(
        [
            str(Path(sys.executable).with_name("ansible-playbook")),
            *(f"playbooks/{action}.yml", "-i", str(inventory), "--limit", host),
            *("-e", json.dumps(unsafe(values)), *options),
        ],
        cwd=REPOSITORY,
        env=os.environ | {"ANSIBLE_STDOUT_CALLBACK": "ansible.posix.json"},
        capture_output=True,
        text=True,
        check=False,
    )
