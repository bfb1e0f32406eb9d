"""Command line: virtplay job."""

import sys
from typing import Annotated

import typer

from virtplay.cli import following
from virtplay.cli.client import JOB_ID, CannotChoose, Client, JsonObject, path_of
from virtplay.cli.options import AsJson, JobArgument, TokenFile, Url, open_client, query_command
from virtplay.cli.screen import plain, plain_lines, print_record, print_table
from virtplay.states import JobOrigin, JobStatus

job_app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="List, show and follow jobs; every change is a job.",
)

HEADER = ("ID", "ORIGIN", "ACTION", "VM", "HOST", "STATUS", "PROGRESS", "CREATED", "SECONDS", "BY")


def _show_list(data: JsonObject) -> None:
    jobs, total = data["jobs"], data["pagination"]["total"]
    rows = []
    for job in jobs:
        seconds = following.seconds_taken(job)
        rows.append(
            (
                job["id"],
                job["origin"],
                job["action"],
                _one_or_count(job["vmIds"], "VMs"),
                _one_or_count(job["hosts"], "hosts"),
                job["status"],
                f"{job['progress']}%",
                job["createdAt"],
                None if seconds is None else f"{seconds:.0f}",
                job["user"] or job["requestedBy"],
            )
        )
    if rows:
        print_table(HEADER, rows)
    if len(jobs) < total or not jobs:
        print(f"{len(jobs)} of {total} jobs", file=sys.stderr)


@query_command(job_app, "list", _show_list)
def list_jobs(
    client: Client,
    *,
    vm: Annotated[str | None, typer.Option(metavar="VM", help="Only jobs of this VM.")] = None,
    status: Annotated[JobStatus | None, typer.Option(help="Only jobs with this status.")] = None,
    action: Annotated[
        str | None, typer.Option(metavar="NAME", help="Only this action, such as vm_start.")
    ] = None,
    origin: Annotated[
        JobOrigin | None, typer.Option(help="Only this origin; shell: runs reported from a shell.")
    ] = None,
    page: Annotated[int, typer.Option(min=1, max=1_000_000, help="Page of the list.")] = 1,
    limit: Annotated[int, typer.Option(min=1, max=100, help="Entries per page.")] = 20,
) -> JsonObject:
    """List jobs, the newest first.

    \b
    Example:
      virtplay job list --vm web-server --status failed
    """
    filters = {"vm": vm, "status": status, "action": action, "origin": origin}
    return client.get("/jobs", {**filters, "page": page, "limit": limit})


def _show_record(data: JsonObject) -> None:
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
            "vm": ", ".join(data["vmIds"]),
            "host": ", ".join(data["hosts"]),
            "status": data["status"],
            "progress": f"{data['progress']}%",
            "step": data["step"],
            "error": f"{error['message']} ({error['code']})" if error else None,
            "failed task": error["task"] if error else None,
            "changes": changes,
            "applies": data["appliesAt"],
            "by": data["requestedBy"],
            "user": data["user"],
            "request": data["requestId"],
            "command": data["command"],
            "created": data["createdAt"],
            "started": data["startedAt"],
            "finished": data["finishedAt"],
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
        raise CannotChoose(f"cannot find job {plain(job)}: not a job id, such as job-000012")
    return path_of("jobs", job)
