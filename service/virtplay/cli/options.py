"""Command line: the options that all commands of the client share."""

from pathlib import Path
from typing import Annotated

import typer

from virtplay.cli.client import Client
from virtplay.cli.connection import find_connection

Url = Annotated[
    str | None,
    typer.Option("--url", metavar="URL", help="The service; see virtplay --help."),
]
TokenFile = Annotated[
    Path | None,
    typer.Option("--token-file", metavar="FILE", help="File that holds the API token."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the API's data as JSON.")]
Wait = Annotated[
    bool, typer.Option("--wait/--no-wait", help="Follow the job to its end, or return at once.")
]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask; it asks on a terminal only.")]
Page = Annotated[
    int | None, typer.Option(min=1, max=1_000_000, help="Show only this page of the list.")
]
Limit = Annotated[int | None, typer.Option(min=1, max=100, help="Entries on a page.")]
VmArgument = Annotated[
    str, typer.Argument(metavar="VM", help="Its id, or its name where no other VM has it.")
]
JobArgument = Annotated[str, typer.Argument(metavar="JOB", help="Its id, such as job-000012.")]


def open_client(url: str | None, token_file: Path | None) -> Client:
    """A client of the service that options, environment or configuration name; CannotConnect."""
    return Client(find_connection(url, token_file))
