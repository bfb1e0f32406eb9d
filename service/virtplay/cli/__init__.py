"""Command line: `virtplay`, the service's own commands and a client of its API."""

import io
import sys

import typer

from virtplay import __version__
from virtplay.cli import hosts, jobs, playbook, server, snapshots, vms
from virtplay.cli.screen import plain
from virtplay.errors import VirtplayError

HELP = """Manage VMs on KVM hosts through a REST API; every change runs as an Ansible job.

vm, snapshot, job, host and template send requests to a running service. serve, token and db run
on the machine of the service.

\b
The URL of the service and the API token are taken from, in this order:
  1. the options --url and --token-file
  2. the environment variables VIRTPLAY_URL and VIRTPLAY_TOKEN
  3. ~/.config/virtplay/config.toml (or below $XDG_CONFIG_HOME), with the keys url and token
  4. http://localhost:3000

\b
Exit status:
  0    success, also of the job that the command followed
  1    the service rejected the request, was unreachable, or sent an invalid response
  2    invalid command line
  3    the job that the command followed did not succeed
  130  Ctrl-C; a job that the command followed keeps running
"""

# Plain help: boxes would need rich, which takes as long to load as all the rest.
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
app.command("playbook", context_settings=playbook.OPTIONS)(playbook.run_playbook)
app.command("files")(playbook.show_files)


@app.command("version")
def show_version() -> None:
    """Print the version."""
    typer.echo(f"virtplay {__version__}")


def main() -> None:
    """Run the command line; an error prints one line on standard error, with exit status 1."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # Characters that the terminal's encoding lacks are escaped, instead of an error.
            stream.reconfigure(errors="backslashreplace")
    try:
        app()
    except VirtplayError as error:
        print(f"virtplay: {plain(error.message)}", file=sys.stderr)
        sys.exit(1)
