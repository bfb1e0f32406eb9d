#!/usr/bin/python
"""Tests: plays the modules `domain` and `power` on a hypervisor that is a JSON file."""

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

GIB = 1024**3
STATES = {
    "start": "running",
    "stop": "stopped",
    "restart": "running",
    "pause": "paused",
    "resume": "running",
}
ACTIONS = {
    "running": "start",
    "stopped": "stop",
    "restarted": "restart",
    "paused": "pause",
    "resumed": "resume",
}
"""State that the module `power` is given → action."""
REASONS = {
    "start": "booted",
    "stop": "shutdown",
    "restart": "booted",
    "pause": "user",
    "resume": "unpaused",
}
ONLY_OBSERVED = ("addresses", "filesystems", "generation", "snapshots", "stats", "stuck")
"""Keys of a domain that host_info reports and the module `domain` does not."""


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
        "state_reason": "booted" if given.get("state") == "running" else "unknown",
        "has_managed_save": False,
        "persistent": True,
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
                "type": "file",
                "device": "disk",
                "format": "qcow2",
                "read_only": False,
                "shareable": False,
                "source": None,
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
            "id": given.get("id") or given["name"],
            "job": given.get("job"),
            "generation": given.get("generation"),
            "template": given.get("template"),
            "os": given.get("os"),
            "labels": given.get("labels") or {},
        },
        "started_at": "2026-11-22T13:30:00.000Z" if given.get("state") == "running" else None,
    }


def describe(domain: dict[str, Any]) -> dict[str, Any]:
    """The domain as the module `domain` returns it, without what host_info alone reports."""
    return {key: value for key, value in domain.items() if key not in ONLY_OBSERVED}


