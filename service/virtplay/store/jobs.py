"""Store: jobs and their events, and the only function that changes a job's status."""

import re
import uuid
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from statistics import median
from typing import Any, NamedTuple, cast

from tortoise.exceptions import IntegrityError
from tortoise.expressions import Q, Subquery
from tortoise.functions import Max

from virtplay.errors import Conflict, JobNotFound, OperationInProgress
from virtplay.states import FINISHED_JOB, JOB_MOVES, UNFINISHED_JOB, JobOrigin, JobStatus
from virtplay.store.database import moment_of, select, skip_numbers
from virtplay.store.models import AuditEntry, Job, JobEvent, ReportedRun, Vm

REF = re.compile(r"job-\d{6,12}")
GENERATION_MAX = 2**30
"""The highest generation taken over from a host; the database holds twice as much."""
ALIKE_SECONDS = 2.0
"""Durations that differ by no more are alike."""
REMEMBERED = re.compile(r"job-(\d{6,9})")


class ReadyJob(NamedTuple):
    """What decides when a queued job that waits for no other may run."""

    id: int
    action: str
    locks: bool
    """Whether it holds its VM."""
    host: str
    variables: Mapping[str, Any] = {}
    bulk_id: int | None = None
    at_once: int | None = None
    vm_id: int | None = None

    @property
    def lane(self) -> tuple[bool, str]:
        """Return what it shares a limit with: the jobs of its host that do or do not lock."""
        return self.locks, self.host


def job_ref(number: int) -> str:
    """Return the public id of a job, such as job-000001."""
    return f"job-{number:06d}"


async def create_job(**values: Any) -> Job:
    """Insert a queued job; raise OperationInProgress if its VM has an unfinished job."""
    try:
        job = Job(status=JobStatus.QUEUED, **values)
        await job.save()
    except IntegrityError as error:
        raise OperationInProgress(
            f"cannot run {values['action']} on VM {values['vm_ref']}: another job holds it"
        ) from error
    job.ref = job_ref(job.id)
    if job.at_once is not None and job.bulk_id is None:
        job.bulk_id = job.id
    await job.save(update_fields=["ref", "bulk_id"])
    return job


async def pass_over_jobs(refs: Iterable[object]) -> None:
    """Give new jobs higher numbers than these, which a host recorded for an earlier database.

    The host would mistake a new job for the old one, whose snapshot it has already restored, or
    which has already restarted the VM.
    """
    found = [match for ref in refs if (match := REMEMBERED.fullmatch(str(ref or "")))]
    number = max((int(match[1]) for match in found), default=0)
    if number:
        await skip_numbers("job", number)


async def keep_observation(*, host: str, error: Mapping[str, Any], command: str) -> None:
    """Insert a failed job for a failed observation; successful ones are not stored."""
    now = datetime.now(UTC)
    job = Job(
        action="host_observe",
        host=host,
        status=JobStatus.FAILED,
        locks=False,
        origin=JobOrigin.OBSERVATION,
        requested_by="observation",
        request_id="-",
        command=command,
        error=dict(error),
        started_at=now,
        finished_at=now,
    )
    await job.save()
    job.ref = job_ref(job.id)
    await job.save(update_fields=["ref"])
    event = {"event": "failed", "host": host, "text": error["message"]}
    _ = await append_events(job.id, 1, [event])


async def move(job: Job, new: JobStatus, **values: Any) -> None:
    """Change the status of `job` to `new`; raise Conflict if it has changed since it was read.

    Every change of a status goes through this one conditional UPDATE on status and generation.
    """
    old = job.status
    if new not in JOB_MOVES[old]:
        raise Conflict(f"cannot move job {job.ref} from {old} to {new}")
    if new in FINISHED_JOB:
        values.setdefault("finished_at", datetime.now(UTC))
        values.setdefault("eta_seconds", None)
        values["after_id"] = None
    count = await Job.filter(id=job.id, status=old, generation=job.generation).update(
        status=new, **values
    )
    if count != 1:
        raise Conflict(f"cannot move job {job.ref} from {old} to {new}: it is no longer {old}")
    for key, value in {"status": new, **values}.items():
        setattr(job, key, value)


