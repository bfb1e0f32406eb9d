"""Warm Ansible: the server, which has run a playbook and forks for each further run.

Its arguments are DIRECTORY and KEY. It is started with the Ansible settings of the run that needs
it, and listens on the socket DIRECTORY/KEY. It ends at the end of its standard input.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import secrets
import selectors
import signal
import socket
import sys
import traceback
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from lab.processes import children

WARM_UP = Path(__file__).with_name("warm_up.yml")
REQUEST_BYTES = 1 << 20


@dataclass
class Run:
    """A forked run, and the connection of the front that waits for its end."""

    pid: int
    front: socket.socket


def main() -> None:
    """Warm up, then serve until the end of standard input."""
    directory, key = Path(sys.argv[1]), sys.argv[2]
    ready = os.dup(1)
    os.dup2(2, 1)
    warm_up()
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(str(directory / f"{key}.new"))
        listener.listen(64)
        (directory / f"{key}.new").rename(directory / key)
        os.write(ready, b"ready")
        os.close(ready)
        serve(listener)


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


def serve(listener: socket.socket) -> None:
    """Fork for each request and report each end to its front, until standard input ends."""
    ended_read, ended_write = os.pipe()
    os.set_blocking(ended_write, False)
    signal.set_wakeup_fd(ended_write)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    runs: dict[int, Run] = {}
    with selectors.DefaultSelector() as selector:
        selector.register(0, selectors.EVENT_READ)
        selector.register(listener, selectors.EVENT_READ)
        selector.register(ended_read, selectors.EVENT_READ)
        while True:
            for key, _ in selector.select():
                if key.fd == 0:
                    for run in runs.values():
                        end_tree(run.pid)
                    return
                if key.fd == listener.fileno():
                    run = accept(listener)
                    runs[run.pid] = run
                    selector.register(run.front, selectors.EVENT_READ, run)
                elif key.fd == ended_read:
                    os.read(ended_read, 4096)
                elif key.data.pid in runs:  # its front has ended, so nothing needs the run
                    selector.unregister(key.data.front)
                    end_tree(key.data.pid)
            for pid, status in reaped():
                if pid not in runs:
                    continue  # the warm-up's
                run = runs.pop(pid)
                with contextlib.suppress(KeyError):
                    selector.unregister(run.front)
                with contextlib.suppress(OSError):
                    run.front.send(str(os.waitstatus_to_exitcode(status)).encode())
                run.front.close()


def accept(listener: socket.socket) -> Run:
    """Accept a request and fork for it."""
    front, _ = listener.accept()
    data, streams, _, _ = socket.recv_fds(front, REQUEST_BYTES, 3)
    pid = os.fork()
    if pid == 0:
        listener.close()
        front.close()
        play(json.loads(data), streams)
    for stream in streams:
        os.close(stream)
    return Run(pid, front)


def play(request: dict[str, Any], streams: list[int]) -> NoReturn:
    """Run ansible-playbook as requested, with `streams` as its standard streams, and exit."""
    code = 250
    try:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.setsid()
        for target, stream in enumerate(streams):
            os.dup2(stream, target)
            os.close(stream)
        os.umask(request["umask"])
        os.chdir(request["directory"])
        os.environ.clear()
        os.environ.update(request["environment"])
        for text in (sys.stdout, sys.stderr):
            text.reconfigure(line_buffering=text.isatty())  # type: ignore[union-attr]
        code = run_playbook(request["arguments"])
        sys.stdout.flush()
        sys.stderr.flush()
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def run_playbook(arguments: list[str]) -> int:
    """Run the command line; return its exit status."""
    from ansible.cli.playbook import PlaybookCLI
    from ansible.utils import vars as ansible_vars
    from ansible.utils.display import Display

    ansible_vars.random_int = secrets.token_hex(4)
    Display()._set_column_width()
    try:
        PlaybookCLI.cli_executor(arguments)
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    return 0


def end_tree(pid: int) -> None:
    """Kill a process with all its descendants."""
    found = [pid]
    for parent in found:
        found += children(parent)
    for each in found:
        with contextlib.suppress(ProcessLookupError):
            os.kill(each, signal.SIGKILL)


def reaped() -> list[tuple[int, int]]:
    """Return the children that have ended, with their wait status."""
    found = []
    with contextlib.suppress(ChildProcessError):
        while (ended := os.waitpid(-1, os.WNOHANG))[0]:
            found.append(ended)
    return found
