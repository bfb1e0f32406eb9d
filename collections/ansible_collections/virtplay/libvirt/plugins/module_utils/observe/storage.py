# Copyright: Virtplay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Queries the storage of a host, pools, images and templates, so that none waits for another."""

from __future__ import annotations

import os
from collections.abc import Callable, Container, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..host.dead_storage import dead_places, note_dead
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
)
from ..host.pool_watch import pools_hang, watch_pools
from ..host.storage import resolve_volumes
from ..snapshot.qcow2 import Qcow2Image, read_image
from .background import Background


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
    ) -> None:
        """Start to read the pools, and set the paths of disks that are volumes of them.

        disks are the entries of all domains, with_snapshots those of domains with snapshots.
        """
        self._disks, self._with_snapshots, self._path = disks, with_snapshots, templates
        self._hang = pools_hang()
        self._known = Background(lambda: {} if self._hang else _read_pools(connect(), disks))
        self._templates = Background(lambda: {"found": read_templates(templates)})

    def measure(self, uri: str, until: float, deadline: float) -> None:
        """Wait for the pools until then, and start to measure pools and images until deadline."""
        found = self._known.collect(until)
        if not found and not self._hang:
            watch_pools(uri)
        # libvirtd waits for the storage of a pool that it refreshes, starts or deletes from.
        silent = ["cannot read the storage pools of the host: libvirt does not respond"]
        self._warnings = found.get("warnings", silent)
        self._pools = found.get("pools", [])
        if "pools" in found:
            set_pools(self._pools, self._disks)
        dead = self._dead = dead_places()
        self._images = [image for image in _images(self._disks) if image_place(image) not in dead]
        pools, images = self._pools, self._images
        self._sizes = Background(lambda: measure_pools(pools, deadline, dead))
        self._files = Background(
            lambda: call_each(
                image_sizes, images, deadline, place=image_place, patience=STORAGE_SECONDS
            )
        )
        self._read = Background(lambda: _read_images(self._with_snapshots, deadline, dead))

    def collect(self, deadline: float, warnings: list[str]) -> Stored:
        """Return what is known at deadline (monotonic seconds); adds what is not to warnings."""
        warnings += self._warnings
        measured = self._sizes.collect(deadline)
        update_pools(self._pools, measured, warnings)
        files = self._files.collect(deadline)
        silent = {image_place(image) for image in self._images if image not in files}
        silent |= {p["path"] for p in self._pools if measured.get(p["name"]) == SILENT}
        if silent:
            note_dead(silent, self._dead)
        templates = self._templates.collect(deadline)
        if not templates:
            warnings.append(f"cannot read the templates: {self._path} does not respond")
        return Stored(self._pools, templates.get("found", []), files, self._read.collect(deadline))


def _read_pools(connection: Any, disks: list[dict[str, Any]]) -> dict[str, list[Any]]:
    """Return pools and warnings, after setting the paths of disks that are volumes of pools."""
    warnings: list[str] = []
    pools = read_pools(connection, warnings)
    resolve_volumes(connection, disks)
    return {"pools": pools, "warnings": warnings}


def _images(disks: Iterable[dict[str, Any]]) -> list[Image]:
    return [image for disk in disks if (image := image_of(disk))]


def _read_images(
    disks: list[dict[str, Any]], deadline: float, dead: Container[str]
) -> dict[str, Qcow2Image | None]:
    """Return the images of disks that may contain snapshots, by path."""
    paths = [
        image.path
        for image in _images(disks)
        if image.format in {"qcow2", "auto"} and image_place(image) not in dead
    ]
    return call_each(read_image, paths, deadline, place=os.path.dirname, patience=STORAGE_SECONDS)
