"""Command line: virtplay snapshot."""

import sys
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

import typer

from virtplay.cli import following
from virtplay.cli.client import CannotChoose, Client, JsonObject, path_of
from virtplay.cli.options import AsJson, TokenFile, Url, VmArgument, Wait, Yes, open_client
from virtplay.cli.screen import is_dialogue, plain, print_json, print_record, print_table
from virtplay.units import MIB

snapshot_app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Snapshots: list, take, restore, delete, by hand and by schedule.",
)

HEADER = ("ID", "NAME", "STATUS", "CURRENT", "RESTORES TO", "SIZE", "CREATED", "EXPIRES", "BY")
PERIODS = ("hourly", "daily", "weekly", "monthly")

SnapshotArgument = Annotated[
    str,
    typer.Argument(metavar="SNAPSHOT", help="Its id, or its name where no other one has it."),
]


def _keep(period: str) -> Any:
    """The option for how many are kept of one period."""
    return typer.Option(f"--keep-{period}", min=0, metavar="N", help=f"Keep the last N {period}.")


@snapshot_app.command("list")
def list_snapshots(
    vm: VmArgument, as_json: AsJson = False, url: Url = None, token_file: TokenFile = None
) -> None:
    """List a VM's snapshots as a tree; * marks the one that its state stands on.

    \b
    Example:
      virtplay snapshot list web-server
    """
    with open_client(url, token_file) as client:
        data = client.get(path_of("vms", client.find_vm(vm), "snapshots"))
    if as_json:
        print_json(data)
        return
    if not data["snapshots"]:
        print("no snapshots", file=sys.stderr)
        return
    print_table(HEADER, [_row(one, branch) for branch, one in grow(data["snapshots"])])


@snapshot_app.command("show")
def show_snapshot(
    vm: VmArgument,
    snapshot: SnapshotArgument,
    as_json: AsJson = False,
    url: Url = None,
    token_file: TokenFile = None,
) -> None:
    """Show everything about a snapshot.

    \b
    Example:
      virtplay snapshot show web-server before-upgrade
    """
    with open_client(url, token_file) as client:
        data = client.get(_path(client, vm, snapshot))
    if as_json:
        print_json(data)
        return
    error = data["error"]
    print_record(
        {
            "id": data["id"],
            "name": data["name"],
            "description": data["description"],
            "status": data["status"],
            "error": error and f"{error['message']} ({error['code']}, {error['jobId']})",
            "parent": data["parent"],
            "current": "yes" if data["current"] else "no",
            "restores to": data["restoresTo"],
            "memory": _size(data) if data["hasMemory"] else "no",
            "frozen": {True: "yes", False: "no", None: None}[data["frozen"]],
            "made by": data["origin"],
            "created": data["createdAt"],
            "expires": data["expiresAt"],
        }
    )


@snapshot_app.command("create")
def create_snapshot(
    vm: VmArgument,
    name: Annotated[str, typer.Argument(metavar="NAME", help="Its name, 1 to 64 characters.")],
    *,
    description: Annotated[str | None, typer.Option(help="Text of your own.")] = None,
    expires: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="It deletes itself then, as in 2030-01-31T12:00:00Z."),
    ] = None,
    expires_days: Annotated[
        float | None, typer.Option(metavar="N", help="It deletes itself after so many days.")
    ] = None,
    freeze: Annotated[
        bool,
        typer.Option(
            "--freeze/--no-freeze",
            help="Hold the file systems still, if the guest's agent answers.",
        ),
    ] = True,
    wait: Wait = True,
    as_json: AsJson = False,
    url: Url = None,
    token_file: TokenFile = None,
) -> None:
    """Take a snapshot of a VM: with its memory while it runs.

    \b
    Example:
      virtplay snapshot create web-server before-upgrade --expires-days 7
    """
    if expires is not None and expires_days is not None:
        raise typer.BadParameter("give --expires or --expires-days, not both")
    body: JsonObject = {"name": name}
    if description is not None:
        body["description"] = description
    if expires is not None:
        body["expiresAt"] = expires
    if expires_days is not None:
        body["expiresAt"] = _days_from_now(expires_days)
    if not freeze:
        body["freeze"] = False
    with open_client(url, token_file) as client:
        accepted = client.change("POST", path_of("vms", client.find_vm(vm), "snapshots"), body)
        following.report_accepted(client, accepted, "snapshot_create", wait=wait, as_json=as_json)


@snapshot_app.command("restore")
def restore_snapshot(
    vm: VmArgument,
    snapshot: SnapshotArgument,
    *,
    force: Annotated[
        bool, typer.Option("--force", help="Also when it runs: its present state is lost.")
    ] = False,
    guard: Annotated[
        bool, typer.Option("--guard", help="Take a snapshot of the present state first.")
    ] = False,
    wait: Wait = True,
    as_json: AsJson = False,
    url: Url = None,
    token_file: TokenFile = None,
) -> None:
    """Bring a VM back to a snapshot.

    \b
    Example:
      virtplay snapshot restore web-server before-upgrade --force --guard
    """
    with open_client(url, token_file) as client:
        path = f"{_path(client, vm, snapshot)}/restore"
        accepted = client.change("POST", path, {"force": force, "guard": guard})
        following.report_accepted(client, accepted, "snapshot_restore", wait=wait, as_json=as_json)


