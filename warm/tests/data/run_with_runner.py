"""Runs a playbook with ansible-runner; writes its events and end as JSON to standard output.

Its arguments are the directory, the playbook, what ends it (cancel, timeout or nothing), and more
for ansible_runner.run as JSON.
"""

import json
import sys
from pathlib import Path
from typing import Any

import ansible_runner

directory, playbook, end, more = sys.argv[1:]
waits = Path(directory, "waits")
options = json.loads(more)
if end == "timeout":
    options["settings"] = {"job_timeout": 3, "pexpect_timeout": 1}
else:
    options["settings"] = {"pexpect_timeout": 1}
Path(directory, "private").mkdir()
events: list[dict[str, Any]] = []


def take(event: dict[str, Any]) -> bool:
    """Keep an event."""
    events.append(event)
    return True


result = ansible_runner.run(
    private_data_dir=f"{directory}/private",
    project_dir=directory,
    playbook=playbook,
    quiet=True,
    event_handler=take,
    cancel_callback=lambda: end == "cancel" and waits.exists(),
    **options,
)
json.dump(
    {
        "events": events,
        "status": result.status,
        "rc": result.rc,
        "stats": result.stats,
    },
    sys.stdout,
)
