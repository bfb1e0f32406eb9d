"""Command line: virtplay vm."""

import sys
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from virtplay.cli.client import Client, JsonObject, path_of
from virtplay.cli.options import (
    Change,
    Limit,
    Page,
    TokenFile,
    Url,
    VmArgument,
    Yes,
    change_command,
    open_client,
    query_command,
)
from virtplay.cli.screen import is_dialogue, plain, print_record, print_table, split_lines
from virtplay.states import VmStatus

vm_app = typer.Typer(
    no_args_is_help=True, rich_markup_mode=None, help="Create, list, update, start and stop VMs."
)

ORDINARY = frozenset(
    {"booted", "unpaused", "restored", "from_snapshot", "migrated", "user", "shutdown", "destroyed"}
)
"""Reasons of statuses that somebody has asked for."""
HEADER = ("ID", "NAME", "STATUS", "HOST", "CPU", "MEMORY", "DISK", "OS", "IP")
FILE_LIMIT = 1024 * 1024


class Clone(StrEnum):
    """How a disk is created from its template."""

    LINKED = "linked"
    FULL = "full"


class CardModel(StrEnum):
    """The model of the network card that the guest sees."""

    VIRTIO = "virtio"
    E1000E = "e1000e"
    E1000 = "e1000"
    RTL8139 = "rtl8139"


Cpu = Annotated[int | None, typer.Option(help="Number of vCPUs.")]
Memory = Annotated[int | None, typer.Option(metavar="MIB", help="Memory in MiB.")]
Network = Annotated[
    str | None, typer.Option(metavar="NAME", help="Connect the VM to this libvirt network.")
]
Bridge = Annotated[
    str | None, typer.Option(metavar="NAME", help="Connect the VM to this bridge on the host.")
]
Model = Annotated[CardModel | None, typer.Option(help="Model of the network card.")]
Mac = Annotated[
    str | None, typer.Option(metavar="ADDRESS", help="MAC address of the network card.")
]
Ip = Annotated[
    str | None,
    typer.Option(
        metavar="ADDRESS", help="Static IPv4 address; on a bridge with its prefix: 192.0.2.5/24."
    ),
]
Labels = Annotated[
    list[str] | None, typer.Option("--label", metavar="KEY=VALUE", help="Label; repeatable.")
]
Vms = Annotated[
    list[str] | None, typer.Argument(metavar="VM…", help="VMs: id, name, domain or UUID.")
]
Label = Annotated[
    str | None,
    typer.Option(metavar="KEY[=VALUE]", help="All VMs with this label, instead of named ones."),
]
AtOnce = Annotated[
    int | None, typer.Option(min=1, help="How many of the jobs run at once; default: all.")
]
Description = Annotated[str | None, typer.Option(help="Free text.")]
AutoStart = Annotated[
    bool | None,
    typer.Option("--auto-start/--no-auto-start", help="Start the VM whenever its host starts."),
]


def _show_list(data: JsonObject) -> None:
    vms, total = data["vms"], data["pagination"]["total"]
    if vms:
        print_table(HEADER, [_row(vm) for vm in vms])
    if len(vms) < total or not vms:
        print(f"{len(vms)} of {total} VMs", file=sys.stderr)


@query_command(vm_app, "list", _show_list)
def list_vms(
    client: Client,
    *,
    status: Annotated[VmStatus | None, typer.Option(help="Only VMs with this status.")] = None,
    search: Annotated[
        str | None,
        typer.Option(
            metavar="TEXT", help="Only VMs with this text in id, name, domain, OS or address."
        ),
    ] = None,
    host: Annotated[str | None, typer.Option(metavar="NAME", help="Only VMs on this host.")] = None,
    label: Annotated[
        str | None, typer.Option(metavar="KEY[=VALUE]", help="Only VMs with this label.")
    ] = None,
    sort: Annotated[
        str | None,
        typer.Option(metavar="FIELD", help="Sort by this field; -FIELD sorts in descending order."),
    ] = None,
    page: Page = None,
    limit: Limit = None,
) -> JsonObject:
    """List VMs: up to 1000, or one page.

    \b
    Example:
      virtplay vm list --status running --label team=web --sort -memory
    """
    query = {"status": status, "search": search, "host": host, "label": label, "sort": sort}
    if page is None and limit is None:
        return client.get_list("vms", query)
    return client.get("/vms", {**query, "page": page, "limit": limit})