async def lease_job(job: Job, vm: Vm, holder: str) -> bool:
    """Lease a queued job to `holder`; return False when another process was faster.

    The caller has locked the row of `vm`, the job's VM. The VM's generation rises, and the job
    runs with it. A job that does not hold its VM gets no generation, which would make the host
    refuse the job that does.
    """
    # Read again under the VM's lock: another process may have taken the lease meanwhile.
    await job.refresh_from_db(fields=["status"])
    if job.status != JobStatus.QUEUED:
        return False
    if job.locks:
        vm.generation += 1
        await vm.save(update_fields=["generation"])
        await Job.filter(id=job.id, status=JobStatus.QUEUED).update(generation=vm.generation)
        job.generation = vm.generation
    await move(job, JobStatus.RUNNING, leased_by=holder, started_at=datetime.now(UTC))
    return True


async def raise_generation(vm: Vm, generation: int) -> None:
    """Let the next lease of the VM, whose row is locked, get a generation above `generation`."""
    vm.generation = max(vm.generation, generation)
    await vm.save(update_fields=["generation"])


async def save_progress(job: Job, percent: int, step: str, **columns: Any) -> None:
    """Write a job's progress, unless the job has ended or another worker has its lease.

    `columns` are the others that describe the step.
    """
    await Job.filter(id=job.id, generation=job.generation, finished_at=None).update(
        progress=percent, step=step, **columns
    )
    job.progress = percent


async def save_progress_together(jobs: Sequence[Job], progress: int, **columns: Any) -> None:
    """Write the progress of jobs with one lease, of those that it still holds."""
    held = Job.filter(id__in=[job.id for job in jobs], leased_by=jobs[0].leased_by)
    await held.filter(finished_at=None).update(progress=progress, **columns)
    for job in jobs:
        job.progress = progress


def step_start(job: Job) -> datetime | None:
    """Return when the step of a running job began; None before its play has begun a step.

    A step of an earlier attempt does not count.
    """
    began = job.step_started_at
    if job.status != JobStatus.RUNNING or began is None:
        return None
    return None if job.started_at is not None and began < job.started_at else began


async def release_job(waiting: Job) -> None:
    """Let a start that waited for the creation of its VM run."""
    await Job.filter(id=waiting.id, finished_at=None).update(after_id=None)


async def get_job(job_id: int) -> Job | None:
    """Return the job with that number as it is now, if it exists."""
    return await Job.get_or_none(id=job_id)


async def refresh_status(job: Job) -> None:
    """Read again whether a job has ended; call this under the lock of its VM."""
    await job.refresh_from_db(fields=["status", "finished_at"])


async def lock_jobs(job_ids: Iterable[int]) -> list[tuple[Job, Vm | None]]:
    """Return the jobs with these numbers, each with its VM, whose row is locked, in order."""
    jobs = Job.filter(id__in=list(job_ids))
    rows = Vm.filter(id__in=Subquery(jobs.values("vm_id"))).order_by("id").select_for_update()
    vms = {vm.id: vm for vm in await rows}
    # Read under the lock: another process may have taken a lease meanwhile.
    return [(job, vms.get(job.vm_id or 0)) for job in await jobs.order_by("id")]


async def find_job(ref: str) -> Job:
    """Return the job with public id `ref`; raise JobNotFound."""
    job = await Job.get_or_none(ref=ref) if REF.fullmatch(ref) else None
    if job is None:
        raise JobNotFound(f"cannot find job {ref[:64]}")
    return job


async def page_jobs(
    *,
    page: int,
    limit: int,
    vm: str | None,
    status: JobStatus | None,
    action: str | None,
    origin: JobOrigin | None,
    without: str | None = None,
) -> tuple[list[Job], int]:
    """Return one page of jobs, the newest first, and the number of all matching jobs.

    `without` is an action whose jobs are left out.
    """
    rows = Job.all()
    if vm is not None:
        runs = ReportedRun.filter(vm_refs__contains=f" {vm} ").values("job_id")
        rows = rows.filter(Q(vm_ref=vm) | Q(id__in=Subquery(runs)))
    if status is not None:
        rows = rows.filter(status=status)
    if action is not None:
        rows = rows.filter(action=action)
    if origin is not None:
        rows = rows.filter(origin=origin)
    if without is not None:
        rows = rows.exclude(action=without)
    total = await rows.count()
    return await rows.order_by("-id").offset((page - 1) * limit).limit(limit), total


