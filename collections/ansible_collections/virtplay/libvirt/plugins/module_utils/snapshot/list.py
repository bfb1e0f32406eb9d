# Copyright: Virtplay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Lists the snapshots of a domain."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ..host.connection import has_error_code, libvirt
from .qcow2 import Qcow2Image
from .xml import parse_snapshot


def list_snapshots(dom: Any) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """Return the entries of a domain's snapshots, parents first, and their XML by name.

    Queries libvirtd alone, never QEMU. fill_sizes adds the sizes of memory.
    """
    xmls = {}
    for snapshot in dom.listAllSnapshots(0):
        try:
            xmls[snapshot.getName()] = snapshot.getXMLDesc(0)
        except libvirt.libvirtError as error:
            if not has_error_code(error, "VIR_ERR_NO_DOMAIN_SNAPSHOT"):
                raise  # deleted since it was listed
    current = _current_name(dom) if xmls else None
    entries = [parse_snapshot(xml) for xml in xmls.values()]
    for entry in entries:
        entry["current"] = entry["name"] == current
    parents = {entry["name"]: entry["parent"] for entry in entries}
    # libvirt records the creation time in whole seconds.
    entries.sort(key=lambda e: (e["created_at"] or "", _depth(e["name"], parents), e["name"]))
    return entries, xmls


def _current_name(dom: Any) -> str | None:
    try:
        return str(dom.snapshotCurrent(0).getName())
    except libvirt.libvirtError as error:
        if not has_error_code(error, "VIR_ERR_NO_DOMAIN_SNAPSHOT"):
            raise
        return None


def _depth(name: str | None, parents: Mapping[str, str | None]) -> int:
    depth = 0
    while name is not None and depth <= len(parents):
        name = parents.get(name)
        depth += 1
    return depth


def fill_sizes(entries: Iterable[dict[str, Any]], images: Iterable[Qcow2Image | None]) -> None:
    """Set size_bytes of snapshots with memory: its size in all images of the domain."""
    known = [image for image in images if image is not None]
    for entry in entries:
        held = [snapshot for image in known if (snapshot := image.find(entry["name"]))]
        if entry["has_memory"] and entry["kind"] == "internal" and held:
            entry["size_bytes"] = sum(snapshot.state_bytes for snapshot in held)
