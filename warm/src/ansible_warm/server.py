"""The server: loads Ansible, runs a playbook once, and forks for each further run.

The manager starts it with the environment for whose settings it serves. It reports to the manager
through a socket, and ends its runs and itself when the manager ends. What it resets after the first
run are the parts of Ansible's state that only one run per process may set; they are the same in
ansible-core 2.19 to 2.21.
"""

from __future__ import annotations

import argparse
import atexit
import contextlib
import copy
import gc
import importlib
import json
import logging
import multiprocessing.process
import os
import pickle
import re
import secrets
import shutil
import sys
import tempfile
import threading
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from ansible_warm import forks, manager, process, templates
from ansible_warm.manager import ROOM
from ansible_warm.own_servers import OF_ONE_RUN, settings
from ansible_warm.playbook import PROGRAM, plain_program
from ansible_warm.process import Refused
from ansible_warm.watched import watched_paths

WARM_UP = Path(__file__).with_name("warm_up.yml")
PAYLOADS = "ansiballz_cache"
UNFINISHED = (".lock", "-part")
SHARED = ("ansible_collections.", "ansible.modules.")
"""The names of modules whose payload is the same in every run with the same settings. A module
beside a playbook or in a role is not among them: another project may have one of that name."""
OWN_CODE = re.compile(r"/ansible/modules/|/ansible_collections/")
"""Directories whose modules have such names as well."""
LOW = 255
"""The highest descriptor that is kept free; a shell gives the file of a `<(…)` number 63."""
AGENT = "ANSIBLE_SSH_AGENT"
HARMLESS = {
    # The callback of ansible-runner 2.4 keeps the directory of the run that imports it, and others
    # may write or send something.
    "DEFAULT_STDOUT_CALLBACK": "default",
    "CALLBACKS_ENABLED": [],
    "CACHE_PLUGIN": "memory",
    "VARIABLE_PLUGINS_ENABLED": ["host_group_vars"],
    # Others may start processes or threads.
    "DEFAULT_STRATEGY": "linear",
    "DEFAULT_KEEP_REMOTE_FILES": False,
    # The warm-up must neither ask for secrets nor know them.
    "DEFAULT_ASK_PASS": False,
    "DEFAULT_ASK_VAULT_PASS": False,
    "DEFAULT_BECOME_ASK_PASS": False,
    "DEFAULT_VAULT_IDENTITY_LIST": [],
    "DEFAULT_VAULT_PASSWORD_FILE": None,
    "CONNECTION_PASSWORD_FILE": None,
    "BECOME_PASSWORD_FILE": None,
    "TAGS_RUN": [],
    "TAGS_SKIP": [],
}
"""Settings during the warm-up."""


def main() -> None:
    """Warm up, then serve until the manager retires this server or ends."""
    options = _options()
    os.environ.pop(ROOM, None)
    process.show(sys.orig_argv[:-1], os.environ)
    os.umask(0o077)
    control = os.fdopen(options.control, "r+b", buffering=0)

    def tell(**report: Any) -> None:
        with contextlib.suppress(OSError):  # the manager has ended, which `obey` sees
            control.write(json.dumps(report).encode() + b"\n")

    def ended(pid: int, code: int) -> None:
        ansible.clean_up(pid, code)
        if sources := ansible.new_sources():
            tell(event="sources", watched=sources)

    with _low_descriptors():
        try:
            if options.runner:
                take_runner_settings()
            ansible = WarmAnsible()
            tell(event="loaded", directory=str(ansible.directory))
            ansible.warm_up()
            ansible.load(options.load)
            ansible.compile(options.roles)
            for name in options.modules:
                importlib.import_module(name)
        except BaseException:
            tell(event="failed", reason=traceback.format_exc())
            sys.exit(1)
    server = forks.Server(
        forks.listen(options.socket),
        ansible.run,
        check=ansible.check,
        begun=lambda: tell(event="run"),
        ended=ended,
    )

    orphaned = False

    def obey() -> None:
        nonlocal orphaned
        order = control.read(64)
        if order == manager.RETIRE:
            server.retire()
            return
        orphaned = not order
        server.end()
        server.forget(control.fileno())

    server.watch(control.fileno(), obey)
    gc.collect()
    gc.freeze()
    tell(event="ready", watched=watched_paths())
    try:
        server.serve()
    finally:
        shutil.rmtree(ansible.directory, ignore_errors=True)
        if orphaned:
            manager.clean_up(options.socket)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("socket", type=Path)
    parser.add_argument("control", type=int)
    parser.add_argument("--import", dest="modules", action="append", default=[])
    parser.add_argument("--load", action="append", default=[], metavar="TYPE:NAME")
    parser.add_argument("--role", dest="roles", action="append", default=[])
    parser.add_argument("--runner", action="store_true")
    return parser.parse_args(sys.argv[1:-1])  # the last one only takes room


