"""Store: reported runs with their jobs, and the VMs of their domains."""

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
    """Insert a run and its running job with `values`; call this inside a transaction."""
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
    """Return a token's run and its job, if the run was reported before."""
    run = await ReportedRun.get_or_none(token_id=token_id, run_id=run_id)
    return (await Job.get(id=run.job_id), run) if run else None


async def runs_of(jobs: Iterable[Job]) -> dict[int, ReportedRun]:
    """Return job number → run, for the jobs that are reported runs."""
    numbers = [job.id for job in jobs if job.origin == JobOrigin.SHELL]
    runs = await ReportedRun.filter(job_id__in=numbers) if numbers else []
    return {run.job_id: run for run in runs}


async def lock_run(job_id: int) -> tuple[Job, ReportedRun]:
    """Return a reported run and its job, whose row is locked until the transaction ends."""
    job = await Job.filter(id=job_id).select_for_update().get()
    return job, await ReportedRun.get(job_id=job_id)


async def save_run(job: Job, run: ReportedRun) -> None:
    """Write what a run has reported, except the job's status."""
    columns = ("progress", "step", "step_started_at", "changed", "error", "host", "result")
    await job.save(update_fields=[*columns, "vm_ref"])
    await run.save()


async def save_vms(job: Job, run: ReportedRun) -> None:
    """Write the VMs of a run's domains."""
    await job.save(update_fields=["vm_ref"])
    await run.save(update_fields=["vm_refs"])


async def silent_jobs(since: datetime) -> list[Job]:
    """Return the unfinished jobs whose runs have not reported since `since`."""
    # Not by origin: SQLite would use its index, which has the finished jobs too.
    jobs = await Job.filter(finished_at=None)
    runs = await runs_of(jobs)
    return [job for job in jobs if job.id in runs and runs[job.id].reported_at < since]


@dataclass(frozen=True)
class Domain:
    """A domain as a run names it."""

    uuid: str | None = None
    name: str | None = None
    """libvirt's name of the domain."""
    host: str | None = None


async def runs_since(moment: datetime) -> list[tuple[Job, ReportedRun]]:
    """Return the runs that named domains and reported since `moment`, each with its job."""
    runs = {run.job_id: run for run in await ReportedRun.filter(reported_at__gte=moment)}
    numbers = [number for number, run in runs.items() if run.domains]
    return [(job, runs[job.id]) for job in await Job.filter(id__in=numbers)] if numbers else []


async def find_vms(domains: Sequence[Domain]) -> list[Vm]:
    """Return the VMs of a run's domains in order: by UUID, or else by a name only one VM has."""
    known = await Vm.filter(uuid__in=[uuid.UUID(d.uuid) for d in domains if d.uuid])
    of_uuid = {vm.uuid: vm for vm in known}
    named: dict[str, list[Vm]] = {}
    for vm in await Vm.filter(domain__in=[d.name for d in domains if d.name and not d.uuid]):
        named.setdefault(str(vm.domain), []).append(vm)
    found: dict[int, Vm] = {}
    for domain in domains:
        if domain.uuid:
            match = of_uuid.get(uuid.UUID(domain.uuid))
        else:
            vms = [vm for vm in named.get(domain.name or "", ()) if domain.host in (None, vm.host)]
            match = vms[0] if len(vms) == 1 else None
        if match is not None:
            found[match.id] = match
    return list(found.values())
