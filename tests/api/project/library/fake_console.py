#!/usr/bin/python
"""Tests: plays the module `console` on a hypervisor that is a JSON file."""

from __future__ import annotations

import fcntl
import hashlib
import json
import time
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule


def main() -> None:
    """Note the call (of the password only its hash), obey the test's orders, answer."""
    module = AnsibleModule(
        argument_spec={
            "hypervisor": {"type": "path", "required": True},
            "uuid": {"type": "str", "required": True},
            "type": {"type": "str", "required": True},
            "password": {"type": "str", "no_log": True},
            "seconds": {"type": "int", "required": True},
        },
        supports_check_mode=True,
    )
    given = module.params
    path = Path(given["hypervisor"])
    with Path(f"{path}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        content = json.loads(path.read_text())
        digest = hashlib.sha256((given["password"] or "").encode()).hexdigest()
        call = {"action": "console", "given": {"type": given["type"], "password": digest}}
        content["calls"].append(call)
        written = path.with_suffix(".new")
        written.write_text(json.dumps(content))
        written.replace(path)
    order = content["orders"].get("console") or {}
    deadline = time.monotonic() + 600
    while order.get("hold") and Path(order["hold"]).exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    if "fail" in order:
        module.fail_json(**order["fail"])
    domain = content["domains"].get(given["uuid"])
    if domain is None:
        module.fail_json(msg="cannot find the domain", code="VM_NOT_FOUND")
    vnc = given["type"] == "vnc"
    console = {
        "type": given["type"],
        "host": "127.0.0.1" if vnc else None,
        "port": domain["graphics"]["port"] if vnc else None,
        "password_set": vnc and order.get("password_set", True),
        "seconds": given["seconds"],
    }
    shown = {key: value for key, value in domain.items() if key != "snapshots"}
    module.exit_json(changed=vnc, domain=shown, console=console)


if __name__ == "__main__":
    main()
