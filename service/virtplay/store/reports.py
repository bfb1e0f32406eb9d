"""Store: jobs that are reported runs, and the VMs that these are about."""

import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from virtplay.states import JobOrigin, JobStatus
from virtplay.store.jobs import job_ref
from virtplay.store.models import Job, ReportedRun, Vm


async def create_run(
    *, token_id: int, run_id: str, playbook: str, run_by: str, **values: Any
) -> tuple[Job, ReportedRun]:
    """Insert a run and its running job, which has `values`; only in a transaction."""
    now = datetime.now(UTC)
    job = Job(
        status=JobStatus.RUNNING, origin=JobOrigin.SHELL, locks=False, started_at=now, **values
    )
    await job.save()
    job.ref = job_ref(job.id)
    await job.save(update_fields=["ref"])
    run = await ReportedRun.create(
        job_id=job.id,
        token_id=token_id,
        run_id=run_id,
        playbook=playbook,
        run_by=run_by,
        reported_at=now,
    )
    return job, run


async def find_run(token_id: int, run_id: str) -> tuple[Job, ReportedRun] | None:
    """A token's run and its job, if it was reported before."""
    run = await ReportedRun.get_or_none(token_id=token_id, run_id=run_id)
    return (await Job.get(id=run.job_id), run) if run else None


async def runs_of(jobs: Iterable[Job]) -> dict[int, ReportedRun]:
    """Job number → its run, for those of the jobs that are reported runs."""
    numbers = [job.id for job in jobs if job.origin == JobOrigin.SHELL]
    runs = await ReportedRun.filter(job_id__in=numbers) if numbers else []
    return {run.job_id: run for run in runs}


async def lock_run(job_id: int) -> tuple[Job, ReportedRun]:
    """The reported run of that number and its job, locked until the transaction ends."""
    job = await Job.filter(id=job_id).select_for_update().get()
    return job, await ReportedRun.get(job_id=job_id)


async def save_run(job: Job, run: ReportedRun) -> None:
    """Write what a run has reported, except the job's status."""
    await job.save(
        update_fields=["progress", "step", "changed", "error", "host", "result", "vm_ref"]
    )
    await run.save()


async def save_vms(job: Job, run: ReportedRun) -> None:
    """Write which VMs a run is about."""
    await job.save(update_fields=["vm_ref"])
    await run.save(update_fields=["vm_refs"])


async def silent_jobs(since: datetime) -> list[Job]:
    """The unfinished jobs whose runs have reported nothing since then."""
    # Not by origin, whose index SQLite prefers: it has the finished ones, too.
    jobs = await Job.filter(finished_at=None)
    runs = await runs_of(jobs)
    return [job for job in jobs if job.id in runs and runs[job.id].reported_at < since]


@dataclass(frozen=True)
class Domain:
    """A domain as a run knows it."""

    uuid: str | None = None
    name: str | None = None
    """libvirt's."""
    host: str | None = None


async def runs_since(moment: datetime) -> list[tuple[Job, ReportedRun]]:
    """The runs that have named domains, and have reported since then; each with its job."""
    runs = {run.job_id: run for run in await ReportedRun.filter(reported_at__gte=moment)}
    numbers = [number for number, run in runs.items() if run.domains]
    return [(job, runs[job.id]) for job in await Job.filter(id__in=numbers)] if numbers else []


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
