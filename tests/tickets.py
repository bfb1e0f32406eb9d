"""Tests and benchmarks: console tickets that no job has made."""

from __future__ import annotations

import hashlib
import secrets
import sqlite3
from contextlib import closing
from pathlib import Path


def draw_ticket(state: Path, port: int | None = None) -> str:
    """A ticket like the last one of the service with that state directory, or to another port.

    For streams that have no VNC at their end, and for more of them than anybody wants jobs.
    """
    text = secrets.token_urlsafe(32)
    with closing(sqlite3.connect(state / "virtplay.sqlite3", timeout=30)) as database, database:
        database.execute(
            "INSERT INTO console_ticket (digest, vm_id, token_id, kind, port, expires_at)"
            " SELECT ?, vm_id, token_id, 'vnc', coalesce(?, port), datetime('now', '+40 seconds')"
            " FROM console_ticket ORDER BY id DESC LIMIT 1",
            [hashlib.sha256(text.encode()).hexdigest(), port],
        )
    return text
