"""Command line: virtplay host and virtplay template."""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated

import typer

from virtplay.cli.client import JsonObject, path_of
from virtplay.cli.options import AsJson, TokenFile, Url, open_client
from virtplay.cli.screen import print_json, print_record, print_table
from virtplay.units import GIB

host_app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Hypervisors.")
template_app = typer.Typer(
    no_args_is_help=True, rich_markup_mode=None, help="Templates that VMs are made from."
)

HOST_HEADER = ("NAME", "STATUS", "BY", "VMS", "CPU FREE", "MEMORY FREE", "DISK FREE", "SEEN")
TEMPLATE_HEADER = ("ID", "OS", "MIN DISK", "READY ON", "SOURCE")


@host_app.command("list")
def list_hosts(as_json: AsJson = False, url: Url = None, token_file: TokenFile = None) -> None:
    """List hypervisors and the room that they have.

    \b
    Example:
      virtplay host list
    """
    data = _get(url, token_file, "/hosts")
    none = "no hosts: the service's inventory has none"
    _print_list(data, "hosts", HOST_HEADER, _host_row, none=none, as_json=as_json)


@host_app.command("show")
def show_host(
    host: Annotated[str, typer.Argument(metavar="HOST", help="Its name in the inventory.")],
    as_json: AsJson = False,
    url: Url = None,
    token_file: TokenFile = None,
) -> None:
    """Show everything about a hypervisor.

    \b
    Example:
      virtplay host show kvm1
    """
    data = _get(url, token_file, path_of("hosts", host))
    if as_json:
        print_json(data)
        return
    memory = data["memory"]
    print_record(
        {
            "name": data["name"],
            "status": data["status"],
            "message": data["message"],
            "runs guests by": data["virtType"],
            "because": data["virtReason"],
            "cpus": data["cpus"],
            "cpu model": data["cpuModel"],
            "memory": f"{memory} MiB" if memory else None,
            "vms": data["vms"],
            "capacity": _amounts(data["capacity"]),
            "allocated": _amounts(data["allocated"]),
            "available": _amounts(data["available"]),
            "pools": [_pool(pool) for pool in data["pools"]],
            "networks": [_network(network) for network in data["networks"]],
            "bridges": list(data["bridges"]),
            "versions": [f"{name} {version}" for name, version in data["versions"].items()],
            "seen": data["observedAt"],
        }
    )


@template_app.command("list")
def list_templates(as_json: AsJson = False, url: Url = None, token_file: TokenFile = None) -> None:
    """List the templates, and the hosts on which each is ready.

    A template that is not ready on a host is brought there by the first VM made from it.

    \b
    Example:
      virtplay template list
    """
    data = _get(url, token_file, "/templates")
    none = "no templates: the image catalogue is empty"
    _print_list(data, "templates", TEMPLATE_HEADER, _template_row, none=none, as_json=as_json)


def _get(url: str | None, token_file: Path | None, path: str) -> JsonObject:
    with open_client(url, token_file) as client:
        return client.get(path)


def _print_list(
    data: JsonObject,
    name: str,
    header: Sequence[str],
    row_of: Callable[[JsonObject], Sequence[object]],
    *,
    none: str,
    as_json: bool,
) -> None:
    """Print the list called `name` in the data as a table, or say that there are none."""
    if as_json:
        print_json(data)
    elif data[name]:
        print_table(header, [row_of(entry) for entry in data[name]])
    else:
        print(none, file=sys.stderr)


def _host_row(host: JsonObject) -> Sequence[object]:
    free, whole = host["available"], host["capacity"]
    return (
        host["name"],
        host["status"],
        host["virtType"],
        host["vms"],
        f"{free['cpu']} of {whole['cpu']}",
        f"{free['memory']} of {whole['memory']} MiB",
        f"{free['disk']} of {whole['disk']} GiB",
        host["observedAt"],
    )


def _template_row(template: JsonObject) -> Sequence[object]:
    return (
        template["id"],
        template["os"],
        f"{template['minDisk']} GiB" if template["minDisk"] else None,
        ", ".join(host["host"] for host in template["hosts"] if host["ready"]) or None,
        template["source"],
    )


def _amounts(amounts: JsonObject) -> str:
    return f"{amounts['cpu']} vCPUs, {amounts['memory']} MiB, {amounts['disk']} GiB"


def _pool(pool: JsonObject) -> str:
    free, size = pool.get("available_bytes"), pool.get("capacity_bytes")
    room = f", {free // GIB} of {size // GIB} GiB free" if free is not None and size else ""
    state = "" if pool.get("active") else ", not active"
    return f"{pool.get('name')} ({pool.get('path')}{room}{state})"


def _network(network: JsonObject) -> str:
    state = "" if network.get("active") else ", not active"
    return f"{network.get('name')} (bridge {network.get('bridge')}{state})"
