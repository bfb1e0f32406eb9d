"""A launcher for services under test, which takes longer to start than most of them run."""

from __future__ import annotations

import contextlib
import os
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from virtplay.jobs.ansible_settings import job_settings
from virtplay.jobs.launcher import manager_command

START_SECONDS = 120.0


@contextlib.contextmanager
def running_launcher(project: Path) -> Iterator[Path]:
    """Run a launcher for the services of a project within the block; yields its socket."""
    with tempfile.TemporaryDirectory(prefix="virtplay-launcher-") as directory:
        path = Path(directory, "socket")
        manager = subprocess.Popen(
            manager_command(path, 400),
            stdin=subprocess.PIPE,
            cwd=project,
            env=os.environ | job_settings(project),
            start_new_session=True,
        )
        try:
            deadline = time.monotonic() + START_SECONDS
            while not path.exists():
                assert manager.poll() is None, "the launcher has ended"
                assert time.monotonic() < deadline, "the launcher is not ready"
                time.sleep(0.05)
            yield path
        finally:
            manager.communicate()
