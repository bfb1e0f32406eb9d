"""Store: opens, migrates and closes the database, and begins its transactions."""

import asyncio
import contextlib
import os
import pkgutil
import re
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from tortoise import Model, Tortoise
from tortoise.backends.base.config_generator import expand_db_url
from tortoise.backends.base.executor import EXECUTOR_CACHE
from tortoise.exceptions import BaseORMException as DatabaseError
from tortoise.exceptions import OperationalError
from tortoise.migrations.api.migrate import migrate
from tortoise.transactions import in_transaction

from virtplay.errors import CannotStart
from virtplay.store import migrations
from virtplay.store.availability import DatabaseAway

__all__ = [
    "DatabaseAway",
    "DatabaseError",
    "close_database",
    "fit",
    "is_sqlite",
    "known_migrations",
    "make_private",
    "moment_of",
    "open_database",
    "place_of",
    "refuse_later",
    "select",
    "skip_numbers",
    "transaction",
]

BUSY_TIMEOUT_MS = 30_000
CONNECT_SECONDS = 10.0
FEW_NUMBERS = 1000
COMMAND_SECONDS = 60.0
"""A PostgreSQL that does not respond to a query for so long is not available; migrations wait."""


def tortoise_config(url: str) -> dict[str, Any]:
    """Return the Tortoise configuration of a database `url` (sqlite:// or postgres://)."""
    if url.startswith("sqlite://"):
        path = Path(url.removeprefix("sqlite://"))
        connection: Any = {
            "engine": "virtplay.store.sqlite",
            "credentials": {
                "file_path": str(path),
                "busy_timeout": BUSY_TIMEOUT_MS,
                # As on PostgreSQL; SQLite's LIKE ignores the case of ASCII letters by default.
                "case_sensitive_like": "ON",
            },
        }
    elif url.startswith(("postgres://", "postgresql://", "asyncpg://")):
        connection = expand_db_url("asyncpg://" + url.split("://", 1)[1])
        connection["engine"] = "virtplay.store.postgres"
        connection["credentials"] = {"timeout": CONNECT_SECONDS, **connection["credentials"]}
    else:
        scheme = url.split("://", 1)[0]
        raise CannotStart(
            f"cannot use database {scheme}://…: use sqlite:///file or postgres://user@host/name"
        )
    return {
        "connections": {"default": connection},
        "apps": {
            "virtplay": {
                "models": ["virtplay.store.models"],
                "migrations": "virtplay.store.migrations",
                "default_connection": "default",
            }
        },
        "use_tz": True,
        "timezone": "UTC",
    }


def known_migrations() -> set[str]:
    """Return the names of this version's migrations."""
    names = {module.name for module in pkgutil.iter_modules(migrations.__path__)}
    return {name for name in names if name[0].isdigit()}


def fit(model: type[Model], values: Mapping[str, Any]) -> dict[str, Any]:
    """Return values for columns of a model, with integers cut to what their columns can hold.

    A domain may define more memory and larger disks than there are, and must not prevent that the
    others of its host are saved.
    """
    fitting = dict(values)
    for name, value in values.items():
        limits = model._meta.fields_map[name].constraints if isinstance(value, int) else {}
        if "le" in limits:
            fitting[name] = max(limits["ge"], min(value, limits["le"]))
    return fitting


async def open_database(url: str) -> None:
    """Connect to the database at `url` and migrate its schema; raise CannotStart on failure.

    The schema of a later version is refused: this one would write what that one cannot read.
    """
    config = tortoise_config(url)
    try:
        if url.startswith("sqlite://"):
            await asyncio.to_thread(make_private, Path(url.removeprefix("sqlite://")))
        await Tortoise.init(config=config)
        refuse_later(url, await _applied())
        await migrate(config=config)
        if not url.startswith("sqlite://"):
            config["connections"]["default"]["credentials"].setdefault(
                "command_timeout", COMMAND_SECONDS
            )
        # Sanic runs its listeners and handlers in tasks whose context is not this one's:
        # https://github.com/tortoise/tortoise-orm/pull/2090
        await Tortoise.init(config=config, _enable_global_fallback=True)
    except CannotStart:
        await close_database()
        raise
    except Exception as error:
        await close_database()
        raise CannotStart(f"cannot open the database at {place_of(url)}: {error}") from error


def place_of(url: str) -> str:
    """Return the path of an SQLite database, or the URL of another without user and password."""
    if url.startswith("sqlite://"):
        return str(Path(url.removeprefix("sqlite://")).absolute())
    return url.rsplit("@", 1)[-1].partition("?")[0]


