# Copyright: Virtplay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Build libvirt's XML of networks and pools from a role's variables (filters)."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any


def _run(name: str, *arguments: Any, **options: Any) -> Any:
    # Imported on use: Ansible loads every filter of a collection to find one of them, and the
    # process of each task does so anew.
    from ansible_collections.virtplay.libvirt.plugins.plugin_utils import host_xml  # noqa: PLC0415

    return getattr(host_xml, name)(*arguments, **options)


class FilterModule:
    """The class through which Ansible finds the filters of this file."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filters by name."""
        names = ("pool_xml", "network_xml", "network_differs", "network_choice")
        return {name: partial(_run, name) for name in names}
