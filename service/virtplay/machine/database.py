"""Machine: says where the service's database is, to commands that must not make another one."""

from pathlib import Path

from virtplay.errors import CannotStart
from virtplay.machine import unit
from virtplay.settings import ROOT_STATE_DIR, Settings


def has_database(settings: Settings) -> bool:
    """Whether there may be a database of an earlier start, and so a token.

    PermissionError if another user's directory hides it.
    """
    path = settings.database.removeprefix("sqlite://")
    return path == settings.database or Path(path).exists()


def require_database(settings: Settings) -> None:
    """Raise CannotStart without a database, and say how the service of this machine has its own.

    Another user, or the same one in another directory, would otherwise get a new and empty one.
    """
    place = settings.database.removeprefix("sqlite://")
    try:
        if has_database(settings):
            return
    except PermissionError:
        raise CannotStart(
            f"cannot read the database {place}: run the command as its owner, or as root"
        ) from None
    raise CannotStart(f"cannot find the database {place}: {_remedy(settings)}")


def _remedy(settings: Settings) -> str:
    for directory in (unit.state_dir(), ROOT_STATE_DIR):
        if directory is None or directory == settings.state_dir:
            continue
        try:
            owner = directory.owner()
        except (OSError, KeyError):  # there is none, it is hidden, or the user is gone
            continue
        return (
            f"the service of this machine runs as {owner} with VIRTPLAY_STATE_DIR={directory};"
            " run the command as it does"
        )
    return (
        "start the service, which creates it, or set VIRTPLAY_STATE_DIR or VIRTPLAY_DATABASE_URL"
        " as the service has it"
    )
