#!/usr/bin/python
"""Tests: plays the module `domain` on a hypervisor that is a JSON file."""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule

MIB = 1024**2
GIB = 1024**3
STATES = {
    "start": "running",
    "stop": "stopped",
    "restart": "running",
    "pause": "paused",
    "resume": "running",
}


@contextmanager
def hypervisor(path: Path) -> Iterator[dict[str, Any]]:
    """The file's content under its lock; what the block leaves in it is written back."""
    with Path(f"{path}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        content = json.loads(path.read_text())
        yield content
        written = path.with_suffix(".new")
        written.write_text(json.dumps(content))
        written.replace(path)


def new_domain(given: dict[str, Any]) -> dict[str, Any]:
    """The domain that the playbook vm_create asks for, in the real module's shape."""
    network = given.get("network") or {"type": "network", "network": "default"}
    return {
        "uuid": given["uuid"],
        "name": given["name"],
        "title": given.get("title"),
        "description": given.get("description"),
        "state": given.get("state") or "stopped",
        "vcpus": given["vcpus"],
        "vcpus_max": 8,
        "memory": given["memory"],
        "memory_max": given["memory"],
        "autostart": bool(given.get("autostart")),
        "firmware": "bios",
        "virt_type": "qemu",
        "machine": "pc-q35-7.2",
        "disks": [
            {
                "target": "vda",
                "path": f"/pool/{given['uuid']}-vda.qcow2",
                "size": float(given["disk"]),
                "capacity_bytes": given["disk"] * GIB,
                "allocation_bytes": 200704,
                "backing": None,
            }
        ],
        "interfaces": [
            {
                "mac": network.get("mac"),
                "type": network["type"],
                "source": network.get(network["type"]),
                "model": "virtio",
                "target": "vnet0",
            }
        ],
        "snapshots": [],
        "graphics": {"type": "vnc", "host": "127.0.0.1", "port": 5900},
        "metadata": {
            "id": given["name"],
            "job": given.get("job"),
            "generation": given.get("generation"),
            "template": given.get("template"),
            "os": given.get("os"),
            "labels": given.get("labels") or {},
        },
        "started_at": "2026-11-22T13:30:00.000000Z" if given.get("state") == "running" else None,
    }


def update(domain: dict[str, Any], given: dict[str, Any]) -> list[dict[str, Any]]:
    """Change what is set; returns the changes. CPUs beyond the maximum wait for the next boot."""
    changes = []
    for key, field in (("title", "title"), ("vcpus", "vcpus"), ("memory", "memory")):
        if given.get(key) is not None and given[key] != domain[field]:
            live = domain["state"] == "stopped" or not (
                key == "vcpus" and given[key] > domain["vcpus_max"]
            )
            changes.append(
                {
                    "field": field,
                    "before": domain[field],
                    "after": given[key],
                    "applies": "live" if live else "next_boot",
                    "destroys": False,
                }
            )
            if live:
                domain[field] = given[key]
    if given.get("labels") is not None:
        domain["metadata"]["labels"] = given["labels"]
    if (
        given.get("disk") is not None
        and given["disk"] * GIB != domain["disks"][0]["capacity_bytes"]
    ):
        changes.append(
            {
                "field": "disks[vda].size",
                "before": domain["disks"][0]["size"],
                "after": given["disk"],
                "applies": "live",
                "destroys": False,
            }
        )
        domain["disks"][0].update(size=float(given["disk"]), capacity_bytes=given["disk"] * GIB)
    return changes


def act(
    content: dict[str, Any], action: str, given: dict[str, Any]
) -> tuple[bool, dict[str, Any] | None, list[dict[str, Any]]]:
    """Do what the action asks; (changed, domain, changes)."""
    domains = content["domains"]
    if action == "create":
        domains[given["uuid"]] = new_domain(given)
        return True, domains[given["uuid"]], []
    domain = domains.get(given["uuid"])
    if action == "delete":
        return domains.pop(given["uuid"], None) is not None, None, []
    if domain is None:
        raise LookupError(given["name"])
    if action == "update":
        changes = update(domain, given)
        return bool(changes), domain, changes
    before = domain["state"]
    domain["state"] = STATES[action]
    domain["started_at"] = "2026-11-22T13:31:00.000000Z" if action != "stop" else None
    return before != domain["state"] or action == "restart", domain, []


def main() -> None:
    """Note the call, obey the orders that the test left for this action, then act."""
    module = AnsibleModule(
        argument_spec={
            "hypervisor": {"type": "path", "required": True},
            "action": {"type": "str", "required": True},
            "given": {"type": "dict", "default": {}},
        },
        supports_check_mode=True,
    )
    path = Path(module.params["hypervisor"])
    action = module.params["action"]
    given = module.params["given"]
    with hypervisor(path) as content:
        content["calls"].append({"action": action, "given": given, "pid": os.getpid()})
        order = content["orders"].get(action) or {}
    deadline = time.monotonic() + 60
    while order.get("hold") and Path(order["hold"]).exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    if "fail" in order:
        module.fail_json(**order["fail"])
    if order.get("lie"):
        module.exit_json(changed=True, domain={"uuid": given["uuid"], "state": order["lie"]})
    changed = False
    domain: dict[str, Any] | None = None
    changes: list[dict[str, Any]] = []
    with hypervisor(path) as content:
        try:
            changed, domain, changes = act(content, action, given)
        except LookupError as error:
            module.fail_json(msg=f"cannot find domain {error}", code="VM_NOT_FOUND")
        content["done"].append(action)
    applies_at = None
    if changes:
        applies_at = "next_boot" if any(c["applies"] == "next_boot" for c in changes) else "now"
    module.exit_json(changed=changed, domain=domain, changes=changes, applies_at=applies_at)


if __name__ == "__main__":
    main()