async def unfinished_job(vm_id: int) -> Job | None:
    """Return the job that holds the VM, if any."""
    return await Job.get_or_none(vm_id=vm_id, finished_at=None, after_id=None, locks=True)


async def holders(vm_ids: Iterable[int]) -> dict[int, Job]:
    """Return VM number → the job that holds the VM, for those of the VMs that one holds."""
    jobs = await Job.filter(vm_id__in=list(vm_ids), finished_at=None, after_id=None, locks=True)
    return {job.vm_id: job for job in jobs if job.vm_id is not None}


async def waiting_job(vm_id: int) -> Job | None:
    """Return the start that waits for the VM's creation, if any."""
    return await Job.get_or_none(vm_id=vm_id, finished_at=None, after_id__not_isnull=True)


async def busy_vms(vm_ids: Iterable[int]) -> set[int]:
    """Return the numbers of the VMs that unfinished jobs hold."""
    rows = await Job.filter(finished_at=None, locks=True, vm_id__in=list(vm_ids)).values_list(
        "vm_id", flat=True
    )
    return set(cast("list[int]", rows))


async def held_since(moment: datetime, vm_ids: Iterable[int]) -> set[int]:
    """Return the numbers of the VMs that jobs have held and that ended at `moment` or later."""
    jobs = Job.filter(finished_at__gte=moment, locks=True, vm_id__in=list(vm_ids))
    return set(cast("list[int]", await jobs.values_list("vm_id", flat=True)))


async def count_unfinished(origin: JobOrigin) -> int:
    """Return the number of unfinished jobs of that origin."""
    return await Job.filter(finished_at=None, origin=origin).count()


async def unfinished_jobs() -> list[Job]:
    """Return every unfinished job of this service, the oldest first; reported runs are left out."""
    jobs = Job.filter(status__in=UNFINISHED_JOB).exclude(origin=JobOrigin.SHELL)
    return await jobs.order_by("id")


async def ready_jobs() -> list[ReadyJob]:
    """Return every queued job that waits for no other, in order."""
    jobs = Job.filter(status=JobStatus.QUEUED, after_id=None).exclude(origin=JobOrigin.SHELL)
    rows = await jobs.order_by("id").values(*ReadyJob._fields)
    return [ReadyJob(**{**row, "host": row["host"] or ""}) for row in rows]


async def cancelled_jobs(job_ids: Collection[int]) -> list[int]:
    """Return those of the jobs with these numbers that are cancelled."""
    if not job_ids:
        return []
    jobs = Job.filter(id__in=list(job_ids), status=JobStatus.CANCELLED)
    return cast("list[int]", await jobs.values_list("id", flat=True))


async def deleted_since(moment: datetime) -> set[uuid.UUID]:
    """Return the UUIDs of the VMs that jobs have deleted since `moment`."""
    jobs = (
        await Job.filter(action="vm_delete", status=JobStatus.SUCCEEDED, finished_at__gte=moment)
        .exclude(origin=JobOrigin.SHELL)
        .only("variables")
    )
    return {uuid.UUID(job.variables["libvirt_domain_uuid"]) for job in jobs}


async def queue_state() -> tuple[int, float]:
    """Return the number of jobs that wait for a worker, and the oldest's age in seconds, or 0.

    A start that waits for its VM's creation does not wait for a worker.
    """
    waiting = Job.filter(status=JobStatus.QUEUED, after_id=None)
    oldest = await waiting.order_by("created_at").first().only("created_at")
    if oldest is None:
        return 0, 0.0
    age = (datetime.now(UTC) - oldest.created_at).total_seconds()
    return await waiting.count(), max(0.0, age)


async def last_lost() -> datetime | None:
    """Return when a job of this service, not a run from a shell, was last lost."""
    [(moment,)] = await select(
        "SELECT MAX(finished_at) FROM job WHERE status = ?1 AND origin <> ?2",
        [JobStatus.LOST, JobOrigin.SHELL],
    )
    return moment_of(moment)


