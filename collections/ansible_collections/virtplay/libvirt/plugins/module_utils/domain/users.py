# Copyright: Virtplay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Finds the files that the other domains of a host use, with all files that those are based on."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ..failure import Failure
from ..host.connection import has_error_code, libvirt, saved_xml
from ..host.definition import read_definition
from ..host.images import Image, backing_chain, call_each, file_id, image_of, image_place
from ..host.pool_watch import require_pools
from ..host.storage import resolve_volumes
from .xml import list_files, list_macs, parse_media

# How long to wait for the storage of other domains.
_STORAGE_SECONDS = 5.0


@dataclass(frozen=True)
class FileUsers:
    """The other domains of a host: file_id → domain, and those whose files cannot be read.

    macs are the MAC addresses of their cards, in lower case.
    """

    names: Mapping[str, str] = field(default_factory=dict)
    unknown: tuple[str, ...] = ()
    macs: frozenset[str] = frozenset()

    def reason_to_keep(self, path: str) -> str | None:
        """Return why a file must stay; None if no other domain stands on it."""
        deadline = time.monotonic() + _STORAGE_SECONDS
        found = call_each(file_id, [path], deadline).get(path)
        if found is None:
            return "its storage does not respond"
        if found in self.names:
            return f"domain {self.names[found]} uses it"
        if self.unknown:
            return f"the storage of domain {self.unknown[0]}, which may use it, cannot be read"
        return None


def find_users(conn: Any, uuid: str) -> FileUsers:
    """Return what the domains of a host use, except the one with this UUID.

    A stopped domain does not list what its images are based on: their headers tell.
    """
    require_pools("find out which domains use a disk")
    images: dict[Image, str] = {}
    unknown: list[str] = []
    macs: set[str] = set()
    for dom in conn.listAllDomains(0):
        if dom.UUIDString() == uuid:
            continue
        try:
            xmls = _definitions(dom)
            images |= dict.fromkeys(_images(conn, xmls), dom.name())
            macs.update(mac for xml in xmls for mac in list_macs(xml))
        except Failure:
            unknown.append(dom.name())
        except libvirt.libvirtError as error:
            if not has_error_code(error, "VIR_ERR_NO_DOMAIN"):  # else deleted meanwhile
                raise
    deadline = time.monotonic() + _STORAGE_SECONDS
    chains = call_each(_chain, images, deadline, place=image_place)
    names = {path: images[image] for image, chain in chains.items() for path in chain}
    unknown += [name for image, name in images.items() if image not in chains]
    return FileUsers(names, tuple(unknown), frozenset(macs))


def _chain(image: Image) -> list[str]:
    return [file_id(path) for path in backing_chain(image)]


def _definitions(dom: Any) -> set[str]:
    """Return the definitions of a domain: the running or saved one, and the next."""
    active = bool(dom.isActive())
    xmls = {read_definition(dom, active=active)}
    if active and dom.isPersistent():
        xmls.add(read_definition(dom, active=True, inactive=True))
    elif dom.hasManagedSaveImage(0) and (saved := saved_xml(dom)):
        xmls.add(saved)
    return xmls


def _images(conn: Any, xmls: Iterable[str]) -> list[Image]:
    """Return all images in the definitions of a domain."""
    media = [disk for xml in xmls for disk in parse_media(xml)]
    resolve_volumes(conn, media)
    # Of a running domain, libvirt lists backing files whose names only QEMU could read.
    listed = [Image(path, "raw") for xml in xmls for path in list_files(xml)]
    return [*(image for disk in media if (image := image_of(disk))), *listed]
