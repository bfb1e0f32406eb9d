# Copyright: Virtplay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Queries the storage of a host, pools, images and templates, so that none waits for another."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..host.facts import (
    SILENT,
    measure_pools,
    read_pools,
    read_templates,
    set_pools,
    update_pools,
)
from ..host.images import (
    STORAGE_SECONDS,
    Image,
    call_each,
    image_of,
    image_place,
    image_sizes,
    place_of,
)
from ..host.pool_watch import pools_hang, watch_pools
from ..host.silence import Silence
from ..host.storage import resolve_volumes
from ..snapshot.qcow2 import Qcow2Image, read_image
from .background import Background

# The share of its patience after which storage counts as silent: the clock of a call starts late.
_SILENT_AFTER = 0.9
_MARGIN = 0.1


@dataclass(frozen=True)
class Stored:
    """What storage has shown: pools and templates, sizes by image, qcow2 images by path."""

    pools: list[dict[str, Any]]
    templates: list[dict[str, Any]]
    files: dict[Image, dict[str, int]]
    images: dict[str, Qcow2Image | None]


class StorageQueries:
    """Queries storage in threads: the pools from now on, the rest from `measure` on."""

    def __init__(
        self,
        connect: Callable[[], Any],
        disks: list[dict[str, Any]],
        with_snapshots: list[dict[str, Any]],
        templates: Path,
        silence: Silence,
    ) -> None:
        """Start to read the pools, and set the paths of disks that are volumes of them.

        disks are the entries of all domains, with_snapshots those of domains with snapshots.
        Storage that is known not to respond is asked, and left out unless it responds at once.
        """
        self._disks, self._with_snapshots, self._silence = disks, with_snapshots, silence
        self._since: dict[Image | str, float] = {}
        again = [name for name in silence.unasked() if name.startswith("/")]
        # Only so many calls may hang. In any order, so that the same ones never keep others out.
        random.shuffle(again)
        until = time.monotonic() + STORAGE_SECONDS
        self._again = Background(lambda: call_each(self._ask, again, until, place=place_of))
        self._hang = pools_hang()
        self._known = Background(lambda: {} if self._hang else _read_pools(connect(), disks))
        self._path = str(templates)
        self._is_left_out = self._path in silence and self._path not in again
        self._templates = Background(
            lambda: {} if self._is_left_out else {"found": read_templates(templates)}
        )

    def _ask(self, path: str) -> None:
        """Ask the storage of a path; an error is a response as well."""
        self._silence.add([path])
        with suppress(OSError):
            image_sizes(Image(path, "auto"))
            os.statvfs(path)
        self._silence.remove([path])

    def _timed(self, call: Callable[[Any], Any]) -> Callable[[Any], Any]:
        """Return a call that notes in `_since` of what it waits, an image or a path."""

        def timed(item: Any) -> Any:
            self._since[item] = time.monotonic()
            try:
                return call(item)
            finally:
                del self._since[item]

        return timed

    def measure(self, uri: str, until: float, deadline: float) -> None:
        """Wait for the pools until then, and start to measure pools and images until deadline."""
        # At the deadline itself what has been measured must be there.
        deadline -= _MARGIN
        found = self._known.collect(until)
        if not found and not self._hang:
            watch_pools(uri)
        # libvirtd waits for the storage of a pool that it refreshes, starts or deletes from.
        silent = ["cannot read the storage pools of the host: libvirt does not respond"]
        self._warnings = found.get("warnings", silent)
        self._pools = found.get("pools", [])
        if "pools" in found:
            set_pools(self._pools, self._disks)
        pools, silence = self._pools, self._silence
        images = [image for image in _images(self._disks) if image.path not in silence]
        sizes, read = self._timed(image_sizes), self._timed(read_image)
        qcow2 = [
            image.path
            for image in _images(self._with_snapshots)
            if image.format in {"qcow2", "auto"} and image.path not in silence
        ]
        self._sizes = Background(lambda: measure_pools(pools, deadline, silence))
        self._files = Background(
            lambda: call_each(sizes, images, deadline, place=image_place, patience=STORAGE_SECONDS)
        )
        self._read = Background(
            lambda: call_each(read, qcow2, deadline, place=place_of, patience=STORAGE_SECONDS)
        )

    def collect(self, deadline: float, warnings: list[str]) -> Stored:
        """Return what is known at deadline (monotonic seconds); adds what is not to warnings."""
        warnings += self._warnings
        measured = self._sizes.collect(deadline)
        update_pools(self._pools, measured, warnings)
        files = self._files.collect(deadline)
        images = self._read.collect(deadline)
        silent = {p["path"] for p in self._pools if measured.get(p["name"]) == SILENT}
        silent = {path for path in silent if path not in self._silence}
        # Not what was never asked, because as many calls as may hang do.
        late = time.monotonic() - _SILENT_AFTER * STORAGE_SECONDS
        silent |= {
            item.path if isinstance(item, Image) else item
            for item, since in list(self._since.items())
            if since < late
        }
        patience = 0.0 if self._path in self._silence else STORAGE_SECONDS
        templates = self._templates.collect(min(deadline, time.monotonic() + patience))
        if not templates:
            warnings.append(f"cannot read the templates: {self._path} does not respond")
            if not self._is_left_out:
                silent.add(self._path)
        self._silence.add(silent)
        return Stored(self._pools, templates.get("found", []), files, images)

    def is_waiting(self) -> bool:
        """Whether a query of sizes has begun and not ended."""
        return bool(self._since)

    def finish(self) -> None:
        """Wait as long as storage may take that did not respond before."""
        self._again.collect(time.monotonic() + STORAGE_SECONDS)


def _read_pools(connection: Any, disks: list[dict[str, Any]]) -> dict[str, list[Any]]:
    """Return pools and warnings, after setting the paths of disks that are volumes of pools."""
    warnings: list[str] = []
    pools = read_pools(connection, warnings)
    resolve_volumes(connection, disks)
    return {"pools": pools, "warnings": warnings}


def _images(disks: Iterable[dict[str, Any]]) -> list[Image]:
    return [image for disk in disks if (image := image_of(disk))]