async def usual_seconds(action: str) -> float | None:
    """Return how long an action's last twenty successful jobs took, in seconds.

    None without such a job, and when they differ so much that no estimate would be right, such as
    shutdowns that depend on the guest.
    """
    jobs = Job.filter(action=action, status=JobStatus.SUCCEEDED).exclude(origin=JobOrigin.SHELL)
    ended = jobs.filter(started_at__not_isnull=True, finished_at__not_isnull=True)
    times = cast(
        "list[tuple[datetime, datetime]]",
        await ended.order_by("-id").limit(20).values_list("started_at", "finished_at"),
    )
    took = [(finished - started).total_seconds() for started, finished in times]
    if not took:
        return None
    usual = median(took)
    off = sum(abs(seconds - usual) > max(ALIKE_SECONDS, usual / 2) for seconds in took)
    return usual if off <= len(took) // 5 else None


async def append_events(job_id: int, first: int, events: Iterable[Mapping[str, Any]]) -> int:
    """Append runner events from sequence number `first` on; return the next number."""
    rows = [(job_id, number, event) for number, event in enumerate(events, start=first)]
    await append_rows(rows)
    return first + len(rows)


async def append_rows(rows: Iterable[tuple[int, int, Mapping[str, Any]]]) -> None:
    """Append runner events of several jobs: job number, sequence number and event of each.

    Events that are there already stay: the response to their INSERT may have been lost.
    """
    events = [
        JobEvent(
            job_id=job_id,
            seq=number,
            event=event["event"],
            task=str(event.get("task") or "")[:255],
            host=str(event.get("host") or "")[:255],
            text=str(event.get("text") or "").replace("\x00", ""),
        )
        for job_id, number, event in rows
    ]
    if events:
        await JobEvent.bulk_create(events, ignore_conflicts=True)


async def next_events(job_ids: Iterable[int]) -> dict[int, int]:
    """Return job number → sequence number of its next event, for the jobs that have events."""
    events = JobEvent.filter(job_id__in=list(job_ids)).annotate(last=Max("seq")).group_by("job_id")
    return {job_id: last + 1 for job_id, last in await events.values_list("job_id", "last")}


async def next_event(job_id: int) -> int:
    """Return the sequence number of a job's next event, beginning with 1."""
    last = await JobEvent.filter(job_id=job_id).order_by("-seq").first()
    return last.seq + 1 if last else 1


async def last_task(job_id: int) -> str:
    """Return Ansible's name of the task that a job's play has reached; "" before the first."""
    events = JobEvent.filter(job_id=job_id).exclude(task="")
    event = await events.order_by("-seq").first()
    return event.task if event else ""


async def read_log(job_id: int) -> str:
    """Return the Ansible output of a job as text."""
    texts = await JobEvent.filter(job_id=job_id).order_by("seq").values_list("text", flat=True)
    joined = "\n".join(str(text) for text in texts if text)
    return joined.replace("\r\n", "\n").strip("\n") + "\n" if joined else ""


async def forget_jobs(older_than: timedelta) -> int:
    """Delete up to 500 jobs that ended longer ago, with events and runs; return the number."""
    before = datetime.now(UTC) - older_than
    ids = await Job.filter(finished_at__lt=before).limit(500).values_list("id", flat=True)
    if ids:
        await JobEvent.filter(job_id__in=ids).delete()
        await ReportedRun.filter(job_id__in=ids).delete()
        await Job.filter(id__in=ids).delete()
    return len(ids)


async def forget_audit(older_than: timedelta) -> int:
    """Delete up to 5000 audit rows that were created longer ago; return the number."""
    before = datetime.now(UTC) - older_than
    rows = AuditEntry.filter(created_at__lt=before).order_by("created_at").limit(5000)
    ids = await rows.values_list("id", flat=True)
    if ids:
        await AuditEntry.filter(id__in=ids).delete()
    return len(ids)


async def write_audit(**values: Any) -> None:
    """Insert an audit row."""
    entry = AuditEntry(**values)
    await entry.save()