async def _applied() -> set[str]:
    try:
        return {name for (name,) in await select("SELECT name FROM tortoise_migrations")}
    except DatabaseAway:
        raise
    except OperationalError:  # a new database has no such table
        return set()


def refuse_later(url: str, applied: set[str]) -> None:
    """Raise CannotStart if a later version has migrated the database at `url`."""
    if later := applied - known_migrations():
        # A restore into PostgreSQL replaces the rows, and no tables.
        how = " with --replace" if url.startswith("sqlite://") else " into an empty database"
        raise CannotStart(
            f"cannot open the database at {place_of(url)}: a later version of Virtplay has written"
            f" it ({max(later)}); install that version, or restore an earlier backup{how}"
        )


def make_private(path: Path) -> None:
    """Give the SQLite file mode 0600; SQLite gives the same mode to its -wal and -shm files.

    Plays on this machine would inherit a umask, so the mode is set instead.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with contextlib.suppress(FileExistsError):
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    for each in (path, Path(f"{path}-wal"), Path(f"{path}-shm")):
        with contextlib.suppress(FileNotFoundError):
            if each.stat().st_uid == os.geteuid():
                each.chmod(0o600)


async def close_database() -> None:
    """Close every connection; otherwise the interpreter hangs when it exits.

    The thread of an open SQLite connection is not a daemon thread:
    https://github.com/omnilib/aiosqlite/issues/299
    """
    await Tortoise.close_connections()
    # Tortoise 1.1 keeps INSERT statements by the name of the connection, whatever its database is.
    EXECUTOR_CACHE.clear()


def is_sqlite() -> bool:
    """Whether the open database is SQLite."""
    return bool(Tortoise.get_connection("default").capabilities.dialect == "sqlite")


MARK = re.compile(r"\?(\d+)")


async def select(query: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
    """Return the rows of a query in SQL, in which ?1, ?2 and so on stand for the values.

    JSON is a text, a time is a text or a datetime; see `moment_of`. Tortoise takes several times as
    long to build a query and the models of its rows as SQLite takes to read them.
    """
    client = Tortoise.get_connection("default")
    if client.capabilities.dialect != "sqlite":
        query = MARK.sub(r"$\1", query)
    _, rows = await client.execute_query(query, list(values))
    return [tuple(row) for row in rows]


def moment_of(value: str | datetime | None) -> datetime | None:
    """Return a time that `select` has read; SQLite has the text that Tortoise writes, in UTC."""
    return datetime.fromisoformat(value) if isinstance(value, str) else value


async def skip_numbers(table: str, number: int) -> None:
    """Give the numbers up to `number` to no new row of the table, and none twice."""
    client = Tortoise.get_connection("default")
    if client.capabilities.dialect != "sqlite":
        # Others take numbers meanwhile, and setval would give theirs again. A few are taken one
        # after the other; to set back many, others would have to take many in the same moment.
        sequence = f"{table}_id_seq"
        await client.execute_query(
            f"""
            SELECT CASE WHEN $1::bigint - next >= $2
                THEN setval('{sequence}', $1::bigint)
                ELSE (SELECT max(nextval('{sequence}')) FROM generate_series(next, $1::bigint))
                END
            FROM (SELECT last_value + is_called::int AS next FROM {sequence}) AS state
            WHERE next <= $1::bigint
            """,  # noqa: S608
            [number, FEW_NUMBERS],
        )
        return
    # SQLite creates this row with the first row of the table.
    await client.execute_query(
        "INSERT INTO sqlite_sequence (name, seq) SELECT ?1, 0"
        " WHERE NOT EXISTS (SELECT 1 FROM sqlite_sequence WHERE name = ?1)",
        [table],
    )
    await client.execute_query(
        "UPDATE sqlite_sequence SET seq = max(seq, ?) WHERE name = ?", [number, table]
    )


@asynccontextmanager
async def transaction(exclusive: str | None = None) -> AsyncIterator[None]:
    """Begin a write transaction; the end of the block commits it, an exception rolls it back.

    PostgreSQL: `exclusive` names an advisory lock that is held until the end, for decisions that
    read many rows (placement). SQLite: every transaction holds the write lock from its begin on.
    """
    async with in_transaction("default") as connection:
        if exclusive is not None and connection.capabilities.dialect != "sqlite":
            await connection.execute_query(
                "SELECT pg_advisory_xact_lock(hashtext($1))", [f"virtplay.{exclusive}"]
            )
        yield
