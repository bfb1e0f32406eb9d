"""What runs on the controller loads no library of the hosts: every play would wait for it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

COLLECTIONS = Path(__file__).resolve().parents[3] / "collections"
PLUGINS = "ansible_collections.virtplay.libvirt.plugins"
# connection imports the libraries where they are installed.
OF_HOSTS = ["libvirt", "lxml", f"{PLUGINS}.module_utils.host.connection"]
IMPORT = """
import importlib, json, sys

names, of_hosts = json.loads(sys.argv[1])
for name in names:
    importlib.import_module(name)
    if loaded := [library for library in of_hosts if library in sys.modules]:
        sys.exit(f"{name} loads {', '.join(loaded)}")
"""
"""Imports files one after another in a fresh process, and names the first that breaks the rule."""


def controller_files() -> list[str]:
    """The names by which Ansible imports the files of the controller."""
    directory = COLLECTIONS / "ansible_collections/virtplay/libvirt/plugins"
    kinds = ("action", "callback", "filter", "inventory", "plugin_utils")
    files = [file for kind in kinds for file in sorted((directory / kind).glob("*.py"))]
    return [f"{PLUGINS}.{file.parent.name}.{file.stem}" for file in files]


def test_controller_loads_no_library_of_the_hosts() -> None:
    names = [f"{PLUGINS}.module_utils.declared", *controller_files()]
    assert len(names) > 10
    done = subprocess.run(
        [sys.executable, "-c", IMPORT, json.dumps([names, OF_HOSTS])],
        cwd=COLLECTIONS,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
