# Copyright: Virtplay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Compute how a host's templates are recognized as those of a catalogue (filter)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ansible_collections.virtplay.libvirt.plugins.module_utils.image.request import Request


def spec_hashes(
    catalogue: Mapping[str, Mapping[str, Any]], micro: str, force: bool = False
) -> dict[str, str]:
    """Return template → the hash of the options with which the role libvirt_image prepares it.

    micro is the path of the image of an entry that has micro. With force, each hash is empty, which
    no template has. An entry that is not valid is left out: the role refuses it where it is used.
    """
    hashes = {}
    for name, entry in catalogue.items():
        if isinstance(entry, Mapping):
            request = Request(
                name=name,
                url=entry.get("url"),
                path=micro if entry.get("micro") else entry.get("path"),
                checksum=entry.get("checksum"),
                os=str(entry.get("os") or name),
                format=entry.get("format") or "auto",
            )
            hashes[name] = "" if force else request.hash
    return hashes


class FilterModule:
    """The class through which Ansible finds the filters of this file."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filters by name."""
        return {"spec_hashes": spec_hashes}
