#!/usr/bin/python
"""Tests: plays the module `host_info` on a hypervisor that is a JSON file."""

from __future__ import annotations

import base64
import json
import time
import zlib
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule


def main() -> None:
    """Show what the file says."""
    module = AnsibleModule(
        argument_spec={
            "hypervisor": {"type": "path", "required": True},
            "startup_timeout": {"type": "float", "default": 0},
            "compressed": {"type": "bool", "default": False},
            "awaited": {"type": "list", "elements": "str", "default": []},
            "wait": {"type": "float", "default": 0},
        },
        supports_check_mode=True,
    )
    path = Path(module.params["hypervisor"])
    content = json.loads(path.read_text())
    until = time.monotonic() + module.params["wait"]
    while time.monotonic() < until:
        awaited = [content["domains"].get(uuid, {}) for uuid in module.params["awaited"]]
        running = [domain for domain in awaited if domain.get("state") == "running"]
        if not running or any(domain.get("addresses") for domain in running):
            break
        time.sleep(0.1)
        content = json.loads(path.read_text())
    order = content["orders"].get("observe") or {}
    deadline = time.monotonic() + 600
    while order.get("hold") and Path(order["hold"]).exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    if probed := order.get("probed"):
        # A libvirt that has just started: it responds only to who waits for it.
        if module.params["startup_timeout"]:
            Path(probed).touch()
        elif not Path(probed).exists():
            module.fail_json(msg="libvirt did not respond within 5.0 s")
    if "fail" in order:
        module.fail_json(**order["fail"])
    if "answer" in order:
        answer(module, order["answer"])
    domains = list(content["domains"].values())
    for domain in domains:
        domain["disks"] = [{"pool": "default", **disk} for disk in domain["disks"]]
    info = {**content["info"], "domains": domains}
    answer(module, info)


def answer(module: AnsibleModule, info: Any) -> None:
    """End with what the host reports."""
    if module.params["compressed"]:
        text = base64.b64encode(zlib.compress(json.dumps(info).encode())).decode()
        module.exit_json(changed=False, host_info_compressed=text)
    module.exit_json(changed=False, host_info=info)


if __name__ == "__main__":
    main()
