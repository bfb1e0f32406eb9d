"""Lab: runs the playbook of an action against one VM of a host, for the tests of modules."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lab.lab import Host, Lab

REPOSITORY = Path(__file__).resolve().parents[2]
IMAGES = "/var/lib/libvirt/images"
Play = Callable[..., dict[str, Any]]


def run_play(
    lab: Lab, host: Host, path: Path, action: str, options: tuple[str, ...], values: dict[str, Any]
) -> dict[str, Any]:
    """Run an action's playbook, and return the result of its last task on the host."""
    return run_tasks(lab, host, path, action, options, values)[-1][1]


def run_tasks(
    lab: Lab, host: Host, path: Path, action: str, options: tuple[str, ...], values: dict[str, Any]
) -> list[tuple[str, dict[str, Any]]]:
    """Run an action's playbook with all texts marked unsafe, as the service does.

    values are the variables of the action's role without its prefix, and are written to path.
    Return the tasks that were not skipped, each with its result on the host.
    """
    role = "libvirt_snapshot" if action.startswith("snapshot_") else "libvirt_domain"
    path.write_text(json.dumps({f"{role}_{key}": unsafe(v) for key, v in values.items()}))
    done = subprocess.run(
        [
            str(Path(sys.executable).with_name("ansible-playbook")),
            f"playbooks/{action}.yml",
            *("-i", str(lab.inventory), "--limit", host.name, "-e", f"@{path}", *options),
        ],
        cwd=REPOSITORY,
        env=os.environ | {"ANSIBLE_STDOUT_CALLBACK": "ansible.posix.json"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "SECRET" not in done.stdout + done.stderr
    # With -vv Ansible first says what it is.
    output = done.stdout[done.stdout.index("{\n") :]
    tasks = [
        (task["task"]["name"].rpartition(" : ")[2], task["hosts"][host.name])
        for task in json.loads(output)["plays"][0]["tasks"]
        if not task["hosts"].get(host.name, {"skipped": True}).get("skipped")
    ]
    assert bool(tasks[-1][1].get("failed")) == bool(done.returncode)
    return tasks


def unsafe(value: Any) -> Any:
    """Mark all texts of a value as unsafe, so that Ansible does not evaluate them."""
    if isinstance(value, str):
        return {"__ansible_unsafe": value}
    if isinstance(value, dict):
        return {key: unsafe(item) for key, item in value.items()}
    return [unsafe(item) for item in value] if isinstance(value, list) else value
