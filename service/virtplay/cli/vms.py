"""Command line: virtplay vm."""

from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from virtplay.cli import completion
from virtplay.cli.ages import age_text, moment_text
from virtplay.cli.client import Client, JsonObject, path_of
from virtplay.cli.faults import describe_vm
from virtplay.cli.options import (
    AllowDuplicate,
    Change,
    Limit,
    Page,
    TokenFile,
    Url,
    VmArgument,
    Yes,
    change_command,
    confirm,
    list_command,
    open_client,
    page_notes,
    query_command,
    refuse_duplicate,
)
from virtplay.cli.screen import plain, print_record, split_lines
from virtplay.cli.sizes import parse_gib, parse_mib
from virtplay.cli.tables import Column, Table
from virtplay.states import VmStatus

vm_app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Create, list, update, start, stop and reach VMs.",
)

ORDINARY = frozenset(
    {"booted", "unpaused", "restored", "from_snapshot", "migrated", "user", "shutdown", "destroyed"}
)
"""Reasons of statuses that somebody has asked for."""
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


Cpu = Annotated[int | None, typer.Option(metavar="N", help="Number of vCPUs.")]
Memory = Annotated[
    int | None,
    typer.Option(metavar="SIZE", parser=parse_mib, help="Memory: 512M, 2G, or a number of MiB."),
]
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
    list[str] | None,
    typer.Argument(
        metavar="VM…",
        help="VMs: id, name, domain or UUID.",
        autocompletion=completion.complete_vms,
    ),
]
Label = Annotated[
    str | None,
    typer.Option(metavar="KEY[=VALUE]", help="All VMs with this label, instead of named ones."),
]
AtOnce = Annotated[
    int | None,
    typer.Option(min=1, metavar="N", help="How many of the jobs run at once; default: all."),
]
Description = Annotated[str | None, typer.Option(metavar="TEXT", help="Free text.")]
AutoStart = Annotated[
    bool | None,
    typer.Option("--auto-start/--no-auto-start", help="Start the VM whenever its host starts."),
]


def _amount(vm: JsonObject, field: str, unit: str) -> str | None:
    """Return an amount with its unit; None while no host has reported it."""
    return f"{vm[field]} {unit}" if vm[field] else None


VMS = Table(
    Column("ID", lambda vm: vm["id"]),
    Column("NAME", lambda vm: vm["name"], cut=True),
    Column("STATUS", lambda vm: _status(vm, ordinary=False), 1),
    Column("HOST", lambda vm: vm["host"], 3, cut=True),
    Column("CPU", lambda vm: vm["cpu"] or None, 5),
    Column("MEMORY", lambda vm: _amount(vm, "memory", "MiB"), 4),
    Column("DISK", lambda vm: _amount(vm, "disk", "GiB"), 6),
    Column("OS", lambda vm: vm["os"], 7, cut=True),
    Column("IP", lambda vm: vm["ip"], 2),
    Column("DOMAIN", lambda vm: vm["domain"], 8, extra=True),
    Column("MANAGED", lambda vm: "yes" if vm["managed"] else "no", 8, extra=True),
    Column("UUID", lambda vm: vm["uuid"], 8, extra=True),
    Column("TEMPLATE", lambda vm: vm["template"], 8, extra=True),
    Column("LABELS", lambda vm: ",".join(_pairs(vm["labels"])), 8, cut=True, extra=True),
    Column("DESCRIPTION", lambda vm: vm["description"], 9, cut=True, extra=True),
    Column("AUTO START", lambda vm: "yes" if vm["autoStart"] else "no", 8, extra=True),
    Column("CREATED", lambda vm: age_text(vm["createdAt"]), 8, extra=True),
    Column("STARTED", lambda vm: age_text(vm["startedAt"]), 8, extra=True),
    Column("OBSERVED", lambda vm: age_text(vm["observedAt"]), 8, extra=True),
)


@list_command(vm_app, VMS, lambda data: data["vms"], lambda data: page_notes(data, "vms", "VMs"))
def list_vms(
    client: Client,
    *,
    status: Annotated[VmStatus | None, typer.Option(help="Only VMs with this status.")] = None,
    search: Annotated[
        str | None,
        typer.Option(
            metavar="TEXT",
            help="Only VMs with this text in id, name, domain, OS or address, or at the beginning"
            " of their UUID.",
        ),
    ] = None,
    host: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Only VMs on this host.",
            autocompletion=completion.complete_hosts,
        ),
    ] = None,
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


