#!/usr/bin/python
"""Tests: plays the module `snapshot` on a hypervisor that is a JSON file."""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule

MIB = 1024**2
KEPT = ("title", "description", "origin", "expires_at", "job")
ONLY_OBSERVED = ("addresses", "filesystems", "generation", "snapshots", "stats", "stuck")
"""Keys of a domain that host_info reports and the module `snapshot` does not."""


class Refusal(Exception):
    """What the real module would refuse: code and message."""


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


def make(domain: dict[str, Any], name: str, given: dict[str, Any]) -> dict[str, Any]:
    """Add a snapshot of the domain as it is, and make it the current one."""
    current = next((s["name"] for s in domain["snapshots"] if s["current"]), None)
    active = domain["state"] != "stopped"
    for each in domain["snapshots"]:
        each["current"] = False
    entry = {
        "name": name,
        **{key: given.get(key) for key in KEPT},
        "title": given.get("title") or name,
        "origin": given.get("origin") or "manual",
        "parent": current,
        "current": True,
        "has_memory": active,
        "state": domain["state"],
        "kind": "internal",
        "size_bytes": 64 * MIB if active else 0,
        "frozen": given.get("freeze", True) if active else None,
        "created_at": datetime.now(UTC).isoformat().replace("+00:00", "Z"),
    }
    domain["snapshots"].append(entry)
    return entry


def change_of(
    field: str, before: Any, after: Any, applies: str, *, destroys: bool = False
) -> dict[str, Any]:
    """One entry of the module's `changes`."""
    return {
        "field": field,
        "before": before,
        "after": after,
        "applies": applies,
        "destroys": destroys,
    }


def act(domain: dict[str, Any], action: str, given: dict[str, Any]) -> dict[str, Any]:
    """Do what the action asks; what the module answers beside the domain and its snapshots."""
    name = given["name"]
    found = next((s for s in domain["snapshots"] if s["name"] == name), None)
    current = next((s["name"] for s in domain["snapshots"] if s["current"]), None)
    active = domain["state"] != "stopped"
    applies = "live" if active else "offline"
    if action == "snapshot_create":
        if found is not None and found["job"] != given.get("job"):
            raise Refusal("SNAPSHOT_EXISTS", f"cannot create snapshot {name}: there is one")
        if found is not None:
            return {"snapshot": found, "changes": []}
        holds = "disks and memory" if active else "disks"
        changes = [change_of(f"snapshots.{name}", None, holds, applies)]
        return {"snapshot": make(domain, name, given), "changes": changes}
    if action == "snapshot_delete":
        if found is None:
            return {"snapshot": None, "changes": []}
        changes = [change_of(f"snapshots.{name}", found["title"], None, applies, destroys=True)]
        for each in domain["snapshots"]:
            if each["parent"] == name:
                each["parent"] = found["parent"]
                field = f"snapshots.{each['name']}.parent"
                changes.append(change_of(field, name, found["parent"], applies))
        domain["snapshots"] = [s for s in domain["snapshots"] if s["name"] != name]
        return {"snapshot": None, "changes": changes}
    if found is None:
        raise Refusal("SNAPSHOT_NOT_FOUND", f"cannot find snapshot {name}")
    if active and not given.get("force"):
        raise Refusal("VM_ALREADY_RUNNING", f"cannot restore to {name}: it runs")
    lost = not given.get("guard")
    changes = [change_of("snapshots.current", current, name, applies, destroys=lost)]
    if found["state"] != domain["state"]:
        changes.append(change_of("state", domain["state"], found["state"], applies))
    answer: dict[str, Any] = {"snapshot": found, "changes": changes}
    if given.get("guard"):
        title = {"title": given["guard_title"], "origin": "guard", "job": given.get("job")}
        answer["guard"] = make(domain, given["guard"], title)
    for each in domain["snapshots"]:
        each["current"] = each["name"] == name
    domain.update(state=found["state"], state_reason="from_snapshot", has_managed_save=False)
    return answer


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
    deadline = time.monotonic() + 600
    while order.get("hold") and Path(order["hold"]).exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    if "fail" in order:
        module.fail_json(**order["fail"])
    answer: dict[str, Any] = {}
    with hypervisor(path) as content:
        domain = content["domains"].get(given["uuid"])
        if domain is None:
            module.fail_json(msg=f"cannot find domain {given['uuid']}", code="VM_NOT_FOUND")
        try:
            answer = act(domain, action, given)
        except Refusal as refusal:
            code, message = refusal.args
            module.fail_json(msg=message, code=code)
        content["done"].append(action)
    shown = {key: value for key, value in domain.items() if key not in ONLY_OBSERVED}
    changed = bool(answer["changes"])
    module.exit_json(
        changed=changed,
        domain=shown,
        snapshots=domain["snapshots"],
        applies_at="now" if changed else None,
        **answer,
    )


if __name__ == "__main__":
    main()
