"""Command line: virtplay vm."""

import sys
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from virtplay.cli import following
from virtplay.cli.client import Client, JsonObject, path_of
from virtplay.cli.options import (
    AsJson,
    Limit,
    Page,
    TokenFile,
    Url,
    VmArgument,
    Wait,
    Yes,
    open_client,
)
from virtplay.cli.screen import is_dialogue, plain, print_json, print_record, print_table
from virtplay.states import VmStatus

vm_app = typer.Typer(
    no_args_is_help=True, rich_markup_mode=None, help="Virtual machines: list, make, change, start."
)

HEADER = ("ID", "NAME", "STATUS", "HOST", "CPU", "MEMORY", "DISK", "OS", "IP")
FILE_LIMIT = 1024 * 1024


class Clone(StrEnum):
    """How a disk comes from its template."""

    LINKED = "linked"
    FULL = "full"


class CardModel(StrEnum):
    """What network card the guest sees."""

    VIRTIO = "virtio"
    E1000E = "e1000e"
    RTL8139 = "rtl8139"


Cpu = Annotated[int | None, typer.Option(help="vCPUs.")]
Memory = Annotated[int | None, typer.Option(metavar="MIB", help="Memory in MiB.")]
Network = Annotated[
    str | None, typer.Option(metavar="NAME", help="Plug it into this libvirt network.")
]
Bridge = Annotated[
    str | None, typer.Option(metavar="NAME", help="Plug it into this bridge of the host.")
]
Model = Annotated[CardModel | None, typer.Option(help="Model of the network card.")]
Mac = Annotated[str | None, typer.Option(metavar="ADDRESS", help="MAC address of the card.")]
Ip = Annotated[
    str | None,
    typer.Option(metavar="ADDRESS", help="Fixed IPv4 address; on a bridge like 192.0.2.5/24."),
]
Labels = Annotated[
    list[str] | None, typer.Option("--label", metavar="KEY=VALUE", help="May be given repeatedly.")
]
Description = Annotated[str | None, typer.Option(help="Text of your own.")]
CutPower = Annotated[bool, typer.Option("--force", help="Do not ask the guest: cut its power.")]
AutoStart = Annotated[
    bool | None,
    typer.Option("--auto-start/--no-auto-start", help="Start it whenever its host starts."),
]


@vm_app.command("list")
def list_vms(
    *,
    status: Annotated[VmStatus | None, typer.Option(help="Only in this status.")] = None,
    search: Annotated[
        str | None, typer.Option(metavar="TEXT", help="In id, name, OS and addresses.")
    ] = None,
    host: Annotated[str | None, typer.Option(metavar="NAME", help="Only on this host.")] = None,
    label: Annotated[
        str | None, typer.Option(metavar="KEY[=VALUE]", help="Only with this label.")
    ] = None,
    sort: Annotated[
        str | None, typer.Option(metavar="FIELD", help="Such as name, or -memory for descending.")
    ] = None,
    page: Page = None,
    limit: Limit = None,
    as_json: AsJson = False,
    url: Url = None,
    token_file: TokenFile = None,
) -> None:
    """List VMs, up to 1000 unless asked for by page.

    \b
    Example:
      virtplay vm list --status running --label team=web --sort -memory
    """
    query = {"status": status, "search": search, "host": host, "label": label, "sort": sort}
    with open_client(url, token_file) as client:
        if page is None and limit is None:
            data = client.get_list("vms", query)
        else:
            data = client.get("/vms", {**query, "page": page, "limit": limit})
    if as_json:
        print_json(data)
        return
    vms, total = data["vms"], data["pagination"]["total"]
    if vms:
        print_table(HEADER, [_row(vm) for vm in vms])
    if len(vms) < total or not vms:
        print(f"{len(vms)} of {total} VMs", file=sys.stderr)


@vm_app.command("show")
def show_vm(
    vm: VmArgument, as_json: AsJson = False, url: Url = None, token_file: TokenFile = None
) -> None:
    """Show everything about a VM.

    \b
    Example:
      virtplay vm show web-server
    """
    with open_client(url, token_file) as client:
        data = client.get(path_of("vms", client.find_vm(vm)))
    if as_json:
        print_json(data)
        return
    network = data["network"]
    pending = [f"{field} at the next boot, now {now}" for field, now in data["pending"].items()]
    print_record(
        {
            "id": data["id"],
            "name": data["name"],
            "status": data["status"],
            "error": _error_text(data["error"]),
            "host": data["host"],
            "cpu": data["cpu"],
            "memory": f"{data['memory']} MiB",
            "disk": f"{data['disk']} GiB",
            "os": data["os"],
            "template": data["template"],
            "ip": data["ip"],
            "network": ", ".join(f"{key} {value}" for key, value in network.items()),
            "addresses": [
                " ".join(str(part) for part in address.values()) for address in data["addresses"]
            ],
            "auto start": "yes" if data["autoStart"] else "no",
            "labels": [f"{key}={value}" for key, value in data["labels"].items()],
            "description": data["description"],
            "pending": pending,
            "uuid": data["uuid"],
            "created": data["createdAt"],
            "updated": data["updatedAt"],
            "started": data["startedAt"],
            "seen": data["observedAt"],
        }
    )