@snapshot_app.command("delete")
def delete_snapshot(
    vm: VmArgument,
    snapshot: SnapshotArgument,
    *,
    yes: Yes = False,
    wait: Wait = True,
    as_json: AsJson = False,
    url: Url = None,
    token_file: TokenFile = None,
) -> None:
    """Delete a snapshot; those that stand on it stay.

    \b
    Example:
      virtplay snapshot delete web-server before-upgrade
    """
    with open_client(url, token_file) as client:
        path = _path(client, vm, snapshot)
        if not yes and is_dialogue():
            data = client.get(path)
            typer.confirm(f"Delete {data['id']} ({plain(data['name'])})?", abort=True)
        accepted = client.change("DELETE", path)
        following.report_accepted(client, accepted, "snapshot_delete", wait=wait, as_json=as_json)


@snapshot_app.command("schedule")
def schedule_snapshots(
    vm: VmArgument,
    *,
    cron: Annotated[
        list[str] | None,
        typer.Option(metavar="EXPRESSION", help="When: five fields; may be given repeatedly."),
    ] = None,
    hourly: Annotated[int | None, _keep("hourly")] = None,
    daily: Annotated[int | None, _keep("daily")] = None,
    weekly: Annotated[int | None, _keep("weekly")] = None,
    monthly: Annotated[int | None, _keep("monthly")] = None,
    timezone: Annotated[
        str | None, typer.Option(metavar="ZONE", help="Such as Europe/Berlin; UTC by default.")
    ] = None,
    off: Annotated[
        bool, typer.Option("--off", help="End the schedule; what it made stays.")
    ] = False,
    as_json: AsJson = False,
    url: Url = None,
    token_file: TokenFile = None,
) -> None:
    """Show a VM's snapshot schedule, or set it, or end it.

    \b
    Example:
      virtplay snapshot schedule web-server
      virtplay snapshot schedule web-server --cron '0 * * * *' --keep-hourly 24 --keep-daily 7
      virtplay snapshot schedule web-server --off
    """
    counts = zip(PERIODS, (hourly, daily, weekly, monthly), strict=True)
    keep = {period: count for period, count in counts if count is not None}
    wanted: JsonObject = {"cron": cron, "keep": keep, "timezone": timezone}
    given = {key: value for key, value in wanted.items() if value}
    if off and given:
        raise typer.BadParameter("give --off or a schedule, not both")
    if given and not (cron and keep):
        raise typer.BadParameter("give --cron and at least one of --keep-…: they are one schedule")
    with open_client(url, token_file) as client:
        path = path_of("vms", client.find_vm(vm), "snapshot-schedule")
        if off:
            data = client.change("DELETE", path)
        else:
            data = client.change("PUT", path, given) if given else client.get(path)
    if as_json:
        print_json(data)
    elif off:
        typer.echo(f"{plain(data['vmId'])} has no snapshot schedule any more")
    else:
        _print_schedule(data)


def grow(snapshots: Sequence[JsonObject]) -> Iterator[tuple[str, JsonObject]]:
    """The snapshots with their branches of the tree, each one before those that stand on it.

    One that alone stands on another is right below it, marked: a schedule makes chains of dozens,
    which would leave the screen.
    """
    known = {one["id"] for one in snapshots}
    standing: dict[str | None, list[JsonObject]] = {}
    for one in snapshots:
        standing.setdefault(one["parent"] if one["parent"] in known else None, []).append(one)
    # A stack, not recursion, which has a limit. Each with its branch and that of its children.
    waiting = [("", "", one) for one in reversed(standing.get(None, []))]
    while waiting:
        branch, inner, one = waiting.pop()
        yield branch, one
        children = standing.get(one["id"], [])
        if len(children) == 1:
            waiting.append((f"{inner}↳ ", inner, children[0]))
            continue
        for number, child in enumerate(reversed(children)):
            marks = ("├─ ", "│  ") if number else ("└─ ", "   ")
            waiting.append((inner + marks[0], inner + marks[1], child))


def _row(one: JsonObject, branch: str) -> Sequence[object]:
    return (
        one["id"],
        f"{branch}{one['name']}",
        one["status"],
        "*" if one["current"] else None,
        one["restoresTo"],
        _size(one) if one["hasMemory"] else None,
        one["createdAt"],
        one["expiresAt"],
        one["origin"],
    )


def _size(one: JsonObject) -> str | None:
    return None if one["size"] is None else f"{one['size'] / MIB:.0f} MiB"


def _path(client: Client, vm: str, snapshot: str) -> str:
    """The path of the snapshot that has this id or, alone, this name; CannotChoose."""
    path = path_of("vms", client.find_vm(vm), "snapshots")
    snapshots = client.get(path)["snapshots"]
    found = [one["id"] for one in snapshots if one["id"] == snapshot]
    found = found or [one["id"] for one in snapshots if one["name"] == snapshot]
    if not found:
        raise CannotChoose(f"cannot find snapshot {snapshot}: {vm} has none of this id or name")
    if len(found) > 1:
        raise CannotChoose(
            f"cannot tell which snapshot is {snapshot}: name one by its id: {', '.join(found)}"
        )
    return path + path_of(found[0])


def _days_from_now(days: float) -> str:
    try:
        moment = datetime.now(UTC) + timedelta(days=days)
    except (OverflowError, ValueError):
        raise typer.BadParameter("--expires-days is too large") from None
    return moment.replace(microsecond=0).isoformat()


def _print_schedule(data: JsonObject) -> None:
    skipped = data["skipped"]
    print_record(
        {
            "vm": data["vmId"],
            "cron": data["cron"],
            "timezone": data["timezone"],
            "keeps": ", ".join(f"{n} {period}" for period, n in data["keep"].items() if n),
            "enabled": "yes" if data["enabled"] else "no",
            "next": data["nextAt"],
            "last": data["lastAt"] and f"{data['lastAt']} ({data['lastJobId']})",
            "skipped": skipped and f"{skipped['at']}: {skipped['reason']}",
        }
    )
