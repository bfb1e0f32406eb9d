"""Machine: the rights of root, which packages and hypervisor need."""

import os
import subprocess
import sys
from pathlib import Path

from virtplay.errors import CannotStart


def require_root(purpose: str) -> None:
    """Make sure that this process may act as root, for its playbooks too.

    `purpose`: such as "prepare this machine".

    Another user than root needs sudo without a password, as jobs cannot ask for one; its playbooks
    then become root. CannotStart without.
    """
    if os.geteuid() == 0:
        return
    try:
        allowed = subprocess.run(["sudo", "-n", "true"], capture_output=True, check=False)
    except FileNotFoundError:
        allowed = None
    if allowed is None or allowed.returncode != 0:
        program = Path(sys.argv[0]).absolute()
        raise CannotStart(
            f"cannot {purpose} without root: run the command as root"
            f" (sudo {program} {' '.join(sys.argv[1:])}), or allow sudo without a password"
        )
    os.environ["ANSIBLE_BECOME"] = "true"


def as_root(*command: str) -> list[str]:
    """Return the words that run a command as root; see require_root."""
    return list(command) if os.geteuid() == 0 else ["sudo", "-n", *command]
