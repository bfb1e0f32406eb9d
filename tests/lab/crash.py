"""Lab: a program for a host that runs modules of the collection, with crashes on request.

Each argument is a directory to import from. Each line of standard input is a JSON object with the
`module` and its `runs`, each a list of its arguments and the number of the step after which it
crashes (0: none); the line of standard output that answers it is a list with the result of each
run, null for a crashed one. Each run is a fork of this process, which has imported everything; that
saves a second per run.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import tempfile
from typing import Any

CRASHED = 77


def main() -> None:
    """Run modules as standard input requests, until its end."""
    # Last: libraries of the host's own Python come before those of this project's.
    sys.path += sys.argv[1:]
    del sys.argv[1:]
    for line in sys.stdin:
        asked = json.loads(line)
        name = "ansible_collections.virtplay.libvirt.plugins.modules." + asked["module"]
        module = importlib.import_module(name)
        print(json.dumps([run(module, *each) for each in asked["runs"]]), flush=True)


STEPS = ("fsFreeze", "fsThaw", "snapshotCreateXML", "revertToSnapshot", "setMetadata")
POWER_STEPS = ("shutdownFlags", "destroy", "create", "reset", "resume", "setMetadata")


def run(module: Any, arguments: dict[str, Any], crash_after: int) -> Any:
    """Run the module in a process of its own; return its result, or None if it has crashed."""
    with tempfile.TemporaryFile("w+") as said:
        child = os.fork()
        if child == 0:
            os.dup2(said.fileno(), 1)
            is_domain = module.__name__.endswith(".domain")
            watch_steps(crash_after, POWER_STEPS if is_domain else STEPS)
            from ansible.module_utils import basic

            basic._ANSIBLE_ARGS = json.dumps({"ANSIBLE_MODULE_ARGS": arguments}).encode()
            basic._ANSIBLE_PROFILE = "legacy"
            module.main()  # which exits
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if status == CRASHED:
            return None
        said.seek(0)
        return json.load(said)


def watch_steps(crash_after: int, steps: tuple[str, ...]) -> None:
    """End this process right after the step with that number; a step changes something."""
    import libvirt
    from ansible_collections.virtplay.libvirt.plugins.module_utils.lock.fence import Fence

    seen = 0

    def watch(owner: Any, name: str) -> None:
        real = getattr(owner, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            nonlocal seen
            result = real(*args, **kwargs)
            seen += 1
            if seen == crash_after:
                os._exit(CRASHED)
            return result

        setattr(owner, name, call)

    watch(Fence, "remember")
    for name in steps:
        watch(libvirt.virDomain, name)
    watch(libvirt.virDomainSnapshot, "delete")


main()
