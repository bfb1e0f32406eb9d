# Copyright: Virtplay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Allows one change of a domain at a time, and none by an outdated worker.

A lock file per domain UUID makes a second task on it wait, by hand or of a job, and so the
successor of a lost worker until the survivor's task has ended; the highest generation seen, kept
beside it, makes a late worker's task fail.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from ..failure import Failure
from .file_lock import Wait, hold_lock

LOCK_DIRECTORY = Path("/run/virtplay")
FENCE_DIRECTORY = Path("/var/lib/virtplay/fence")
KEEP_SECONDS = 7 * 24 * 3600


class Fence:
    """The lock on one domain and what is remembered of it across jobs and deletion."""

    def __init__(
        self,
        uuid: str,
        *,
        label: str,
        task: str = "",
        job: str | None = None,
        generation: int | None = None,
        lock_directory: Path = LOCK_DIRECTORY,
        fence_directory: Path = FENCE_DIRECTORY,
    ) -> None:
        """Describe the fence of the domain with this (canonical) UUID; touches nothing yet.

        task says what its holder does ("stop vm-001"); those who wait are told.
        """
        self.uuid = uuid
        self.label = label
        self.task = task or f"change {label}"
        self.job = job
        self.generation = generation
        self._wait = Wait()
        self._lock_path = lock_directory / f"{uuid}.lock"
        self._fence_path = fence_directory / f"{uuid}.json"

    @contextmanager
    def hold(self, timeout: float) -> Iterator[None]:
        """Hold the lock, waiting up to timeout seconds; raises Failure when refused.

        Codes: OPERATION_IN_PROGRESS when another process holds it for longer, STALE_GENERATION
        when a later generation has been here.
        """
        self._lock_path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with hold_lock(self._lock_path, self.task, timeout=timeout, job=self.job) as self._wait:
            self.check(None)
            if self.generation is not None:
                self.remember(generation=self.generation)
            yield

    def waited(self) -> dict[str, Any]:
        """Return what a result says of the wait for the lock: waited_seconds and waited_for."""
        return {"waited_seconds": round(self._wait.seconds, 1), "waited_for": self._wait.holder}

    def check(self, seen: int | None) -> None:
        """Raise Failure (STALE_GENERATION) when our generation is not the highest one.

        seen is the generation in the domain's metadata, which outlives the fence file.
        """
        if self.generation is None:
            return
        highest = max(self.recall().get("generation") or 0, seen or 0)
        if self.generation < highest:
            raise Failure(
                f"cannot act on {self.label} in generation {self.generation}: "
                f"generation {highest} has been here",
                "STALE_GENERATION",
            )

    def recall(self) -> dict[str, Any]:
        """Return what is remembered of the domain; empty when nothing is."""
        try:
            remembered = json.loads(self._fence_path.read_text())
        except (FileNotFoundError, ValueError):
            return {}
        return remembered if isinstance(remembered, dict) else {}

    def remember(self, **facts: Any) -> None:
        """Add facts (generation, kept disks) to what is remembered, durably and atomically."""
        remembered = self.recall()
        if all(remembered.get(key) == value for key, value in facts.items()):
            return
        self._fence_path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        temporary = self._fence_path.with_suffix(".tmp")
        with temporary.open("w") as file:
            json.dump({**remembered, **facts}, file)
            file.flush()
            os.fsync(file.fileno())
        temporary.rename(self._fence_path)
        sweep(self._fence_path.parent)


def sweep(directory: Path, keep_seconds: float = KEEP_SECONDS) -> None:
    """Delete what was remembered of domains that nobody has touched for keep_seconds.

    A domain that still exists loses nothing by it: its metadata holds the generation, too.
    """
    oldest = time.time() - keep_seconds
    for path in directory.glob("*.json"):
        with suppress(OSError):
            # Disks that were kept, or that a crash left half made, stay known.
            if path.stat().st_mtime < oldest and not _names_disks(path):
                path.unlink()


def _names_disks(path: Path) -> bool:
    with suppress(ValueError, AttributeError):
        remembered = json.loads(path.read_text())
        return bool(remembered.get("kept") or remembered.get("creating"))
    return False
