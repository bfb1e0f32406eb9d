"""Command line: follows a job to its end, with a progress bar on a terminal."""

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta

import typer

from virtplay.actions import Action
from virtplay.cli.ages import seconds_taken
from virtplay.cli.client import Client, JsonObject, path_of
from virtplay.cli.completion import PLAIN
from virtplay.cli.faults import (
    FAILED,
    JOB_FAILED,
    CannotReach,
    ClientError,
    Refused,
    is_away,
    print_error,
    print_json_fault,
)
from virtplay.cli.options import Change
from virtplay.cli.screen import (
    is_terminal,
    open_console,
    plain,
    print_json,
    unwound_by_signals,
)
from virtplay.states import FINISHED_JOB, VmStatus

POLL_SECONDS = 0.3
"""The time between two looks while following; the service responds before if the job has ended."""
PATIENCE_SECONDS = 60.0
"""How long a restart of the service may take; its jobs keep running or end meanwhile."""
ADDRESS_SECONDS = 300.0
"""How long a guest may take until the service knows its address."""
INTERRUPTED = 130
WORDS = {
    Action.VM_CREATE: ("Creating", "Created"),
    Action.VM_UPDATE: ("Updating", "Updated"),
    Action.VM_DELETE: ("Deleting", "Deleted"),
    Action.VM_START: ("Starting", "Started"),
    Action.VM_STOP: ("Stopping", "Stopped"),
    Action.VM_RESTART: ("Restarting", "Restarted"),
    Action.VM_PAUSE: ("Pausing", "Paused"),
    Action.VM_RESUME: ("Resuming", "Resumed"),
    Action.SNAPSHOT_CREATE: ("Creating snapshot", "Created snapshot"),
    Action.SNAPSHOT_RESTORE: ("Restoring snapshot", "Restored snapshot"),
    Action.SNAPSHOT_DELETE: ("Deleting snapshot", "Deleted snapshot"),
}
"""Action → what its job is doing, and what it has done."""
ENDED = (VmStatus.STOPPED, VmStatus.PAUSED, VmStatus.ERROR, VmStatus.DELETING)
"""Statuses of a VM that gets no address by itself."""
STARTING = (Action.VM_START, Action.VM_RESTART)

View = Callable[[JsonObject, bool], None]
"""Shows the progress of a job as of the last response; False: the service does not respond."""


class NoAddress(ClientError):
    """A VM was started, and the service does not know an address of its guest."""

    code = "NO_ADDRESS"


def report_accepted(
    client: Client,
    accepted: JsonObject,
    action: str,
    change: Change,
    *,
    wait: bool | None,
    as_json: bool,
) -> None:
    """Print the job of an accepted change, and follow it unless `wait` is False; typer.Exit.

    A `wait` that is True also waits for the address of a VM that was started.
    """
    begun = time.monotonic()
    if not as_json:
        _print_job(accepted, action)
    if change.note:
        print(change.note, file=sys.stderr)
    if wait is False:
        if as_json:
            print_json(accepted)
        return
    vm_id, name = accepted["id"], accepted["name"]
    job_id = str(accepted["jobId"])
    job = follow_job(client, job_id, quiet=as_json, begun=begun, subject=name)
    if job["status"] != "succeeded":
        report_end(job, time.monotonic() - begun, as_json=as_json, subject=_subject(accepted))
    runs = change.runs or action in STARTING
    vm = None
    if runs and wait:
        vm = wait_for_address(client, vm_id, name, quiet=as_json, begun=begun)
    if not as_json:
        done = "Created and started" if change.runs else None
        now, before = _renamed(accepted, change, job)
        outcome = _outcome(job, _subject(now), time.monotonic() - begun, done) + before
        address = f"; its address is {plain(vm['ip'])}" if vm else ""
        next_step = _next_step(accepted, action, change, runs=runs, known=vm is not None)
        typer.echo(f"{outcome}{address}{next_step}")
    else:
        print_json({"job": job, "vm": vm} if vm else job)


