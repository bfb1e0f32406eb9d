# Copyright: Virtplay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Writes Virtplay's metadata of a domain."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..host.connection import libvirt
from .plan import Current, merge_metadata
from .xml import NAMESPACE, build_metadata


def write_metadata(dom: Any, metadata: Mapping[str, Any], flags: int) -> None:
    """Replace our element in a domain's metadata; flags are libvirt's AFFECT flags."""
    kind = libvirt.VIR_DOMAIN_METADATA_ELEMENT
    dom.setMetadata(kind, build_metadata(metadata), "virtplay", NAMESPACE, flags)


def note_job(dom: Any, current: Current, bookkeeping: Mapping[str, Any]) -> None:
    """Write job and generation of a power action into the metadata of a Virtplay domain."""
    old = current.config["metadata"]
    if old is None or not current.persistent:
        return
    new = merge_metadata(old, bookkeeping)
    if new == old:
        return
    write_metadata(dom, new, libvirt.VIR_DOMAIN_AFFECT_CONFIG)
    if dom.isActive():
        write_metadata(dom, new, libvirt.VIR_DOMAIN_AFFECT_LIVE)
