# Copyright: Virtplay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Runs a query in the background, for which an observation waits only so long."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

Key = TypeVar("Key")
Value = TypeVar("Value")


class Background(Generic[Key, Value]):
    """A query of file systems, in a thread because a dead file system never responds."""

    def __init__(self, call: Callable[[], dict[Key, Value]]) -> None:
        self._result: dict[Key, Value] = {}
        self._call = call
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        self._result = self._call()

    def collect(self, deadline: float) -> dict[Key, Value]:
        """Return the result; {} if there is none by the deadline (monotonic seconds)."""
        self._thread.join(max(0.0, deadline - time.monotonic()))
        return self._result
