"""Command line: shared options, and decorators that turn a function into a client command."""

import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer

from virtplay.cli import following
from virtplay.cli.client import Client, JsonObject
from virtplay.cli.connection import find_connection
from virtplay.cli.screen import print_json

Function = Callable[..., Any]

Url = Annotated[
    str | None,
    typer.Option("--url", metavar="URL", help="URL of the service; see virtplay --help."),
]
TokenFile = Annotated[
    Path | None,
    typer.Option("--token-file", metavar="FILE", help="File that contains the API token."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the API's data as JSON.")]
Wait = Annotated[
    bool, typer.Option("--wait/--no-wait", help="Follow the job to its end, or return at once.")
]
Yes = Annotated[
    bool,
    typer.Option("--yes", "-y", help="Skip the confirmation prompt (shown only on a terminal)."),
]
Page = Annotated[
    int | None, typer.Option(min=1, max=1_000_000, help="Show only this page of the list.")
]
Limit = Annotated[int | None, typer.Option(min=1, max=100, help="Entries per page.")]
VmArgument = Annotated[str, typer.Argument(metavar="VM", help="VM id, or a name if it is unique.")]
JobArgument = Annotated[str, typer.Argument(metavar="JOB", help="Job id, such as job-000012.")]

QUERY = {"as_json": (AsJson, False)}
"""Parameter → its annotation and default."""
CHANGE = {"wait": (Wait, True), **QUERY}
CONNECTION = {"url": (Url, None), "token_file": (TokenFile, None)}


class Change(NamedTuple):
    """A request that the API accepts as a job."""

    method: str
    path: str
    body: Mapping[str, Any] | None = None
    query: Mapping[str, Any] | None = None


def query_command(
    app: typer.Typer, name: str, show: Callable[[JsonObject], None]
) -> Callable[[Function], Function]:
    """Turn a function of a Client into a command, which prints its data by `show` or as JSON."""

    def finish(_client: Client, data: JsonObject, *, as_json: bool) -> None:
        (print_json if as_json else show)(data)

    return _command(app, name, finish, QUERY)


def change_command(app: typer.Typer, action: str) -> Callable[[Function], Function]:
    """Turn a function of a Client that returns a Change into a command, named by the action's verb.

    The command sends the change and follows its job.
    """

    def finish(client: Client, change: Change, *, wait: bool, as_json: bool) -> None:
        accepted = client.change(*change)
        many = "jobs" in accepted
        report = following.report_accepted_together if many else following.report_accepted
        report(client, accepted, action, wait=wait, as_json=as_json)

    return _command(app, action.partition("_")[2], finish, CHANGE)


def _command(
    app: typer.Typer, name: str, finish: Function, options: dict[str, tuple[Any, Any]]
) -> Callable[[Function], Function]:
    """Turn a function of a Client into a command with its parameters, `options` and CONNECTION.

    The command calls `finish` with the client, the function's result, and the options.
    """

    def register(function: Function) -> Function:
        def command(url: str | None, token_file: Path | None, **given: Any) -> None:
            own = {key: given.pop(key) for key in options}
            with open_client(url, token_file) as client:
                finish(client, function(client, **given), **own)

        parameters = list(inspect.signature(function).parameters.values())[1:]
        parameters += [
            inspect.Parameter(key, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=kind)
            for key, (kind, default) in (options | CONNECTION).items()
        ]
        vars(command)["__signature__"] = inspect.Signature(parameters)
        command.__annotations__ = {each.name: each.annotation for each in parameters}
        command.__doc__ = function.__doc__
        app.command(name)(command)
        return function

    return register


def open_client(url: str | None, token_file: Path | None) -> Client:
    """Return a client of the service in options, environment or configuration; CannotConnect."""
    return Client(find_connection(url, token_file))
