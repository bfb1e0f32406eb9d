# Copyright: Virtplay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Remembers from run to run that libvirt does not respond for its storage pools.

While libvirtd reads a pool whose storage is dead, each query for pools waits in one of its 20
workers, even after the client has gone. So only one query waits, in a process of its own, and all
others are left out until it ends.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from ..failure import Failure
from .files import read_stat

NOTE = Path("/run/virtplay/pool-watch")
_QUERY = "import libvirt, sys; libvirt.open(sys.argv[1]).listAllStoragePools(0)"


def pools_hang() -> bool:
    """Whether a query of an earlier run still waits for the storage pools."""
    try:
        pid, began = NOTE.read_text().split()
        fields = read_stat(int(pid))
    except (OSError, ValueError):
        return False
    return fields is not None and fields[19] == began and fields[0] != "Z"


def require_pools(doing: str) -> None:
    """Raise Failure ("cannot <doing>: …") while the storage pools are known not to respond."""
    if pools_hang():
        raise Failure(
            f"cannot {doing}: libvirt does not respond for its storage pools; one of them is on "
            "storage that does not respond"
        )


def watch_pools(uri: str) -> None:
    """Start the query that waits: when it ends, libvirt responds again."""
    null = subprocess.DEVNULL
    query = subprocess.Popen(
        [sys.executable, "-c", _QUERY, uri],
        stdin=null,
        stdout=null,
        stderr=null,
        start_new_session=True,
    )
    fields = read_stat(query.pid)
    if fields is None:
        return
    try:
        NOTE.parent.mkdir(mode=0o755, exist_ok=True)
        NOTE.write_text(f"{query.pid} {fields[19]}\n")
    except OSError:
        # Nobody would know of it: each observation would leave one more.
        query.kill()
