"""The files and directories whose change makes a server stale."""

from __future__ import annotations

import os
import sys
from pathlib import Path

CODE = (".py", ".yml", ".yaml", ".json", ".cfg")
MOST = 20_000
"""Files of the user's own collections and plugins; further ones are not watched."""


def watched_paths() -> list[str]:
    """Return the paths whose change makes this process stale.

    They are Python, all modules that it has loaded, the directories from which modules are
    imported, the files that may be Ansible's configuration, and every file of the configured
    collections and plugin directories that are not in Python's own package directories. One that
    does not exist becomes stale when it is created. Playbooks, inventories and roles are read in
    every run.
    """
    from ansible import constants
    from ansible.plugins.loader import get_all_plugin_loaders

    installed = {path for path in sys.path if path and os.path.isdir(path)}
    found = installed | {os.path.realpath(sys.executable)}
    for module in list(sys.modules.values()):
        if path := getattr(module, "__file__", None):
            found.add(path)
    found.update(_configuration(constants.CONFIG_FILE))
    roots = [os.path.join(each, "ansible_collections") for each in constants.COLLECTIONS_PATHS]
    for _, loader in get_all_plugin_loaders():
        roots += [str(path) for path in loader.config]
    for root in map(os.path.realpath, map(os.path.expanduser, roots)):
        if root.startswith(tuple(f"{path}{os.sep}" for path in installed)):
            continue
        found.add(root)
        for directory, directories, names in os.walk(root):
            directories[:] = [name for name in directories if name != "__pycache__"]
            found.add(directory)
            found.update(os.path.join(directory, name) for name in names if name.endswith(CODE))
            if len(found) > MOST:
                break
    return sorted(found)


def _configuration(chosen: str | None) -> set[str]:
    """Return the places of the configuration that Ansible chose, or would choose before it."""
    places = [chosen] if chosen else []
    if not os.environ.get("ANSIBLE_CONFIG"):
        places += ["ansible.cfg", "~/.ansible.cfg", "/etc/ansible/ansible.cfg"]
    return {str(Path(place).expanduser().absolute()) for place in places}
