"""Command line: virtplay snapshot."""

import sys
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

import typer

from virtplay.cli.client import CannotChoose, Client, JsonObject, path_of
from virtplay.cli.options import Change, VmArgument, Yes, change_command, query_command
from virtplay.cli.screen import is_dialogue, plain, print_record, print_table, split_lines
from virtplay.units import MIB

snapshot_app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Create, list, restore, delete and schedule snapshots.",
)

HEADER = ("ID", "NAME", "STATUS", "CURRENT", "RESTORES TO", "SIZE", "CREATED", "EXPIRES", "ORIGIN")
PERIODS = ("hourly", "daily", "weekly", "monthly")

SnapshotArgument = Annotated[
    str, typer.Argument(metavar="SNAPSHOT", help="Snapshot id, or a name if it is unique.")
]


def _keep(period: str) -> Any:
    """Return the option for the number of snapshots to keep for a period."""
    return typer.Option(
        f"--keep-{period}", min=0, metavar="N", help=f"Keep the last N {period} snapshots."
    )


def _show_list(data: JsonObject) -> None:
    if not data["snapshots"]:
        print("no snapshots", file=sys.stderr)
        return
    print_table(HEADER, [_row(one, branch) for branch, one in grow(data["snapshots"])])


@query_command(snapshot_app, "list", _show_list)
def list_snapshots(client: Client, vm: VmArgument) -> JsonObject:
    """List a VM's snapshots as a tree; * marks the parent of the VM's current state.

    \b
    Example:
      virtplay snapshot list web-server
    """
    return client.get(path_of("vms", vm, "snapshots"))


def _show_record(data: JsonObject) -> None:
    error = data["error"]
    print_record(
        {
            "id": data["id"],
            "name": data["name"],
            "description": split_lines(data["description"]),
            "status": data["status"],
            "error": error and f"{error['message']} ({error['code']}, {error['jobId']})",
            "parent": data["parent"],
            "current": "yes" if data["current"] else "no",
            "restores to": data["restoresTo"],
            "memory": _size(data) if data["hasMemory"] else "no",
            "frozen": {True: "yes", False: "no", None: None}[data["frozen"]],
            "origin": data["origin"],
            "created": data["createdAt"],
            "expires": data["expiresAt"],
        }
    )


@query_command(snapshot_app, "show", _show_record)
def show_snapshot(client: Client, vm: VmArgument, snapshot: SnapshotArgument) -> JsonObject:
    """Show all details of a snapshot.

    \b
    Example:
      virtplay snapshot show web-server before-upgrade
    """
    return client.get(_path(client, vm, snapshot))


@change_command(snapshot_app, "snapshot_create")
def create_snapshot(
    client: Client,
    vm: VmArgument,
    name: Annotated[str, typer.Argument(metavar="NAME", help="Snapshot name, 1 to 64 characters.")],
    *,
    description: Annotated[str | None, typer.Option(help="Free text.")] = None,
    expires: Annotated[
        str | None,
        typer.Option(
            metavar="TIME",
            help="Delete the snapshot automatically at this time, e.g. 2030-01-31T12:00:00Z.",
        ),
    ] = None,
    expires_days: Annotated[
        float | None,
        typer.Option(metavar="N", help="Delete the snapshot automatically after N days."),
    ] = None,
    freeze: Annotated[
        bool,
        typer.Option(
            "--freeze/--no-freeze",
            help="Freeze the guest's file systems, if its guest agent responds.",
        ),
    ] = True,
) -> Change:
    """Create a snapshot of a VM; of a running VM, it includes the memory.

    \b
    Example:
      virtplay snapshot create web-server before-upgrade --expires-days 7
    """
    if expires is not None and expires_days is not None:
        raise typer.BadParameter("use either --expires or --expires-days")
    body: JsonObject = {"name": name}
    if description is not None:
        body["description"] = description
    if expires is not None:
        body["expiresAt"] = expires
    if expires_days is not None:
        body["expiresAt"] = _days_from_now(expires_days)
    if not freeze:
        body["freeze"] = False
    return Change("POST", path_of("vms", vm, "snapshots"), body)


@change_command(snapshot_app, "snapshot_restore")
def restore_snapshot(
    client: Client,
    vm: VmArgument,
    snapshot: SnapshotArgument,
    *,
    force: Annotated[
        bool, typer.Option("--force", help="Also restore a running VM: its current state is lost.")
    ] = False,
    guard: Annotated[
        bool, typer.Option("--guard", help="Create a snapshot of the current state first.")
    ] = False,
) -> Change:
    """Restore a VM to a snapshot.

    \b
    Example:
      virtplay snapshot restore web-server before-upgrade --force --guard
    """
    path = f"{_path(client, vm, snapshot)}/restore"
    return Change("POST", path, {"force": force, "guard": guard})


