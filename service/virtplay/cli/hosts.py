"""Command line: virtplay host and virtplay template."""

import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from virtplay.cli.client import Client, JsonObject, path_of
from virtplay.cli.options import query_command
from virtplay.cli.screen import plain, print_record, print_table
from virtplay.units import GIB

host_app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="List and show hosts.")
template_app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="List templates.")

HOST_HEADER = ("NAME", "STATUS", "VIRT", "VMS", "CPU FREE", "MEMORY FREE", "DISK FREE", "OBSERVED")
TEMPLATE_HEADER = ("ID", "OS", "MIN DISK", "READY ON", "SOURCE")


def _show_hosts(data: JsonObject) -> None:
    if data["hosts"]:
        print_table(HOST_HEADER, [_host_row(host) for host in data["hosts"]])
        for host in data["hosts"]:
            if host["message"]:
                print(plain(f"{host['name']}: {host['message']}"), file=sys.stderr)
    else:
        print("no hosts: the service's inventory is empty", file=sys.stderr)


@query_command(host_app, "list", _show_hosts)
def list_hosts(client: Client) -> JsonObject:
    """List hosts with their free capacity.

    \b
    Example:
      virtplay host list
    """
    return client.get("/hosts")


def _show_record(data: JsonObject) -> None:
    memory = data["memory"]
    print_record(
        {
            "name": data["name"],
            "status": data["status"],
            "message": data["message"],
            "virtualization": data["virtType"],
            "reason": data["virtReason"],
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
            "observed": data["observedAt"],
        }
    )


@query_command(host_app, "show", _show_record)
def show_host(
    client: Client,
    host: Annotated[str, typer.Argument(metavar="HOST", help="Host name in the inventory.")],
) -> JsonObject:
    """Show all details of a host.

    \b
    Example:
      virtplay host show kvm1
    """
    return client.get(path_of("hosts", host))


def _show_templates(data: JsonObject) -> None:
    if data["templates"]:
        print_table(TEMPLATE_HEADER, [_template_row(each) for each in data["templates"]])
    else:
        print("no templates: the image catalogue is empty", file=sys.stderr)


@query_command(template_app, "list", _show_templates)
def list_templates(client: Client) -> JsonObject:
    """List templates, and the hosts on which each is ready.

    The first VM created from a template on a host downloads the template to that host.

    \b
    Example:
      virtplay template list
    """
    return client.get("/templates")


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
    state = "" if pool.get("active") else ", inactive"
    if pool.get("error"):
        state = f", {pool['error']}"
    return f"{pool.get('name')} ({pool.get('path')}{room}{state})"


def _network(network: JsonObject) -> str:
    state = "" if network.get("active") else ", inactive"
    return f"{network.get('name')} (bridge {network.get('bridge')}{state})"
