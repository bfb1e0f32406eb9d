"""Machine: says where the service's database is, to commands that must not make another one."""

import os
import shlex
import sys
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


def require_database(settings: Settings, *, may_create: bool = False) -> None:
    """Raise CannotStart without a database, and say how the service of this machine has its own.

    Another user, or the same one in another directory, would otherwise get a new and empty one.
    `may_create`: raise it only if this machine has another service.
    """
    place = settings.database.removeprefix("sqlite://")
    try:
        if has_database(settings):
            return
    except PermissionError:
        raise CannotStart(
            f"cannot read the database {place}: run the command as its owner, or as root"
        ) from None
    other = _other_service(settings)
    if other:
        own = "; or make a database of your own: virtplay db upgrade" if may_create else ""
        raise CannotStart(f"cannot find the database {place}: {other}{own}")
    if not may_create:
        raise CannotStart(
            f"cannot find the database {place}: start the service, which creates it, or set"
            " VIRTPLAY_STATE_DIR or VIRTPLAY_DATABASE_URL as the service has it"
        )


def _other_service(settings: Settings) -> str:
    """Return who has another service on this machine, and this command for its database; or ""."""
    words = shlex.join(sys.argv[1:])
    program = shlex.quote(str(Path(sys.argv[0]).absolute()))
    of_unit = unit.state_dir()
    for directory in (of_unit, ROOT_STATE_DIR):
        if directory is None:
            continue
        if directory == settings.state_dir and not (directory == of_unit and unit.has_url()):
            continue
        try:
            owner, uid = directory.owner(), directory.stat().st_uid
        except (OSError, KeyError):  # there is none, it is hidden, or the user is gone
            continue
        place = shlex.quote(str(directory))
        if directory == of_unit:
            settle = f"set -a; . {place}/{unit.ENVIRONMENT}; {program} {words}"
            command = _as_owner(owner, uid, f"sh -c {shlex.quote(settle)}")
        elif _is_of_role():
            command = f"{'' if os.geteuid() == 0 else 'sudo '}{ROLE_COMMAND} {words}"
        else:
            command = _as_owner(owner, uid, f"env VIRTPLAY_STATE_DIR={place} {program} {words}")
        return f"the service of this machine runs as {owner} in {directory}; run: {command}"
    return ""


def _is_of_role() -> bool:
    try:
        return "exec runuser -u " in ROLE_COMMAND.read_text()
    except (OSError, ValueError):
        return False


def _as_owner(owner: str, uid: int, command: str) -> str:
    if uid == os.geteuid():
        return command
    if os.geteuid() == 0:
        return f"runuser -u {owner} -- {command}"
    return f"sudo {'' if uid == 0 else f'-u {owner} '}{command}"