def _show_record(data: JsonObject) -> None:
    pending = [f"{field} at the next boot, now {now}" for field, now in data["pending"].items()]
    print_record(
        {
            "id": data["id"],
            "name": data["name"],
            "status": _status(data, ordinary=True),
            "error": _error_text(data["error"]),
            "host": data["host"],
            "domain": data["domain"],
            "cpu": data["cpu"],
            "memory": f"{data['memory']} MiB",
            "disk": f"{data['disk']} GiB",
            "os": data["os"],
            "template": data["template"],
            "ip": data["ip"],
            "network": ", ".join(f"{key} {value}" for key, value in data["network"].items()),
            "addresses": [
                " ".join(str(part) for part in address.values()) for address in data["addresses"]
            ],
            "auto start": "yes" if data["autoStart"] else "no",
            "labels": [f"{key}={value}" for key, value in data["labels"].items()],
            "description": split_lines(data["description"]),
            "pending": pending,
            "uuid": data["uuid"],
            "created": data["createdAt"],
            "updated": data["updatedAt"],
            "started": data["startedAt"],
            "observed": data["observedAt"],
        }
    )


@query_command(vm_app, "show", _show_record)
def show_vm(client: Client, vm: VmArgument) -> JsonObject:
    """Show all details of a VM.

    \b
    Example:
      virtplay vm show web-server
    """
    return client.get(path_of("vms", vm))


def _show_status(data: JsonObject) -> None:
    words = [f"{data['id']} {data['status']}"]
    if job := data["job"]:
        words.append(f"{job['id']} {job['action']} {job['status']} {job['progress']}%")
    words.append(f"observed {data['observedAt']}" if data["observedAt"] else "not observed yet")
    typer.echo(plain(", ".join(words)))


@query_command(vm_app, "status", _show_status)
def show_status(client: Client, vm: VmArgument) -> JsonObject:
    """Show the status of a VM and its unfinished job.

    \b
    Example:
      virtplay vm status vm-003
    """
    return client.get(path_of("vms", vm, "status"))


@change_command(vm_app, "vm_create")
def create_vm(
    _client: Client,
    name: Annotated[str, typer.Argument(metavar="NAME", help="VM name, 1 to 64 characters.")],
    template: Annotated[
        str, typer.Option(metavar="ID", help="Template of the VM; see virtplay template list.")
    ],
    *,
    cpu: Cpu = 1,
    memory: Memory = 1024,
    disk: Annotated[int, typer.Option(metavar="GIB", help="Disk size in GiB.")] = 10,
    auto_start: Annotated[
        bool,
        typer.Option("--auto-start", help="Start the VM now and whenever its host starts."),
    ] = False,
    host: Annotated[
        str | None, typer.Option(metavar="NAME", help="Host; default: one with enough capacity.")
    ] = None,
    network: Network = None,
    bridge: Bridge = None,
    model: Model = None,
    mac: Mac = None,
    ip: Ip = None,
    labels: Labels = None,
    description: Description = None,
    ssh_keys: Annotated[
        list[Path] | None,
        typer.Option(
            "--ssh-key",
            metavar="FILE",
            help="Public SSH keys for the guest's first user; repeatable.",
        ),
    ] = None,
    user_data: Annotated[
        Path | None, typer.Option(metavar="FILE", help="cloud-init user data.")
    ] = None,
    clone: Annotated[
        Clone | None,
        typer.Option(help="linked: overlay on the template; full: independent copy."),
    ] = None,
) -> Change:
    """Create a VM from a template.

    \b
    Example:
      virtplay vm create web-server --template debian12 --cpu 2 --memory 2048 --disk 20 \\
          --ssh-key ~/.ssh/id_ed25519.pub --auto-start
    """
    body = {
        "name": name,
        "template": template,
        "cpu": cpu,
        "memory": memory,
        "disk": disk,
        "autoStart": auto_start,
        "host": host,
        "network": _network(network, bridge, model, mac, ip),
        "labels": _labels(labels) if labels else None,
        "description": description,
        "sshKeys": _public_keys(ssh_keys) if ssh_keys else None,
        "userData": _text_of(user_data, "--user-data") if user_data else None,
        "clone": clone,
    }
    return Change("POST", "/vms", _without_none(body))


