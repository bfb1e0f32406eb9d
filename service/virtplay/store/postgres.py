"""Store: Tortoise's engine for PostgreSQL, which survives a server that goes away and comes back.

Tortoise 1.1.9 keeps the connection and the context of a transaction whose BEGIN fails: later
queries of the task would use that dead connection for ever, and five of them empty the pool.
"""

import logging
import os
from typing import Any

import asyncpg  # type: ignore[import-untyped]
from tortoise.backends.asyncpg.client import AsyncpgDBClient, TransactionWrapper
from tortoise.backends.base.client import (
    NestedTransactionContext,
    TransactionalDBClient,
    TransactionContext,
    TransactionContextPooled,
)
from tortoise.connection import get_connections
from tortoise.exceptions import BaseORMException

from virtplay.store.availability import Recognising, recognised

log = logging.getLogger("virtplay.store.postgres")

AWAY = (
    asyncpg.PostgresConnectionError,
    # asyncpg's own state of a connection that the server has closed; its faults in the use of
    # a connection that lives are among them, and those with a ValueError are not.
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    asyncpg.OperatorInterventionError,
    asyncpg.InsufficientResourcesError,
    asyncpg.PostgresSystemError,
    # A server that still recovers, or a replica that has taken over the address.
    asyncpg.ReadOnlySQLTransactionError,
    asyncpg.LockNotAvailableError,
    # A role or password that is changed while the service runs.
    asyncpg.InvalidAuthorizationSpecificationError,
)


def reason_of(error: BaseException) -> str | None:
    """Return why PostgreSQL cannot be used now, or None for every other error.

    Without the addresses that asyncio puts into its messages: clients without a token read it.
    """
    # Tortoise wraps some errors of asyncpg into its own.
    cause = error.__cause__ if isinstance(error, BaseORMException) else error
    if isinstance(cause, AWAY) and not isinstance(cause, ValueError):
        return str(cause).partition("\n")[0] or type(cause).__name__
    if isinstance(cause, TimeoutError):
        return "it does not respond"
    if isinstance(cause, OSError):
        return os.strerror(cause.errno) if cause.errno else type(cause).__name__
    return None


class _Pooled(TransactionContextPooled):
    """One transaction on a connection of the pool, which is always given back."""

    async def __aenter__(self) -> TransactionalDBClient:
        with recognised(reason_of):
            await self.ensure_connection()
            self.client._connection = await self.client._parent._pool.acquire()
        self.token = get_connections().set(self.connection_name, self.client)
        try:
            with recognised(reason_of):
                await self.client.begin()
        except BaseException:
            await self._give_back()
            raise
        return self.client

    async def __aexit__(self, kind: Any, error: Any, trace: Any) -> None:
        try:
            if self.client._finalized:
                return
            if kind is None:
                with recognised(reason_of, committing=True):
                    await self.client.commit()
                return
            try:
                await self.client.rollback()
            except Exception as fault:
                # The first error counts; what PostgreSQL has not committed, it undoes itself.
                log.info("cannot roll back: %s", fault)
        finally:
            await self._give_back()

    async def _give_back(self) -> None:
        get_connections().reset(self.token)
        if self.client._parent._pool is None:
            return
        try:
            await self.client._parent._pool.release(self.client._connection)
        except Exception as fault:
            # asyncpg has closed the connection instead; the transaction has ended before.
            log.info("cannot give a connection back to the pool: %s", fault)


class _Transaction(Recognising, TransactionWrapper):
    """The connection of one transaction."""

    reason_of = staticmethod(reason_of)

    def _in_transaction(self) -> TransactionContext:
        return NestedTransactionContext(_Transaction(self))


class PostgresClient(Recognising, AsyncpgDBClient):
    """The pool of connections."""

    reason_of = staticmethod(reason_of)

    def _in_transaction(self) -> TransactionContext:
        return _Pooled(_Transaction(self), self._pool_init_lock)


client_class = PostgresClient
