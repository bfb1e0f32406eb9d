"""Machine: where Ansible finds what the playbooks use."""

import os
import sys
from pathlib import Path

from virtplay.files import PROJECT

ANSIBLE_PLAYBOOK = str(Path(sys.executable).with_name("ansible-playbook"))
ANSIBLE_WARM = str(Path(sys.executable).with_name("ansible-warm"))


def project_dir() -> Path:
    """Return the directory of playbooks, roles and collection: the service's setting, or ours."""
    given = os.environ.get("VIRTPLAY_PROJECT_DIR")
    return Path(given).absolute() if given else PROJECT


def ansible_environment() -> dict[str, str]:
    """Return the environment in which Ansible finds roles and collection from any directory."""
    project = project_dir()
    environment = {"ANSIBLE_CONFIG": str(project / "ansible.cfg"), **os.environ}
    for name, folder in (
        ("ANSIBLE_ROLES_PATH", project / "roles"),
        ("ANSIBLE_COLLECTIONS_PATH", project / "collections"),
    ):
        given = os.environ.get(name)
        environment[name] = f"{folder}:{given}" if given else str(folder)
    return environment
