"""Machine: says where the service's database is, to commands that must not make another one."""

import contextlib
import os
import pwd
import re
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from virtplay.errors import CannotStart
from virtplay.files import exists
from virtplay.machine import unit
from virtplay.settings import ROOT_STATE_DIR, Settings

ROLE_COMMAND = Path("/usr/local/bin/virtplay")
"""The program of the role virtplay_service; it has the user and the settings of the service."""


def has_database(settings: Settings) -> bool:
    """Whether there may be a database of an earlier start, and so a token.

    PermissionError if another user's directory hides it.
    """
    path = settings.database.removeprefix("sqlite://")
    return path == settings.database or exists(Path(path))


def require_database(
    settings: Settings, command: Sequence[str], *, may_create: bool = False
) -> None:
    """Raise CannotStart without a database, and say how the service of this machine has its own.

    Another user, or the same one in another directory, would otherwise get a new and empty one.
    `command`: the words of the present command, with absolute paths. `may_create`: raise it only if
    this machine has another service.
    """
    place = settings.database.removeprefix("sqlite://")
    try:
        if has_database(settings):
            return
    except PermissionError:
        raise CannotStart(
            f"cannot read the database {place}: run the command as its owner, or as root"
        ) from None
    other = _other_service(settings, shlex.join(command))
    if other:
        own = "; or make a database of your own: virtplay db upgrade" if may_create else ""
        raise CannotStart(f"cannot find the database {place}: {other}{own}")
    if not may_create:
        raise CannotStart(
            f"cannot find the database {place}: start the service, which creates it, or set"
            " VIRTPLAY_STATE_DIR or VIRTPLAY_DATABASE_URL as the service has it"
        )


def _other_service(settings: Settings, words: str) -> str:
    """Return who has another service on this machine, and this command for its database; or ""."""
    directory = unit.state_dir()
    if directory is not None:
        if _with(settings, directory, unit.database_url()).database == settings.database:
            return ""
        user = runner = unit.user()
        command = f"sh -c {shlex.quote(unit.script(words))}"
    elif settings.state_dir == ROOT_STATE_DIR:
        return ""
    elif user := _user_of_role():
        runner, command = "root", f"{ROLE_COMMAND} {words}"
    elif _root_has_one(settings):
        user = runner = "root"
        program = shlex.quote(str(Path(sys.argv[0]).absolute()))
        command = f"env VIRTPLAY_STATE_DIR={ROOT_STATE_DIR} {program} {words}"
    else:
        return ""
    if settings.database_url:
        command = f"env -u VIRTPLAY_DATABASE_URL {command}"
    return (
        f"the service of this machine runs as {user} in {directory or ROOT_STATE_DIR}; run:"
        f" {_as_user(runner, command)}"
    )


def _with(settings: Settings, directory: Path, url: str = "") -> Settings:
    return settings.model_copy(update={"state_dir": directory, "database_url": url})


def _root_has_one(settings: Settings) -> bool:
    try:
        return has_database(_with(settings, ROOT_STATE_DIR))
    except PermissionError:
        return True


def _user_of_role() -> str:
    """Return the user of the service that the role has installed; "" without one."""
    try:
        found = re.search(r"exec runuser -u (\S+) ", ROLE_COMMAND.read_text())
    except (OSError, ValueError):
        return ""
    return found[1] if found else ""


def _as_user(user: str, command: str) -> str:
    if os.geteuid() == 0:
        return command if user == "root" else f"runuser -u {user} -- {command}"
    with contextlib.suppress(KeyError):  # the present user may have no name
        if pwd.getpwuid(os.geteuid()).pw_name == user:
            return command
    return f"sudo {'' if user == 'root' else f'-u {user} '}{command}"