def change(
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


def update(domain: dict[str, Any], given: dict[str, Any]) -> list[dict[str, Any]]:
    """Change what is set; returns the changes."""
    active = domain["state"] != "stopped"
    now = "live" if active else "offline"
    changes = []
    for key in ("title", "description", "autostart"):
        if given.get(key) is not None and given[key] != (domain[key] or type(given[key])()):
            changes.append(change(key, domain[key], given[key], now))
            domain[key] = given[key]
    new_name = given.get("new_name") or domain["name"]
    if new_name != domain["name"] and not active and not domain["snapshots"]:
        changes.append(change("name", domain["name"], new_name, now))
        domain["name"] = new_name
    labels = domain["metadata"].get("labels") or {}
    if given.get("labels") is not None and given["labels"] != labels:
        changes.append(change("metadata.labels", labels, given["labels"], now))
        domain["metadata"]["labels"] = given["labels"]
    for key in ("vcpus", "memory"):
        if given.get(key) is not None:
            changes += resize(domain, key, given[key], active=active)
    disk = domain["disks"][0]
    size = disk["capacity_bytes"] / GIB
    if given.get("disk") is not None and given["disk"] != size:
        changes.append(change(f"disks.{disk['target']}.size", size, given["disk"], now))
        disk.update(size=float(given["disk"]), capacity_bytes=given["disk"] * GIB)
    if given.get("network") is not None:
        changes += plug(domain["interfaces"][0], given["network"], active=active)
    return changes


def resize(domain: dict[str, Any], key: str, wanted: int, *, active: bool) -> list[dict[str, Any]]:
    """Give the domain so many vcpus or so much memory; beyond its maximum at the next boot."""
    pending = domain.setdefault("pending", {})
    limit = f"{key}_max"
    planned = pending.get(key, domain[key])
    changes = []
    if wanted > pending.get(limit, domain[limit]):
        applies = "next_boot" if active else "offline"
        changes.append(change(limit, domain[limit], wanted, applies))
    # A CPU is not taken away from an emulated guest that runs.
    waits = active and (wanted > domain[limit] or (key == "vcpus" and wanted < domain[key]))
    if (wanted, wanted) != (planned, domain[key]):
        applies = "next_boot" if waits else "live" if active else "offline"
        changes.append(change(key, domain[key], wanted, applies))
    if waits:
        pending[key] = wanted
        if wanted > domain[limit]:
            pending[limit] = wanted
    else:
        domain[key] = wanted
        domain[limit] = max(domain[limit], wanted)
        pending.pop(key, None)
        pending.pop(limit, None)
    if not pending:
        del domain["pending"]
    return changes


def plug(card: dict[str, Any], wanted: dict[str, Any], *, active: bool) -> list[dict[str, Any]]:
    """Connect the network card elsewhere at once; another card comes with the next boot."""
    field = f"interfaces.{card['mac']}"
    edits = {
        key: wanted[key] for key in ("model", "mac") if wanted.get(key) not in (None, card[key])
    }
    applies = "offline" if not active else "next_boot" if edits else "live"
    changes = [change(f"{field}.{key}", card[key], value, applies) for key, value in edits.items()]
    source = wanted[wanted["type"]]
    if (wanted["type"], source) != (card["type"], card["source"]):
        before, after = f"{card['type']} {card['source']}", f"{wanted['type']} {source}"
        changes.append(change(f"{field}.source", before, after, applies))
        edits.update(type=wanted["type"], source=source)
    if applies != "next_boot":
        card.update(edits)
    return changes


def note_restart(content: dict[str, Any], given: dict[str, Any]) -> None:
    """Note the QEMU that a job's restart is to end, unless the same job has noted it before."""
    notes = content.setdefault("restarts", {})
    domain = content["domains"].get(given["uuid"])
    if domain and given.get("job") and notes.get(given["uuid"], {}).get("job") != given["job"]:
        notes[given["uuid"]] = {"job": given["job"], "started_at": domain["started_at"]}


def is_restarted(content: dict[str, Any], given: dict[str, Any]) -> bool:
    """Whether the QEMU that the job noted has ended, and another one runs."""
    note = content.get("restarts", {}).get(given["uuid"])
    now = content["domains"][given["uuid"]]["started_at"]
    return bool(note and note["job"] == given.get("job") and now not in (None, note["started_at"]))


def act(
    content: dict[str, Any], action: str, given: dict[str, Any]
) -> tuple[dict[str, Any] | None, list[dict[str, Any]]]:
    """Do what the action asks; the domain, None when it is gone, and the changes."""
    domains = content["domains"]
    if action == "create":
        domain = domains[given["uuid"]] = new_domain(given)
        return domain, [change("state", "absent", domain["state"], "offline")]
    domain = domains.get(given["uuid"])
    if action == "delete":
        if domains.pop(given["uuid"], None) is None:
            return None, []
        destroys = domain["state"] != "stopped"
        return None, [change("state", domain["state"], "absent", "live", destroys=destroys)]
    if domain is None:
        raise LookupError(given["name"])
    if action == "update":
        return domain, update(domain, given)
    before, after = domain["state"], STATES[action]
    if action == "restart" and is_restarted(content, given):
        return domain, [change("state", "running", "restarted", "live")]
    if action == "stop" and given.get("force") and domain["has_managed_save"]:
        domain.update(has_managed_save=False, state_reason="unknown")
        return domain, [change("has_managed_save", True, False, "offline", destroys=True)]
    if before == after and action != "restart":
        return domain, []
    domain.update(state=after, state_reason=REASONS[action])
    if action == "start" and domain["has_managed_save"]:
        domain.update(has_managed_save=False, state_reason="restored")
    if "stopped" in (before, after) or action == "restart":
        domain.update(domain.pop("pending", {}))
        # Each QEMU of the domain starts a minute after the one before.
        qemus = content.setdefault("qemus", {})
        minute = qemus[given["uuid"]] = qemus.get(given["uuid"], 30) + 1
        domain["started_at"] = f"2026-11-22T13:{minute}:00.000Z" if after == "running" else None
    shown = "restarted" if action == "restart" else after
    return domain, [change("state", before, shown, "live", destroys=bool(given.get("force")))]


class Fault(Exception):
    """The result of a module that fails."""


def bring(path: Path, action: str, given: dict[str, Any]) -> dict[str, Any]:
    """Note the call, obey the orders that the test left for this action, then act.

    An order for `pause vm-002` is for that domain alone.
    """
    with hypervisor(path) as content:
        content["calls"].append({"action": action, "given": given, "pid": os.getpid()})
        if action == "restart":
            note_restart(content, given)
        orders = content["orders"]
        order = orders.get(f"{action} {given['name']}") or orders.get(action) or {}
    deadline = time.monotonic() + 600
    while order.get("hold") and Path(order["hold"]).exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    seen = order.get("seen_generation", 0)
    if seen > (given.get("generation") or 0):
        raise Fault(
            {
                "msg": f"cannot {action} it: this run is outdated (the host has seen {seen})",
                "code": "STALE_GENERATION",
                "seen_generation": seen,
            }
        )
    if "fail" in order:
        raise Fault(order["fail"])
    if order.get("lie"):
        lied = {"uuid": given["uuid"], "name": given["name"], "state": order["lie"]}
        return {"changed": True, "domain": lied, "changes": [], "applies_at": None}
    with hypervisor(path) as content:
        try:
            domain, changes = act(content, action, given)
        except LookupError as error:
            fault = {"msg": f"cannot find domain {error}", "code": "VM_NOT_FOUND"}
            raise Fault(fault) from None
        content["done"].append(action)
    applies_at = None
    if changes:
        applies_at = "next_boot" if any(c["applies"] == "next_boot" for c in changes) else "now"
    return {
        "changed": bool(changes),
        "domain": domain and describe(domain),
        "changes": changes,
        "applies_at": applies_at,
    }


def bring_together(path: Path, domains: list[dict[str, Any]]) -> dict[str, Any]:
    """Bring each domain to its state, as the module `power` does; one that fails stops none."""
    outcomes = []
    for given in domains:
        outcome: dict[str, Any] = {
            **{key: given.get(key) for key in ("name", "uuid", "job")},
            "changed": False,
            "failed": False,
            "warnings": [],
        }
        try:
            result = bring(path, ACTIONS[given["state"]], given)
            outcome.update(result, waited_seconds=0.0, waited_for=None)
        except Fault as fault:
            outcome.update(fault.args[0], failed=True)
        outcomes.append(outcome)
    result = {"changed": any(outcome["changed"] for outcome in outcomes), "domains": outcomes}
    failed = [outcome["msg"] for outcome in outcomes if outcome["failed"]]
    if failed:
        count = f"{len(failed)} of {len(outcomes)} VMs"
        raise Fault({"msg": f"{count}: {'; '.join(failed)}", **result})
    return result


def main() -> None:
    """Play the module `power` for a list of domains, else the module `domain`."""
    module = AnsibleModule(
        argument_spec={
            "hypervisor": {"type": "path", "required": True},
            "action": {"type": "str"},
            "given": {"type": "dict", "default": {}},
            "domains": {"type": "list", "elements": "dict"},
        },
        supports_check_mode=True,
    )
    path = Path(module.params["hypervisor"])
    try:
        if module.params["domains"] is None:
            result = bring(path, module.params["action"], module.params["given"])
        else:
            result = bring_together(path, module.params["domains"])
    except Fault as fault:
        module.fail_json(**fault.args[0])
    else:
        module.exit_json(**result)


if __name__ == "__main__":
    main()
