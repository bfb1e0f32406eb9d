"""The servers that a user has without starting them: one for all runs with the same settings."""

from __future__ import annotations

import os
import sys

from ansible_warm.connection import Unavailable, identity

TYPE_CHECKING = False
if TYPE_CHECKING:  # collections takes longer to import than the rest
    from collections.abc import Mapping

DIRECTORY = "ansible-warm"
IDLE_SECONDS = "600"
OF_ONE_RUN = ("ANSIBLE_CACHE_PLUGIN_CONNECTION",)
"""Variables that plugins read in each run, although their names are those of settings."""
SETTINGS = ("HOME", "LANG", "LANGUAGE", "NO_COLOR")
PREFIXES = ("ANSIBLE_", "PYTHON", "LC_")
PATHS = ("_PATH", "_PLUGINS", "_FILE", "_DIR", "_HOME", "_TEMP", "_INVENTORY", "_LIBRARY", "_UTILS")
"""The ends of the names of those settings that may be relative to the working directory."""
FURTHER = ("PATH", "TMPDIR", "TZ", "USER", "LOGNAME", "XDG_RUNTIME_DIR")
"""Variables that a server may need besides settings. It gets no others: they can be secrets."""


def settings(environment: Mapping[str, str], directory: str) -> list[object]:
    """Return all that Ansible reads only when it is loaded.

    Two runs of one user with the same settings can be served by one server. `directory` is where
    the run starts: without ANSIBLE_CONFIG, Ansible reads the ansible.cfg there.
    """
    found = sorted(
        (name, value)
        for name, value in environment.items()
        if (name.startswith(PREFIXES) or name in SETTINGS)
        and not name.startswith("ANSIBLE_WARM")
        and name not in OF_ONE_RUN
    )
    paths = [environment.get("ANSIBLE_CONFIG", "")]
    for name, value in found:
        if name.startswith("ANSIBLE_") and name.endswith(PATHS):
            paths += value.replace(",", ":").split(":")
        elif name == "PYTHONPATH":
            paths += value.split(":")
    text = _configuration(environment, directory)
    absolute = all(path.startswith(("/", "~")) for path in paths) and "{{CWD}}" not in text
    more = sorted((name, environment.get(name, "")) for name in referenced(environment, directory))
    return [found, more, "" if absolute else directory]


def referenced(environment: Mapping[str, str], directory: str) -> set[str]:
    """Return the variables that settings refer to, as in `roles_path = $PROJECT/roles`."""
    texts = [_configuration(environment, directory)]
    texts += [value for name, value in environment.items() if name.startswith("ANSIBLE_")]
    found = set()
    for text in texts:
        for after in text.split("$")[1:]:
            name = after.removeprefix("{")
            length = 0
            while length < len(name) and (name[length].isalnum() or name[length] == "_"):
                length += 1
            found.add(name[:length])
    return found - {""}


def _configuration(environment: Mapping[str, str], directory: str) -> str:
    """Return the text of the ansible.cfg of a run; "" if there is none."""
    chosen = environment.get("ANSIBLE_CONFIG")
    if chosen and os.path.isdir(chosen):
        chosen = os.path.join(chosen, "ansible.cfg")
    home = os.path.join(os.path.expanduser("~"), ".ansible.cfg")
    places = [chosen] if chosen else ["ansible.cfg", home, "/etc/ansible/ansible.cfg"]
    for place in places:
        try:
            with open(os.path.join(directory, place), errors="replace") as file:
                return file.read()
        except OSError:
            continue
    return ""


def socket_path() -> str:
    """Return the socket of this user's server for the settings of this process.

    Its directory, mode 0700, is created if it is missing. Raise Unavailable.
    """
    directory = os.path.join(os.environ.get("XDG_RUNTIME_DIR") or "/nonexistent", DIRECTORY)
    if not os.environ.get("XDG_RUNTIME_DIR"):
        directory = os.path.join(os.path.expanduser("~"), ".ansible", "warm")
    try:
        os.makedirs(directory, mode=0o700, exist_ok=True)
        state = os.stat(directory)
    except OSError as error:
        raise Unavailable(f"cannot use {directory}: {error.strerror}") from error
    if state.st_uid != os.geteuid() or state.st_mode & 0o077:
        raise Unavailable(f"cannot use {directory}: other users may enter it")
    niceness = os.getpriority(os.PRIO_PROCESS, 0)
    what = (settings(os.environ, os.getcwd()), identity(), niceness, sys.executable, sys.version)
    return os.path.join(directory, _digest(repr(what)))


def _digest(text: str) -> str:
    try:
        from _blake2 import blake2b
    except ImportError:
        from hashlib import blake2b
    return blake2b(os.fsencode(text), digest_size=12).hexdigest()


def _is_locked(path: str) -> bool:
    """Return whether a manager holds the lock of its socket."""
    import fcntl

    try:
        lock = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(lock)
    return False


def start(path: str) -> None:
    """Start a manager, and with it a server, for the settings of this process.

    Nothing happens where one runs already, even if its server is not ready.
    """
    if _is_locked(f"{path}.lock"):
        return
    manager = os.path.join(os.path.dirname(os.path.abspath(__file__)), "manager.py")
    idle = os.environ.get("ANSIBLE_WARM_IDLE", IDLE_SECONDS)
    names = {*SETTINGS, *FURTHER, *referenced(os.environ, os.getcwd())}
    environment = {
        name: value
        for name, value in os.environ.items()
        if name.startswith(PREFIXES) or name in names
    }
    words = [sys.executable, "-I", "-S", manager, path, "--idle", idle]
    if child := os.fork():
        os.waitpid(child, 0)
        return
    try:
        os.setsid()
        if os.fork():
            os._exit(0)
        log = os.open(path + ".log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        null = os.open(os.devnull, os.O_RDWR)
        for target, source in enumerate((null, log, log)):
            os.dup2(source, target)
        os.closerange(3, 4096)
        os.execve(sys.executable, words, environment)
    except OSError:
        pass  # the run itself matters more
    finally:
        os._exit(1)