@change_command(vm_app, "vm_update")
def update_vm(
    client: Client,
    vm: VmArgument,
    *,
    name: Annotated[str | None, typer.Option(help="New name.")] = None,
    cpu: Cpu = None,
    memory: Memory = None,
    disk: Annotated[
        int | None, typer.Option(metavar="GIB", help="Disk size in GiB; it cannot shrink.")
    ] = None,
    auto_start: AutoStart = None,
    network: Network = None,
    bridge: Bridge = None,
    model: Model = None,
    mac: Mac = None,
    ip: Ip = None,
    labels: Labels = None,
    no_labels: Annotated[bool, typer.Option("--no-labels", help="Delete all labels.")] = False,
    description: Description = None,
) -> Change:
    """Update a VM: live where possible, otherwise at its next boot.

    Only the fields of the given options change. --label replaces all labels of the VM.

    \b
    Example:
      virtplay vm update web-server --cpu 4 --memory 4096
    """
    if labels and no_labels:
        raise typer.BadParameter("use either --label or --no-labels")
    body = _without_none(
        {
            "name": name,
            "cpu": cpu,
            "memory": memory,
            "disk": disk,
            "autoStart": auto_start,
            "network": _network(network, bridge, model, mac, ip),
            "labels": {} if no_labels else _labels(labels) if labels else None,
            "description": description,
        }
    )
    if not body:
        raise typer.BadParameter("nothing to update: use at least one of the options")
    return Change("PUT", path_of("vms", vm), body)


@change_command(vm_app, "vm_delete")
def delete_vm(
    client: Client,
    vm: VmArgument,
    *,
    force: Annotated[
        bool, typer.Option("--force", help="Also delete a running VM, or one with snapshots.")
    ] = False,
    keep_disks: Annotated[
        bool, typer.Option("--keep-disks", help="Keep the VM's disks in the pool.")
    ] = False,
    yes: Yes = False,
) -> Change:
    """Delete a VM and its disks.

    \b
    Example:
      virtplay vm delete web-server --force
    """
    if not yes and is_dialogue():
        vm = _confirm_delete(client, vm, keep_disks)
    query = {"force": "true" if force else None, "keepDisks": "true" if keep_disks else None}
    return Change("DELETE", path_of("vms", vm), query=query)


def _power(
    client: Client,
    word: str,
    vms: Sequence[str] | None,
    label: str | None,
    at_once: int | None,
    **body: Any,
) -> Change:
    """Return the request of a power action on one VM, or on many."""
    if bool(vms) == bool(label):
        raise typer.BadParameter("name VMs, or use --label")
    if vms and len(vms) == 1 and at_once is None:
        return Change("POST", path_of("vms", vms[0], word), body or None)
    many = {"action": word, "vms": vms or None, "label": label, "atOnce": at_once, **body}
    return Change("POST", "/vms/actions", _without_none(many))


def _add_action(word: str, text: str) -> None:
    """Add a command for a power action without options of its own."""

    def act(
        client: Client, vms: Vms = None, *, label: Label = None, at_once: AtOnce = None
    ) -> Change:
        return _power(client, word, vms, label, at_once)

    act.__doc__ = f"{text}\n\n\b\nExample:\n  virtplay vm {word} web-server"
    change_command(vm_app, f"vm_{word}")(act)


def _add_stopping_action(word: str, text: str) -> None:
    """Add a command for a power action that can power the VM off."""

    def act(
        client: Client,
        vms: Vms = None,
        *,
        force: Annotated[
            bool, typer.Option("--force", help="Power off at once, without a guest shutdown.")
        ] = False,
        label: Label = None,
        at_once: AtOnce = None,
    ) -> Change:
        return _power(client, word, vms, label, at_once, force=force)

    act.__doc__ = f"{text}\n\n\b\nExample:\n  virtplay vm {word} web-server"
    change_command(vm_app, f"vm_{word}")(act)


