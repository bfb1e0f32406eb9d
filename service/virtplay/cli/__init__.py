"""Command line: `virtplay`, the service's own commands and a client of its API."""

import io
import sys
from importlib import import_module
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from virtplay import __version__
from virtplay.cli.faults import print_fault
from virtplay.errors import VirtplayError

HELP = """Manage VMs on KVM hosts through a REST API; every change runs as an Ansible job.

vm, snapshot, job, host and template send requests to a running service. up, serve, token, db and
uninstall run on the machine of the service; playbook runs without one.

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
  2    the command line was wrong, whether the command or the service noticed it
  3    the job that the command followed did not succeed
  130  Ctrl-C; a job that the command followed keeps running
"""

COMMANDS = {
    "vm": "vms:vm_app",
    "snapshot": "snapshots:snapshot_app",
    "job": "jobs:job_app",
    "host": "hosts:host_app",
    "template": "hosts:template_app",
    "up": "machine:up_app",
    "serve": "server:serve_app",
    "token": "server:token_app",
    "db": "database:database_app",
    "playbook": "playbook:playbook_app",
    "files": "playbook:files_app",
    "uninstall": "machine:uninstall_app",
}
"""Command → the file of this room and the application in it."""


class _Commands(TyperGroup):
    """Loads the file of a command when the command is used: all of them take 0.1 s."""

    def list_commands(self, ctx: Any) -> list[str]:
        return [*COMMANDS, *(name for name in self.commands if name not in COMMANDS)]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name in COMMANDS and cmd_name not in self.commands:
            file, _, name = COMMANDS[cmd_name].partition(":")
            application = getattr(import_module(f"virtplay.cli.{file}"), name)
            single = [each.name for each in application.registered_commands] == [cmd_name]
            make = typer.main.get_command if single else typer.main.get_group
            command: Any = make(application)
            command.name = cmd_name
            self.commands[cmd_name] = command
        return super().get_command(ctx, cmd_name)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if args[0] not in self.list_commands(ctx):
            for name in COMMANDS:  # from all of them the error suggests one
                self.get_command(ctx, name)
        return super().resolve_command(ctx, args)


# Plain help: boxes would need rich, which takes as long to load as all the rest.
app = typer.Typer(
    name="virtplay",
    cls=_Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help=HELP,
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"virtplay {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version."
        ),
    ] = False,
) -> None:
    pass


@app.command("version")
def show_version() -> None:
    """Print the version."""
    _print_version(True)


def main() -> None:
    """Run the command line; an error ends it with one line on standard error, or as JSON."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # Characters that the terminal's encoding lacks are escaped, instead of an error.
            stream.reconfigure(errors="backslashreplace")
    try:
        status = app(standalone_mode=False)
    except (VirtplayError, typer.TyperException, typer.Abort) as error:
        status = print_fault(error)
    if isinstance(status, int) and status:
        sys.exit(status)
