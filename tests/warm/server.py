"""Warm Ansible: the server, which has run a playbook and forks for each run of Ansible's programs.

Its arguments are DIRECTORY and KEY. It is started with the Ansible settings of the run that needs
it, and listens on the socket DIRECTORY/KEY. It ends at the end of its standard input. All runs
share its local temporary directory, and with it the zips of modules that Ansible caches there.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import os
import secrets
import signal
import sys
import warnings
from pathlib import Path
from typing import Any

from lab.processes import children
from tests.warm import PROGRAMS, forks

WARM_UP = Path(__file__).with_name("warm_up.yml")


def main() -> None:
    """Warm up, then serve until the end of standard input."""
    directory, key = Path(sys.argv[1]), sys.argv[2]
    ready = os.dup(1)
    os.dup2(2, 1)
    warm_up()
    forks.serve(directory / key, ready, play, end_tree)


def warm_up() -> None:
    """Run a playbook, and reset the state that only one run per process may set."""
    from ansible import constants
    from ansible.cli.playbook import PlaybookCLI
    from ansible.parsing.vault import VaultSecretsContext
    from ansible.plugins.loader import callback_loader
    from ansible.utils import vars as ansible_vars
    from ansible.utils.context_objects import GlobalCLIArgs
    from ansible.utils.display import Display

    # The callback of ansible-runner 2.4 keeps the directory of the run that imports it.
    wanted = constants.DEFAULT_STDOUT_CALLBACK, constants.CALLBACKS_ENABLED, callback_loader.config
    constants.DEFAULT_STDOUT_CALLBACK, constants.CALLBACKS_ENABLED = "default", []
    callback_loader.config = []
    for program in PROGRAMS:
        cli(program)
    code = PlaybookCLI(["ansible-playbook", "-i", "localhost,", str(WARM_UP)]).run()
    if code:
        raise RuntimeError(f"cannot warm Ansible up: {WARM_UP} ended with {code}")
    constants.DEFAULT_STDOUT_CALLBACK, constants.CALLBACKS_ENABLED, callback_loader.config = wanted
    callback_loader._paths = None
    VaultSecretsContext._current = None
    # Each is a cache of the first run's options: a later run with --check would not know of it.
    ansible_vars.load_options_vars.options_vars = None
    ansible_vars.load_extra_vars.extra_vars = None
    GlobalCLIArgs._Singleton__instance = None
    display = Display()
    for said in (display._warns, display._errors, display._deprecations):
        said.clear()
    warnings.filterwarnings("ignore", "AnsibleCollectionFinder has already been configured")
    gc.collect()
    gc.freeze()


def cli(program: str) -> Any:
    """Return Ansible's class for a program, for example ansible-playbook."""
    name = program.removeprefix("ansible-")
    return getattr(importlib.import_module(f"ansible.cli.{name}"), f"{name.capitalize()}CLI")


def play(request: forks.Request) -> int:
    """Run a program of Ansible as requested; return its exit status."""
    from ansible.utils import vars as ansible_vars
    from ansible.utils.display import Display

    for text in (sys.stdout, sys.stderr):
        text.reconfigure(line_buffering=text.isatty())  # type: ignore[union-attr]
    ansible_vars.random_int = secrets.token_hex(4)
    Display()._set_column_width()
    try:
        cli(request["arguments"][0]).cli_executor(request["arguments"])
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
    return 0


def end_tree(pid: int) -> None:
    """Kill a process with all its descendants."""
    found = [pid]
    for parent in found:
        found += children(parent)
    for each in found:
        with contextlib.suppress(ProcessLookupError):
            os.kill(each, signal.SIGKILL)
