# Copyright: Virtplay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Lists what libvirt does with a domain at the moment on behalf of somebody else."""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from typing import Any

from ..failure import Failure
from ..host.connection import libvirt
from .plan import MIGRATION
from .power import call_within
from .xml import parse_xml

# virDomainJobOperation, which is part of libvirt's ABI.
_OPERATIONS = {
    1: "its start",
    2: "a save",
    3: "a start from a saved image",
    4: MIGRATION,
    5: MIGRATION,
    6: "a snapshot",
    7: "a restore",
    8: "a dump of its memory",
    9: "a backup",
    10: "the deletion of a snapshot",
}
# virDomainBlockJobType: a copy and an active commit are mirrors, a backup is a job of the domain.
_BLOCK_JOBS = {1: "pull", 3: "commit"}
# An answer needs no QEMU, unless a job is there.
_SECONDS = 5.0


def list_jobs(dom: Any, live_xml: str) -> list[str]:
    """Return the jobs of an active domain, as texts; those that a stuck QEMU hides are missing."""
    disks = parse_xml(live_xml).findall("devices/disk")
    mirrored = {_target(disk): disk.find("mirror").get("job") for disk in disks if _mirror(disk)}
    found = [f"a block {job.rpartition('-')[2]} of disk {disk}" for disk, job in mirrored.items()]
    others = [target for disk in disks if (target := _target(disk)) not in mirrored]
    with suppress(libvirt.libvirtError, Failure):  # stopped meanwhile, or no answer in time
        if dom.controlInfo()[0] != libvirt.VIR_DOMAIN_CONTROL_OCCUPIED:
            query = partial(_ask, dom, others)
            found += call_within(_SECONDS, query, "cannot query the jobs")
    return found


def is_idle(dom: Any) -> bool:
    """Whether libvirt says that it does nothing with an active domain.

    On the host that a domain migrates to, the query is an error.
    """
    with suppress(libvirt.libvirtError, Failure):
        if dom.controlInfo()[0] != libvirt.VIR_DOMAIN_CONTROL_OCCUPIED:
            return not call_within(_SECONDS, dom.jobStats, "cannot query the jobs").get("type")
    return False


def _target(disk: Any) -> str:
    return str(disk.find("target").get("dev"))


def _mirror(disk: Any) -> bool:
    mirror = disk.find("mirror")
    return mirror is not None and mirror.get("job") is not None


def _ask(dom: Any, targets: list[str]) -> list[str]:
    job = dom.jobStats()
    found = [_OPERATIONS.get(job.get("operation"), "a job")] if job.get("type") else []
    for target in targets:
        # A pull, and a commit below the top image, are in no definition.
        kind = None
        with suppress(libvirt.libvirtError):
            kind = _BLOCK_JOBS.get((dom.blockJobInfo(target, 0) or {}).get("type", 0))
        if kind:
            found.append(f"a block {kind} of disk {target}")
    return found
