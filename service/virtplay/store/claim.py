"""Store: the claim of the one service that runs the jobs of a database."""

import asyncio
import contextlib
import fcntl
import logging
import os
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol

import asyncpg  # type: ignore[import-untyped]

from virtplay.errors import CannotStart
from virtplay.store.availability import DatabaseAway, recognised
from virtplay.store.database import place_of, tortoise_config
from virtplay.store.postgres import PostgresClient, reason_of

log = logging.getLogger("virtplay.store.claim")

PATIENCE_SECONDS = 3.0
"""How long the claim of a service that was killed a moment ago may still be there."""
POLL_SECONDS = 0.1
RESPONSE_SECONDS = 10.0
KEEP_ALIVE = {"tcp_keepalives_idle": 30, "tcp_keepalives_interval": 10, "tcp_keepalives_count": 3}
"""After a minute PostgreSQL ends the session of a machine that lost its power, and so its claim."""
LOCK = "hashtext('virtplay.serve.' || coalesce(current_schema(), ''))"
FAILURES = (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError)
IN_USE = "another virtplay serve uses the database {}"


class Claim(Protocol):
    """The right to run the jobs of the database, which one service has at a time."""

    fault: str
    """Why the claim is lost for good; empty while it is not."""

    async def take(self) -> None:
        """Take the claim; raise CannotStart if another service has it."""

    async def holds(self) -> bool:
        """Return whether no other service has taken the claim; raise DatabaseAway."""

    async def release(self) -> None:
        """Give the claim up."""


def claim_of(url: str) -> Claim:
    """Return the claim of the database at `url`, which is not taken yet."""
    if url.startswith("sqlite://"):
        return FileClaim(Path(url.removeprefix("sqlite://")))
    return ServerClaim(url)


class FileClaim:
    """A lock on a file beside the SQLite file; the kernel releases it with the process."""

    def __init__(self, path: Path) -> None:
        self.fault = ""
        self._database = path
        self._descriptor = -1

    async def take(self) -> None:
        """Lock the file; CannotStart."""
        # By its real name: another service may use another path to it.
        path = Path(f"{self._database.resolve()}.lock")
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise CannotStart(
                f"cannot open the database at {self._database}: {error.strerror}"
            ) from error
        deadline = asyncio.get_running_loop().time() + PATIENCE_SECONDS
        while True:
            try:
                fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if asyncio.get_running_loop().time() > deadline:
                    await self.release()
                    raise CannotStart(f"cannot start: {IN_USE.format(self._database)}") from None
                await asyncio.sleep(POLL_SECONDS)
            else:
                return

    async def holds(self) -> bool:
        """Return True: a lock on a file cannot be lost."""
        return True

    async def release(self) -> None:
        """Unlock the file, which stays: another service may be waiting for it."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


class ServerClaim:
    """An advisory lock of PostgreSQL, held by a session that stays.

    The lock ends with its session: when the server restarts, or the connection breaks. Then it is
    taken again by a new session, unless another service was faster.
    """

    def __init__(self, url: str) -> None:
        connection = tortoise_config(url)["connections"]["default"]
        self.fault = ""
        self._where = place_of(url)
        # A pool of its own, since that of the queries may have any size, and resets sessions.
        self._client = PostgresClient(**connection["credentials"], connection_name="claim")
        self._client.pool_minsize = self._client.pool_maxsize = 1
        self._session: Any = None
        self._said = False
        """Whether it was logged that the session is lost."""
        self._identity: tuple[int, datetime] | None = None
        """Process id and start time of the session in PostgreSQL."""
        self._one_at_a_time = asyncio.Lock()

    async def take(self) -> None:
        """Take the lock; CannotStart."""
        try:
            taken = await self._take()
        except (DatabaseAway, *FAILURES) as error:
            await self.release()
            reason = error.reason if isinstance(error, DatabaseAway) else error
            raise CannotStart(f"cannot open the database at {self._where}: {reason}") from error
        if not taken:
            await self.release()
            raise CannotStart(f"cannot start: {IN_USE.format(self._where)}")

    async def holds(self) -> bool:
        """Return whether the lock is held, and take it again if its session has ended."""
        async with self._one_at_a_time:
            if self.fault:
                return False
            if await self._session_lives():
                return True
            if not self._said:
                log.warning("lost the session that claims the database %s", self._where)
            self._said = True
            if not await self._take():
                self.fault = f"cannot go on: {IN_USE.format(self._where)}"
                log.error("%s", self.fault)
                return False
            log.info("claimed the database %s again", self._where)
            self._said = False
            return True

    async def release(self) -> None:
        """End the session."""
        await self._drop_session()
        await self._client.close()

    async def _session_lives(self) -> bool:
        if self._session is None:
            return False
        try:
            await self._session.fetchval("SELECT 1", timeout=RESPONSE_SECONDS)
        except (OSError, *FAILURES):
            await self._drop_session()
            return False
        return True

    async def _drop_session(self) -> None:
        session, self._session = self._session, None
        if session is not None and self._client._pool is not None:
            # The pool has taken a session back that it knows to have ended.
            with contextlib.suppress(Exception):
                session.terminate()
                await self._client._pool.release(session)

    async def _take(self) -> bool:
        """Take the lock in a new session; return False if another service has it."""
        try:
            with recognised(reason_of):
                return await self._lock_in_new_session()
        except BaseException:
            await self._drop_session()
            raise

    async def _lock_in_new_session(self) -> bool:
        if self._client._pool is None:
            await self._client.create_connection(with_db=True)
        assert self._client._pool is not None
        self._session = await self._client._pool.acquire()
        for name, value in KEEP_ALIVE.items():
            await self._session.execute(f"SET {name} = {value}")
        if self._identity is not None:
            # The server may not know yet that the connection of the old session is broken.
            await self._session.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE pid = $1 AND backend_start = $2 AND usename = current_user",
                *self._identity,
            )
        deadline = asyncio.get_running_loop().time() + PATIENCE_SECONDS
        while not await self._session.fetchval(f"SELECT pg_try_advisory_lock({LOCK})"):
            if asyncio.get_running_loop().time() > deadline:
                await self._drop_session()
                return False
            await asyncio.sleep(POLL_SECONDS)
        row = await self._session.fetchrow(
            "SELECT pid, backend_start FROM pg_stat_activity WHERE pid = pg_backend_pid()"
        )
        self._identity = (row["pid"], row["backend_start"])
        return True
