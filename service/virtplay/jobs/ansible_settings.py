"""The ANSIBLE_* variables with which jobs run: the service's own and those of ansible-runner."""

import configparser
import os
from pathlib import Path

HOST_KEYS = "ANSIBLE_HOST_KEY_CHECKING"
HOST_KEY_OPTIONS = (("ssh_connection", "host_key_checking"), ("defaults", "host_key_checking"))
"""Sections and options of ansible.cfg, the one that counts first."""


def job_settings(project: Path) -> dict[str, str]:
    """Return the variables that the service sets for every job."""
    config = project / "ansible.cfg"
    return {
        "ANSIBLE_CONFIG": str(config),
        "ANSIBLE_NOCOLOR": "1",
        "ANSIBLE_FORCE_COLOR": "0",
        HOST_KEYS: host_key_checking(config),
    }


def host_key_checking(config: Path) -> str:
    """Return whether hosts' keys are checked, as the environment or ansible.cfg says.

    ansible-runner 2.4 switches the check off unless the environment has the variable, whatever
    ansible.cfg says: https://github.com/ansible/ansible-runner/blob/2.4.3/src/ansible_runner/config/_base.py
    """
    if HOST_KEYS in os.environ:
        return os.environ[HOST_KEYS]
    parser = configparser.ConfigParser(
        inline_comment_prefixes=(";",), interpolation=None, strict=False
    )
    try:
        parser.read(config)
    except (OSError, configparser.Error):
        return "True"  # Ansible itself reports what is wrong
    for section, option in HOST_KEY_OPTIONS:
        if parser.has_option(section, option):
            return parser.get(section, option)
    return "True"
