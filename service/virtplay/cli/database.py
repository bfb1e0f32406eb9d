"""Command line: db, which upgrades, saves and restores the service's own database."""

from pathlib import Path
from typing import Annotated

import typer

from virtplay.cli.server import load_settings, with_database

database_app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Upgrade, back up and restore the database of the service.",
)


def _named(text: str) -> Path:
    """Return the path; typer.BadParameter without a name, as of a variable that is not set."""
    if not text:
        raise typer.BadParameter("the name is empty")
    return Path(text)


@database_app.command("upgrade")
def upgrade_database() -> None:
    """Create the database or upgrade its schema; virtplay serve does this at its start.

    Unlike virtplay serve, the command does not back up the database before.

    \b
    Example:
      virtplay db upgrade
    """
    from virtplay.store.database import place_of  # noqa: PLC0415

    async def nothing() -> None:
        return None

    with_database(nothing, backup=False, create=True)
    typer.echo(f"the database {place_of(load_settings().database)} is up to date")


@database_app.command("backup")
def back_up_database(
    file: Annotated[
        Path,
        typer.Argument(metavar="FILE", parser=_named, help="File to save the database in."),
    ],
) -> None:
    """Save the database in FILE, while the service runs or not.

    FILE appears when it is complete, is readable by its owner alone, and replaces an earlier
    backup of that name. It can be restored into SQLite and PostgreSQL, whichever it comes from.

    \b
    Example:
      virtplay db backup /var/backups/virtplay.backup
    """
    import asyncio  # noqa: PLC0415 - like Tortoise, help needs none

    from virtplay.machine.database import require_database  # noqa: PLC0415
    from virtplay.store.backup import save_backup  # noqa: PLC0415

    settings = load_settings()
    require_database(settings, ["db", "backup", str(file.absolute())])
    contents = asyncio.run(save_backup(settings.database, file))
    typer.echo(f"saved the database in {file}: {contents}")
    _note_time(settings.last_backup)


def _note_time(file: Path) -> None:
    """Renew the file whose age the service's metrics show, in the state directory of a service."""
    try:
        file.unlink(missing_ok=True)  # it may be another user's
        file.touch(mode=0o600)
    except OSError as error:
        remedy = ""
        if isinstance(error, FileNotFoundError | NotADirectoryError):
            remedy = "; set VIRTPLAY_STATE_DIR as the service has it"
        typer.echo(
            f"virtplay: cannot note the time of the backup in {file}: {error.strerror}{remedy}",
            err=True,
        )


@database_app.command("restore")
def restore_database(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", parser=_named, help="A file of virtplay db backup.")
    ],
    replace: Annotated[
        bool,
        typer.Option("--replace", help="Delete what the database contains; else it must be empty."),
    ] = False,
) -> None:
    """Restore the database from FILE; the service must be stopped.

    Without a database, one is created, unless another service of this machine has one. Jobs that
    were unfinished when the backup was made are not run again. A backup of an earlier version is
    upgraded. If anything fails, the database stays as it is.

    \b
    Example:
      virtplay db restore /var/backups/virtplay.backup --replace
    """
    import asyncio  # noqa: PLC0415 - like Tortoise, help needs none

    from virtplay.jobs.restoration import restore  # noqa: PLC0415
    from virtplay.machine.database import require_database  # noqa: PLC0415
    from virtplay.store.database import place_of  # noqa: PLC0415

    settings = load_settings()
    words = ["db", "restore", str(file.absolute()), *["--replace"] * replace]
    require_database(settings, words, may_create=True)
    restored = asyncio.run(restore(settings, file, replace=replace))
    made = f", made at {restored.contents.made_at}" if restored.contents.made_at else ""
    place = place_of(settings.database)
    typer.echo(f"restored the database {place} from {file}{made}: {restored.contents}")
    if restored.ended:
        typer.echo(
            f"{len(restored.ended)} jobs were unfinished, and are not run again:"
            f" {', '.join(restored.ended)}"
        )
    typer.echo("start the service: it observes the hosts, and takes in VMs created since")