def _renamed(accepted: JsonObject, change: Change, job: JsonObject) -> tuple[JsonObject, str]:
    """Return what was accepted with its new name, and what to say of the old one and the domain.

    The domain of a VM is renamed with it only while the VM is stopped, among others.
    """
    name = (change.body or {}).get("name")
    if job["action"] != Action.VM_UPDATE or name in (None, accepted["name"]):
        return accepted, ""
    domains = [one["after"] for one in job["changes"] or [] if one["field"] == "name"]
    why = f"keeps its name (virtplay job log {plain(job['id'])} says why)"
    domain = f"is now {plain(domains[0])}" if domains else why
    before = f"; it was named {plain(accepted['name'])}, and its domain {domain}"
    return {**accepted, "name": name}, before


def _next_step(
    accepted: JsonObject, action: str, change: Change, *, runs: bool, known: bool
) -> str:
    """Return the command that most people need next, as a sentence."""
    name = accepted["name"]
    reference = name if PLAIN.fullmatch(name) and not change.by_id else accepted["id"]
    if action == Action.VM_CREATE and not runs:
        return f". Start it: virtplay vm start {reference}"
    if runs:
        wait = "" if known else "--wait "
        return f". Log in: virtplay vm ssh {wait}{reference}"
    return ""


def report_accepted_together(
    client: Client, accepted: JsonObject, action: str, *, wait: bool, as_json: bool
) -> None:
    """Print the jobs of a request for many VMs and follow them if `wait`; typer.Exit.

    There is a line for each VM that was refused, and for each job that did not succeed.
    """
    jobs, refused = accepted["jobs"], accepted["refused"]
    if not as_json:
        for each in jobs if not wait else ():
            _print_job(each, action)
        for each in refused:
            error = each["error"]
            print_error(Refused(error["code"], error["message"], error["details"]))
    ended: list[JsonObject] = []
    subjects = {each["jobId"]: _subject(each) for each in jobs}
    begun = time.monotonic()
    if wait:
        ids = [str(each["jobId"]) for each in jobs]
        ended = follow_jobs(client, ids, action, quiet=as_json, begun=begun)
        jobs = ended
    failed = [job for job in ended if job["status"] != "succeeded"]
    if as_json:
        print_json({"jobs": jobs, "refused": refused})
    elif wait:
        for job in failed:
            print(f"virtplay: {_failure(job, None, subjects[job['id']])}", file=sys.stderr)
        done = len(ended) - len(failed)
        after = f" after {time.monotonic() - begun:.1f} s"
        typer.echo(f"{action} of {done} of {len(ended) + len(refused)} VMs succeeded{after}")
    if failed:
        raise typer.Exit(JOB_FAILED)
    if refused:
        raise typer.Exit(FAILED)


def follow_jobs(
    client: Client, job_ids: Sequence[str], action: str, *, quiet: bool, begun: float
) -> list[JsonObject]:
    """Show how many jobs have ended until all have; return them. Ctrl-C as in `follow_job`."""
    ended: list[JsonObject] = []
    what = f"{len(job_ids)} VMs"
    try:
        with _view(quiet, begun) as show:
            # One after the other: most of the others have ended meanwhile.
            for job_id in job_ids:
                for job, responding in _job_responses(client, job_id):
                    if _is_finished(job):
                        ended.append(job)
                        break
                    step = f"{len(ended)} of {len(job_ids)} jobs have ended"
                    if job.get("stepTimeoutSeconds"):
                        step += f"; {_step(job, True)}"
                    progress = 100 * len(ended) // len(job_ids)
                    show(
                        {
                            **{"id": job_ids[0], "action": action, "vmId": what, "step": step},
                            **{"status": "running", "progress": progress, "etaSeconds": None},
                        },
                        responding,
                    )
    except KeyboardInterrupt:
        print("virtplay: the jobs keep running; to see them: virtplay job list", file=sys.stderr)
        raise typer.Exit(INTERRUPTED) from None
    return ended


def watch_job(client: Client, job: JsonObject, *, as_json: bool) -> None:
    """Follow an existing job, and print its outcome; typer.Exit."""
    if not _is_finished(job):
        age = _seconds_since(job["createdAt"])
        job = follow_job(client, job["id"], quiet=as_json, begun=time.monotonic() - age)
    report_end(job, seconds_taken(job), as_json=as_json)


