"""Store: jobs, their events, and the one door through which a job's status changes."""

import re
import uuid
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, cast

from tortoise import Tortoise
from tortoise.exceptions import IntegrityError
from tortoise.expressions import Q, Subquery

from virtplay.errors import Conflict, JobNotFound, OperationInProgress
from virtplay.states import FINISHED_JOB, JOB_MOVES, UNFINISHED_JOB, JobOrigin, JobStatus
from virtplay.store.database import is_sqlite
from virtplay.store.models import AuditEntry, Job, JobEvent, ReportedRun, Vm

REF = re.compile(r"job-\d{6,12}")
REMEMBERED = re.compile(r"job-(\d{6,9})")


def job_ref(number: int) -> str:
    """The public id of a job, job-000001."""
    return f"job-{number:06d}"


async def create_job(**values: Any) -> Job:
    """Insert a queued job; OperationInProgress when its VM has an unfinished one already."""
    try:
        job = Job(status=JobStatus.QUEUED, **values)
        await job.save()
    except IntegrityError as error:
        raise OperationInProgress(
            f"cannot run {values['action']} on VM {values['vm_ref']}: another job holds it"
        ) from error
    job.ref = job_ref(job.id)
    await job.save(update_fields=["ref"])
    return job


async def pass_over_jobs(refs: Iterable[object]) -> None:
    """Give new jobs higher numbers than those, which a host remembers of an earlier database.

    It would take a new job for the old one of that number, which has restored its snapshot already.
    """
    found = [match for ref in refs if (match := REMEMBERED.fullmatch(str(ref or "")))]
    number = max((int(match[1]) for match in found), default=0)
    if not number:
        return
    connection = Tortoise.get_connection("default")
    if not is_sqlite():
        await connection.execute_query(
            "SELECT setval(sequence, greatest($1, nextval(sequence)))"
            " FROM (SELECT pg_get_serial_sequence('job', 'id') AS sequence) AS sequences",
            [number],
        )
        return
    # SQLite makes the row with the table's first one.
    await connection.execute_query(
        "INSERT INTO sqlite_sequence (name, seq) SELECT 'job', 0"
        " WHERE NOT EXISTS (SELECT 1 FROM sqlite_sequence WHERE name = 'job')"
    )
    await connection.execute_query(
        "UPDATE sqlite_sequence SET seq = max(seq, ?) WHERE name = 'job'", [number]
    )


async def keep_observation(*, host: str, error: Mapping[str, Any], command: str) -> None:
    """Insert a failed job for an observation that did not see its host; others are not kept."""
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
    """Change the status of `job` from what the caller saw to `new`; Conflict when it differs.

    The one status door: a single conditional UPDATE on status and generation.
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
        raise Conflict(f"cannot move job {job.ref} from {old} to {new}: it is not {old} any more")
    for key, value in {"status": new, **values}.items():
        setattr(job, key, value)


async def lease_job(job: Job, vm: Vm, worker: str) -> bool:
    """Make a queued job the running one of `worker`; False when another process was faster.

    `vm` is its VM, locked by the caller. The VM's generation rises, and the job runs under it; a
    job that does not hold its VM has none, as it would shut out the one that does.
    """
    # The status again, under the VM's lock: another process may have taken the lease since.
    await job.refresh_from_db(fields=["status"])
    if job.status != JobStatus.QUEUED:
        return False
    if job.locks:
        vm.generation += 1
        await vm.save(update_fields=["generation"])
        await Job.filter(id=job.id, status=JobStatus.QUEUED).update(generation=vm.generation)
        job.generation = vm.generation
    await move(job, JobStatus.RUNNING, leased_by=worker, started_at=datetime.now(UTC))
    return True


async def save_progress(job: Job, percent: int, step: str) -> None:
    """Write how far a job is, unless it has ended or another worker has it now."""
    await Job.filter(id=job.id, generation=job.generation, finished_at=None).update(
        progress=percent, step=step
    )
    job.progress = percent


async def release_job(waiting: Job) -> None:
    """Let a start run that has waited behind the creation of its VM."""
    await Job.filter(id=waiting.id, finished_at=None).update(after_id=None)


async def get_job(job_id: int) -> Job | None:
    """The job with that number as it is now, if there is one."""
    return await Job.get_or_none(id=job_id)


async def find_job(ref: str) -> Job:
    """The job with public id `ref`; JobNotFound."""
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
) -> tuple[list[Job], int]:
    """One page of jobs, the newest first, and how many there are in all."""
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
    total = await rows.count()
    return await rows.order_by("-id").offset((page - 1) * limit).limit(limit), total


async def unfinished_job(vm_id: int) -> Job | None:
    """The job that holds the VM, if any."""
    return await Job.get_or_none(vm_id=vm_id, finished_at=None, after_id=None, locks=True)


async def waiting_job(vm_id: int) -> Job | None:
    """The start that waits behind the VM's creation, if any."""
    return await Job.get_or_none(vm_id=vm_id, finished_at=None, after_id__not_isnull=True)


