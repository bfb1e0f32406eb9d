"""Store: Tortoise's engine for SQLite, whose transactions take the write lock when they begin.

A deferred BEGIN, which is Tortoise's, fails with "database is locked" when another process writes
between the transaction's first read and its first write, whatever the busy timeout:
https://github.com/tortoise/tortoise-orm/issues/1675
Tortoise 1.1.9 also keeps its lock when BEGIN fails: nothing would use the database any more.
"""

import logging
import sqlite3
from typing import Any

from tortoise.backends.base.client import (
    NestedTransactionContext,
    TransactionalDBClient,
    TransactionContext,
)
from tortoise.backends.sqlite.client import (
    SqliteClient,
    SqliteTransactionContext,
    SqliteTransactionWrapper,
)
from tortoise.connection import get_connections

from virtplay.store.availability import Recognising, recognised

log = logging.getLogger("virtplay.store.sqlite")

AWAY = frozenset(
    {
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_READONLY,
        sqlite3.SQLITE_NOMEM,
        sqlite3.SQLITE_PROTOCOL,
    }
)


def reason_of(error: BaseException) -> str | None:
    """Return why SQLite cannot be used now, or None for every other error."""
    # Tortoise raises its own error without a cause, and with SQLite's as its argument.
    for each in (error, error.__context__, *error.args):
        if isinstance(each, sqlite3.OperationalError):
            code = getattr(each, "sqlite_errorcode", None)
            if code is not None and code & 0xFF in AWAY:
                return str(each)
    return None


class _Immediate(SqliteTransactionContext):
    """One transaction, which gives the lock of the connection back however it ends."""

    async def __aenter__(self) -> TransactionalDBClient:
        await self._trxlock.acquire()
        try:
            with recognised(reason_of):
                await self.ensure_connection()
                await self._undo()
                await self.connection._connection.execute("BEGIN IMMEDIATE")
        except BaseException:
            try:
                await self._undo()
            finally:
                self._trxlock.release()
            raise
        self.token = get_connections().set(self.connection_name, self.connection)
        return self.connection  # type: ignore[no-any-return]

    async def __aexit__(self, kind: Any, error: Any, trace: Any) -> None:
        try:
            if self.connection._finalized:
                return
            if kind is None:
                try:
                    with recognised(reason_of):
                        await self.connection.commit()
                except BaseException:
                    # It must not stay open: the next one would commit it.
                    await self._undo()
                    raise
                return
            await self._undo()
        finally:
            get_connections().reset(self.token)
            self._trxlock.release()

    async def _undo(self) -> None:
        """Roll back what is open, also after a cancellation in the middle of a statement."""
        if self.connection._connection:
            try:
                await self.connection._connection.rollback()
            except sqlite3.Error as fault:
                log.warning("cannot roll back: %s", fault)


class _Transaction(Recognising, SqliteTransactionWrapper):
    """The connection, within one transaction."""

    reason_of = staticmethod(reason_of)

    def _in_transaction(self) -> TransactionContext:
        return NestedTransactionContext(_Transaction(self))


class FileClient(Recognising, SqliteClient):
    """The one connection to the file."""

    reason_of = staticmethod(reason_of)

    def _in_transaction(self) -> TransactionContext:
        return _Immediate(_Transaction(self), self._lock)


client_class = FileClient
