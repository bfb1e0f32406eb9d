"""Command line: shared options, and decorators that turn a function into a client command."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer

from virtplay.cli import completion
from virtplay.cli.client import Client, JsonObject
from virtplay.cli.connection import find_connection
from virtplay.cli.faults import NoConfirmation
from virtplay.cli.screen import is_dialogue, plain, print_json, print_notes
from virtplay.cli.tables import Table

Function = Callable[..., Any]
Ask = Callable[[], Any]
"""Sends the request of a command, and returns what its function returns."""

Url = Annotated[
    str | None,
    typer.Option("--url", metavar="URL", help="URL of the service; see virtplay --help."),
]
TokenFile = Annotated[
    Path | None,
    typer.Option("--token-file", metavar="FILE", help="File that contains the API token."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print data and errors of the API as JSON.")]
Wait = Annotated[
    bool | None,
    typer.Option(
        "--wait/--no-wait",
        help="Follow the job to its end (default), or return at once. An explicit --wait also"
        " waits for the address of a started VM.",
    ),
]
WaitForJob = Annotated[
    bool | None,
    typer.Option(
        "--wait/--no-wait", help="Follow the job to its end (default), or return at once."
    ),
]
Yes = Annotated[
    bool,
    typer.Option("--yes", "-y", help="Skip the confirmation prompt; required without a terminal."),
]
AllowDuplicate = Annotated[
    bool, typer.Option("--allow-duplicate", help="Use the name even if another one has it.")
]
Columns = Annotated[
    str | None,
    typer.Option(
        "--columns",
        "-o",
        metavar="NAMES",
        help="Columns to show, separated by commas; a wrong name lists all.",
    ),
]
Watch = Annotated[
    bool, typer.Option("--watch", "-w", help="Show the list again and again, until Ctrl-C.")
]
Interval = Annotated[
    float, typer.Option(min=0.2, metavar="SECONDS", help="Time between two lists of --watch.")
]
Page = Annotated[
    int | None,
    typer.Option(min=1, max=1_000_000, metavar="N", help="Show only this page of the list."),
]
Limit = Annotated[int | None, typer.Option(min=1, max=100, metavar="N", help="Entries per page.")]
VmArgument = Annotated[
    str,
    typer.Argument(
        metavar="VM",
        help="VM: id, name, domain or UUID.",
        autocompletion=completion.complete_vms,
    ),
]
JobArgument = Annotated[
    str,
    typer.Argument(
        metavar="JOB",
        help="Job id, such as job-000012.",
        autocompletion=completion.complete_jobs,
    ),
]

JSON = {"as_json": (AsJson, False)}
"""Parameter → its annotation and default."""
CHANGE = {"wait": (WaitForJob, None), **JSON}
MAY_START = ("vm_create", "vm_start", "vm_restart")
"""The actions whose commands wait for an address with an explicit --wait."""
LIST = {
    "columns": (Columns, None),
    "watch": (Watch, False),
    "interval": (Interval, 2.0),
    **JSON,
}
CONNECTION = {"url": (Url, None), "token_file": (TokenFile, None)}


class Change(NamedTuple):
    """A request that the API accepts as a job."""

    method: str
    path: str
    body: Mapping[str, Any] | None = None
    query: Mapping[str, Any] | None = None
    runs: bool = False
    """Whether it starts the VM that it creates."""
    by_id: bool = False
    """Whether its name may be one that another VM has."""
    note: str = ""
    """What the user should know when the request has been accepted."""


def query_command(
    app: typer.Typer, name: str, show: Callable[[Client, Any], None]
) -> Callable[[Function], Function]:
    """Turn a function of a Client into a command, which prints its data by `show` or as JSON."""

    def finish(client: Client, ask: Ask, *, as_json: bool) -> None:
        data = ask()
        if as_json:
            print_json(data)
        else:
            show(client, data)

    return _command(app, name, finish, JSON)


def list_command(
    app: typer.Typer,
    table: Table,
    entries: Callable[[JsonObject], Sequence[Any]],
    notes: Callable[[JsonObject], Sequence[str]],
) -> Callable[[Function], Function]:
    """Turn a function of a Client into the command `list`, with a table of its entries.

    `notes` are lines beside the table: that it is empty or not complete, for example.
    """

    def finish(
        _client: Client,
        ask: Ask,
        *,
        columns: str | None,
        watch: bool,
        interval: float,
        as_json: bool,
    ) -> None:
        if as_json and (watch or columns):
            raise typer.BadParameter("--json cannot be used with --columns (-o) or --watch (-w)")
        table.choose(columns)  # refuses a wrong name before a request is sent

        def lines() -> tuple[list[str], Sequence[str]]:
            data = ask()
            shown = entries(data)
            return table.lines(shown, columns) if shown else [], notes(data)

        if as_json:
            print_json(ask())
        elif watch:
            from virtplay.cli.watching import watch_lines  # noqa: PLC0415

            watch_lines(lines, interval)
        else:
            rows, beside = lines()
            for row in rows:
                typer.echo(row)
            print_notes(beside)

    return _command(app, "list", finish, LIST)


def page_notes(data: JsonObject, key: str, what: str) -> list[str]:
    """Return the note beside a page that does not show all, or nothing; `key`: of its entries."""
    shown, total = len(data[key]), data["pagination"]["total"]
    return [f"{shown} of {total} {what}"] if shown < total or not shown else []


def change_command(app: typer.Typer, action: str) -> Callable[[Function], Function]:
    """Turn a function of a Client that returns a Change into a command, named by the action's verb.

    The command sends the change and follows its job.
    """

    def finish(client: Client, ask: Ask, *, wait: bool | None, as_json: bool) -> None:
        from virtplay.cli import following  # noqa: PLC0415 - lists need none

        change = ask()
        accepted = client.change(change.method, change.path, change.body, change.query)
        if "jobs" in accepted:
            following.report_accepted_together(
                client, accepted, action, wait=wait is not False, as_json=as_json
            )
        else:
            following.report_accepted(client, accepted, action, change, wait=wait, as_json=as_json)

    options = CHANGE | ({"wait": (Wait, None)} if action in MAY_START else {})
    return _command(app, action.partition("_")[2], finish, options)


def _command(
    app: typer.Typer, name: str, finish: Function, options: dict[str, tuple[Any, Any]]
) -> Callable[[Function], Function]:
    """Turn a function of a Client into a command with its parameters, `options` and CONNECTION.

    The command calls `finish` with the client, the call of the function, and the options.
    """

    def register(function: Function) -> Function:
        def command(url: str | None, token_file: Path | None, **given: Any) -> None:
            own = {key: given.pop(key) for key in options}
            with open_client(url, token_file) as client:
                finish(client, lambda: function(client, **given), **own)

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


def confirm(what: str) -> None:
    """Ask on the terminal whether to do something, such as "delete vm-001 with its disks".

    NoConfirmation without a terminal, typer.Abort without a yes.
    """
    if not is_dialogue():
        raise NoConfirmation(f"cannot ask whether to {what}: no terminal; use --yes")
    typer.confirm(plain(f"{what[0].upper()}{what[1:]}?"), abort=True)


MOST_OTHERS = 5
"""How many that have a name are listed."""


def refuse_duplicate(what: str, name: str, others: Sequence[str]) -> None:
    """Ask on the terminal whether to use a name that others have; NoConfirmation without one.

    `what`: such as "VM"; `others`: a line about each that has the name.
    """
    if not others:
        return
    more = len(others) - MOST_OTHERS
    listed = "; ".join([*others[:MOST_OTHERS], *([f"and {more} more"] if more > 0 else [])])
    if not is_dialogue():
        raise NoConfirmation(
            f"cannot use the name {name}: another {what} has it: {listed};"
            " choose another name or use --allow-duplicate"
        )
    typer.confirm(
        plain(f"Another {what} has the name {name}: {listed}. Use it all the same?"), abort=True
    )
