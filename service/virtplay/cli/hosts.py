"""Command line: virtplay host and virtplay template."""

from collections.abc import Callable, Sequence
from typing import Annotated

import typer

from virtplay.cli import completion
from virtplay.cli.ages import age_text, moment_text
from virtplay.cli.client import Client, JsonObject, path_of
from virtplay.cli.faults import CannotChoose
from virtplay.cli.options import list_command, query_command
from virtplay.cli.screen import print_record
from virtplay.cli.tables import Column, Table
from virtplay.texts import did_you_mean
from virtplay.units import GIB

host_app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
    help="List and show hosts.",
)
template_app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
    help="List and show templates.",
)


def _free(field: str, unit: str) -> Callable[[JsonObject], str | None]:
    """Return a function for a host's free and whole amount, None while it is not known.

    It is ASCII: the width of any other text costs the loading of rich.
    """

    def text(host: JsonObject) -> str | None:
        if host["cpus"] is None:
            return None
        ratio = host["overcommit"][field]
        times = f" (x {ratio:g})" if ratio != 1 else ""
        if field == "cpu":  # without the ratio, vCPUs would be taken for CPUs
            times = f" ({host['cpus']} x {ratio:g})"
        return f"{host['available'][field]} of {host['capacity'][field]}{unit}{times}"

    return text


def _disk(template: JsonObject) -> str | None:
    return f"{template['minDisk']} GiB" if template["minDisk"] else None


def _ready_on(template: JsonObject) -> Sequence[str]:
    return [host["host"] for host in template["hosts"] if host["ready"]]


HOSTS = Table(
    Column("NAME", lambda host: host["name"], cut=True),
    Column("STATUS", lambda host: host["status"], 1),
    Column("VIRT", lambda host: host["virtType"], 6),
    Column("VMS", lambda host: host["vms"], 4),
    Column("STOPPED", lambda host: host["stopped"]["vms"], 6),
    Column("CPU FREE", _free("cpu", ""), 3),
    Column("MEMORY FREE", _free("memory", " MiB"), 2),
    Column("DISK FREE", _free("disk", " GiB"), 5),
    Column("OBSERVED", lambda host: age_text(host["observedAt"]), 7),
    Column("UNMANAGED", lambda host: host["unmanaged"]["vms"], 8, extra=True),
    Column("CPUS", lambda host: host["cpus"], 8, extra=True),
    Column("CPU MODEL", lambda host: host["cpuModel"], 9, cut=True, extra=True),
    Column("MEMORY", lambda host: host["memory"] and f"{host['memory']} MiB", 8, extra=True),
    Column("LIBVIRT", lambda host: host["versions"].get("libvirt"), 8, extra=True),
    Column("QEMU", lambda host: host["versions"].get("qemu"), 8, extra=True),
    Column("KERNEL", lambda host: host["versions"].get("kernel"), 8, extra=True),
    Column("OS", lambda host: host["versions"].get("os"), 8, extra=True),
)
TEMPLATES = Table(
    Column("ID", lambda template: template["id"]),
    Column("OS", lambda template: template["os"], 2, cut=True),
    Column("MIN DISK", _disk, 3),
    Column("READY ON", lambda template: ", ".join(_ready_on(template)), 1, cut=True),
    Column("SOURCE", lambda template: template["source"], 4, cut=True),
)


def _host_notes(data: JsonObject) -> list[str]:
    if not data["hosts"]:
        return ["no hosts: the service's inventory is empty"]
    return [f"{host['name']}: {host['message']}" for host in data["hosts"] if host["message"]]


@list_command(host_app, HOSTS, lambda data: data["hosts"], _host_notes)
def list_hosts(client: Client) -> JsonObject:
    """List hosts with their free capacity.

    \b
    Example:
      virtplay host list
    """
    return client.get("/hosts")


def _show_record(_client: Client, data: JsonObject) -> None:
    memory = data["memory"]
    print_record(
        {
            "name": data["name"],
            "status": data["status"],
            "message": data["message"] or "",
            "virtualization": data["virtType"],
            "reason": data["virtReason"] or "",
            "cpus": data["cpus"],
            "cpu model": data["cpuModel"],
            "memory": f"{memory} MiB" if memory else None,
            "vms": data["vms"],
            **_room(data),
            "pools": [_pool(pool) for pool in data["pools"]] or None,
            "networks": [_network(network) for network in data["networks"]] or None,
            "bridges": list(data["bridges"]) or None,
            "versions": [f"{name} {version}" for name, version in data["versions"].items()] or None,
            "observed": moment_text(data["observedAt"]),
        }
    )


@query_command(host_app, "show", _show_record)
def show_host(
    client: Client,
    host: Annotated[
        str,
        typer.Argument(
            metavar="HOST",
            help="Host name in the inventory.",
            autocompletion=completion.complete_hosts,
        ),
    ],
) -> JsonObject:
    """Show all details of a host.

    \b
    Example:
      virtplay host show kvm1
    """
    return client.get(path_of("hosts", host))


def _template_notes(data: JsonObject) -> list[str]:
    return [] if data["templates"] else ["no templates: the image catalogue is empty"]


@list_command(template_app, TEMPLATES, lambda data: data["templates"], _template_notes)
def list_templates(client: Client) -> JsonObject:
    """List templates, and the hosts on which each is ready.

    The first VM created from a template on a host downloads the template to that host.

    \b
    Example:
      virtplay template list
    """
    return client.get("/templates")


def _show_template(_client: Client, data: JsonObject) -> None:
    hosts = [
        f"{each['host']}: "
        + (f"ready since {moment_text(each['createdAt']) or 'unknown'}" if each["ready"] else "-")
        for each in data["hosts"]
    ]
    print_record(
        {
            "id": data["id"],
            "os": data["os"],
            "source": data["source"],
            "min disk": _disk(data),
            "hosts": hosts or None,
        }
    )


@query_command(template_app, "show", _show_template)
def show_template(
    client: Client,
    template: Annotated[
        str,
        typer.Argument(
            metavar="TEMPLATE",
            help="Template id; see virtplay template list.",
            autocompletion=completion.complete_templates,
        ),
    ],
) -> JsonObject:
    """Show a template, and on which hosts it is ready.

    \b
    Example:
      virtplay template show debian12
    """
    templates = client.get("/templates")["templates"]
    ids = [each["id"] for each in templates]
    if template not in ids:
        close = did_you_mean(template, ids) or ";"
        raise CannotChoose(f"cannot find template {template}{close} templates: {', '.join(ids)}")
    return dict(templates[ids.index(template)])


def _room(host: JsonObject) -> JsonObject:
    """Return what a host may allocate, and to what it has, if the host was ever observed."""
    if host["cpus"] is None:
        return dict.fromkeys(("capacity", "allocated", "available"))
    stopped, ratio = host["stopped"], host["overcommit"]
    room = {
        "capacity": f"{_amounts(host['capacity'])} ({host['cpus']} CPUs x {ratio['cpu']:g},"
        f" ({host['memory']} - {ratio['reservedMemory']}) MiB x {ratio['memory']:g},"
        f" free disk x {ratio['disk']:g})",
        "allocated": _amounts(host["allocated"]),
        "available": _amounts(host["available"]),
    }
    if stopped["vms"]:
        room["stopped vms"] = (
            f"{stopped['vms']} with {stopped['cpu']} vCPUs, which are not allocated, and"
            f" {stopped['memory']} MiB, which are"
        )
    if host["unmanaged"]["vms"]:
        room["unmanaged vms"] = f"{host['unmanaged']['vms']}: {_amounts(host['unmanaged'])}"
    return room


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
