# Copyright: Virtplay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Finds a Python of the host that has libvirt and lxml, if Ansible runs a module with another.

Distributions install both libraries for their own Python alone; Ansible may have discovered a newer
one, or been given that of a virtual environment.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from ..values import HOST_PYTHONS
from . import connection


def require_libraries(module: Any, pythons: Sequence[str] = HOST_PYTHONS) -> None:
    """Return if this Python has libvirt and lxml; otherwise run the module with one that has them.

    module is the AnsibleModule. It fails, with code LIBVIRT_ERROR, if none of the pythons has both.
    """
    libraries = {"libvirt": connection.libvirt, "lxml": connection.etree}
    missing = [name for name, library in libraries.items() if library is None]
    if not missing:
        return
    # Imported on use: hardly any module needs another Python.
    from ansible.module_utils.common.respawn import (  # noqa: PLC0415
        has_respawned,
        probe_interpreters_for_module,
        respawn_module,
    )

    if not has_respawned():
        found = probe_interpreters_for_module(pythons, "libvirt, lxml.etree")
        if found:
            respawn_module(found)
    names = " and ".join(missing)
    module.fail_json(
        msg=f"cannot import {names} in {sys.executable}, nor in the host's own Python: install "
        "python3-libvirt and python3-lxml on the host, or set ansible_python_interpreter to a "
        "Python that has both",
        code="LIBVIRT_ERROR",
    )
