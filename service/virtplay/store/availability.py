"""Store: tells a database that is away or full from every other failure, in one exception."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from tortoise.backends.base.client import BaseDBAsyncClient
from tortoise.exceptions import OperationalError

from virtplay.errors import DatabaseNotAvailable

ReasonOf = Callable[[BaseException], str | None]
"""Returns why an exception means that the database cannot be used now; None if it does not."""


class DatabaseAway(DatabaseNotAvailable, OperationalError):
    """The database cannot be used now; what was not committed was not written."""


@contextmanager
def recognised(reason_of: ReasonOf, *, committing: bool = False) -> Iterator[None]:
    """Raise DatabaseAway instead of an exception of the block for which there is a reason.

    A COMMIT whose response was lost may have been done; `committing` says so to the caller.
    """
    try:
        yield
    except DatabaseAway:
        raise
    except Exception as error:
        reason = reason_of(error)
        if reason is None:
            raise
        raise DatabaseAway(reason, outcome_unknown=committing) from error


class Recognising(BaseDBAsyncClient):
    """Adds `recognised` to every query of a client of Tortoise."""

    @staticmethod
    def reason_of(error: BaseException) -> str | None:
        """Return why the database cannot be used now, or None."""
        raise NotImplementedError

    async def execute_insert(self, query: str, values: list[Any]) -> Any:
        """Run an INSERT; return its new key."""
        with recognised(self.reason_of):
            return await super().execute_insert(query, values)

    async def execute_query(self, query: str, values: list[Any] | None = None) -> Any:
        """Run a query; return the number of rows, and the rows."""
        with recognised(self.reason_of):
            return await super().execute_query(query, values)

    async def execute_query_dict(
        self, query: str, values: list[Any] | None = None
    ) -> list[dict[str, Any]]:
        """Run a query; return its rows."""
        with recognised(self.reason_of):
            return await super().execute_query_dict(query, values)

    async def execute_many(self, query: str, values: list[list[Any]]) -> None:
        """Run a query once for each list of values."""
        with recognised(self.reason_of):
            await super().execute_many(query, values)

    async def execute_script(self, query: str) -> None:
        """Run several statements."""
        with recognised(self.reason_of):
            await super().execute_script(query)
