"""Store: jobs that are runs from a shell, and the VMs that they are about."""

import uuid
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


async def find_vm_of_domain(identity: str | None, name: str | None, host: str | None) -> Vm | None:
    """The VM that a run calls by UUID, or else by libvirt's name; None unless it is exactly one."""
    if identity is not None:
        try:
            return await Vm.get_or_none(uuid=uuid.UUID(identity))
        except ValueError:
            return None
    if name is None:
        return None
    rows = Vm.filter(domain=name)
    if host is not None:
        rows = rows.filter(host=host)
    found = await rows.limit(2)
    return found[0] if len(found) == 1 else None
