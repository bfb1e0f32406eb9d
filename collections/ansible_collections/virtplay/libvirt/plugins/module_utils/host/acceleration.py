# Copyright: Virtplay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Finds domains that KVM has failed since the host's preparation has booted a guest under it."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from ..states import DomainState
from .files import HOST_FILE, noted_virt_type, read_noted

QEMU_LOGS = Path("/var/log/libvirt/qemu")
_TAIL = 16 * 1024
_ERROR = "KVM internal error"
_START = "starting up libvirt version"
"""libvirt's own line before QEMU's command line, at each start."""


def doubt_kvm(domains: Iterable[Mapping[str, Any]]) -> str | None:
    """Return a warning if KVM has failed domains since it was tried, None if there is no doubt.

    domains are facts with name, state and virt_type. After an internal error QEMU keeps the guest
    paused for ever; its message is only in its log.
    """
    noted = noted_virt_type()
    if noted is None or noted[0] != "kvm":
        return None
    tried_at = _tried_at()
    failed = [
        domain["name"]
        for domain in domains
        if domain.get("virt_type") == "kvm"
        and domain["state"] != DomainState.RUNNING
        and has_kvm_error(QEMU_LOGS / f"{domain['name']}.log", tried_at)
    ]
    if not failed:
        return None
    names = ", ".join(failed[:3]) + (" and others" if len(failed) > 3 else "")
    return (
        f"KVM has failed {names} ({_ERROR}): prepare the host again (playbooks/host_prepare.yml),"
        " which boots a guest to try KVM"
    )


def has_kvm_error(log: Path, since: float) -> bool:
    """Whether QEMU's last run has ended in an internal error of KVM, after `since` (Unix time)."""
    try:
        found = log.stat()
        if found.st_mtime <= since:
            return False
        with log.open("rb") as file:
            file.seek(max(0, found.st_size - _TAIL), os.SEEK_SET)
            text = file.read().decode(errors="replace")
    except OSError:
        return False
    return _ERROR in text.rpartition(_START)[2]


def _tried_at() -> float:
    """Return when KVM was tried, as the preparation has noted, in Unix time."""
    try:
        return datetime.fromisoformat(read_noted()["tried_at"]).timestamp()
    except (KeyError, TypeError, ValueError):
        try:
            return HOST_FILE.stat().st_mtime
        except OSError:
            return 0.0