@vm_app.command("status")
def show_status(
    vm: VmArgument, as_json: AsJson = False, url: Url = None, token_file: TokenFile = None
) -> None:
    """Show what a VM is doing, and the job that works on it.

    \b
    Example:
      virtplay vm status vm-003
    """
    with open_client(url, token_file) as client:
        data = client.get(path_of("vms", client.find_vm(vm), "status"))
    if as_json:
        print_json(data)
        return
    words = [f"{data['id']} {data['status']}"]
    if job := data["job"]:
        words.append(f"{job['id']} {job['action']} {job['status']} {job['progress']}%")
    words.append(f"seen {data['observedAt']}" if data["observedAt"] else "not seen yet")
    typer.echo(plain(", ".join(words)))


@vm_app.command("create")
def create_vm(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Its name, 1 to 64 characters.")],
    template: Annotated[
        str, typer.Option(metavar="ID", help="What to make it from; see virtplay template list.")
    ],
    *,
    cpu: Cpu = 1,
    memory: Memory = 1024,
    disk: Annotated[int, typer.Option(metavar="GIB", help="Disk in GiB.")] = 10,
    auto_start: Annotated[
        bool, typer.Option("--auto-start", help="Start it now and whenever its host starts.")
    ] = False,
    host: Annotated[
        str | None, typer.Option(metavar="NAME", help="Default: one that has room.")
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
            "--ssh-key", metavar="FILE", help="Public keys for its first user; repeatable."
        ),
    ] = None,
    user_data: Annotated[
        Path | None, typer.Option(metavar="FILE", help="cloud-init user-data.")
    ] = None,
    clone: Annotated[
        Clone | None, typer.Option(help="linked: over the template; full: a copy of its own.")
    ] = None,
    wait: Wait = True,
    as_json: AsJson = False,
    url: Url = None,
    token_file: TokenFile = None,
) -> None:
    """Make a VM from a template.

    \b
    Example:
      virtplay vm create web-server --template debian12 --cpu 2 --memory 2048 --disk 20 \\
          --ssh-key ~/.ssh/id_ed25519.pub --auto-start
    """
    body = _without_none(
        {
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
    )
    with open_client(url, token_file) as client:
        accepted = client.change("POST", "/vms", body)
        following.report_accepted(client, accepted, "vm_create", wait=wait, as_json=as_json)


@vm_app.command("update")
def update_vm(
    vm: VmArgument,
    *,
    name: Annotated[str | None, typer.Option(help="A new name.")] = None,
    cpu: Cpu = None,
    memory: Memory = None,
    disk: Annotated[
        int | None, typer.Option(metavar="GIB", help="Disk in GiB; it can only grow.")
    ] = None,
    auto_start: AutoStart = None,
    network: Network = None,
    bridge: Bridge = None,
    model: Model = None,
    mac: Mac = None,
    ip: Ip = None,
    labels: Labels = None,
    no_labels: Annotated[bool, typer.Option("--no-labels", help="Remove all labels.")] = False,
    description: Description = None,
    wait: Wait = True,
    as_json: AsJson = False,
    url: Url = None,
    token_file: TokenFile = None,
) -> None:
    """Change a VM: live where it can be, else at its next boot.

    Only what is given changes. Labels that are given replace all that it had.

    \b
    Example:
      virtplay vm update web-server --cpu 4 --memory 4096
    """
    if labels and no_labels:
        raise typer.BadParameter("give --label or --no-labels, not both")
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
        raise typer.BadParameter("give at least one option that says what to change")
    with open_client(url, token_file) as client:
        accepted = client.change("PUT", path_of("vms", client.find_vm(vm)), body)
        following.report_accepted(client, accepted, "vm_update", wait=wait, as_json=as_json)


@vm_app.command("delete")
def delete_vm(
    vm: VmArgument,
    *,
    force: Annotated[bool, typer.Option("--force", help="Also when it runs.")] = False,
    keep_disks: Annotated[
        bool, typer.Option("--keep-disks", help="Leave its disks in the pool.")
    ] = False,
    yes: Yes = False,
    wait: Wait = True,
    as_json: AsJson = False,
    url: Url = None,
    token_file: TokenFile = None,
) -> None:
    """Delete a VM and its disks.

    \b
    Example:
      virtplay vm delete web-server --force
    """
    with open_client(url, token_file) as client:
        vm_id = client.find_vm(vm)
        if not yes and is_dialogue():
            _ask_before_delete(client, vm_id, keep_disks)
        query = {"force": "true" if force else None, "keepDisks": "true" if keep_disks else None}
        accepted = client.change("DELETE", path_of("vms", vm_id), query=query)
        following.report_accepted(client, accepted, "vm_delete", wait=wait, as_json=as_json)


@vm_app.command("start")
def start_vm(
    vm: VmArgument,
    wait: Wait = True,
    as_json: AsJson = False,
    url: Url = None,
    token_file: TokenFile = None,
) -> None:
    """Start a VM.

    \b
    Example:
      virtplay vm start web-server
    """
    with open_client(url, token_file) as client:
        _act(client, vm, "start", None, wait=wait, as_json=as_json)


@vm_app.command("stop")
def stop_vm(
    vm: VmArgument,
    *,
    force: CutPower = False,
    wait: Wait = True,
    as_json: AsJson = False,
    url: Url = None,
    token_file: TokenFile = None,
) -> None:
    """Shut a VM down; a guest that does not react goes on running, and the job fails.

    \b
    Example:
      virtplay vm stop web-server
    """
    with open_client(url, token_file) as client:
        _act(client, vm, "stop", {"force": force}, wait=wait, as_json=as_json)


@vm_app.command("restart")
def restart_vm(
    vm: VmArgument,
    *,
    force: CutPower = False,
    wait: Wait = True,
    as_json: AsJson = False,
    url: Url = None,
    token_file: TokenFile = None,
) -> None:
    """Shut a VM down and start it again.

    \b
    Example:
      virtplay vm restart web-server --no-wait
    """
    with open_client(url, token_file) as client:
        _act(client, vm, "restart", {"force": force}, wait=wait, as_json=as_json)


@vm_app.command("pause")
def pause_vm(
    vm: VmArgument,
    wait: Wait = True,
    as_json: AsJson = False,
    url: Url = None,
    token_file: TokenFile = None,
) -> None:
    """Pause a VM: its memory stays, its CPUs stand still.

    \b
    Example:
      virtplay vm pause web-server
    """
    with open_client(url, token_file) as client:
        _act(client, vm, "pause", None, wait=wait, as_json=as_json)


@vm_app.command("resume")
def resume_vm(
    vm: VmArgument,
    wait: Wait = True,
    as_json: AsJson = False,
    url: Url = None,
    token_file: TokenFile = None,
) -> None:
    """Let a paused VM go on.

    \b
    Example:
      virtplay vm resume web-server
    """
    with open_client(url, token_file) as client:
        _act(client, vm, "resume", None, wait=wait, as_json=as_json)


@vm_app.command("console")
def open_console(
    vm: VmArgument,
    *,
    page: Annotated[
        bool,
        typer.Option("--page", help="Print the address of the page that shows it in a browser."),
    ] = False,
    url: Url = None,
    token_file: TokenFile = None,
) -> None:
    """Connect this terminal to a VM's serial console; Ctrl-] ends it.

    \b
    Example:
      virtplay vm console web-server
    """
    with open_client(url, token_file) as client:
        vm_id = client.find_vm(vm)
        if page:
            shown = client.get(path_of("vms", vm_id))["id"]
            typer.echo(f"{client.url}{path_of('vms', shown, 'console')}")
            return
        from virtplay.cli.console import attach  # noqa: PLC0415 - other commands need no terminal

        attach(client, vm_id)


def _act(
    client: Client, vm: str, word: str, body: JsonObject | None, *, wait: bool, as_json: bool
) -> None:
    accepted = client.change("POST", path_of("vms", client.find_vm(vm), word), body)
    following.report_accepted(client, accepted, f"vm_{word}", wait=wait, as_json=as_json)


def _row(vm: JsonObject) -> Sequence[object]:
    return (
        vm["id"],
        vm["name"],
        vm["status"],
        vm["host"],
        vm["cpu"],
        f"{vm['memory']} MiB",
        f"{vm['disk']} GiB",
        vm["os"],
        vm["ip"],
    )


def _error_text(error: JsonObject | None) -> str | None:
    if error is None:
        return None
    return f"{error.get('message', 'unknown')} ({error.get('code', 'UNKNOWN')})"


def _ask_before_delete(client: Client, vm_id: str, keep_disks: bool) -> None:
    """Let the person confirm; typer.Abort if they do not."""
    data = client.get(path_of("vms", vm_id))
    disks = ", keeping its disks" if keep_disks else " and its disks"
    typer.confirm(f"Delete {vm_id} ({plain(data['name'])}){disks}?", abort=True)


def _network(
    network: str | None,
    bridge: str | None,
    model: CardModel | None,
    mac: str | None,
    ip: str | None,
) -> dict[str, Any] | None:
    if network and bridge:
        raise typer.BadParameter("give --network or --bridge, not both")
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
            raise typer.BadParameter(f"--label {plain(key)} is given twice")
        found[key] = value
    return found


def _public_keys(files: Sequence[Path]) -> list[str]:
    """The keys in these files, one a line; comments and empty lines are skipped."""
    keys: list[str] = []
    for file in files:
        text = _text_of(file, "--ssh-key")
        if "PRIVATE KEY" in text:
            raise typer.BadParameter(f"--ssh-key {file} is a private key: give the .pub beside it")
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
        raise typer.BadParameter(f"{option} {file}: it is not UTF-8 text") from None
    if len(text) > FILE_LIMIT:
        raise typer.BadParameter(f"{option} {file}: it is larger than {FILE_LIMIT} bytes")
    return text


def _without_none(fields: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in fields.items() if value is not None}
