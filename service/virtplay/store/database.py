"""Store: opens, migrates and closes the database, and begins its transactions."""

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from tortoise import Model, Tortoise
from tortoise.exceptions import BaseORMException as DatabaseError
from tortoise.migrations.api.migrate import migrate
from tortoise.transactions import in_transaction

from virtplay.errors import CannotStart

__all__ = ["DatabaseError", "close_database", "fit", "is_sqlite", "open_database", "transaction"]

BUSY_TIMEOUT_MS = 30_000


def tortoise_config(url: str) -> dict[str, Any]:
    """Return the Tortoise configuration of a database `url` (sqlite:// or postgres://)."""
    if url.startswith("sqlite://"):
        path = Path(url.removeprefix("sqlite://"))
        connection: Any = {
            "engine": "tortoise.backends.sqlite",
            "credentials": {
                "file_path": str(path),
                "busy_timeout": BUSY_TIMEOUT_MS,
                # As on PostgreSQL; SQLite's LIKE ignores the case of ASCII letters by default.
                "case_sensitive_like": "ON",
            },
        }
    elif url.startswith(("postgres://", "postgresql://", "asyncpg://")):
        connection = "asyncpg://" + url.split("://", 1)[1]
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
    """Connect to the database at `url` and migrate its schema; raise CannotStart on failure."""
    config = tortoise_config(url)
    try:
        if url.startswith("sqlite://"):
            await asyncio.to_thread(_make_private, Path(url.removeprefix("sqlite://")))
        await migrate(config=config)
        # Sanic runs its listeners and handlers in tasks whose context is not this one's:
        # https://github.com/tortoise/tortoise-orm/pull/2090
        await Tortoise.init(config=config, _enable_global_fallback=True)
        await Tortoise.get_connection("default").execute_query("SELECT 1")
    except Exception as error:
        await close_database()
        where = url.rsplit("@", 1)[-1]
        raise CannotStart(f"cannot open the database at {where}: {error}") from error


def _make_private(path: Path) -> None:
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


def is_sqlite() -> bool:
    """Whether the open database is SQLite."""
    return bool(Tortoise.get_connection("default").capabilities.dialect == "sqlite")


class _Transaction:
    """Tortoise's transaction, which gives the connection back also when its begin is cancelled.

    Tortoise 1.1.9 keeps it then, in a transaction that nobody ends: on SQLite every later
    statement waits for ever, on PostgreSQL the pool has one connection less.
    """

    def __init__(self) -> None:
        self._context = in_transaction("default")

    async def __aenter__(self) -> Any:
        try:
            return await self._context.__aenter__()
        except BaseException as error:
            # Tortoise sets the token when it has the connection.
            if hasattr(self._context, "token"):
                # A transaction that has not begun cannot be rolled back, which is an error of its
                # own on PostgreSQL; the connection is given back nevertheless.
                with contextlib.suppress(Exception):
                    await self._context.__aexit__(type(error), error, error.__traceback__)
            raise

    async def __aexit__(self, *error: Any) -> None:
        await self._context.__aexit__(*error)


@asynccontextmanager
async def transaction(exclusive: str | None = None) -> AsyncIterator[None]:
    """Begin a write transaction; the end of the block commits it, an exception rolls it back.

    SQLite: a deferred BEGIN fails with "database is locked" when another process writes between
    its first read and its first write, whatever the busy timeout. So the transaction begins with
    BEGIN IMMEDIATE, for which Tortoise has no option:
    https://github.com/tortoise/tortoise-orm/issues/1675
    PostgreSQL: `exclusive` names an advisory lock that is held until the end, for decisions that
    read many rows (placement).
    """
    async with _Transaction() as connection:
        if connection.capabilities.dialect == "sqlite":
            await connection.execute_query("ROLLBACK")
            await connection.execute_query("BEGIN IMMEDIATE")
        elif exclusive is not None:
            await connection.execute_query(
                "SELECT pg_advisory_xact_lock(hashtext($1))", [f"virtplay.{exclusive}"]
            )
        yield