def _show_record(client: Client, data: JsonObject) -> None:
    pending = [f"{field} at the next boot, now {now}" for field, now in data["pending"].items()]
    path = path_of("vms", data["id"])
    snapshots = client.get(f"{path}/snapshots")["snapshots"]
    jobs = client.get("/jobs", {"vm": data["id"], "limit": 1})["jobs"]
    print_record(
        {
            "id": data["id"],
            "name": data["name"],
            "domain": data["domain"],
            "managed": "yes" if data["managed"] else "no",
            "status": _status(data, ordinary=True),
            "error": _error_text(data["error"]) or "",
            "host": data["host"] or None,
            "cpu": data["cpu"] or None,
            "memory": _amount(data, "memory", "MiB"),
            "disk": _amount(data, "disk", "GiB"),
            "os": data["os"] or None,
            "template": data["template"] or None,
            "ip": data["ip"] or None,
            "network": ", ".join(f"{key} {value}" for key, value in data["network"].items())
            or None,
            "addresses": [
                " ".join(str(part) for part in address.values()) for address in data["addresses"]
            ],
            "auto start": "yes" if data["autoStart"] else "no",
            "labels": _pairs(data["labels"]),
            "description": split_lines(data["description"]),
            "pending": pending,
            "snapshots": len(snapshots),
            "last job": [_job_text(job) for job in jobs],
            "console": f"{client.url}{path}/console",
            "uuid": data["uuid"],
            "created": moment_text(data["createdAt"]),
            "updated": moment_text(data["updatedAt"]),
            "started": moment_text(data["startedAt"]),
            "observed": moment_text(data["observedAt"]),
        }
    )


def _job_text(job: JsonObject) -> str:
    return f"{job['id']} {job['action']} {job['status']}, {age_text(job['createdAt'])}"


def _pairs(labels: JsonObject) -> list[str]:
    return [f"{key}={value}" for key, value in labels.items()]


@query_command(vm_app, "show", _show_record)
def show_vm(client: Client, vm: VmArgument) -> JsonObject:
    """Show all details of a VM.

    \b
    Example:
      virtplay vm show web-server
    """
    return client.get(path_of("vms", vm))


def _show_status(_client: Client, data: JsonObject) -> None:
    words = [f"{data['id']} {data['status']}"]
    if job := data["job"]:
        words.append(f"{job['id']} {job['action']} {job['status']} {job['progress']}%")
    observed = age_text(data["observedAt"])
    words.append(f"observed {observed}" if observed else "not observed yet")
    typer.echo(plain(", ".join(words)))


@query_command(vm_app, "status", _show_status)
def show_status(client: Client, vm: VmArgument) -> JsonObject:
    """Show the status of a VM and its unfinished job.

    \b
    Example:
      virtplay vm status web-server
    """
    return client.get(path_of("vms", vm, "status"))


@change_command(vm_app, "vm_create")
def create_vm(
    client: Client,
    name: Annotated[str, typer.Argument(metavar="NAME", help="VM name, 1 to 64 characters.")],
    template: Annotated[
        str,
        typer.Option(
            metavar="ID",
            help="Template of the VM; see virtplay template list.",
            autocompletion=completion.complete_templates,
        ),
    ],
    *,
    cpu: Cpu = 1,
    memory: Memory = 1024,
    disk: Annotated[
        int,
        typer.Option(metavar="SIZE", parser=parse_gib, help="Disk size: 20G, or a number of GiB."),
    ] = 10,
    start: Annotated[
        bool, typer.Option("--start", help="Start the VM as soon as it is created.")
    ] = False,
    auto_start: Annotated[
        bool,
        typer.Option("--auto-start", help="Start the VM now and whenever its host starts."),
    ] = False,
    host: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Host; default: one with enough capacity.",
            autocompletion=completion.complete_hosts,
        ),
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
            help="Public SSH keys for the guest's first user; repeatable. Default: your own in"
            " ~/.ssh.",
        ),
    ] = None,
    no_ssh_key: Annotated[
        bool, typer.Option("--no-ssh-key", help="Give the guest no SSH key.")
    ] = False,
    user_data: Annotated[
        Path | None, typer.Option(metavar="FILE", help="cloud-init user data.")
    ] = None,
    clone: Annotated[
        Clone | None,
        typer.Option(help="linked: overlay on the template; full: independent copy."),
    ] = None,
    allow_duplicate: AllowDuplicate = False,
) -> Change:
    """Create a VM from a template.

    With --start --wait the command ends when the VM can be reached: it prints its address.
    A name that a VM already has is used after a confirmation only.

    \b
    Example:
      virtplay vm create web-server --template debian12 --cpu 2 --memory 2G --disk 20G \\
          --ssh-key ~/.ssh/id_ed25519.pub --start --wait
    """
    if ssh_keys and no_ssh_key:
        raise typer.BadParameter("use either --ssh-key or --no-ssh-key")
    keys = [] if no_ssh_key else _public_keys(ssh_keys or find_own_keys())
    body = {
        "name": name,
        "template": template,
        "cpu": cpu,
        "memory": memory,
        "disk": disk,
        "autoStart": auto_start,
        "start": start or None,
        "host": host,
        "network": _network(network, bridge, model, mac, ip),
        "labels": _labels(labels) if labels else None,
        "description": description,
        "sshKeys": keys or None,
        "userData": _text_of(user_data, "--user-data") if user_data else None,
        "clone": clone,
    }
    same = client.vms_named(name)
    if not allow_duplicate:
        refuse_duplicate("VM", name, [_describe_same(vm, name) for vm in same])
    return Change(
        "POST",
        "/vms",
        _without_none(body),
        runs=start or auto_start,
        by_id=bool(same),
        note="" if keys or no_ssh_key or user_data else WITHOUT_KEY,
    )


