"""Command line: virtplay job."""

from typing import Annotated

import typer

from virtplay.actions import Action
from virtplay.cli import completion
from virtplay.cli.ages import age_text, moment_text, seconds_taken
from virtplay.cli.client import JOB_ID, Client, JsonObject, path_of
from virtplay.cli.faults import WrongValue
from virtplay.cli.options import (
    AsJson,
    JobArgument,
    TokenFile,
    Url,
    list_command,
    open_client,
    page_notes,
    query_command,
)
from virtplay.cli.screen import plain_lines, print_record
from virtplay.cli.tables import Column, Table
from virtplay.states import JobOrigin, JobStatus

job_app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
    help="List, show and follow jobs; every change is a job.",
)


def _seconds(job: JsonObject) -> str | None:
    seconds = seconds_taken(job)
    return None if seconds is None else f"{seconds:.0f}"


def _progress(job: JsonObject) -> str | None:
    """Return a job's progress, which says nothing of a job that ended without success."""
    known = job["status"] in (JobStatus.RUNNING, JobStatus.CANCELLING, JobStatus.SUCCEEDED)
    return f"{job['progress']}%" if known else None


JOBS = Table(
    Column("ID", lambda job: job["id"]),
    Column("ORIGIN", lambda job: job["origin"], 8),
    Column("ACTION", lambda job: job["action"], 1),
    Column("VM", lambda job: _one_or_count(job["vmIds"], "VMs")),
    Column("HOST", lambda job: _one_or_count(job["hosts"], "hosts"), 5, cut=True),
    Column("STATUS", lambda job: job["status"]),
    Column("PROGRESS", _progress, 6),
    Column("CREATED", lambda job: age_text(job["createdAt"]), 2),
    Column("SECONDS", _seconds, 4),
    Column("BY", lambda job: job["user"] or job["requestedBy"], 7, cut=True),
    Column("STEP", lambda job: job["step"], 8, cut=True, extra=True),
    Column("FINISHED", lambda job: age_text(job["finishedAt"]), 8, extra=True),
    Column("REQUEST", lambda job: job["requestId"], 8, extra=True),
    Column("ERROR", lambda job: job["error"] and job["error"]["message"], 8, cut=True, extra=True),
)


@list_command(
    job_app, JOBS, lambda data: data["jobs"], lambda data: page_notes(data, "jobs", "jobs")
)
def list_jobs(
    client: Client,
    *,
    vm: Annotated[
        str | None,
        typer.Option(
            metavar="VM", help="Only jobs of this VM.", autocompletion=completion.complete_vms
        ),
    ] = None,
    status: Annotated[JobStatus | None, typer.Option(help="Only jobs with this status.")] = None,
    action: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Only this action, such as vm_start.",
            autocompletion=completion.complete_actions,
        ),
    ] = None,
    origin: Annotated[
        JobOrigin | None, typer.Option(help="Only this origin; shell: runs reported from a shell.")
    ] = None,
    everything: Annotated[
        bool, typer.Option("--all", help="Also the jobs that opened a console and changed nothing.")
    ] = False,
    page: Annotated[
        int, typer.Option(min=1, max=1_000_000, metavar="N", help="Page of the list.")
    ] = 1,
    limit: Annotated[int, typer.Option(min=1, max=100, metavar="N", help="Entries per page.")] = 20,
) -> JsonObject:
    """List jobs, the newest first.

    \b
    Example:
      virtplay job list --vm web-server --status failed
    """
    filters = {"vm": vm, "status": status, "action": action, "origin": origin}
    if not everything and action != Action.CONSOLE_OPEN:
        filters["consoles"] = "false"
    return client.get("/jobs", {**filters, "page": page, "limit": limit})


def _show_record(_client: Client, data: JsonObject) -> None:
    error = data["error"]
    changes = [
        f"{change.get('field')}: {change.get('before')} → {change.get('after')}"
        f" ({change.get('applies')})"
        for change in data["changes"] or []
    ]
    print_record(
        {
            "id": data["id"],
            "origin": data["origin"],
            "action": data["action"],
            "playbook": data["playbook"],
            "vm": ", ".join(data["vmIds"]) or None,
            "host": ", ".join(data["hosts"]) or None,
            "status": data["status"],
            "progress": _progress(data),
            "step": data["step"] or None,
            "error": f"{error['message']} ({error['code']})" if error else "",
            "failed task": (error and error["task"]) or "",
            "changes": changes,
            "applies": data["appliesAt"] or "",
            "by": data["requestedBy"],
            "user": data["user"] or "",
            "request": data["requestId"],
            "command": data["command"],
            "created": moment_text(data["createdAt"]),
            "started": moment_text(data["startedAt"]),
            "finished": moment_text(data["finishedAt"]),
        }
    )


@query_command(job_app, "show", _show_record)
def show_job(client: Client, job: JobArgument) -> JsonObject:
    """Show all details of a job.

    \b
    Example:
      virtplay job show job-000012
    """
    return client.get(_job_path(job))


@job_app.command("watch")
def watch_job(
    job: JobArgument, as_json: AsJson = False, url: Url = None, token_file: TokenFile = None
) -> None:
    """Follow a job to its end; Ctrl-C stops following, and the job keeps running.

    \b
    Example:
      virtplay job watch job-000012
    """
    from virtplay.cli import following  # noqa: PLC0415 - lists need none

    path = _job_path(job)
    with open_client(url, token_file) as client:
        following.watch_job(client, client.get(path), as_json=as_json)


@job_app.command("log")
def show_log(job: JobArgument, url: Url = None, token_file: TokenFile = None) -> None:
    """Print the Ansible output of a job.

    \b
    Example:
      virtplay job log job-000012
    """
    with open_client(url, token_file) as client:
        text = client.get_text(f"{_job_path(job)}/log")
    typer.echo(plain_lines(text), nl=not text.endswith("\n"))


def _one_or_count(names: list[str], word: str) -> str | None:
    """Return a job's only VM or host, or their number."""
    return f"{len(names)} {word}" if len(names) > 1 else next(iter(names), None)


def _job_path(job: str) -> str:
    if not JOB_ID.fullmatch(job):
        raise WrongValue(f"cannot find job {job}: not a job id, such as job-000012")
    return path_of("jobs", job)
