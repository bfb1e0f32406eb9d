"""Restores the database from a backup, and settles what the backup has left unfinished."""

import tempfile
from dataclasses import dataclass
from pathlib import Path

from virtplay.errors import CannotCopy, CannotStart
from virtplay.jobs.outcome import lose
from virtplay.settings import Settings
from virtplay.store import jobs as store
from virtplay.store.backup import Contents, check_source, load_backup, unpack_backup
from virtplay.store.claim import claim_of
from virtplay.store.database import close_database, open_database
from virtplay.store.vms import forget_observations


@dataclass(frozen=True)
class Restored:
    """What was restored."""

    contents: Contents
    ended: list[str]
    """The jobs that were unfinished, and have ended without being run again."""


async def restore(settings: Settings, file: Path, *, replace: bool) -> Restored:
    """Replace the database by that of a backup; raise CannotCopy, and then change nothing.

    All work is done on a copy of the backup, which replaces the database in one transaction.
    """
    # Before the claim, which makes the directory of a new database.
    check_source(file, settings.database)
    claim = claim_of(settings.database)
    try:
        await claim.take()
    except CannotStart as error:
        reason = error.message.removeprefix("cannot start: ")
        remedy = "; stop it first" if reason != error.message else ""
        raise CannotCopy(f"cannot restore {file}: {reason}{remedy}") from error
    try:
        with _new_folder(file, settings.state_dir) as folder:
            copy = Path(folder) / "virtplay.sqlite3"
            contents = await unpack_backup(file, copy)
            await open_database(f"sqlite://{copy}")
            try:
                ended = await _settle(contents.made_at)
            finally:
                await close_database()
            await load_backup(copy, settings.database, replace=replace)
    finally:
        await claim.release()
    return Restored(contents, ended)


def _new_folder(file: Path, state: Path) -> tempfile.TemporaryDirectory[str]:
    """Make a directory in the state directory; CannotCopy if that is refused."""
    try:
        state.mkdir(mode=0o700, parents=True, exist_ok=True)
        return tempfile.TemporaryDirectory(prefix="restore-", dir=state)
    except OSError as error:
        raise CannotCopy(f"cannot restore {file}: {state}: {error.strerror}") from error


async def _settle(made_at: str) -> list[str]:
    """End the unfinished jobs, and count every host as not observed yet; return the jobs' ids.

    Unlike after a crash they are not run again: they have ended since on the hosts, and a stop or
    the restore of a snapshot must not happen a second time, days later. Their secrets are not in
    the backup either.
    """
    ended = []
    when = f" of {made_at}" if made_at else ""
    for job in await store.unfinished_jobs():
        ended.append(str(job.ref))
        now = await store.get_job(job.id)
        if now is not None and now.finished_at is None:  # a start ends with its creation
            why = f"the database was restored from a backup{when}, when it was {now.status}"
            await lose(now, why)
    await forget_observations()
    return ended
