"""What the service tells a job process, and the files through which they communicate.

Apart from `runner`, because the process of a job must not pay for asyncio.
"""

from dataclasses import dataclass
from typing import Any

SPECIFICATION = "specification.json"
EVENTS = "events.jsonl"


@dataclass(frozen=True)
class Specification:
    """What a job process needs to run one playbook once."""

    project_dir: str
    playbook: str
    inventory: list[str]
    variables: dict[str, Any]
    """Plain values; `play` marks every text in them unsafe before Ansible reads it."""
    limit: str | None = None
    check: bool = False
    time_limit: int = 3600
    """Seconds."""
    forks: int | None = None
    """Hosts that Ansible works on at once; ansible.cfg's number when None."""
    tags: str | None = None
    """Tags of the tasks to run, comma-separated; all tasks when None."""
    skip_tags: str | None = None
    """Tags of tasks that are left out."""