_add_action("start", "Start a VM.")
_add_stopping_action(
    "stop", "Shut a VM down; if the guest does not react, the job fails and the VM keeps running."
)
_add_stopping_action("restart", "Shut a VM down and start it again.")
_add_action("pause", "Pause a VM: its CPUs stop, its memory is kept.")
_add_action("resume", "Resume a paused VM.")


@vm_app.command("console")
def open_console(
    vm: VmArgument,
    *,
    page: Annotated[
        bool,
        typer.Option("--page", help="Print the URL of the VM's console page for a browser."),
    ] = False,
    url: Url = None,
    token_file: TokenFile = None,
) -> None:
    """Connect this terminal to a VM's serial console; Ctrl-] disconnects.

    \b
    Example:
      virtplay vm console web-server
    """
    with open_client(url, token_file) as client:
        if page:
            shown = client.get(path_of("vms", vm))["id"]
            typer.echo(f"{client.url}{path_of('vms', shown, 'console')}")
            return
        from virtplay.cli.console import attach  # noqa: PLC0415 - other commands need no terminal

        attach(client, vm)


def _row(vm: JsonObject) -> Sequence[object]:
    return (
        vm["id"],
        vm["name"],
        _status(vm, ordinary=False),
        vm["host"],
        vm["cpu"],
        f"{vm['memory']} MiB",
        f"{vm['disk']} GiB",
        vm["os"],
        vm["ip"],
    )


def _status(vm: JsonObject, *, ordinary: bool) -> str:
    """Return a VM's status with its reason, of which `ordinary` ones can be left out."""
    reason = vm.get("statusReason")
    shown = reason and (ordinary or reason not in ORDINARY)
    return f"{vm['status']} ({reason})" if shown else str(vm["status"])


def _error_text(error: JsonObject | None) -> str | None:
    if error is None:
        return None
    return f"{error.get('message', 'unknown')} ({error.get('code', 'UNKNOWN')})"


def _confirm_delete(client: Client, vm: str, keep_disks: bool) -> str:
    """Ask for a confirmation, and return the id of the VM that it names; typer.Abort without it."""
    data = client.get(path_of("vms", vm))
    disks = ", but keep its disks" if keep_disks else " and its disks"
    typer.confirm(f"Delete {data['id']} ({plain(data['name'])}){disks}?", abort=True)
    return str(data["id"])


def _network(
    network: str | None,
    bridge: str | None,
    model: CardModel | None,
    mac: str | None,
    ip: str | None,
) -> dict[str, Any] | None:
    if network and bridge:
        raise typer.BadParameter("use either --network or --bridge")
    body = _without_none(
        {"network": network, "bridge": bridge, "model": model, "mac": mac, "ip": ip}
    )
    return {"type": "bridge" if bridge else "network", **body} if body else None


def _labels(given: Sequence[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for text in given:
        key, separator, value = text.partition("=")
        if not key or not separator:
            raise typer.BadParameter(f"--label {plain(text)} must be KEY=VALUE")
        if key in found:
            raise typer.BadParameter(f"--label {plain(key)} is used twice")
        found[key] = value
    return found


def _public_keys(files: Sequence[Path]) -> list[str]:
    """Return the keys in these files, one per line, without comments and empty lines."""
    keys: list[str] = []
    for file in files:
        text = _text_of(file, "--ssh-key")
        if "PRIVATE KEY" in text:
            raise typer.BadParameter(
                f"--ssh-key {file} is a private key: use the public key (.pub)"
            )
        lines = [line.strip() for line in text.splitlines()]
        keys.extend(line for line in lines if line and not line.startswith("#"))
    return keys


def _text_of(file: Path, option: str) -> str:
    try:
        with file.expanduser().open(encoding="utf-8", newline="") as opened:
            text = opened.read(FILE_LIMIT + 1)
    except OSError as error:
        raise typer.BadParameter(f"{option} {file}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise typer.BadParameter(f"{option} {file}: not UTF-8 text") from None
    if len(text) > FILE_LIMIT:
        raise typer.BadParameter(f"{option} {file}: larger than {FILE_LIMIT} bytes")
    return text


def _without_none(fields: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in fields.items() if value is not None}