def follow_job(
    client: Client, job_id: str, *, quiet: bool, begun: float, subject: str | None = None
) -> JsonObject:
    """Show the progress of a job until it has ended; return the finished job.

    `begun`: the monotonic time from which elapsed time counts; `subject`: the name of what it
    changes. Ctrl-C stops following, not the job: a message says so, and typer.Exit is raised.
    """
    try:
        with _view(quiet, begun) as show:
            for job, responding in _job_responses(client, job_id):
                show({**job, "subject": subject}, responding)
                if _is_finished(job):
                    return job
    except KeyboardInterrupt:
        print(
            f"virtplay: {job_id} keeps running; to follow it again: virtplay job watch {job_id}",
            file=sys.stderr,
        )
        raise typer.Exit(INTERRUPTED) from None
    raise AssertionError("responses come until the job has ended or an error is raised")


def wait_for_address(
    client: Client, vm_id: str, name: str, *, quiet: bool, begun: float
) -> JsonObject:
    """Return the VM as soon as the service knows an address of its guest; NoAddress."""
    deadline = time.monotonic() + ADDRESS_SECONDS
    shown = f"VM {name} ({vm_id})"
    try:
        with _view(quiet, begun) as show:
            for vm, responding in _responses(client, path_of("vms", vm_id)):
                if vm["ip"] and responding:
                    return vm
                if vm["status"] in ENDED:
                    raise NoAddress(
                        f"cannot wait for an address of {shown}: it is {vm['status']}", vmId=vm_id
                    )
                if time.monotonic() > deadline:
                    raise NoAddress(
                        f"cannot find an address of {shown} after {ADDRESS_SECONDS:.0f} s; it is"
                        f" {vm['status']}: see virtplay vm console {vm_id}",
                        vmId=vm_id,
                    )
                waiting = {"id": vm_id, "action": Action.VM_START, "vmId": vm_id, "subject": name}
                step = {"status": "running", "progress": 100, "step": "waiting for its address"}
                show({**waiting, **step, "etaSeconds": None}, responding)
    except KeyboardInterrupt:
        print(f"virtplay: {shown} has no address so far", file=sys.stderr)
        raise typer.Exit(INTERRUPTED) from None
    raise AssertionError("responses come until there is an address or an error is raised")


def report_end(
    job: JsonObject, seconds: float | None, *, as_json: bool, subject: str | None = None
) -> None:
    """Print the outcome in one line, or the job as JSON; typer.Exit(3) unless it succeeded.

    `subject`: what the line calls that which the job was to change, instead of its id.
    """
    if as_json:
        print_json(job)
    if job["status"] == "succeeded":
        if not as_json:
            typer.echo(_outcome(job, subject, seconds))
        return
    if as_json:
        error = job["error"] or {}
        print_json_fault(
            error.get("code", "JOB_FAILED"), _failure(job, seconds, subject), {"jobId": job["id"]}
        )
    else:
        print(f"virtplay: {_failure(job, seconds, subject)}", file=sys.stderr)
    raise typer.Exit(JOB_FAILED)


def _outcome(
    job: JsonObject, subject: str | None, seconds: float | None, done: str | None = None
) -> str:
    """Return the sentence about a job that succeeded."""
    note = "; takes effect at the next boot" if job["appliesAt"] == "next_boot" else ""
    note = "; no changes" if job["changed"] is False else note
    place = f" on {plain(job['host'])}" if job["host"] else ""
    words = done or WORDS.get(job["action"], (None, None))[1]
    about = subject or plain(_reference(job))
    if words is None:
        after = "" if seconds is None else f" after {seconds:.1f} s"
        return f"{_what(job)} succeeded{after}{note}"
    after = "" if seconds is None else f" in {seconds:.1f} s"
    return f"{words} {about}{place}{after}{note}"


def _subject(accepted: JsonObject) -> str:
    """Return name and id of what a change was accepted for; of a snapshot, also its VM."""
    text = f"{plain(accepted['name'])} ({plain(accepted['id'])})"
    return f"{text} of {plain(accepted['vmId'])}" if "vmId" in accepted else text


def _reference(job: JsonObject) -> str:
    """Return the id of what a job is about."""
    if job.get("snapshotId"):
        return f"{job['snapshotId']} of {job['vmId']}"
    return str(job["vmId"] or f"{len(job['vmIds'])} VMs")


