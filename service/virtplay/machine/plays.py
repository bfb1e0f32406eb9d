"""Machine: where Ansible finds what the playbooks use."""

import os
import sys
from pathlib import Path

from virtplay.files import PROJECT

ANSIBLE_PLAYBOOK = str(Path(sys.executable).with_name("ansible-playbook"))


def ansible_environment() -> dict[str, str]:
    """Return the environment in which Ansible finds roles and collection from any directory."""
    environment = {"ANSIBLE_CONFIG": str(PROJECT / "ansible.cfg"), **os.environ}
    for name, folder in (
        ("ANSIBLE_ROLES_PATH", PROJECT / "roles"),
        ("ANSIBLE_COLLECTIONS_PATH", PROJECT / "collections"),
    ):
        given = os.environ.get(name)
        environment[name] = f"{folder}:{given}" if given else str(folder)
    return environment
