"""Command line: virtplay job."""

import sys
from typing import Annotated

import typer

from virtplay.cli import following
from virtplay.cli.client import JOB_ID, CannotChoose, path_of
from virtplay.cli.options import AsJson, JobArgument, TokenFile, Url, open_client
from virtplay.cli.screen import plain, plain_lines, print_json, print_record, print_table
from virtplay.states import JobOrigin, JobStatus

job_app = typer.Typer(
    no_args_is_help=True, rich_markup_mode=None, help="Jobs: every change of a VM is one."
)

HEADER = ("ID", "ORIGIN", "ACTION", "VM", "HOST", "STATUS", "DONE", "CREATED", "SECONDS", "BY")


@job_app.command("list")
def list_jobs(
    *,
    vm: Annotated[str | None, typer.Option(metavar="VM", help="Only of this VM.")] = None,
    status: Annotated[JobStatus | None, typer.Option(help="Only in this status.")] = None,
    action: Annotated[
        str | None, typer.Option(metavar="NAME", help="Only of this kind, such as vm_start.")
    ] = None,
    origin: Annotated[
        JobOrigin | None, typer.Option(help="Only of this origin; cli: runs from a shell.")
    ] = None,
    page: Annotated[int, typer.Option(min=1, max=1_000_000, help="Page of the list.")] = 1,
    limit: Annotated[int, typer.Option(min=1, max=100, help="Entries on a page.")] = 20,
    as_json: AsJson = False,
    url: Url = None,
    token_file: TokenFile = None,
) -> None:
    """List jobs, the newest first.

    \b
    Example:
      virtplay job list --vm web-server --status failed
    """
    with open_client(url, token_file) as client:
        vm_id = client.find_vm(vm) if vm is not None else None
        query = {
            **{"vm": vm_id, "status": status, "action": action, "origin": origin},
            **{"page": page, "limit": limit},
        }
        data = client.get("/jobs", query)
    if as_json:
        print_json(data)
        return
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


@job_app.command("show")
def show_job(
    job: JobArgument, as_json: AsJson = False, url: Url = None, token_file: TokenFile = None
) -> None:
    """Show everything about a job.

    \b
    Example:
      virtplay job show job-000012
    """
    with open_client(url, token_file) as client:
        data = client.get(_job_path(job))
    if as_json:
        print_json(data)
        return
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


@job_app.command("watch")
def watch_job(
    job: JobArgument, as_json: AsJson = False, url: Url = None, token_file: TokenFile = None
) -> None:
    """Follow a job until it has ended; Ctrl-C stops the watching, not the job.

    \b
    Example:
      virtplay job watch job-000012
    """
    path = _job_path(job)
    with open_client(url, token_file) as client:
        following.watch_job(client, client.get(path), as_json=as_json)


@job_app.command("log")
def show_log(job: JobArgument, url: Url = None, token_file: TokenFile = None) -> None:
    """Print what Ansible said in a job.

    \b
    Example:
      virtplay job log job-000012
    """
    with open_client(url, token_file) as client:
        text = client.get_text(f"{_job_path(job)}/log")
    typer.echo(plain_lines(text), nl=not text.endswith("\n"))


def _one_or_count(names: list[str], word: str) -> str | None:
    """The only one of a job's VMs or hosts, or how many there are."""
    return f"{len(names)} {word}" if len(names) > 1 else next(iter(names), None)


def _job_path(job: str) -> str:
    if not JOB_ID.fullmatch(job):
        raise CannotChoose(f"cannot find job {plain(job)}: ids are like job-000012")
    return path_of("jobs", job)
