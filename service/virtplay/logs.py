"""Sets up logging: one record per line, each with the id of its request."""

import logging
from contextvars import ContextVar

from virtplay.errors import CannotStart

request_id: ContextVar[str] = ContextVar("request_id", default="-")


class _AddRequestId(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        record.request_id = request_id.get()
        return True


def _leave_to_the_command_line(record: logging.LogRecord) -> bool:
    """Drop Sanic's traceback of an error that the command line prints in one line."""
    return not (record.exc_info and isinstance(record.exc_info[1], CannotStart))


def set_up_logging(level: str) -> None:
    """Log records of `level` and above to standard error."""
    handler = logging.StreamHandler()
    handler.addFilter(_AddRequestId())
    handler.setFormatter(
        logging.Formatter("%(asctime)s %(levelname)s %(name)s [%(request_id)s] %(message)s")
    )
    logging.basicConfig(level=level, handlers=[handler], force=True)
    for name in ("sanic.error", "sanic.root"):
        logging.getLogger(name).addFilter(_leave_to_the_command_line)
    for name in ("tortoise", "aiosqlite", "asyncio", "httpx"):
        logging.getLogger(name).setLevel(logging.WARNING)
