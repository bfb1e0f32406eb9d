"""Store: jobs that are runs from a shell, and the VMs that they are about."""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from tortoise.exceptions import IntegrityError

from virtplay.errors import Conflict
from virtplay.states import JobOrigin, JobStatus
from virtplay.store.jobs import job_ref
from virtplay.store.models import Job, Vm


async def create_reported_job(**values: Any) -> Job:
    """Insert the running job of a run; Conflict when there is one of that token and run already."""
    now = datetime.now(UTC)
    try:
        job = Job(
            status=JobStatus.RUNNING,
            origin=JobOrigin.CLI,
            locks=False,
            started_at=now,
            heard_at=now,
            **values,
        )
        await job.save()
    except IntegrityError as error:
        raise Conflict(f"cannot report run {values['run_id']} twice") from error
    job.ref = job_ref(job.id)
    await job.save(update_fields=["ref"])
    return job


async def find_run(token_id: int, run_id: str) -> Job | None:
    """The job of a token's run, if it was reported before."""
    return await Job.get_or_none(token_id=token_id, run_id=run_id)


async def lock_job(ref: str) -> Job:
    """The job with that public id, its row locked until the transaction ends."""
    return await Job.filter(ref=ref).select_for_update().get()


async def silent_jobs(since: datetime) -> list[Job]:
    """The unfinished runs of which nothing was heard since then."""
    return await Job.filter(finished_at=None, run_id__not_isnull=True, heard_at__lt=since)


@dataclass(frozen=True)
class Domain:
    """A domain as a run knows it."""

    uuid: str | None = None
    name: str | None = None
    """libvirt's."""
    host: str | None = None


async def jobs_heard_since(moment: datetime) -> list[Job]:
    """The runs that have told of domains, and of which something was heard since then."""
    rows = Job.filter(run_id__not_isnull=True, heard_at__gte=moment)
    return [job for job in await rows if job.domains]


async def find_vms(domains: Sequence[Domain]) -> list[Vm]:
    """The VMs that a run calls by UUID, or else by a name that exactly one has, in its order."""
    known = await Vm.filter(uuid__in=[uuid.UUID(d.uuid) for d in domains if d.uuid])
    of_uuid = {vm.uuid: vm for vm in known}
    named: dict[str, list[Vm]] = {}
    for vm in await Vm.filter(domain__in=[d.name for d in domains if d.name and not d.uuid]):
        named.setdefault(str(vm.domain), []).append(vm)
    found: dict[int, Vm] = {}
    for domain in domains:
        if domain.uuid:
            its = of_uuid.get(uuid.UUID(domain.uuid))
        else:
            vms = [vm for vm in named.get(domain.name or "", ()) if domain.host in (None, vm.host)]
            its = vms[0] if len(vms) == 1 else None
        if its is not None:
            found[its.id] = its
    return list(found.values())