@change_command(vm_app, "vm_update")
def update_vm(
    client: Client,
    vm: VmArgument,
    *,
    name: Annotated[str | None, typer.Option(metavar="NAME", help="New name.")] = None,
    cpu: Cpu = None,
    memory: Memory = None,
    disk: Annotated[
        int | None,
        typer.Option(
            metavar="SIZE",
            parser=parse_gib,
            help="Disk size: 20G, or a number of GiB; it cannot shrink.",
        ),
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
    allow_duplicate: AllowDuplicate = False,
) -> Change:
    """Update a VM: live where possible, otherwise at its next boot.

    Only the fields of the given options change. --label replaces all labels of the VM.

    \b
    Example:
      virtplay vm update web-server --cpu 4 --memory 4G
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
    path = path_of("vms", vm)
    if name is not None and not allow_duplicate and (others := client.vms_named(name)):
        own = client.get(path)["id"]
        refuse_duplicate(
            "VM", name, [_describe_same(one, name) for one in others if one["id"] != own]
        )
    return Change("PUT", path, body)


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
    """Delete a VM and its disks, after a confirmation on the terminal or with --yes.

    \b
    Example:
      virtplay vm delete web-server --force --yes
    """
    if not yes:
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


@vm_app.command("ssh")
def open_shell(
    vm: VmArgument,
    command: Annotated[
        list[str] | None,
        typer.Argument(metavar="-- COMMAND", help="Command instead of a shell."),
    ] = None,
    *,
    user: Annotated[
        str | None,
        typer.Option(
            "--user", "-l", metavar="NAME", help="User; default: the first of the cloud image."
        ),
    ] = None,
    identity: Annotated[
        Path | None, typer.Option("--identity", "-i", metavar="FILE", help="Private key.")
    ] = None,
    jump: Annotated[
        str | None,
        typer.Option(
            "--jump",
            "-J",
            metavar="[USER@]HOST[:PORT]",
            help="Machine to go through, or none; default: the VM's host, if the VM is on a"
            " libvirt network of another machine.",
        ),
    ] = None,
    wait: Annotated[
        bool, typer.Option("--wait", help="Wait until the address of the guest is known.")
    ] = False,
    url: Url = None,
    token_file: TokenFile = None,
) -> None:
    """Open a shell in a guest by SSH, or run a command there.

    The exit status is that of ssh: of the command, or 255.

    \b
    Example:
      virtplay vm ssh web-server
      virtplay vm ssh web-server -- systemctl status nginx
    """
    from virtplay.cli.ssh import exec_ssh  # noqa: PLC0415 - other commands need none

    with open_client(url, token_file) as client:
        exec_ssh(
            client,
            vm,
            user=user,
            identity=identity,
            jump=jump,
            wait=wait,
            command=command or [],
        )


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
    """Ask on the terminal whether to delete a VM and what goes with it; return the VM's id.

    NoConfirmation without a terminal, typer.Abort without a yes.
    """
    data = client.get(path_of("vms", vm))
    count = len(client.get(path_of("vms", data["id"], "snapshots"))["snapshots"])
    size = _amount(data, "disk", "GiB")
    disks = f"its disk of {size}" if size else "its disks"
    goes = [] if keep_disks else [disks]
    goes += [f"{count} snapshot{'s' * (count > 1)}"] if count else []
    goes_too = f" with {' and '.join(goes)}" if goes else ""
    kept = ", but keep its disks" if keep_disks else ""
    place = f" on {data['host']}" if data["host"] else ""
    shown = f"{data['id']} ({data['name']}, {data['status']}{place})"
    confirm(f"delete {shown}{goes_too}{kept}")
    return str(data["id"])


def _describe_same(vm: JsonObject, name: str) -> str:
    """Return what tells a VM from others, and what of it is `name` if not its own name."""
    others = {"id": vm["id"], "domain": vm["domain"], "UUID": vm.get("uuid")}
    same = [what for what, value in others.items() if value in (name, name.lower())]
    if vm["name"] == name or not same:
        return describe_vm(vm)
    return f"{describe_vm(vm)} (as its {same[0]}; its name is {vm['name']})"


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


WITHOUT_KEY = (
    "The guest gets no SSH key, as there is no public key in ~/.ssh: virtplay vm ssh cannot log in."
    " ssh-keygen creates one, and --ssh-key names another file."
)


def find_own_keys() -> list[Path]:
    """Return the public keys that ssh offers by default, of those that exist."""
    names = ("id_ed25519", "id_ecdsa", "id_rsa")
    files = [Path(f"~/.ssh/{name}.pub").expanduser() for name in names]
    return [file for file in files if file.is_file()]


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
