"""Command line: virtplay snapshot."""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

import typer

from virtplay.cli import completion
from virtplay.cli.ages import age_text, moment_text
from virtplay.cli.client import Client, JsonObject, path_of
from virtplay.cli.faults import CannotChoose, Refused
from virtplay.cli.options import (
    AllowDuplicate,
    Change,
    VmArgument,
    Yes,
    change_command,
    confirm,
    list_command,
    query_command,
    refuse_duplicate,
)
from virtplay.cli.screen import plain, print_record, split_lines
from virtplay.cli.tables import Column, Table
from virtplay.errors import ScheduleNotFound
from virtplay.units import MIB

snapshot_app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Create, list, restore, delete and schedule snapshots.",
)

PERIODS = ("hourly", "daily", "weekly", "monthly")
BRANCH = "branch"
"""Key under which the list keeps a snapshot's branch of the tree."""
SNAPSHOTS = Table(
    Column("ID", lambda one: one["id"]),
    Column("NAME", lambda one: f"{one[BRANCH]}{one['name']}", cut=True),
    Column("STATUS", lambda one: one["status"], 3),
    Column("CURRENT", lambda one: "*" if one["current"] else None, 2),
    Column("RESTORES TO", lambda one: one["restoresTo"], 5),
    Column("SIZE", lambda one: _size(one) if one["hasMemory"] else None, 6),
    Column("CREATED", lambda one: age_text(one["createdAt"]), 1),
    Column("EXPIRES", lambda one: age_text(one["expiresAt"]), 4),
    Column("ORIGIN", lambda one: one["origin"], 7),
    Column("PARENT", lambda one: one["parent"], 8, extra=True),
    Column("DESCRIPTION", lambda one: one["description"], 9, cut=True, extra=True),
)

SnapshotArgument = Annotated[
    str,
    typer.Argument(
        metavar="SNAPSHOT",
        help="Snapshot id, or a name if it is unique.",
        autocompletion=completion.complete_snapshots,
    ),
]


def _keep(period: str) -> Any:
    """Return the option for the number of snapshots to keep for a period."""
    return typer.Option(
        f"--keep-{period}", min=0, metavar="N", help=f"Keep the last N {period} snapshots."
    )


def _entries(data: JsonObject) -> list[JsonObject]:
    return [{**one, BRANCH: branch} for branch, one in grow(data["snapshots"])]


@list_command(
    snapshot_app,
    SNAPSHOTS,
    _entries,
    lambda data: [] if data["snapshots"] else ["no snapshots"],
)
def list_snapshots(client: Client, vm: VmArgument) -> JsonObject:
    """List a VM's snapshots as a tree; * marks the parent of the VM's current state.

    \b
    Example:
      virtplay snapshot list web-server
    """
    return client.get(path_of("vms", vm, "snapshots"))


def _show_record(_client: Client, data: JsonObject) -> None:
    error = data["error"]
    print_record(
        {
            "id": data["id"],
            "name": data["name"],
            "description": split_lines(data["description"]),
            "status": data["status"],
            "error": f"{error['message']} ({error['code']}, {error['jobId']})" if error else "",
            "parent": data["parent"],
            "current": "yes" if data["current"] else "no",
            "restores to": data["restoresTo"],
            "memory": _size(data) if data["hasMemory"] else "no",
            "frozen": {True: "yes", False: "no", None: ""}[data["frozen"]],
            "origin": data["origin"],
            "created": moment_text(data["createdAt"]),
            "expires": moment_text(data["expiresAt"]),
        }
    )


@query_command(snapshot_app, "show", _show_record)
def show_snapshot(client: Client, vm: VmArgument, snapshot: SnapshotArgument) -> JsonObject:
    """Show all details of a snapshot.

    \b
    Example:
      virtplay snapshot show web-server before-upgrade
    """
    return _find(client, vm, snapshot)


@change_command(snapshot_app, "snapshot_create")
def create_snapshot(
    client: Client,
    vm: VmArgument,
    name: Annotated[str, typer.Argument(metavar="NAME", help="Snapshot name, 1 to 64 characters.")],
    *,
    description: Annotated[str | None, typer.Option(metavar="TEXT", help="Free text.")] = None,
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
    allow_duplicate: AllowDuplicate = False,
) -> Change:
    """Create a snapshot of a VM; of a running VM, it includes the memory.

    A name that a snapshot of the VM already has is used after a confirmation only.

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
    path = path_of("vms", vm, "snapshots")
    if not allow_duplicate:
        same = [one for one in client.get(path)["snapshots"] if one["name"] == name]
        refuse_duplicate("snapshot", name, [_describe(one) for one in same])
    return Change("POST", path, body)


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
    path = _path(vm, _find(client, vm, snapshot))
    return Change("POST", f"{path}/restore", {"force": force, "guard": guard})


@change_command(snapshot_app, "snapshot_delete")
def delete_snapshot(
    client: Client, vm: VmArgument, snapshot: SnapshotArgument, *, yes: Yes = False
) -> Change:
    """Delete a snapshot; its children are kept.

    \b
    Example:
      virtplay snapshot delete web-server before-upgrade --yes
    """
    data = _find(client, vm, snapshot)
    if not yes:
        memory = f" and its memory of {_size(data)}" if data["hasMemory"] and _size(data) else ""
        confirm(f"delete snapshot {data['id']} ({data['name']}){memory} of VM {vm}")
    return Change("DELETE", _path(vm, data))


def _show_schedule(_client: Client, data: JsonObject | None) -> None:
    if data is None:
        typer.echo("no snapshot schedule")
        return
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
            "next": moment_text(data["nextAt"]),
            "last": data["lastAt"] and f"{moment_text(data['lastAt'])} ({data['lastJobId']})",
            "skipped": f"{moment_text(skipped['at'])}: {skipped['reason']}" if skipped else "",
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
) -> JsonObject | None:
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
    if given:
        return client.change("PUT", path, given)
    try:
        return client.get(path)
    except Refused as error:
        if error.refusal != ScheduleNotFound.code:
            raise
        return None


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


def _size(one: JsonObject) -> str | None:
    return None if one["size"] is None else f"{one['size'] / MIB:.0f} MiB"


def _path(vm: str, one: JsonObject) -> str:
    return path_of("vms", vm, "snapshots", one["id"])


def _find(client: Client, vm: str, snapshot: str) -> JsonObject:
    """Return the snapshot with this id or unique name; CannotChoose."""
    snapshots = client.get(path_of("vms", vm, "snapshots"))["snapshots"]
    found = [one for one in snapshots if one["id"] == snapshot]
    found = found or [one for one in snapshots if one["name"] == snapshot]
    if not found:
        raise CannotChoose(
            f"cannot find snapshot {snapshot}: VM {vm} has no snapshot with this id or name"
        )
    if len(found) > 1:
        raise CannotChoose(
            f"cannot choose a snapshot: {len(found)} of VM {vm} are named {snapshot}; use an id:",
            [_describe(one) for one in found],
        )
    return dict(found[0])


def _describe(one: JsonObject) -> str:
    """Return what tells a snapshot from others of its name: id, status and age."""
    return f"{one['id']}, {one['status']}, created {age_text(one['createdAt'])}"


def _days_from_now(days: float) -> str:
    try:
        moment = datetime.now(UTC) + timedelta(days=days)
    except (OverflowError, ValueError):
        raise typer.BadParameter("--expires-days is too large") from None
    return moment.replace(microsecond=0).isoformat()
