# Copyright: Virtplay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Finds domains that KVM has failed since the host's preparation has booted a guest under it."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from ..states import DomainState
from .files import read_noted

QEMU_LOGS = Path("/var/log/libvirt/qemu")
_TAIL = 16 * 1024
_ERROR = re.compile(
    rb"^.*(?:KVM internal error|kvm run failed|failed to initialize kvm|Could not access KVM|"
    rb"failed to set MSR|KVM_CREATE_V).*$",
    re.MULTILINE,
)
"""QEMU's messages when KVM fails its guest, or does not let it start."""
_START = b"starting up libvirt version"
"""libvirt's own line before QEMU's command line, at each start."""


def doubt_kvm(domains: Iterable[Mapping[str, Any]]) -> str | None:
    """Return a warning if KVM has failed domains since it was tried, None if there is no doubt.

    domains are facts with name, state and virt_type. After an internal error QEMU keeps the guest
    paused for ever; its message is only in its log.
    """
    noted = read_noted()
    if noted.get("virt_type") != "kvm":
        return None
    try:
        tried_at = datetime.fromisoformat(noted["tried_at"]).timestamp()
    except (KeyError, TypeError, ValueError):
        return None  # it was not tried, but set
    failed = {
        domain["name"]: error
        for domain in domains
        if domain.get("virt_type") == "kvm"
        and domain["state"] != DomainState.RUNNING
        and (error := find_kvm_error(QEMU_LOGS / f"{domain['name']}.log", tried_at))
    }
    if not failed:
        return None
    names = ", ".join([*failed][:3]) + (" and others" if len(failed) > 3 else "")
    return (
        f"KVM has failed {names} ({next(iter(failed.values()))}): prepare the host again"
        " (playbooks/host_prepare.yml), which boots a guest to try KVM"
    )


def find_kvm_error(log: Path, since: float) -> str | None:
    """Return QEMU's message about KVM in its last run, if that was after `since` (Unix time)."""
    try:
        found = log.stat()
        if found.st_mtime <= since:
            return None
        with log.open("rb") as file:
            file.seek(max(0, found.st_size - _TAIL), os.SEEK_SET)
            text = file.read()
    except OSError:
        return None
    error = _ERROR.search(text.rpartition(_START)[2])
    return error[0].decode(errors="replace").strip()[:200] if error else None
