"""Store: saves the database before the migrations of a newer version change it."""

import asyncio
import logging
import re
from datetime import UTC, datetime
from pathlib import Path

from virtplay.errors import CannotCopy, CannotStart
from virtplay.store.backup import applied_migrations, save_backup
from virtplay.store.database import known_migrations, refuse_later

log = logging.getLogger("virtplay.store.upgrade")

KEPT = 5
OWN_NAME = re.compile(r"[0-9]{8}T[0-9]{6}Z-[0-9]{4}_\w+")
"""Time and newest migration; other files of the directory are the user's."""


async def save_before_upgrade(url: str, directory: Path) -> None:
    """Save the database in a directory if this version has migrations that it has not had.

    The newest of such files are kept. Raise CannotStart if the database cannot be read or saved:
    there would be no way back; or if a later version has written it.
    """
    applied = await applied_migrations(url)
    refuse_later(url, applied)
    if not applied or not known_migrations() - applied:
        return
    file = directory / f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{max(applied)}"
    try:
        await asyncio.to_thread(directory.mkdir, mode=0o700, parents=True, exist_ok=True)
        await save_backup(url, file)
    except (CannotCopy, OSError) as error:
        raise CannotStart(
            f"cannot upgrade the database without a backup of it: {error}; make one, then run"
            " virtplay db upgrade"
        ) from error
    log.info("saved the database in %s before its upgrade", file)
    await asyncio.to_thread(_forget_old, directory)


def _forget_old(directory: Path) -> None:
    try:
        own = [
            file for file in directory.iterdir() if OWN_NAME.fullmatch(file.name) and _is_file(file)
        ]
        for old in sorted(own, reverse=True)[KEPT:]:
            old.unlink()
    except OSError as error:
        log.warning("cannot delete old backups of the database in %s: %s", directory, error)


def _is_file(path: Path) -> bool:
    return path.is_file() and not path.is_symlink()