@contextlib.contextmanager
def _low_descriptors() -> Iterator[None]:
    """Keep the low descriptors free, which a run may have from its client.

    What the block opens, and perhaps keeps open in all forks, gets higher ones.
    """
    held = [os.open(os.devnull, os.O_RDONLY)]
    while held[-1] < LOW:
        held.append(os.dup(held[0]))
    try:
        yield
    finally:
        for each in held:
            os.close(each)


def take_runner_settings() -> None:
    """Set the ANSIBLE_* variables that ansible-runner sets for every run."""
    from ansible_runner.config.runner import RunnerConfig

    with tempfile.TemporaryDirectory() as directory:
        config = RunnerConfig(private_data_dir=directory, playbook=PROGRAM)
        config.prepare_env()
    for name, value in config.env.items():
        if name.startswith("ANSIBLE_") and name not in OF_ONE_RUN:
            os.environ[name] = value


_of_this_fork: WarmAnsible | None = None


def loaded() -> WarmAnsible | None:
    """Return the Ansible of a function that the server was asked to call; None elsewhere."""
    return _of_this_fork


class WarmAnsible:
    """Ansible, loaded, with the state that a run of it may not find reset."""

    def __init__(self) -> None:
        """Load Ansible; its configuration is that of this process's environment and directory."""
        from ansible import constants

        config = constants.config
        self._config = config
        self._warnings = copy.copy(config.WARNINGS)
        self._deprecated = list(config.DEPRECATED)
        self._errors = list(getattr(config, "_errors", []))
        self._constants = constants
        self._log = constants.DEFAULT_LOG_PATH
        if self._log:
            self._check_log(self._log)
            constants.DEFAULT_LOG_PATH = os.devnull  # neither loading nor the warm-up is logged
        self._settings = settings(os.environ, os.getcwd())
        self.directory = Path(constants.DEFAULT_LOCAL_TMP)
        """Ansible's local temporary directory of this process, which holds modules' payloads."""
        self._own: Path | None = None
        """The run's own directory, in a fork."""
        self._known: set[str] = set()
        """The payloads whose sources have been reported."""

    @staticmethod
    def _check_log(path: str) -> None:
        """Raise RuntimeError if the log cannot be written: only a plain run reports it."""
        writable = path if os.path.exists(path) else os.path.dirname(path)
        if os.path.isdir(path) or not os.access(writable, os.W_OK):
            raise RuntimeError(f"cannot write the log {path}")

    def check(self, request: forks.Request) -> None:
        """Raise Refused for a run of Ansible with other settings than this process has loaded."""
        if "call" in request:
            return
        reason = self.refuses(request["environment"], request["directory"])
        if reason or request["python"] != sys.executable:
            raise Refused(reason or "the server was started with another Python")

    def refuses(self, environment: Mapping[str, str], directory: str) -> str:
        """Return why a run with this environment and directory cannot be a fork; "" if it can."""
        if settings(environment, directory) != self._settings:
            return "the server was started with other settings"
        return ""

    def become(self, arguments: Sequence[str], environment: Mapping[str, str]) -> NoReturn:
        """Run ansible-playbook in this process, which was forked for it, and end as it ends.

        Its directory and standard streams are those of the run; all other descriptors are closed.
        `arguments` begin with the program, as for exec.
        """
        code = 1
        try:
            os.closerange(3, os.sysconf("SC_OPEN_MAX"))
            process.reset_signals()
            program = [*plain_program(), *arguments[1:]]
            process.take_name(program, environment)
            process.buffer_output()
            code = _status(lambda: self._play(program))
        except KeyboardInterrupt:
            forks.end_by_interrupt()
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code if forks.flushed() else forks.FLUSH_FAILED)

    def warm_up(self) -> None:
        """Run the harmless playbook, or raise RuntimeError."""
        from ansible.cli.playbook import PlaybookCLI
        from ansible.config.manager import cleanup_tmp_file
        from ansible.plugins.loader import callback_loader, vars_loader
        from ansible.utils import display

        constants = vars(self._constants)
        wanted = {name: constants[name] for name in HARMLESS}
        constants.update(HARMLESS)
        directories = callback_loader.config, vars_loader.config
        callback_loader.config, vars_loader.config = [], []
        logger, display.logger = display.logger, None
        # Ansible reads it by itself in each run; an agent would stay the server's child.
        agent, os.environ[AGENT] = os.environ.get(AGENT), "none"
        with _quiet() as output:
            code = PlaybookCLI([PROGRAM, "-i", "localhost,", str(WARM_UP)]).run()
        del os.environ[AGENT]
        if agent is not None:
            os.environ[AGENT] = agent
        self._reset()
        if code:
            raise RuntimeError(f"{WARM_UP} ended with {code}: {output}")
        constants.update(wanted)
        callback_loader.config, vars_loader.config = directories
        for loader in (callback_loader, vars_loader):
            loader._clear_caches()
        display.logger = logger
        constants["DEFAULT_LOG_PATH"] = self._log
        for handler in logging.root.handlers:
            if isinstance(handler, logging.FileHandler) and handler.baseFilename == os.devnull:
                handler.baseFilename = self._log
                handler.close()  # each run opens the log, as it may be another file by then
        warnings.filterwarnings("ignore", "AnsibleCollectionFinder has already been configured")
        atexit.unregister(cleanup_tmp_file)  # each run has a temporary directory of its own
        self._follow_own_code()

    def _follow_own_code(self) -> None:
        """Use nothing of another run once a run adds code of its own that may be in it."""
        from ansible.plugins.loader import (
            filter_loader,
            module_loader,
            module_utils_loader,
            test_loader,
        )
        from ansible.utils.collection_loader import AnsibleCollectionConfig

        finder = AnsibleCollectionConfig.collection_finder
        add, add_utils = module_loader.add_directory, module_utils_loader.add_directory
        set_paths = finder.set_playbook_paths

        def add_directory(directory: str, with_subdir: bool = False) -> None:
            add(directory, with_subdir)
            if OWN_CODE.search(f"{os.path.realpath(directory)}/"):
                self._leave_payloads()

        def add_utils_directory(directory: str, with_subdir: bool = False) -> None:
            add_utils(directory, with_subdir)
            self._leave_payloads()

        def set_playbook_paths(paths: Any) -> None:
            set_paths(paths)
            if any(Path(each, "ansible_collections").is_dir() for each in finder._n_playbook_paths):
                self._leave_payloads()
                templates.forget()

        def forgetting(add: Callable[..., None]) -> Callable[..., None]:
            def add_directory(directory: str, with_subdir: bool = False) -> None:
                add(directory, with_subdir)
                templates.forget()

            return add_directory

        module_loader.add_directory = add_directory
        module_utils_loader.add_directory = add_utils_directory
        finder.set_playbook_paths = set_playbook_paths
        for loader in (filter_loader, test_loader):
            loader.add_directory = forgetting(loader.add_directory)

    def load(self, plugins: list[str]) -> None:
        """Load plugins, given as type:name, such as action:my.collection.name, if they exist."""
        from ansible.plugins import loader

        # With the first one Ansible loads all, and without this each task in a process of its own.
        loader.filter_loader.get("combine")
        loader.test_loader.get("failed")
        for plugin in plugins:
            kind, _, name = plugin.partition(":")
            try:
                found = getattr(loader, f"{kind}_loader").get(name, class_only=True)
            except KeyError:  # how the loader of filters says it
                found = None
            if found is None:
                sys.stderr.write(f"cannot load plugin {plugin}: there is none of that name\n")
        _forget_said()

    def compile(self, roles: list[str]) -> None:
        """Compile the templates of roles, given as directories."""
        templates.compile_roles(roles)
        _forget_said()

    def _reset(self) -> None:
        """Forget what a run has left in this process."""
        from ansible import context
        from ansible.parsing.vault import VaultSecretsContext
        from ansible.utils import vars as ansible_vars
        from ansible.utils.context_objects import CLIArgs, GlobalCLIArgs

        VaultSecretsContext._current = None
        # Workers of the first run, which are no children of a fork.
        multiprocessing.process._children.clear()  # type: ignore[attr-defined]
        # Each is a cache of the first run's options: a later run with --check would not know of it.
        ansible_vars.load_options_vars.options_vars = None
        ansible_vars.load_extra_vars.extra_vars = None
        GlobalCLIArgs._Singleton__instance = None
        context.CLIARGS = CLIArgs({})
        _forget_said().verbosity = 0

    def run(self, request: forks.Request) -> int:
        """Run what is requested in this fork; return its exit status."""
        global _of_this_fork  # noqa: PLW0603 - a fork has one
        if "call" in request:
            _of_this_fork = self
            called = importlib.import_module(request["call"])
            return _status(lambda: called.main(request["arguments"]))
        return _status(lambda: self._play(request["program"]))

    def _play(self, program: list[str]) -> None:
        from ansible import cli
        from ansible.cli.playbook import PlaybookCLI
        from ansible.module_utils._internal import _deprecator
        from ansible.utils import color
        from ansible.utils import display as ansible_display
        from ansible.utils import vars as ansible_vars

        _, *arguments = program  # without Python
        sys.argv[:] = arguments
        cli.check_blocking_io()
        self._take_directory()
        ansible_vars.random_int = secrets.token_hex(4)
        ansible_vars.cur_id = 0
        importlib.reload(color)  # what it finds out about the terminal, it does so when loaded
        ansible_display.Display()._set_column_width()
        # What is wrong with the configuration was reported when the server loaded it.
        self._config.WARNINGS = copy.copy(self._warnings)
        self._config.DEPRECATED = list(self._deprecated)
        self._config._errors = list(self._errors)
        ansible_display._report_config_warnings(_deprecator.ANSIBLE_CORE_DEPRECATOR)
        PlaybookCLI.cli_executor(arguments)

    def _take_directory(self) -> None:
        """Give this run a temporary directory of its own, with the payloads that are built."""
        name = f"ansible-local-{os.getpid()}-"
        self.directory.parent.mkdir(0o700, parents=True, exist_ok=True)
        own = Path(tempfile.mkdtemp(self._mark(), name, self.directory.parent))
        self._constants.DEFAULT_LOCAL_TMP = str(own)
        built = own / PAYLOADS
        built.mkdir()
        # Not all file systems have links: the run then builds its payloads itself.
        with contextlib.suppress(OSError):
            for payload in (self.directory / PAYLOADS).iterdir():
                os.link(payload, built / payload.name)
        self._own = own
        atexit.register(self._leave_directory, own, os.getpid())

    def _mark(self) -> str:
        """Return the end of the names of directories of this server's runs."""
        return f".{self.directory.name}"

    def _leave_payloads(self) -> None:
        """Neither use payloads of other runs nor leave any to them."""
        if self._own:
            shutil.rmtree(self._own / PAYLOADS, ignore_errors=True)
            (self._own / PAYLOADS).mkdir()
            self._own = None

    def _leave_directory(self, own: Path, run: int) -> None:
        """Remove the run's temporary directory; what it has built of payloads stays."""
        if os.getpid() != run:
            return  # a fork of the run
        shared = self.directory / PAYLOADS
        with contextlib.suppress(OSError):
            shared.mkdir(exist_ok=True)
            for payload in (own / PAYLOADS).iterdir() if self._own else ():
                if payload.name.startswith(SHARED) and not payload.name.endswith(UNFINISHED):
                    with contextlib.suppress(FileExistsError):
                        os.link(payload, shared / payload.name)
        shutil.rmtree(own, ignore_errors=True)

    def new_sources(self) -> list[str]:
        """Return the files in payloads that runs have left since this was called."""
        found: set[str] = set()
        with contextlib.suppress(OSError):
            for payload in (self.directory / PAYLOADS).iterdir():
                if payload.name not in self._known and not payload.name.endswith(UNFINISHED):
                    self._known.add(payload.name)
                    cached = pickle.loads(payload.read_bytes())  # noqa: S301 - Ansible's own
                    found.update(map(str, cached.source_mapping))
        return sorted(found)

    def clean_up(self, pid: int, code: int) -> None:
        """Remove the temporary directory of a run that was killed."""
        if code < 0:
            for left in self.directory.parent.glob(f"ansible-local-{pid}-*{self._mark()}"):
                shutil.rmtree(left, ignore_errors=True)


@contextlib.contextmanager
def _quiet() -> Iterator[list[str]]:
    """Collect what the block writes to standard output and error."""
    output: list[str] = []
    streams = sys.stdout, sys.stderr
    with tempfile.TemporaryFile() as file:
        kept = [os.dup(stream) for stream in (1, 2)]
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)
        try:
            yield output
        finally:
            for text in streams:
                text.flush()
            for stream, copy_of in zip((1, 2), kept, strict=True):
                os.dup2(copy_of, stream)
                os.close(copy_of)
            file.seek(0)
            output += file.read().decode(errors="replace").splitlines()


def _forget_said() -> Any:
    """Forget which warnings Ansible has shown, which it shows once; return its display."""
    from ansible.utils.display import Display

    display = Display()
    for said in (display._warns, display._errors, display._deprecations):
        said.clear()
    return display


def _status(program: Any) -> int:
    """Call a program as an interpreter does that ends afterwards; return its exit status."""
    code = 0
    try:
        program()
    except SystemExit as end:
        if isinstance(end.code, str):
            sys.stderr.write(f"{end.code}\n")
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    finally:
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
    return code
