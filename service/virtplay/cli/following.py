"""Command line: follows a job to its end, with a progress bar on a terminal."""

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta

import typer

from virtplay.cli.client import CannotReach, Client, JsonObject, Refused, path_of
from virtplay.cli.screen import is_terminal, open_console, plain, print_json
from virtplay.errors import DatabaseNotAvailable
from virtplay.states import FINISHED_JOB

POLL_SECONDS = 0.3
PATIENCE_SECONDS = 60.0
"""How long a restart of the service may take; its jobs keep running or end meanwhile."""
REFUSED = 1
JOB_FAILED = 3
INTERRUPTED = 130


View = Callable[[JsonObject, bool], None]
"""Shows the progress of a job as of the last response; False: the service does not respond."""


def report_accepted(
    client: Client, accepted: JsonObject, action: str, *, wait: bool, as_json: bool
) -> None:
    """Print the job of an accepted change and follow it if `wait`; typer.Exit."""
    job_id = str(accepted["jobId"])
    if not wait:
        if as_json:
            print_json(accepted)
        else:
            _print_job(accepted, action)
        return
    if not as_json:
        _print_job(accepted, action)
    begun = time.monotonic()
    job = follow_job(client, job_id, quiet=as_json, begun=begun)
    report_end(job, time.monotonic() - begun, as_json=as_json)


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
            print(f"virtplay: {plain(error['message'])} ({plain(error['code'])})", file=sys.stderr)
    ended: list[JsonObject] = []
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
            print(_failure(job, None), file=sys.stderr)
        done = len(ended) - len(failed)
        after = f" after {time.monotonic() - begun:.1f} s"
        typer.echo(f"{action} of {done} of {len(ended) + len(refused)} VMs succeeded{after}")
    if failed:
        raise typer.Exit(JOB_FAILED)
    if refused:
        raise typer.Exit(REFUSED)


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
                for job, responding in _responses(client, job_id):
                    if _is_finished(job):
                        ended.append(job)
                        break
                    step = f"{len(ended)} of {len(job_ids)} jobs have ended"
                    if job["stepTimeoutSeconds"]:
                        step += f"; {_step(job, True)}"
                    progress = 100 * len(ended) // len(job_ids)
                    show(
                        {
                            **{"id": job_ids[0], "action": action, "vmId": what, "step": step},
                            **{"status": "running", "progress": progress, "etaSeconds": None},
                        },
                        responding,
                    )
                    time.sleep(POLL_SECONDS)
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


def follow_job(client: Client, job_id: str, *, quiet: bool, begun: float) -> JsonObject:
    """Show the progress of a job until it has ended; return the finished job.

    `begun`: the monotonic time from which elapsed time counts. Ctrl-C stops following, not the
    job: a message says so, and typer.Exit is raised.
    """
    try:
        with _view(quiet, begun) as show:
            for job, responding in _responses(client, job_id):
                show(job, responding)
                if _is_finished(job):
                    return job
                time.sleep(POLL_SECONDS)
    except KeyboardInterrupt:
        print(
            f"virtplay: {job_id} keeps running; to follow it again: virtplay job watch {job_id}",
            file=sys.stderr,
        )
        raise typer.Exit(INTERRUPTED) from None
    raise AssertionError("responses come until the job has ended or an error is raised")


def report_end(job: JsonObject, seconds: float | None, *, as_json: bool) -> None:
    """Print the outcome in one line, or the job as JSON; typer.Exit(3) unless it succeeded."""
    if as_json:
        print_json(job)
    what = _what(job)
    after = "" if seconds is None else f" after {seconds:.1f} s"
    if job["status"] == "succeeded":
        if not as_json:
            note = "; takes effect at the next boot" if job["appliesAt"] == "next_boot" else ""
            note = "; no changes" if job["changed"] is False else note
            typer.echo(f"{what} succeeded{after}{note}")
        return
    print(_failure(job, seconds), file=sys.stderr)
    raise typer.Exit(JOB_FAILED)


def _failure(job: JsonObject, seconds: float | None) -> str:
    """Return the line about a job that did not succeed."""
    after = "" if seconds is None else f" after {seconds:.1f} s"
    error = job["error"] or {"code": "UNKNOWN", "message": "no reason reported"}
    return (
        f"virtplay: {_what(job)} {plain(job['status'])}{after}: {plain(error['message'])}"
        f" ({plain(error['code'])}); for details: virtplay job log {plain(job['id'])}"
    )


def seconds_taken(job: JsonObject) -> float | None:
    """Return the seconds from a job's creation to its end, by the service's clock; None before."""
    if not job["finishedAt"]:
        return None
    taken = datetime.fromisoformat(job["finishedAt"]) - datetime.fromisoformat(job["createdAt"])
    return taken.total_seconds()


def _responses(client: Client, job_id: str) -> Iterator[tuple[JsonObject, bool]]:
    """Yield the job again and again; while the service does not respond, the last one and False.

    A service whose database is away is waited for as well.
    """
    job: JsonObject | None = None
    responded = time.monotonic()
    while True:
        try:
            job = client.get(path_of("jobs", job_id))
        except (CannotReach, Refused) as error:
            if isinstance(error, Refused) and error.refusal != DatabaseNotAvailable.code:
                raise
            if time.monotonic() - responded > PATIENCE_SECONDS:
                raise
            if job is None:
                time.sleep(POLL_SECONDS)
            else:
                yield job, False
        else:
            responded = time.monotonic()
            yield job, True


@contextmanager
def _view(quiet: bool, begun: float) -> Iterator[View]:
    """Choose how to show progress: not at all, as a bar on a terminal, elsewhere in lines."""
    if quiet:
        yield lambda _job, _responding: None
    elif is_terminal():
        from virtplay.cli.bar import open_bar  # noqa: PLC0415 - rich costs 0.1 s

        with open_bar(open_console(), begun) as move:
            yield lambda job, responding: move(
                _what(job), job["progress"], _step(job, responding), job["etaSeconds"]
            )
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
    limit = job["stepTimeoutSeconds"]
    if not limit:
        return plain(job["step"]) or "starting"
    waited = min(limit, int(_seconds_since(job["stepStartedAt"])))
    return f"asked the guest to shut down, {waited} of {limit} s; then --force cuts the power"


def _is_finished(job: JsonObject) -> bool:
    return job["status"] in FINISHED_JOB


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
