"""Command line: `virtplay`, the service's own commands and a client of its API."""

import io
import sys

import typer

from virtplay import __version__
from virtplay.cli import hosts, jobs, server, snapshots, vms
from virtplay.cli.screen import plain
from virtplay.errors import VirtplayError

HELP = """KVM hypervisors through a REST API in which every change is an Ansible job.

vm, snapshot, job, host and template ask a running service; serve, token and db work on the
machine that it runs on.

\b
Where the service is, and the token that it wants, come from, in this order:
  1. the options --url and --token-file
  2. the environment variables VIRTPLAY_URL and VIRTPLAY_TOKEN
  3. ~/.config/virtplay/config.toml (or below $XDG_CONFIG_HOME), with the keys url and token
  4. http://localhost:3000

\b
Exit status:
  0    done; what a command waited for succeeded
  1    the service refused, could not be reached, or gave no such answer
  2    the command line was wrong
  3    the job that the command followed did not succeed
  130  Ctrl-C; a job that was followed goes on
"""

# Plain help: boxes would take rich, which takes as long to load as all the rest.
app = typer.Typer(
    name="virtplay",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help=HELP,
)
app.add_typer(vms.vm_app, name="vm")
app.add_typer(snapshots.snapshot_app, name="snapshot")
app.add_typer(jobs.job_app, name="job")
app.add_typer(hosts.host_app, name="host")
app.add_typer(hosts.template_app, name="template")
app.command("serve")(server.serve)
app.add_typer(server.token_app, name="token")
app.add_typer(server.database_app, name="db")


@app.command("version")
def show_version() -> None:
    """Print the version."""
    typer.echo(f"virtplay {__version__}")


def main() -> None:
    """Run the command line; an error is one line on standard error and exit status 1."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A name that the terminal's encoding lacks is shown, not an error.
            stream.reconfigure(errors="backslashreplace")
    try:
        app()
    except VirtplayError as error:
        print(f"virtplay: {plain(error.message)}", file=sys.stderr)
        sys.exit(1)