async def busy_vms(vm_ids: Iterable[int]) -> set[int]:
    """Those of the VMs that an unfinished job holds."""
    rows = await Job.filter(finished_at=None, locks=True, vm_id__in=list(vm_ids)).values_list(
        "vm_id", flat=True
    )
    return set(cast("list[int]", rows))


async def count_unfinished(origin: JobOrigin) -> int:
    """How many jobs of that origin have not ended."""
    return await Job.filter(finished_at=None, origin=origin).count()


async def unfinished_jobs() -> list[Job]:
    """Every unfinished job that a worker runs or has to run, the oldest first."""
    jobs = Job.filter(status__in=UNFINISHED_JOB).exclude(origin=JobOrigin.SHELL)
    return await jobs.order_by("id")


async def deleted_since(moment: datetime) -> set[uuid.UUID]:
    """The UUIDs of the VMs that jobs have deleted since then."""
    jobs = (
        await Job.filter(action="vm_delete", status=JobStatus.SUCCEEDED, finished_at__gte=moment)
        .exclude(origin=JobOrigin.SHELL)
        .only("variables")
    )
    return {uuid.UUID(job.variables["libvirt_domain_uuid"]) for job in jobs}


async def queue_state() -> tuple[int, float]:
    """How many jobs wait for a worker, and for how long the oldest has, in seconds (0 if none).

    A start behind its VM's creation waits for that job, and for no worker.
    """
    waiting = Job.filter(status=JobStatus.QUEUED, after_id=None)
    oldest = await waiting.order_by("created_at").first().only("created_at")
    if oldest is None:
        return 0, 0.0
    age = (datetime.now(UTC) - oldest.created_at).total_seconds()
    return await waiting.count(), max(0.0, age)


async def usual_seconds(action: str) -> float | None:
    """How long the last twenty successful jobs of an action took on average, in seconds."""
    jobs = (
        await Job.filter(action=action, status=JobStatus.SUCCEEDED, started_at__not_isnull=True)
        .exclude(origin=JobOrigin.SHELL)
        .order_by("-id")
        .limit(20)
    )
    took = [
        (job.finished_at - job.started_at).total_seconds()
        for job in jobs
        if job.finished_at and job.started_at
    ]
    return sum(took) / len(took) if took else None


async def append_events(job_id: int, first: int, events: Iterable[Mapping[str, Any]]) -> int:
    """Append runner events from sequence number `first` on; returns the next number."""
    rows = [
        JobEvent(
            job_id=job_id,
            seq=number,
            event=event["event"],
            task=str(event.get("task") or "")[:255],
            host=str(event.get("host") or "")[:255],
            text=str(event.get("text") or "").replace("\x00", ""),
        )
        for number, event in enumerate(events, start=first)
    ]
    if rows:
        await JobEvent.bulk_create(rows)
    return first + len(rows)


async def next_event(job_id: int) -> int:
    """The sequence number that the next event of a job gets (1 for the first)."""
    last = await JobEvent.filter(job_id=job_id).order_by("-seq").first()
    return last.seq + 1 if last else 1


async def read_log(job_id: int) -> str:
    """The Ansible output of a job as text."""
    texts = await JobEvent.filter(job_id=job_id).order_by("seq").values_list("text", flat=True)
    joined = "\n".join(str(text) for text in texts if text)
    return joined.replace("\r\n", "\n").strip("\n") + "\n" if joined else ""


async def forget_jobs(older_than: timedelta) -> int:
    """Delete finished jobs that ended longer ago than that, with all they have; how many."""
    before = datetime.now(UTC) - older_than
    ids = await Job.filter(finished_at__lt=before).limit(500).values_list("id", flat=True)
    if ids:
        await JobEvent.filter(job_id__in=ids).delete()
        await ReportedRun.filter(job_id__in=ids).delete()
        await Job.filter(id__in=ids).delete()
    return len(ids)


async def forget_audit(older_than: timedelta) -> int:
    """Delete some of the audit rows that were made longer ago than that; how many."""
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
