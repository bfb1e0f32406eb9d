"""Command line: `virtplay`, the service's own commands and a client of its API."""

import sys

import typer

from virtplay import __version__
from virtplay.cli import server
from virtplay.errors import VirtplayError

app = typer.Typer(
    name="virtplay",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="KVM hypervisors through a REST API in which every change is an Ansible job.",
)
app.add_typer(server.token_app, name="token")
app.add_typer(server.database_app, name="db")
app.command("serve")(server.serve)


@app.command("version")
def show_version() -> None:
    """Print the version."""
    typer.echo(f"virtplay {__version__}")


def main() -> None:
    """Run the command line; an error is one line on standard error and exit status 1."""
    try:
        app()
    except VirtplayError as error:
        print(f"virtplay: {error.message}", file=sys.stderr)
        sys.exit(1)