@change_command(snapshot_app, "snapshot_delete")
def delete_snapshot(
    client: Client, vm: VmArgument, snapshot: SnapshotArgument, *, yes: Yes = False
) -> Change:
    """Delete a snapshot; its children are kept.

    \b
    Example:
      virtplay snapshot delete web-server before-upgrade
    """
    path = _path(client, vm, snapshot)
    if not yes and is_dialogue():
        data = client.get(path)
        typer.confirm(f"Delete {data['id']} ({plain(data['name'])})?", abort=True)
    return Change("DELETE", path)


def _show_schedule(data: JsonObject) -> None:
    if "cron" not in data:
        typer.echo(f"{plain(data['vmId'])}: snapshot schedule deleted")
        return
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


@query_command(snapshot_app, "schedule", _show_schedule)
def schedule_snapshots(
    client: Client,
    vm: VmArgument,
    *,
    cron: Annotated[
        list[str] | None,
        typer.Option(metavar="EXPRESSION", help="Cron expression of five fields; repeatable."),
    ] = None,
    hourly: Annotated[int | None, _keep("hourly")] = None,
    daily: Annotated[int | None, _keep("daily")] = None,
    weekly: Annotated[int | None, _keep("weekly")] = None,
    monthly: Annotated[int | None, _keep("monthly")] = None,
    timezone: Annotated[
        str | None,
        typer.Option(metavar="ZONE", help="Time zone, e.g. Europe/Berlin; default: UTC."),
    ] = None,
    off: Annotated[
        bool, typer.Option("--off", help="Delete the schedule; its snapshots are kept.")
    ] = False,
) -> JsonObject:
    """Show, set or delete a VM's snapshot schedule.

    \b
    Example:
      virtplay snapshot schedule web-server
      virtplay snapshot schedule web-server --cron '0 * * * *' --keep-hourly 24 --keep-daily 7
      virtplay snapshot schedule web-server --off
    """
    counts = zip(PERIODS, (hourly, daily, weekly, monthly), strict=True)
    keep = {period: count for period, count in counts if count is not None}
    options: JsonObject = {"cron": cron, "keep": keep, "timezone": timezone}
    given = {key: value for key, value in options.items() if value}
    if off and given:
        raise typer.BadParameter("--off cannot be used with the options of a schedule")
    if given and not (cron and keep):
        raise typer.BadParameter("a schedule requires --cron and at least one --keep-… option")
    path = path_of("vms", vm, "snapshot-schedule")
    if off:
        return client.change("DELETE", path)
    return client.change("PUT", path, given) if given else client.get(path)


def grow(snapshots: Sequence[JsonObject]) -> Iterator[tuple[str, JsonObject]]:
    """Yield the snapshots with their branches of the tree, parents before their children.

    An only child is not indented but marked: a schedule creates chains of dozens, which would not
    fit on the screen.
    """
    known = {one["id"] for one in snapshots}
    children_of: dict[str | None, list[JsonObject]] = {}
    for one in snapshots:
        children_of.setdefault(one["parent"] if one["parent"] in known else None, []).append(one)
    # A stack, since recursion has a limit: each with its own branch and that of its children.
    waiting = [("", "", one) for one in reversed(children_of.get(None, []))]
    while waiting:
        branch, inner, one = waiting.pop()
        yield branch, one
        children = children_of.get(one["id"], [])
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
    """Return the path of the snapshot with this id or unique name; CannotChoose."""
    path = path_of("vms", vm, "snapshots")
    snapshots = client.get(path)["snapshots"]
    found = [one["id"] for one in snapshots if one["id"] == snapshot]
    found = found or [one["id"] for one in snapshots if one["name"] == snapshot]
    if not found:
        raise CannotChoose(
            f"cannot find snapshot {snapshot}: VM {vm} has no snapshot with this id or name"
        )
    if len(found) > 1:
        raise CannotChoose(
            f"cannot choose a snapshot: several are named {snapshot}; use an id: {', '.join(found)}"
        )
    return path + path_of(found[0])


def _days_from_now(days: float) -> str:
    try:
        moment = datetime.now(UTC) + timedelta(days=days)
    except (OverflowError, ValueError):
        raise typer.BadParameter("--expires-days is too large") from None
    return moment.replace(microsecond=0).isoformat()
