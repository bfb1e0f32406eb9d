"""What plugins import before they begin: every play, or every action on a host, waits for it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

COLLECTIONS = Path(__file__).resolve().parents[3] / "collections"
DIRECTORY = COLLECTIONS / "ansible_collections/virtplay/libvirt/plugins"
PLUGINS = "ansible_collections.virtplay.libvirt.plugins"
UTILS = f"{PLUGINS}.module_utils"
# connection imports the libraries where they are installed.
OF_HOSTS = ["libvirt", "lxml", f"{UTILS}.host.connection"]
ON_USE = {
    "filter.host_xml": [f"{PLUGINS}.plugin_utils.role_rules"],
    "modules.image": ["http.client", f"{UTILS}.image.install"],
    "modules.console": ["xml.etree"],
    "modules.host_info": ["xml.etree", f"{UTILS}.domain.plan", f"{UTILS}.snapshot.plan"],
    "modules.domain": [f"{UTILS}.domain.{name}" for name in ("create", "remove", "update", "seed")],
}
"""What a plugin imports only for some of its actions."""
IMPORT = """
import importlib, json, sys

for name, unwanted in json.loads(sys.argv[1]):
    importlib.import_module(name)
    if loaded := [other for other in unwanted if other in sys.modules]:
        sys.exit(f"{name} loads {', '.join(loaded)}")
"""
"""Imports files one after another in a fresh process, and names the first that breaks the rule."""


def loads(unwanted: dict[str, list[str]]) -> str:
    """What importing these files loads although it is unwanted; "" if nothing."""
    done = subprocess.run(
        [sys.executable, "-c", IMPORT, json.dumps(list(unwanted.items()))],
        cwd=COLLECTIONS,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stderr if done.returncode else ""


def test_controller_loads_no_library_of_the_hosts() -> None:
    kinds = ("action", "callback", "filter", "inventory", "plugin_utils")
    files = [file for kind in kinds for file in sorted((DIRECTORY / kind).glob("*.py"))]
    assert len(files) > 10
    names = [f"{UTILS}.declared", *(f"{PLUGINS}.{file.parent.name}.{file.stem}" for file in files)]
    assert loads(dict.fromkeys(names, OF_HOSTS)) == ""


@pytest.mark.parametrize("name", ON_USE)
def test_what_few_actions_need_is_imported_on_use(name: str) -> None:
    assert loads({f"{PLUGINS}.{name}": ON_USE[name]}) == ""
