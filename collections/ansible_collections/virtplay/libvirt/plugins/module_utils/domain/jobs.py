# Copyright: Virtplay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Lists what libvirt does with a domain at the moment on behalf of somebody else."""

from __future__ import annotations

from contextlib import suppress
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
# An answer needs no QEMU, unless a job is there.
_SECONDS = 5.0


def list_jobs(dom: Any, live_xml: str) -> list[str]:
    """Return the jobs of an active domain, as texts; those that a stuck QEMU hides are missing."""
    return [*_mirrors(live_xml), *_domain_job(dom)]


def _mirrors(live_xml: str) -> list[str]:
    found = []
    for disk in parse_xml(live_xml).iterfind("devices/disk"):
        mirror, target = disk.find("mirror"), disk.find("target")
        if mirror is not None and target is not None:
            kind = "commit" if mirror.get("job") == "active-commit" else "copy"
            found.append(f"a block {kind} of disk {target.get('dev')}")
    return found


def _domain_job(dom: Any) -> list[str]:
    with suppress(libvirt.libvirtError, Failure):  # stopped meanwhile, or no answer in time
        if dom.controlInfo()[0] == libvirt.VIR_DOMAIN_CONTROL_OCCUPIED:
            return []
        job = call_within(_SECONDS, dom.jobStats, "cannot query the jobs")
        if job.get("type"):
            return [_OPERATIONS.get(job.get("operation"), "a job")]
    return []
