# Copyright: Virtplay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Stores templates in a directory: images named by their content, manifests, a lock per name.

An image never changes in place, because the disks of VMs are overlays on it. The manifest is
written last: a template without one does not exist yet.
"""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..lock.file_lock import hold_lock


class TemplateStore:
    """The templates in one directory (path); writes need the lock of the name, reads do not."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def manifest(self, name: str) -> dict[str, Any] | None:
        """Return the template's manifest; None unless the manifest and its image exist."""
        try:
            manifest = json.loads(self._manifest_path(name).read_text())
            file = manifest["file"]
            # A manifest is as trustworthy as its directory, but its image must be in there.
            if os.path.basename(file) != file or not (self.path / file).is_file():
                return None
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return dict(manifest)

    def image_path(self, manifest: dict[str, Any]) -> Path:
        """Return the path of the image in a manifest."""
        return self.path / str(manifest["file"])

    @contextmanager
    def locked(self, name: str, timeout: float) -> Iterator[None]:
        """Hold the name's lock, waiting at most timeout seconds; deletes what dead runs left."""
        self.path.mkdir(mode=0o755, parents=True, exist_ok=True)
        lock = self.path / f".{name}@lock"
        with hold_lock(lock, f"prepare template {name}", timeout=timeout):
            self._sweep(name)
            try:
                yield
            finally:
                self._sweep(name)

    def temporary(self, name: str) -> Path:
        """Return a new path in the directory for a temporary file of the name."""
        return self.path / f".{name}@{secrets.token_hex(8)}.part"

    def put(self, temporary: Path, manifest: dict[str, Any]) -> None:
        """Move a finished file to the template's image, then its manifest, each atomically."""
        temporary.chmod(0o644)
        temporary.replace(self.image_path(manifest))
        self._sync_directory()
        name = str(manifest["name"])
        draft = self.temporary(name)
        with draft.open("w") as file:
            json.dump(manifest, file, indent=2, sort_keys=True)
            file.write("\n")
            file.flush()
            os.fsync(file.fileno())
        draft.chmod(0o644)
        draft.replace(self._manifest_path(name))
        self._sync_directory()

    def _manifest_path(self, name: str) -> Path:
        return self.path / f"{name}.json"

    def _sweep(self, name: str) -> None:
        for path in self.path.iterdir():
            if path.name.startswith(f".{name}@") and path.name.endswith(".part"):
                path.unlink(missing_ok=True)

    def _sync_directory(self) -> None:
        handle = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