def _failure(job: JsonObject, seconds: float | None, subject: str | None) -> str:
    """Return the line about a job that did not succeed."""
    after = "" if seconds is None else f" after {seconds:.1f} s"
    error = job["error"] or {"code": "UNKNOWN", "message": "no reason reported"}
    what = f"{plain(job['action'])} of {subject}" if subject else _what(job)
    reason = plain(error["message"]).replace("a stop with force", "a stop with --force")
    return (
        f"{what} {plain(job['status'])}{after}: {reason}"
        f" ({plain(error['code'])}); for details: virtplay job log {plain(job['id'])}"
    )


def _responses(
    client: Client, path: str, query: JsonObject | None = None
) -> Iterator[tuple[JsonObject, bool]]:
    """Yield a job or VM again and again; while nothing responds, the last one and False.

    A service whose database is away is waited for as well.
    """
    last: JsonObject | None = None
    responded = time.monotonic()
    while True:
        asked = time.monotonic()
        try:
            last = client.get(path, query)
        except (CannotReach, Refused) as error:
            if query and isinstance(error, Refused) and error.refusal == "VALIDATION_ERROR":
                query = None  # an older service, which cannot wait
                continue
            if not is_away(error) or time.monotonic() - responded > PATIENCE_SECONDS:
                raise
            if last is not None:
                yield last, False
        else:
            responded = time.monotonic()
            yield last, True
        time.sleep(max(0.0, asked + POLL_SECONDS - time.monotonic()))


def _job_responses(client: Client, job_id: str) -> Iterator[tuple[JsonObject, bool]]:
    return _responses(client, path_of("jobs", job_id), {"wait": POLL_SECONDS})


@contextmanager
def _view(quiet: bool, begun: float) -> Iterator[View]:
    """Choose how to show progress: not at all, as a bar on a terminal, elsewhere in lines."""
    if quiet:
        yield lambda _job, _responding: None
    elif is_terminal():
        from virtplay.cli.bar import open_bar  # noqa: PLC0415 - rich costs 0.1 s

        with unwound_by_signals(), open_bar(open_console(), begun) as move:

            def show(job: JsonObject, responding: bool) -> None:
                # Earlier jobs say nothing about a guest that may not react.
                eta = None if job.get("stepTimeoutSeconds") else job["etaSeconds"]
                move(_doing(job), job["progress"], _step(job, responding), eta)

            yield show
    else:
        yield _line_view()


def _line_view() -> View:
    """Print a line whenever status or step have changed: for logs and pipes."""
    last: tuple[object, ...] = ()

    def show(job: JsonObject, responding: bool) -> None:
        nonlocal last
        # Not the seconds of a wait, which would print a line each.
        news = (job["status"], job["step"], responding)
        if news != last and not _is_finished(job):
            typer.echo(f"{plain(job['id'])} {job['progress']:3d}% {_step(job, responding)}")
            sys.stdout.flush()
        last = news

    return show


def _step(job: JsonObject, responding: bool) -> str:
    if not responding:
        return "waiting for the service"
    if job["status"] != "running":
        return plain(job["status"])
    limit = job.get("stepTimeoutSeconds")
    if not limit:
        return plain(job["step"]) or "starting"
    waited = min(limit, int(_seconds_since(job["stepStartedAt"])))
    return f"asked the guest, {waited} of {limit} s; --force cuts the power"


def _is_finished(job: JsonObject) -> bool:
    return job["status"] in FINISHED_JOB


def _doing(job: JsonObject) -> str:
    """Return the action as a person would say it, such as "Creating web"."""
    doing = WORDS.get(job["action"], (None,))[0]
    return f"{doing} {plain(job.get('subject') or job['vmId'])}" if doing else _what(job)


def _what(job: JsonObject) -> str:
    subject = f" of {plain(job['vmId'])}" if job["vmId"] else ""
    return f"{plain(job['action'])}{subject}"


def _print_job(accepted: JsonObject, action: str) -> None:
    name, job_id = plain(accepted["name"]), plain(accepted["jobId"])
    typer.echo(f"{job_id}: {action} of {plain(accepted['id'])} ({name})")
    sys.stdout.flush()


def _seconds_since(moment: str) -> float:
    """Return the seconds since a moment by this machine's clock, never negative."""
    then = datetime.fromisoformat(moment)
    return max(datetime.now(then.tzinfo) - then, timedelta()).total_seconds()
