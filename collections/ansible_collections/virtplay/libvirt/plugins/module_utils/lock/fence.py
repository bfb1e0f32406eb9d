# Copyright: Virtplay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Allows one change of a domain at a time, and none by an outdated worker.

A lock file per domain UUID makes a second task for the domain wait, whether of a job or a run by
hand: so the successor of a lost worker waits until that worker's task has ended. The highest
generation that the host has seen is stored beside it, so that an outdated worker's task fails.

One that cuts the power holds a second lock while it waits: a task that waits for its guest to shut
down looks for it, and ends. Unlike a note, that request is gone when its process is.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from functools import partial
from pathlib import Path
from typing import Any

from ..failure import Failure
from .file_lock import Wait, find_holder, hold_lock

LOCK_DIRECTORY = Path("/run/virtplay")
FENCE_DIRECTORY = Path("/var/lib/virtplay/fence")
KEEP_SECONDS = 7 * 24 * 3600


class Fence:
    """The lock of one domain, and the facts about it that outlive jobs and deletion."""

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
        """Describe the fence of the domain with this (canonical) UUID; opens no file.

        task is what the holder does ("stop vm-001"); messages for waiting tasks show it.
        """
        self.uuid = uuid
        self.label = label
        self.task = task or f"change {label}"
        self.job = job
        self.generation = generation
        self._wait = Wait()
        self._lock_path = lock_directory / f"{uuid}.lock"
        self._force_path = lock_directory / f"{uuid}.force"
        self._fence_path = fence_directory / f"{uuid}.json"

    @contextmanager
    def hold(self, timeout: float, *, force: bool = False) -> Iterator[None]:
        """Hold the lock, waiting up to timeout seconds for another process; raises Failure.

        With force, a process that waits for its guest to shut down is asked to let go of the lock.
        Codes: OPERATION_IN_PROGRESS if the time is over, STALE_GENERATION if the host has seen a
        later generation.
        """
        self._lock_path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.check(None)  # an outdated run must not even ask
        lock = partial(hold_lock, task=self.task, timeout=timeout, job=self.job)
        with ExitStack() as held:
            with lock(self._force_path) if force else nullcontext():
                self._wait = held.enter_context(lock(self._lock_path))
            self.check(None)
            if self.generation is not None:
                self.remember(generation=self.generation)
            yield

    def let_go(self) -> None:
        """Raise Failure (SUPERSEDED) if another process waits for the lock with force.

        Call this while the lock is held and what is done so far suits the other, too.
        """
        other = find_holder(self._force_path)
        if other is not None:
            raise Failure(
                f"cannot {self.task}: {other} has superseded it, with force", "SUPERSEDED"
            )

    @property
    def has_waited(self) -> bool:
        """Whether another process held the lock when this one wanted it."""
        return self._wait.holder is not None

    def waited(self) -> dict[str, Any]:
        """Return the result keys about the wait for the lock: waited_seconds and waited_for."""
        return {"waited_seconds": round(self._wait.seconds, 1), "waited_for": self._wait.holder}

    def check(self, seen: int | None) -> None:
        """Raise Failure (STALE_GENERATION) if a later generation than ours is known.

        seen is the generation in the domain's metadata, which outlives the fence file.
        """
        if self.generation is None:
            return
        highest = max(self.recall().get("generation") or 0, seen or 0)
        if self.generation < highest:
            raise Failure(
                f"cannot {self.task}: this run is outdated (generation {self.generation}, "
                f"the host has seen {highest})",
                "STALE_GENERATION",
                seen_generation=highest,
            )

    def recall(self) -> dict[str, Any]:
        """Return the remembered facts of the domain; {} without any."""
        try:
            remembered = json.loads(self._fence_path.read_text())
        except (FileNotFoundError, ValueError):
            return {}
        return remembered if isinstance(remembered, dict) else {}

    def remember(self, **facts: Any) -> None:
        """Add facts (generation, kept disks) to the remembered ones, durably and atomically."""
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

    def note_complete(self, disks: Collection[str | None]) -> None:
        """Remember that the domain is complete: its disks hold data and are never replaced.

        disks are their paths: other disks that an earlier deletion has kept stay kept.
        """
        remembered = self.recall()
        if remembered.get("creating") or remembered.get("kept"):
            kept = [path for path in remembered.get("kept") or [] if path not in disks]
            self.remember(creating=[], kept=kept)


def sweep(directory: Path, keep_seconds: float = KEEP_SECONDS) -> None:
    """Delete the remembered facts of domains that have not changed for keep_seconds.

    An existing domain loses nothing: its metadata holds the generation, too.
    """
    oldest = time.time() - keep_seconds
    for path in directory.glob("*.json"):
        with suppress(OSError):
            # Disks that were kept, or that a crash left incomplete, stay known.
            if path.stat().st_mtime < oldest and not _names_disks(path):
                path.unlink()


def _names_disks(path: Path) -> bool:
    with suppress(ValueError, AttributeError):
        remembered = json.loads(path.read_text())
        return bool(remembered.get("kept") or remembered.get("creating"))
    return False
